"""What holds for the package as a whole: lean imports, arrows between layers, documents whose code runs and whose links lead somewhere."""

import ast
import contextlib
import functools
import importlib
import io
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import haloformer
from haloformer.cli import COMMANDS, main

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
    "pydantic",
    "pydantic_core",
    "yaml",
}
HIDDEN = (
    "numba",
    "astropy",
    "tensorboard",
    "pyarrow",
    "lenstronomy",
    "docstring_parser",
    "matplotlib",
    "rich",
    "transformers",
)


def _run(code: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, **options)


def test_the_core_simulates_trains_and_predicts_without_any_other_package(tmp_path):
    code = f"""
import importlib.metadata, sys
hidden, distribution = {HIDDEN!r}, importlib.metadata.distribution
sys.modules.update(dict.fromkeys(hidden))  # None: as if not installed
def known(name):  # as Lightning and torchmetrics ask for what they can use
    if name.partition("[")[0].lower() in hidden:
        raise importlib.metadata.PackageNotFoundError(name)
    return distribution(name)
importlib.metadata.distribution = known
import haloformer.data, haloformer.models, haloformer.simulation, haloformer.training
from haloformer.prediction import load
lenses = haloformer.simulate("model_ii", 6)
assert lenses.attributes["backend"] == "torch"
small = {{"depth": 1, "embed_dim": 32, "num_heads": 2}}
tiny = {{"epochs": 1, "epoch_size": 32, "batch_size": 32, "val_size": 6}}
haloformer.train("model_ii", "vit_nano", "run", model_args=small, progress=False, **tiny)
assert load("run").probabilities(lenses.images).shape == (6, 3)
"""
    result = _run(code, cwd=tmp_path)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    "package",
    ["io", "simulation", "data", "fitting", "models", "outputs", "artefact", "training", "."],
)
def test_the_core_imports_nothing_else_at_module_level(package):
    for path in (SOURCE / package).glob("*.py"):
        if path.stem.endswith(("kernels", "kernel")):  # imported only where numba is
            continue
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                top = name.partition(".")[0]
                assert top in CORE or top in sys.stdlib_module_names or top == "haloformer", (
                    f"{path.name} imports {name}"
                )


def test_every_name_of_the_package_is_there():
    assert [name for name in haloformer.__all__ if not hasattr(haloformer, name)] == []


def test_the_package_lists_its_public_names_alone_whatever_was_imported():
    import haloformer.simulation  # is an attribute from now on

    assert dir(haloformer) == sorted(haloformer.__all__)
    assert callable(haloformer.explain)
    # A folder of the same name would take a function's place once it is imported.
    folders = {path.parent.name for path in SOURCE.glob("*/__init__.py")}
    assert not folders & set(haloformer.__all__)


@pytest.mark.parametrize(
    "folder", sorted(path.parent.name for path in SOURCE.glob("*/__init__.py"))
)
def test_every_name_that_a_folder_exports_is_there(folder):
    module = importlib.import_module(f"haloformer.{folder}")
    assert [name for name in getattr(module, "__all__", ()) if not hasattr(module, name)] == []


@pytest.mark.parametrize(
    "folder",
    sorted(
        path.parent.relative_to(SOURCE).as_posix().replace("/", ".")
        for path in SOURCE.rglob("__init__.py")
        if "= lazy(" in path.read_text(encoding="utf-8") and path.parent != SOURCE
    ),
)
def test_completion_shows_what_a_folder_exports_before_it_was_imported(folder):
    module = importlib.import_module(f"haloformer.{folder}")
    assert dir(module) == sorted(module.__all__)
    with pytest.raises(AttributeError, match=f"'haloformer.{folder}' has no attribute 'nothing'"):
        module.nothing  # noqa: B018


