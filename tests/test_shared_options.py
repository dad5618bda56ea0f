"""What all commands have in common: options, help that fits, dry runs, and what comes next."""

import contextlib
import functools
import importlib
import json
import os
import re
import select
import shlex
import shutil
import subprocess
import sys
import time
import types
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import haloformer
from haloformer.cli import COMMANDS, layout, main, parsing, planning, session
from haloformer.cli.as_json import as_document
from haloformer.cli.completion import completion
from haloformer.cli.next_steps import next_step
from haloformer.cli.registry import HOMES
from haloformer.cli.shared import OPTIONS, duration, size
from haloformer.training import measuring

ROOT = Path(__file__).resolve().parents[1]
LONG_WORK = (
    *("simulate", "convert", "prepare", "train", "study", "benchmark", "tune"),
    *("audit", "limits", "fit"),
)
NEEDED = {
    "simulate": ["model_ii", "--out", "x.h5"],
    "convert": ["folder", "--out", "x.h5"],
    "inspect": ["x.h5"],
    "study": ["augmentation"],
    "tune": ["quick"],
    "evaluate": ["runs/x"],
    "calibrate": ["runs/x"],
    "audit": ["runs/x", "--out", "a"],
    "limits": ["hst", "--out", "l"],
    "compare": ["runs/x", "runs/y"],
    "predict": ["runs/x", "a.npy", "--out", "p.csv"],
    "export": ["model_i", "--out", "x.onnx"],
    "fit": ["a.fits", "--out", "f"],
    "explain": ["runs/x", "a.npy", "--out", "why"],
    "completion": ["bash"],
}


def request_of(name: str, arguments: list[str]) -> parsing.Request:
    module = __import__(HOMES[name], fromlist=["x"])
    function = getattr(module, COMMANDS[name].function or name)
    return parsing.read(name, COMMANDS[name], function, arguments)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    path = tmp_path_factory.mktemp("shared") / "a.h5"
    assert main(["simulate", "model_ii", "--n", "90", "--out", str(path), "--quiet"]) == 0
    return path


@pytest.fixture
def quick(monkeypatch):
    """Measures for a moment only."""
    monkeypatch.setattr(planning, "_SECONDS", 0.01)
    monkeypatch.setattr(measuring, "_SECONDS", 0.01)


def help_at(name: str, width: int, monkeypatch, capsys) -> str:
    monkeypatch.setenv("COLUMNS", str(width))
    with pytest.raises(SystemExit):
        main([name, "--help"])
    return capsys.readouterr().out


@pytest.mark.parametrize("name", COMMANDS)
def test_help_fits_the_screen_breaks_no_word_and_says_types_in_words(name, monkeypatch, capsys):
    texts = {width: help_at(name, width, monkeypatch, capsys) for width in (60, 80, 120)}
    for width, text in texts.items():
        too_long = [line for line in text.splitlines() if len(line) > width]
        assert all(len(line.split()) <= 2 for line in too_long), too_long  # one word alone
    words = {width: text.replace("\\", "").split() for width, text in texts.items()}
    assert words[60] == words[80] == words[120]
    assert not re.search(r"\(type:|\bint\b|\bstr\b|None|Literal", texts[120])
    assert all(f"--{option}" in texts[120] for option in ("quiet", "verbose", "json"))
    assert ("--dry_run" in texts[120]) == (name in LONG_WORK)


