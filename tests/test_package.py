"""What holds for the package as a whole: lean imports, arrows between layers, documents whose code runs and whose links lead somewhere."""

import ast
import contextlib
import functools
import io
import re
import subprocess
import sys
from pathlib import Path

import pytest

from haloformer.cli import main

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "haloformer"
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/*.md")])
CORE = {
    "torch",
    "torchvision",
    "timm",
    "numpy",
    "scipy",
    "h5py",
    "pytorch_lightning",
    "lightning_fabric",
    "torchmetrics",
    "safetensors",
    "yaml",
}
# What can be hidden from a running process; Lightning and torchmetrics look for rich, matplotlib and others by their metadata.
HIDDEN = ("numba", "astropy", "tensorboard", "pyarrow", "lenstronomy", "docstring_parser")


def _run(code: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, **options)


def test_the_core_simulates_trains_and_predicts_without_any_other_package(tmp_path):
    code = f"""
import sys
sys.modules.update(dict.fromkeys({HIDDEN!r}))  # None: as if not installed
import haloformer.data, haloformer.models, haloformer.simulation, haloformer.training
from haloformer.deploy import load
lenses = haloformer.simulate("model_ii", 6)
assert lenses.attributes["backend"] == "torch"
small = {{"depth": 1, "embed_dim": 32, "num_heads": 2}}
haloformer.train("model_ii", "vit_nano", "run", epochs=1, epoch_size=64, val_size=30, model_args=small, progress=False)
assert load("run").probabilities(lenses.images).shape == (6, 3)
"""
    result = _run(code, cwd=tmp_path)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("package", ["simulation", "data", "models", "training", "."])
def test_the_core_imports_nothing_else_at_module_level(package):
    for path in (SOURCE / package).glob("*.py"):
        # The command line; what is imported only where numba is
        if path.name in ("commands.py", "kernels.py", "fit_kernel.py"):
            continue
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                top = name.partition(".")[0]
                assert top in CORE or top in sys.stdlib_module_names or top == "haloformer", (
                    f"{path.name} imports {name}"
                )


def test_importing_the_package_is_instant_and_pulls_in_nothing():
    result = _run("import sys, haloformer; print([m for m in ('torch', 'numpy', 'timm') if m in sys.modules])")
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize("arguments", [["train", "--help"], ["train", "--data", "x.h5", "--print_config"], ["presets"]])
def test_an_experiment_is_shown_without_importing_what_would_carry_it_out(arguments):
    code = f"""
import contextlib, sys
from haloformer.cli import main
with contextlib.suppress(SystemExit):  # with which --help ends
    main({arguments!r})
print([m for m in ('torch', 'numpy', 'timm') if m in sys.modules])
"""
    result = _run(code)
    assert result.stdout.splitlines()[-1] == "[]", result.stderr


def test_the_help_of_no_command_imports_what_would_carry_it_out():
    code = """
import contextlib, io, sys
from haloformer.cli import COMMANDS, main
for command in COMMANDS:
    with contextlib.redirect_stdout(io.StringIO()) as text, contextlib.suppress(SystemExit):
        main([command, "--help"])
    assert f"haloformer {command}" in text.getvalue(), command
    assert not {"torch", "numpy", "timm"} & set(sys.modules), command
"""
    result = _run(code)
    assert result.returncode == 0, result.stderr


LAYERS = {
    "simulation": (),
    "models": ("simulation",),
    "data": ("simulation",),
    "training": ("simulation", "data", "models"),
    "deploy": ("simulation", "data", "models", "training"),
    "evaluation": ("simulation", "data", "models", "training", "deploy"),
    "explain": ("simulation", "data", "models", "training", "deploy", "evaluation"),
    "studies": ("simulation", "data", "models", "training", "deploy", "evaluation"),
    "app": ("simulation", "data", "models", "training", "deploy", "evaluation", "explain"),
}


@pytest.mark.parametrize("layer", LAYERS)
def test_arrows_between_the_layers_point_one_way(layer):
    for path in (SOURCE / layer).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("haloformer."):
                imported = node.module.split(".")[1]
                assert imported in (*LAYERS[layer], layer) or imported not in LAYERS, f"{path.name} imports {imported}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_in_the_documents_lead_to_files(document):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", document.read_text(encoding="utf-8")):
        if not re.match(r"[a-z]+:", target):
            assert (document.parent / target).exists(), target


@pytest.mark.parametrize(
    "document", [d for d in DOCUMENTS if "```python" in d.read_text(encoding="utf-8")], ids=lambda p: p.stem
)
def test_python_code_in_the_documents_runs(document, trained_run, tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", document.read_text(encoding="utf-8"), flags=re.DOTALL)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "x").symlink_to(trained_run)
    assert main(["simulate", "model_ii", "--n", "120", "--out", str(tmp_path / "train.h5"), "--quiet"]) == 0
    code = "\n".join(blocks)
    result = _run(code, cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-2000:]


@pytest.mark.parametrize(
    "document", [d for d in DOCUMENTS if "haloformer " in d.read_text(encoding="utf-8")], ids=lambda p: p.stem
)
def test_commands_in_the_documents_have_these_options(document):
    from haloformer.cli import COMMANDS

    text = document.read_text(encoding="utf-8").replace("\\\n", " ")
    commands = re.findall(r"^\s*(?:\.venv/bin/)?haloformer ([a-z]+)([^#\n|]*)", text, flags=re.MULTILINE)
    for command, rest in commands:
        assert command in COMMANDS, command
        for option in re.findall(r"--([a-z_-]+)", rest):
            assert f"--{option.replace('-', '_')}" in _help(command), (command, option)


@functools.cache
def _help(command):
    with contextlib.redirect_stdout(io.StringIO()) as text, pytest.raises(SystemExit):
        main([command, "--help"])
    return text.getvalue()


def test_survey_yaml_in_the_documents_and_examples_simulates(tmp_path):
    import yaml

    from haloformer.simulation import get_survey, simulate

    text = (ROOT / "docs" / "simulation.md").read_text(encoding="utf-8")
    shown = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", text, flags=re.DOTALL)]
    assert shown
    for survey in (*map(get_survey, shown), get_survey(ROOT / "examples" / "own_survey.yaml")):
        assert simulate(survey, 3).images.isfinite().all()


def test_the_quickstart_configuration_is_one_that_train_takes(tmp_path):
    import yaml

    from haloformer.training import train

    options = yaml.safe_load((ROOT / "examples" / "quickstart.yaml").read_text(encoding="utf-8"))
    options |= {"epochs": 1, "epoch_size": 128, "val_size": 30, "out": str(tmp_path / "run"), "progress": False}
    assert train(**options).epochs == 1