def test_importing_the_package_is_instant_and_pulls_in_nothing():
    result = _run(
        "import sys, haloformer; print([m for m in ('torch', 'numpy', 'timm') if m in sys.modules])"
    )
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "arguments", [["train", "--help"], ["train", "--data", "x.h5", "--print_config"], ["presets"]]
)
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


# Commands whose module still imports at once what carries them out.
def _help_without_imports(commands) -> subprocess.CompletedProcess:
    return _run(f"""
import contextlib, io, sys
from haloformer.cli import main
for command in {list(commands)!r}:
    with contextlib.redirect_stdout(io.StringIO()) as text, contextlib.suppress(SystemExit):
        main([command, "--help"])
    assert f"haloformer {{command}}" in text.getvalue(), command
    assert not {{"torch", "numpy", "timm"}} & set(sys.modules), command
""")


def test_the_help_of_no_command_imports_what_would_carry_it_out():
    result = _help_without_imports(COMMANDS)
    assert result.returncode == 0, result.stderr


def test_every_command_has_a_light_module():
    from haloformer.cli.registry import HOMES

    for name in HOMES:
        path = SOURCE / "cli" / f"{name}.py"
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("haloformer"):
                light = ("haloformer.cli", "haloformer.errors", "haloformer.vocabulary")
                assert (node.module or "").startswith(light), f"{path.name} imports {node.module}"


# In this order: a folder knows of those before it that are named.
LAYERS = {
    "io": (),
    "reporting": ("io",),
    "readers": ("io",),
    "simulation": ("reporting", "readers"),
    "models": (),
    "data": ("io", "readers", "simulation"),
    "fitting": ("io", "readers", "reporting", "simulation", "data"),
    "outputs": ("io", "simulation"),
    "artefact": ("io", "readers", "data", "fitting", "models", "outputs"),
    "training": (
        "io",
        "reporting",
        "readers",
        "simulation",
        "data",
        "fitting",
        "models",
        "outputs",
        "artefact",
    ),
    "prediction": (
        "io",
        "readers",
        "reporting",
        "simulation",
        "data",
        "fitting",
        "models",
        "outputs",
        "artefact",
    ),
    "evaluation": (
        "io",
        "readers",
        "reporting",
        "simulation",
        "data",
        "fitting",
        "models",
        "outputs",
        "artefact",
        "prediction",
    ),
    "audit": (
        "io",
        "readers",
        "reporting",
        "simulation",
        "data",
        "artefact",
        "prediction",
        "evaluation",
    ),
    "oracle": ("io", "reporting", "simulation", "fitting", "evaluation"),
    "explanation": (
        "io",
        "readers",
        "reporting",
        "simulation",
        "data",
        "models",
        "outputs",
        "prediction",
        "evaluation",
    ),
    "estimator": ("readers", "data", "outputs", "training", "prediction"),
    "studies": (
        "io",
        "readers",
        "reporting",
        "simulation",
        "data",
        "fitting",
        "models",
        "training",
        "prediction",
        "evaluation",
    ),
    "trial": ("io", "readers", "fitting", "prediction"),
    "tuning": ("io", "readers", "reporting", "data", "models", "training", "studies"),
    "app": (
        "io",
        "readers",
        "reporting",
        "simulation",
        "models",
        "data",
        "fitting",
        "outputs",
        "artefact",
        "prediction",
        "evaluation",
        "explanation",
        "trial",
    ),
    "cli": (
        "io",
        "reporting",
        "readers",
        "simulation",
        "models",
        "data",
        "fitting",
        "training",
        "prediction",
        "evaluation",
        "studies",
        "tuning",
        "audit",
        "oracle",
    ),
}
# The only parts of `fitting` that know of more than simulation.
READS_FILES = {
    *("fitting/command.py", "fitting/own_facts.py", "fitting/to_table.py"),
    *("fitting/reallens/files.py", "fitting/reallens/region_mask.py"),
}