def test_the_overview_fits_60_columns(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "60")
    assert main(["--help"]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 60


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_takes_the_shared_options_and_keeps_them_from_its_function(name):
    given_options = ["--quiet", "--verbose", "--json"]
    given_options += ["--dry-run"] if name in LONG_WORK else []
    request = request_of(name, [*NEEDED.get(name, []), *given_options])
    assert request.shared.quiet
    assert request.shared.verbose
    assert request.shared.json
    assert request.shared.dry_run == (name in LONG_WORK)
    known = set(OPTIONS) - {"quiet"}
    assert not known & set(request.keywords) - {"options"}
    assert not known & set(request.keywords.get("options", {}))


LIGHT = {
    "presets": ["presets"],
    "one preset": ["presets", "standard"],
    "surveys": ["surveys"],
    "one survey": ["surveys", "hst"],
    "models": ["models", "--size", "nano"],
    "inspect": ["inspect", "{data}"],
    "simulate": ["simulate", "model_ii", "--n", "6", "--out", "{tmp}/x.h5"],
    "convert": ["convert", "{data}", "--out", "{tmp}/x.h5"],
    "prepare": ["prepare", "--data", "model_ii", "--n", "4", "--val_size", "4", "--prepared", "{tmp}/im"],
}  # fmt: skip


@pytest.mark.parametrize("case", LIGHT)
def test_json_is_one_document_and_quiet_is_quiet(case, dataset, tmp_path, capsys):
    words = [w.format(data=dataset, tmp=tmp_path / "1") for w in LIGHT[case]]
    (tmp_path / "1").mkdir()
    assert main([*words, "--json", "--verbose"]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out) is not None
    assert f"haloformer {words[0]}" in told.err
    assert "carried out" in told.err
    words = [w.format(data=dataset, tmp=tmp_path) for w in LIGHT[case]]
    assert main([*words, "--quiet"]) == 0
    told = capsys.readouterr()
    # A document is what was asked for, whatever else is not told.
    assert (told.out != "") == case.startswith("one ")
    assert told.err == ""


def test_what_is_printed_goes_to_a_file_which_is_not_overwritten(tmp_path, capsys):
    out = tmp_path / "sub" / "hst.yaml"
    assert main(["surveys", "hst", "--out", str(out)]) == 0
    assert capsys.readouterr().out == ""
    text = out.read_text()
    assert main(["surveys", "hst", "--out", "-"]) == 0
    assert capsys.readouterr().out == text
    assert main(["surveys", "--out", str(out)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert out.read_text() == text


def test_a_table_goes_to_standard_output_and_all_else_aside(tmp_path, capsys, dataset):
    names = []
    for i, image in enumerate(np.random.default_rng(0).random((3, 64, 64))):
        np.save(tmp_path / f"{i}.npy", image.astype(np.float32))
        names.append(str(tmp_path / f"{i}.npy"))
    before = sorted(tmp_path.iterdir())
    assert main(["predict", "model_ii", *names, "--out", "-"]) == 0
    told = capsys.readouterr()
    lines = told.out.splitlines()
    assert lines[0].startswith("file,class,p_axion")
    assert len(lines) == 4
    assert "3 rows to standard output" in told.err
    assert main(["predict", "model_ii", *names, "--out", "-", "--json", "--quiet"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [row["file"] for row in document["rows"]] == names
    assert document["n_rows"] == 3
    assert sorted(tmp_path.iterdir()) == before
    told = (ROOT / "docs/commands.md").read_text().partition("The table of `--out - --json`")
    named = re.findall(r"`(\w+)`", told[2].partition(". `--out`")[0])
    assert named == ["n_rows", "units", "rows"]
    assert set(named) <= document.keys()
    assert document.keys().isdisjoint({"columns", "provenance"})
    assert document["units"]["log10_m_axion"] == "log10(eV)"


def test_a_few_rows_are_printed_with_reasons_below(tmp_path, capsys, monkeypatch):
    from haloformer.cli.predict import present
    from haloformer.prediction.rows import PredictionSummary

    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.chdir(tmp_path)
    path = Path("p.csv")
    lines = ["file,class,p_axion,p_cdm,ood,ood_reason,error"]
    lines += [f"cutouts/{i}.fits,cdm,0.25,0.75,False,," for i in range(30)]
    lines[2] = "cutouts/odd.fits,unknown,0.5,0.5,True,its light lies elsewhere than in training,"
    path.write_text("\n".join(lines) + "\n")
    present(PredictionSummary(path, n_rows=30, class_counts={"cdm": 29}, n_ood=1))
    out = capsys.readouterr().out
    assert "file" in out
    assert "cutouts/odd" not in out  # names alone
    assert "(1)  out of distribution: its light lies elsewhere than" in out
    assert "… and 10 more" in out
    assert max(map(len, out.splitlines())) <= 60


@pytest.mark.parametrize(
    "words", [["predict", "model_ii", "x.npy"], ["fit", "x.npy", "--survey", "model_ii"]]
)
def test_a_table_that_exists_is_told_of_before_anything_is_loaded(
    words, tmp_path, capsys, monkeypatch
):
    place = tmp_path / "p.csv"
    place.write_text("precious")

    home = importlib.import_module(HOMES[words[0]])

    @functools.wraps(getattr(home, words[0]))
    def begun(*_: object, **__: object) -> None:
        raise AssertionError("the command began")

    monkeypatch.setattr(home, words[0], begun)
    assert main([*words, "--out", str(place)]) == 2
    assert "p.csv exists already" in capsys.readouterr().err
    assert place.read_text() == "precious"


DRY = {
    "simulate": ["simulate", "model_ii", "--n", "1000", "--out", "{tmp}/x.h5"],
    "workers": ["simulate", "model_ii", "--n", "1000", "--workers", "2", "--out", "{tmp}/x"],
    "convert": ["convert", "{data}", "--out", "{tmp}/x.h5"],
    "prepare": ["prepare", "--data", "model_ii", "--prepared", "{tmp}/images"],
    "train": ["train", "--data", "{data}", "--epochs", "2", "--out", "{tmp}/r"],
    "train on a survey": ["train", "--data", "model_ii", "--out", "{tmp}/r"],
    "study": ["study", "augmentation", "--only", "none", "--seeds", "1", "--out", "{tmp}/s"],
    "benchmark": ["benchmark", "--models", "vit_nano", "--seeds", "2", "--out", "{tmp}/b"],
    "audit of a survey": ["audit", "--survey", "model_ii", "--out", "{tmp}/a"],
    "limits": ["limits", "hst", "--lenses", "4", "--out", "{tmp}/l"],
    "fit": ["fit", "{data}", "--survey", "model_ii", "--noise", "none", "--out", "{tmp}/f.csv"],
    "tune": ["tune", "quick", "--data", "model_ii", "--trials", "3", "--out", "{tmp}/t"],
}


@pytest.mark.parametrize("case", DRY)
def test_a_dry_run_estimates_and_writes_nothing(case, dataset, tmp_path, capsys, quick):
    if case == "tune":
        pytest.importorskip("optuna")
    small = ["--model", "vit_nano", "--model_args", "{{depth: 1, embed_dim: 32, num_heads: 2}}"]
    words = DRY[case] + (small if case.startswith("train") else [])
    words = [word.format(data=dataset, tmp=tmp_path) for word in words]
    assert main([*words, "--dry-run", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["seconds"] > 0
    assert plan["n_bytes"] > 0
    assert plan["n_bytes_free"] > 0
    assert list(tmp_path.iterdir()) == []


LENS = Path(haloformer.__file__).parent / "trial" / "images"


@pytest.mark.parametrize(
    "words",
    [
        ["audit", "model_ii", "--parts", "noise,shift", "--out", "{tmp}/a"],
        ["fit", f"{LENS}/simulated_lens.fits", "--psf", f"{LENS}/psf.fits", "--out", "{tmp}/f"],
    ],
)
def test_a_dry_run_checks_what_is_given_where_its_time_cannot_be_told(words, tmp_path, capsys):
    words = [word.format(tmp=tmp_path) for word in words]
    assert main([*words, "--dry_run"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"time \(estimate\)\W+cannot be told", out)
    assert "noise, shift" in out or "88×88 pixels of 0.05″" in out
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_is_shown_as_an_estimate(tmp_path, capsys, quick, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    words = ["simulate", "model_ii", "--n", "1000", "--out", str(tmp_path / "x.h5")]
    assert main([*words, "--dry_run"]) == 0
    out = capsys.readouterr().out
    assert "nothing was done" in out
    assert "time (estimate)" in out
    assert "16.4 MB" in out  # 1000 images of 64×64 numbers of 4 bytes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["simulate", "model_v", "--out", "{tmp}/x.h5"], "model_i"),
        (["simulate", "model_ii", "--out", "{tmp}/there.h5"], "exists"),
        (["simulate", "model_ii", "--n", "0", "--out", "{tmp}/x.h5"], "at least"),
        (["simulate", "model_i", "--n", "1000000000", "--out", "{tmp}/x.h5"], "GB"),
        (["convert", "{tmp}/nothing", "--out", "{tmp}/x.h5"], "does not exist"),
        (["train", "--data", "{tmp}/there.h5", "--out", "{tmp}/r"], "there.h5"),
        (["train", "--data", "model_ii", "--model", "resnet81", "--out", "{tmp}/r"], "resnet"),
        (["train", "--data", "model_ii", "--out", "{tmp}"], "not a run folder"),
        (["study", "augmentations"], "'augmentation'"),
        (["study", "augmentation", "--out", "{tmp}"], "not the folder of a study"),
        (["prepare", "--data", "model_ii"], "name the folder"),
        (["limits", "hst", "--lenses", "1", "--out", "{tmp}/l"], "lenses is 1"),
        (["limits", "model_i", "--out", "{tmp}/l"], "its lens is always the same"),
        (["audit", "--survey", "hst", "--n", "9", "--out", "{tmp}/a"], "at least 90"),
        (["audit", "model_ii", "--parts", "zz", "--out", "{tmp}/a"], "unknown part 'zz'"),
        (["audit", "model_ii", "--out", "{tmp}"], "something else than an audit"),
        (["fit", "{tmp}/x.npy", "--survey", "hst", "--out", "{tmp}/f.csv"], "x.npy"),
        (["fit", "{tmp}/x.fits", "--psf", "{tmp}/p.fits", "--out", "{tmp}/f"], "does not exist"),
        (["fit", "x.fits", "--psf", "p", "--start", "{tmp}/s.json", "--out", "{tmp}/f"], "s.json"),
    ],
)
def test_a_dry_run_refuses_what_the_command_would_refuse(
    arguments, message, tmp_path, capsys, quick
):
    (tmp_path / "there.h5").write_bytes(b"precious")
    assert main([word.format(tmp=tmp_path) for word in arguments] + ["--dry_run"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["there.h5"]


def test_a_long_command_ends_with_its_time_and_a_command_that_works(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(session, "LONG", 0.0)
    out = tmp_path / "with space.h5"
    assert main(["simulate", "model_ii", "--n", "6", "--out", str(out)]) == 0
    done, step = capsys.readouterr().out.splitlines()[-2:]
    assert re.fullmatch(r"done in [0-9.]+ s", done)
    words = shlex.split(step.removeprefix("next: "))
    assert words[:2] == ["haloformer", "inspect"]
    assert main(words[1:]) == 0
    assert "6 images" in capsys.readouterr().out


@pytest.mark.parametrize("name", COMMANDS)
def test_the_next_command_is_one_that_its_parser_takes(name, tmp_path):
    arguments = NEEDED.get(name, [])
    if name == "prepare":
        arguments = ["--data", "model_ii", "--n", "9", "--prepared=images", "--quiet"]
    keywords = {**request_of(name, arguments).keywords}
    out = tmp_path / "out"
    (artefact := out / "runs" / "best-seed0" / "artefact").mkdir(parents=True)
    (artefact / "artefact.json").write_text('{"survey": "model_ii"}')
    (out / "best.yaml").write_text("data: model_ii\nseed: 4\n")
    values = {"out": out, "n_errors": 0, "rows": [{"variant": "best", "macro_auc": 0.9}]}
    models = [{"name": "y", "macro_auc": {"value": 0.9}}]
    result = {"models": models} if name == "compare" else types.SimpleNamespace(**values)
    step = next_step(name, keywords, result, arguments)
    if name in ("try", "app", "presets", "models", "surveys", "completion", "audit"):
        assert step is None
        return
    assert step is not None
    _, command, *words = shlex.split(step)
    request_of(command, words)
    assert name != "tune" or words[words.index("--seed") + 1] == "5"


def test_without_a_known_survey_no_command_that_needs_one_comes_next(tmp_path):
    for folder in ("runs/x", "hub"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "artefact.json").write_text(
            '{"survey": "", "training": {"data": "train.h5"}}'
        )
    run, hub = str(tmp_path / "runs/x"), str(tmp_path / "hub")
    step = next_step("evaluate", {"run": run, "data": "val.h5"}, None)
    assert step == f"haloformer explain {run} val.h5 --out why"
    assert next_step("calibrate", {"run": run, "data": "val.h5"}, None) is None
    assert next_step("explain", {"run": run}, None) is None
    assert next_step("export", {"model": run, "out": hub, "format": "hub"}, None) is None
    assert next_step("export", {"model": run, "out": "x.onnx"}, None) is None
    assert next_step("explain", {"run": "model_i"}, None) is not None


def test_an_error_of_our_own_is_one_line_and_with_verbose_a_traceback(monkeypatch, capsys):
    def broken() -> None:
        raise KeyError("lens")

    monkeypatch.setattr("haloformer.training.presets.list_presets", broken)
    assert main(["presets"]) == 70
    (line,) = capsys.readouterr().err.splitlines()
    assert "internal error: KeyError" in line
    assert "--verbose" in line
    assert main(["presets", "--verbose"]) == 70
    assert "Traceback" in capsys.readouterr().err


def test_a_reader_that_goes_early_is_no_fault():
    process = subprocess.Popen(
        [sys.executable, "-m", "haloformer", "models", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    error = process.stderr.read()
    assert (process.wait(60), error) == (0, b"")


COMPLETED = {
    ("haloformer", "sim"): {"simulate"},
    ("haloformer", "simulate", "model_ii"): {"model_ii", "model_iii"},
    ("haloformer", "simulate", "model_i", "--noi"): {"--noise"},
    ("haloformer", "simulate", "model_i", "--noise", ""): {"original", "instrument", "none"},
    ("haloformer", "train", "--preset", "stand"): {"standard"},
    ("haloformer", "predict", "nothing"): set(),
}


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes_commands_options_and_names(tmp_path):
    lines = [completion("bash")]
    for words in COMPLETED:
        lines.append(f"COMP_WORDS=({shlex.join(words)}); COMP_CWORD={len(words) - 1}; _haloformer")
        lines.append('echo "${COMPREPLY[@]}"')
    shown = subprocess.run(
        ["bash", "-c", "\n".join(lines)], capture_output=True, text=True, cwd=tmp_path
    )
    assert shown.stderr == ""
    found = [set(line.split()) for line in shown.stdout.splitlines()]
    assert found == list(COMPLETED.values())


@pytest.mark.skipif(shutil.which("fish") is None, reason="needs fish")
def test_fish_completes_commands_options_and_names(tmp_path):
    (tmp_path / "haloformer.fish").write_text(completion("fish"))
    lines = ["source haloformer.fish"]
    for words in COMPLETED:
        lines.append(f"echo (complete -C {shlex.quote(' '.join(words))} | string split -f 1 \\t)")
    shown = subprocess.run(
        ["fish", "--no-config", "-c", "\n".join(lines)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "HOME": str(tmp_path)},
    )
    assert shown.stderr == ""
    found = [set(line.split()) - {"haloformer.fish"} for line in shown.stdout.splitlines()]
    assert found == list(COMPLETED.values())


@pytest.mark.skipif(shutil.which("zsh") is None, reason="needs zsh")
def test_zsh_completes_at_a_press_of_tab(tmp_path):
    import pty

    (tmp_path / "haloformer.zsh").write_text(completion("zsh"))
    master, slave = pty.openpty()
    environment = {**os.environ, "HOME": str(tmp_path), "TERM": "dumb", "PS1": "ready> "}
    shell = subprocess.Popen(
        ["zsh", "-f", "-i"],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        cwd=tmp_path,
        env=environment,
        start_new_session=True,
    )
    os.close(slave)
    pressed = {
        "source ./haloformer.zsh; echo re''ad\n": "read\r",
        "haloformer sim\t": "simulate",
        "haloformer simulate model_i --noi\t": "--noise=",
        "haloformer simulate model_i --noise=orig\t": "--noise=original",
        "haloformer train --preset stand\t": "standard",
        "haloformer fit halo\t": "haloformer.zsh",
    }
    try:
        for keys, wanted in pressed.items():
            os.write(master, b"\x15" + keys.encode())  # Ctrl-U empties the line
            seen, end = "", time.monotonic() + 30
            while wanted not in seen:
                left = end - time.monotonic()
                assert left > 0, f"{keys!r}: {seen!r}"
                assert select.select([master], [], [], left)[0], f"{keys!r}: {seen!r}"
                seen += os.read(master, 4096).decode(errors="replace")
            assert "not found" not in seen
            assert "unmatched" not in seen
    finally:
        shell.kill()
        shell.wait()
        os.close(master)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_all_commands_and_imports_nothing_heavy(shell):
    code = f"import sys; from haloformer.cli import main; main(['completion', '{shell}']); sys.exit('torch' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert shown.returncode == 0
    assert all(re.search(rf"\b{name}\b", shown.stdout) for name in COMMANDS)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.42, "0.4 s"), (12.3, "12 s"), (59.7, "1 min"), (192, "3 min 12 s"), (7500, "2 h 5 min"), (100_000, "1 d 3 h")],
)  # fmt: skip
def test_times_are_told_as_people_tell_them(seconds, text):
    assert duration(seconds) == text


def test_sizes_are_told_as_people_tell_them():
    assert [size(n) for n in (12, 3_400_000, 250e9)] == ["12 bytes", "3.4 MB", "250 GB"]


def test_a_table_as_json_says_units_and_null_for_nan():
    from haloformer.reporting.tabular import Column, Tabular

    class Table(Tabular):
        def columns(self):
            return [Column("theta_E", np.array([1.0, np.nan]), "arcsec", "Einstein radius")]

        def provenance(self):
            return {"model": Path("runs/x")}

        def summary(self):
            return "two lenses"

    text = session._json_text(as_document(Table()))
    assert json.loads(text) == {
        "summary": "two lenses",
        "provenance": {"model": "runs/x"},
        "columns": [
            {
                "name": "theta_E",
                "unit": "arcsec",
                "description": "Einstein radius",
                "values": [1.0, None],
            }
        ],
    }


WORDS = st.text("abcdef", min_size=1, max_size=12)
CELLS = st.lists(WORDS, min_size=1, max_size=6).map(" ".join)


@settings(max_examples=50, deadline=None)
@given(rows=st.lists(st.tuples(*[CELLS] * 5), min_size=1, max_size=4), width=st.integers(40, 90))
def test_tables_fit_and_no_word_is_broken(rows, width):
    lines = layout.table_lines(["one", "two", "three", "four", "five"], rows, width)
    assert max(map(len, lines)) <= width
    shown = set(" ".join(lines).split())
    assert {word for row in rows for cell in row for word in cell.split()} <= shown


def test_the_second_of_two_columns_goes_below_names_that_leave_it_no_room():
    rows = [("published_mahanta_2022_mass_model_ii_iii", "log10 of the axion mass"), ("x", "short")]
    assert layout.table_lines(["name", "what it is"], rows, 40) == [
        "published_mahanta_2022_mass_model_ii_iii",
        "  log10 of the axion mass",
        "x",
        "  short",
    ]
    assert len(layout.table_lines(["name", "what it is"], rows, 60)) == 4 + 1  # beside it


@pytest.mark.parametrize("arguments", [["presets"], ["surveys"], ["explain", "--help"]])
def test_what_is_printed_fits_sixty_columns(arguments, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "60")
    with contextlib.suppress(SystemExit):
        main(arguments)
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 60


def test_a_command_that_is_broken_over_lines_is_the_same_command():
    command = (
        "haloformer study transfer --only 'scratch-*,full-*  x' --seeds 1 --out studies/longer"
    )
    broken = layout.broken_command(command, 40, "  ")
    assert max(map(len, broken.splitlines())) <= 42
    assert shlex.split(broken.replace("\\\n", "")) == shlex.split(command)


@pytest.mark.parametrize(
    "arguments",
    [
        ["simulate", "model_ii", "--out", "-"],
        ["fit", "a.fits", "--psf", "psf.fits", "--out", "-"],
        ["train", "--data", "model_ii", "--out", "-"],
    ],
)
def test_what_is_no_table_is_not_printed(arguments, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert "--out - prints the table of" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_module_is_the_command_by_its_own_name(tmp_path):
    shown = subprocess.run(
        [sys.executable, "-m", "haloformer", "predict"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert shown.returncode == 2
    assert shown.stderr.startswith("haloformer predict: ")
    assert "__main__" not in shown.stderr
    shown = subprocess.run(
        [sys.executable, "-m", "haloformer"], capture_output=True, text=True, cwd=tmp_path
    )
    assert "usage: haloformer COMMAND" in shown.stdout


@pytest.mark.skipif(
    not Path("/proc").is_dir(), reason="a folder that takes no files, not even the superuser's"
)
@pytest.mark.parametrize(
    "words",
    [
        ["simulate", "model_ii", "--out", "/proc/x.h5"],
        ["train", "--data", "model_ii", "--out", "/proc/runs/x"],
        ["limits", "hst", "--out", "/proc/x"],
        ["fit", "{tmp}/lens.npy", "--psf", "{tmp}/psf.npy", "--pixel_scale", "0.05", "--out", "/proc/x"],
        ["inspect", "{tmp}/lens.npy", "--figure", "/proc/x.png"],
    ],
)  # fmt: skip
def test_what_cannot_be_written_is_told_before_the_work(words, tmp_path, capsys):
    np.save(tmp_path / "lens.npy", np.ones((60, 60)))
    np.save(tmp_path / "psf.npy", np.ones((3, 3)))
    assert main([word.format(tmp=tmp_path) for word in words]) == 2
    assert "cannot be written: the folder /proc" in capsys.readouterr().err


def test_the_option_that_takes_a_file_is_told(tmp_path, capsys):
    assert main(["fit", "x.fits", "--psf", "psf.fits", "--noise", "rms.fits", "--out", "f"]) == 2
    assert "did you mean --noise_map?" in capsys.readouterr().err
    assert main(["fit", "x.fits", "--psf", "psf.fits", "--noise", "loud", "--out", "f"]) == 2
    assert "noise_map" not in capsys.readouterr().err


@pytest.mark.parametrize("given", [["--noise", "rms.fits", "--psf", "p"], ["--noise=rms.fits"]])
def test_a_choice_is_told_with_what_was_given_by_older_versions_of_jsonargparse_too(given):
    message = 'Parser key "noise":\n  Cannot take a Union of no types.'
    hints = {"noise": Literal["original", "none"], "noise_map": str}
    told = parsing._in_our_words(message, hints, given)
    assert told == "noise must be one of original, none, not rms.fits: did you mean --noise_map?"
    assert parsing._in_our_words(message, hints, []) == "noise must be one of original, none"


@pytest.mark.parametrize("policy", [None, "ACTIVE"])
def test_threads_wait_without_spinning_unless_somebody_has_chosen(policy, monkeypatch):
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    if policy:
        monkeypatch.setenv("OMP_WAIT_POLICY", policy)
    assert main(["--version"]) == 0
    assert ("GOMP_SPINCOUNT" in os.environ) == (policy is None)
    os.environ.pop("GOMP_SPINCOUNT", None)
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    assert main(["--version"]) == 0
    assert os.environ["GOMP_SPINCOUNT"] == "7"


def test_a_slow_network_is_measured_on_a_few_images(monkeypatch):
    from haloformer.training import measuring

    seen, now = [], [0.0]

    def work(few):  # ten milliseconds for each image
        seen.append(len(few.labels))
        now[0] += 0.01 * len(few.labels)

    batch = measuring.Examples(*(torch.arange(64) for _ in range(4)))
    monkeypatch.setattr(measuring, "time", types.SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr(measuring, "_LONG", 0.03)
    assert measuring._seconds_each(work, batch) == pytest.approx(0.01)
    assert seen == [2, 4]
    seen.clear()
    monkeypatch.setattr(measuring, "_LONG", 3.0)
    assert measuring._seconds_each(work, batch) == pytest.approx(0.01)
    assert seen[:5] == [2, 4, 8, 16, 32]
    assert set(seen[5:]) == {64}


@pytest.mark.parametrize(
    ("estimate", "cells"),
    [
        ((0.99997, 0.9999, 0.99999), ["0.99997", "0.9999 – 0.99999"]),
        ((1.0, 0.8316, 1.0), ["1.0000", "0.8316 – 1.0000"]),
        ((float("nan"),) * 3, ["–", "–"]),
        ((0.75, float("nan"), float("nan")), ["0.7500", "–"]),
    ],
)
def test_numbers_on_the_terminal_are_those_of_reports(estimate, cells):
    from haloformer.cli.present import with_interval

    assert with_interval(dict(zip(("value", "low", "high"), estimate))) == cells