def _modules() -> dict[str, Path]:
    names = {
        path: ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts)
        for path in SOURCE.rglob("*.py")
    }
    return {name.removesuffix(".__init__"): path for path, name in names.items()}


@functools.cache
def _imports(path: Path) -> frozenset[str]:
    """The modules of ours that a file imports anywhere, but for those that only its type annotations name."""
    known, tree = _modules(), ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            node.body = []
    found = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    pairs = [(node.module or "", alias.name) for node in found for alias in node.names]
    plain = [
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    ]
    named = [
        f"{module}.{name}" if f"{module}.{name}" in known else module for module, name in pairs
    ] + plain
    return frozenset(name for name in named if name in known and known[name] != path)


def test_every_folder_has_its_place_among_the_layers():
    folders = {path.parent.name for path in SOURCE.glob("*/__init__.py")}
    assert folders == {*LAYERS}


@pytest.mark.parametrize("layer", LAYERS)
def test_arrows_between_the_layers_point_one_way(layer):
    before = list(LAYERS)[: list(LAYERS).index(layer)]
    assert set(LAYERS[layer]) <= set(before)
    for path in (SOURCE / layer).rglob("*.py"):
        for module in _imports(path):
            imported = module.split(".")[1] if "." in module else ""
            assert imported in (*LAYERS[layer], layer) or imported not in LAYERS, (
                f"{path.name} imports {imported}"
            )
            assert layer == "cli" or imported != "cli", f"{path.name} uses the command line"


def test_the_fit_itself_knows_of_simulation_alone():
    for path in (SOURCE / "fitting").rglob("*.py"):
        if str(path.relative_to(SOURCE)) not in READS_FILES:
            rooms = {module.split(".")[1] for module in _imports(path) if "." in module}
            ours = {"fitting", "simulation", "io", "reporting"}
            ours |= {"errors", "vocabulary", "devices", "_version", "lazy"}
            assert rooms <= ours, path.name


def test_no_module_imports_itself_by_way_of_others():
    left = {name: _imports(path) for name, path in _modules().items() if name != "haloformer"}
    while removable := [
        name for name, to in left.items() if not any(other in left for other in to)
    ]:
        for name in removable:
            del left[name]
    # What is left imports something that is left: circles, and what leads to them.
    assert not left, f"circles among {sorted(left)}"


def test_nobody_imports_a_private_name_of_another_module():
    for name, path in _modules().items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("haloformer"):
                private = [
                    a.name for a in node.names if a.name.startswith("_") and a.name != "__version__"
                ]
                assert not private or node.module == "haloformer", (
                    f"{name} imports {private[0]} of {node.module}"
                )


@pytest.mark.parametrize("document", [*DOCUMENTS, *sorted(ROOT.glob("results/measurements/*.md"))], ids=lambda p: str(p.relative_to(ROOT)))  # fmt: skip
def test_links_in_the_documents_lead_to_files(document):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", document.read_text(encoding="utf-8")):
        if not re.match(r"[a-z]+:", target):
            assert (document.parent / target).exists(), target


@pytest.fixture(scope="session")
def document_folder(trained_run, tmp_path_factory):
    """What the documents suppose to be there: a dataset and a run."""
    folder = tmp_path_factory.mktemp("documents")
    (folder / "runs").mkdir()
    (folder / "runs" / "x").symlink_to(trained_run)
    dataset = str(folder / "train.h5")
    assert main(["simulate", "model_ii", "--n", "120", "--out", dataset, "--quiet"]) == 0
    return folder


@pytest.mark.parametrize(
    "document",
    [d for d in DOCUMENTS if "```python" in d.read_text(encoding="utf-8")],
    ids=lambda p: str(p.relative_to(ROOT)),
)
def test_python_code_in_the_documents_runs(
    document, document_folder, tmp_path, monkeypatch, unpictured
):
    text = document.read_text(encoding="utf-8")
    code = "\n".join(re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL))
    for path in document_folder.iterdir():
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    # Not a process each, which would spend most of its time on importing PyTorch.
    exec(compile(code, document.name, "exec"), {"__name__": "__main__"})


@pytest.mark.parametrize(
    "document",
    [d for d in DOCUMENTS if "```python" in d.read_text(encoding="utf-8")],
    ids=lambda p: str(p.relative_to(ROOT)),
)
def test_python_code_in_the_documents_imports_the_modules_that_it_names(document):
    """Which the test above cannot tell: in its process, others have imported them."""
    text = document.read_text(encoding="utf-8")
    tree = ast.parse("\n".join(re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)))
    imported = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    named = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert named & _modules().keys() <= imported


@pytest.mark.parametrize(
    "document",
    [d for d in DOCUMENTS if "haloformer " in d.read_text(encoding="utf-8")],
    ids=lambda p: p.stem,
)
def test_commands_in_the_documents_have_these_options(document):
    text = document.read_text(encoding="utf-8").replace("\\\n", " ")
    commands = re.findall(
        r"(?:^\s*(?:\.venv/bin/)?|\| `)haloformer ([a-z]+)([^#\n|`]*)", text, flags=re.MULTILINE
    )
    for command, rest in commands:
        assert command in COMMANDS, command
        for option in re.findall(r"--([a-z_-]+)", rest):
            assert f"--{option.replace('-', '_')}" in _help(command), (command, option)


def test_commands_that_the_makefile_runs_and_names_have_these_options():
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    commands = re.findall(r"\$\(BIN\)/haloformer ([a-z]+)([^\n\"]*)", text)
    assert {"simulate", "train", "try", "audit", "fit"} <= {command for command, _ in commands}
    for command, rest in commands:
        for option in re.findall(r"--([a-z_]+)", rest):
            assert f"--{option}" in _help(command), (command, option)


@functools.cache
def _help(command):
    with contextlib.redirect_stdout(io.StringIO()) as text, pytest.raises(SystemExit):
        main([command, "--help"])
    return text.getvalue()


def _galaxies_and_psf(folder):
    """What the documents' surveys read from the user's own disk: cutouts of galaxies, and a kernel."""
    from astropy.io import fits

    rng, (y, x) = np.random.default_rng(2), np.mgrid[-24:25, -24:25]
    (folder / "galaxies").mkdir()
    for i in range(12):
        size, q = rng.uniform(2, 5), rng.uniform(0.5, 1)
        light = np.exp(-np.hypot(x / size, y / size / q)) + rng.normal(0, 0.002, x.shape)
        fits.writeto(folder / "galaxies" / f"{i}.fits", light.astype(np.float32))
    kernel = (1 + (x**2 + y**2)[14:35, 14:35] / 2.0) ** -2.5
    fits.writeto(folder / "psf.fits", (kernel / kernel.sum()).astype(np.float32))


def test_survey_yaml_in_the_documents_and_examples_simulates(tmp_path, monkeypatch):
    import yaml

    from haloformer.simulation import get_any_survey, simulate

    text = (ROOT / "docs" / "simulation.md").read_text(encoding="utf-8")
    shown = [
        yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", text, flags=re.DOTALL)
    ]
    assert shown
    _galaxies_and_psf(tmp_path)
    monkeypatch.chdir(tmp_path)
    own = get_any_survey(ROOT / "examples" / "own_survey.yaml")
    for survey in (*map(get_any_survey, shown), own):
        assert simulate(survey, 3).images.isfinite().all()


def test_the_quickstart_configuration_is_one_that_train_takes(tmp_path):
    import yaml

    from haloformer.training import train

    options = yaml.safe_load((ROOT / "examples" / "quickstart.yaml").read_text(encoding="utf-8"))
    options |= {
        "epochs": 1,
        "epoch_size": 128,
        "val_size": 30,
        "out": str(tmp_path / "run"),
        "progress": False,
    }
    assert train(**options).epochs == 1
