"""The command line as a user meets it: what it does, what it says, and its exit codes."""

import csv
import errno
import io
import json
import os
import pickle
import signal
import subprocess
import sys
import time
import types

import h5py
import numpy as np
import pytest

from commands import main_with_space
from haloformer.cli import COMMANDS, main, parsing
from haloformer.cli.parsing import parse
from haloformer.cli.registry import Command
from haloformer.errors import kind_and_reason, reason_of
from haloformer.simulation import Simulator


def run(*arguments: object) -> int:
    return main([str(a) for a in arguments])


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    path = tmp_path_factory.mktemp("cli") / "train.h5"
    assert run("simulate", "model_ii", "--n", 90, "--seed", 1, "--out", path, "--quiet") == 0
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory, dataset):
    out = tmp_path_factory.mktemp("cli") / "run"
    small = ["--model", "vit_nano", "--model_args", "{depth: 1, embed_dim: 32, num_heads: 2}"]
    assert (
        run("train", "--data", dataset, "--out", out, "--epochs", 1, *small, "--progress=false")
        == 0
    )
    return out


def one_line_error(capsys) -> str:
    captured = capsys.readouterr()
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1, captured.err
    assert "Traceback" not in captured.err
    return lines[0]


def test_help_lists_the_commands_without_importing_torch():
    code = "import sys; from haloformer.cli import main; main(['--help']); sys.exit('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0
    assert all(command in result.stdout for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_teaches_its_options(command, capsys):
    with pytest.raises(SystemExit) as exit_:
        run(command, "--help")
    assert exit_.value.code == 0
    text = capsys.readouterr().out
    assert f"haloformer {command}" in text
    assert "--config" in text or "--preset" in text  # a study's own YAML file is its name


def _toy(
    run: str,
    images: list[str],
    *,
    out: str,
    band: int | str | None = None,
    size: float | None = None,
    progress: bool | None = None,
    overwrite: bool = False,
    figure: bool | str = False,
) -> None:
    """Does nothing.

    Args:
        run: A run.
        images: Images.
        out: Table.
        size: In arcsec.
        progress: Show a bar.
        overwrite: Replace it.
        figure: Draw it.
    """


_TOY = Command("do nothing", positional=("run", "images"))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], {"images": ["a", "b"], "progress": None, "overwrite": False, "figure": False}),
        (["--progress"], {"progress": True}),
        (["--progress", "null"], {"progress": None}),
        (["--overwrite", "--size", "1e-1"], {"overwrite": True, "size": 0.1}),
        (["--overwrite", "false"], {"overwrite": False}),
        (["--overwrite=true"], {"overwrite": True}),
        (["--figure", "a.png"], {"figure": "a.png"}),
        (["--figure", "--band", "3"], {"figure": True, "band": 3}),
        (["--band", "NIR_*_FLUX"], {"band": "NIR_*_FLUX"}),
    ],
)
def test_options_follow_from_the_signature(arguments, expected):
    found = parse("toy", _TOY, _toy, ["r", "a", "b", "--out", "o.csv", *arguments])
    assert {key: found[key] for key in expected} == expected


def test_reading_options_are_explained_by_reading_where_a_command_does_not(monkeypatch, capsys):
    class Reading:
        """How images are read.

        Attributes:
            band: Plane of the cube,
                counted from 0.
            size: Something else.
        """

    module = types.ModuleType("haloformer.readers.reading")
    module.Reading = Reading
    monkeypatch.setitem(sys.modules, module.__name__, module)
    parsing._reading_texts.cache_clear()
    monkeypatch.setattr("sys.stdout.isatty", lambda: False)
    with pytest.raises(SystemExit):
        parse("toy", _TOY, _toy, ["--help"])
    parsing._reading_texts.cache_clear()
    text = " ".join(capsys.readouterr().out.split())
    assert "Plane of the cube, counted from 0." in text
    assert "In arcsec." in text
    assert "Something else" not in text


def test_simulate_writes_a_file_that_h5py_alone_can_read(dataset):
    with h5py.File(dataset) as file:
        assert file["images"].shape == (90, 1, 64, 64)
        assert file["images"].dtype == np.float32
        assert np.bincount(file["labels"][:]).tolist() == [30, 30, 30]
        assert file["parameters/subhalo_mass"].shape == (90, 25)
        assert np.isfinite(file["parameters/log10_m_axion"][:]).sum() == 30
        assert file["parameters/subhalo_mass"].attrs["units"] == "M_sun"
        assert file.attrs["survey"] == "model_ii"


def test_the_images_of_a_file_do_not_depend_on_the_batch_size(dataset, tmp_path):
    assert (
        run(
            "simulate",
            "model_ii",
            "--n",
            90,
            "--seed",
            1,
            "--batch-size",
            7,
            "--out",
            tmp_path / "b.h5",
            "--quiet",
        )
        == 0
    )
    with h5py.File(dataset) as a, h5py.File(tmp_path / "b.h5") as b:
        assert np.array_equal(a["images"][:], b["images"][:])
        assert np.array_equal(a["parameters/source_x"][:], b["parameters/source_x"][:])


def test_simulate_takes_classes_noise_and_dtype(tmp_path):
    arguments = [
        "--n",
        4,
        "--classes",
        "no,axion",
        "--noise",
        "instrument",
        "--dtype",
        "float64",
        "--quiet",
    ]
    assert run("simulate", "model_iii", *arguments, "--out", tmp_path / "x.h5") == 0
    with h5py.File(tmp_path / "x.h5") as file:
        assert list(file.attrs["class_names"]) == ["axion", "no_sub"]
        assert (file["images"][:] < 0).any()


def test_the_original_folder_layout_converts_back_to_the_same_images(tmp_path, capsys):
    folder, data = tmp_path / "Model_II", tmp_path / "back.h5"
    assert (
        run(
            "simulate",
            "model_ii",
            "--n",
            9,
            "--seed",
            1,
            "--format",
            "deeplense",
            "--out",
            folder,
            "--quiet",
        )
        == 0
    )
    assert sorted(p.name for p in folder.iterdir() if p.is_dir()) == ["axion", "cdm", "no_sub"]
    assert run("convert", folder, "--out", data) == 0
    assert "9 images" in capsys.readouterr().out
    direct = tmp_path / "direct.h5"
    assert run("simulate", "model_ii", "--n", 9, "--seed", 1, "--out", direct, "--quiet") == 0
    with h5py.File(data) as a, h5py.File(direct) as b:
        for label in range(3):
            ours, theirs = (
                f["images"][:][f["labels"][:] == label].sum(axis=(1, 2, 3)) for f in (a, b)
            )
            assert np.allclose(np.sort(ours), np.sort(theirs), rtol=1e-6)
        masses = [f["parameters/log10_m_axion"][:] for f in (a, b)]
        assert np.allclose(
            np.sort(masses[0][np.isfinite(masses[0])]),
            np.sort(masses[1][np.isfinite(masses[1])]),
            atol=1e-9,
        )


def test_inspect_prints_tables_json_and_a_figure(dataset, tmp_path, capsys):
    assert run("inspect", dataset, "--figure", tmp_path / "samples.png") == 0
    text = capsys.readouterr().out
    assert "source_x" in text
    assert "arcsec" in text
    assert (tmp_path / "samples.png").stat().st_size > 10_000
    assert run("inspect", dataset, "--json") == 0
    assert json.loads(capsys.readouterr().out)["n"] == 90


def test_help_of_a_command_is_what_the_command_says_of_itself(capsys):
    with pytest.raises(SystemExit, match="0"):
        run("help", "inspect")
    said = capsys.readouterr().out
    assert "usage: haloformer inspect" in said
    assert run("help", "inspct") == 2
    assert "did you mean 'inspect'" in capsys.readouterr().err


def test_print_config_and_config_round_trip(tmp_path, capsys):
    with pytest.raises(SystemExit):
        run("simulate", "model_ii", "--n", 3, "--out", tmp_path / "a.h5", "--print_config")
    config = tmp_path / "c.yaml"
    text = capsys.readouterr().out
    config.write_text(text.replace("survey: model_ii\n", ""))
    assert run("simulate", "model_ii", "--config", config, "--quiet") == 0
    with h5py.File(tmp_path / "a.h5") as file:
        assert len(file["images"]) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("images: dl", "images must be a list of texts, such as [a, b], not 'dl'"),
        ("images: 3", "images must be a list of texts, such as [a, b], not 3"),
        ("images: [3]", "images must be a list of texts, such as [a, b], not [3]"),
        ("images: {a: 3}", "images must be a list of texts, such as [a, b], not {'a': 3}"),
        ("run: [a]", "run must be a text, not ['a']"),
        ("run: null", "run is null: write what it is, or remove the line"),
        ("hello", "options are needed, a name and a value each"),
        ("", "options are needed, a name and a value each"),
    ],
)
def test_a_file_of_options_of_the_wrong_kind_is_refused_in_words(tmp_path, capsys, text, message):
    (tmp_path / "c.yaml").write_text(text)
    arguments = ["x", "y.npy", "--out", tmp_path / "p.csv", "--config", tmp_path / "c.yaml"]
    assert run("predict", *arguments) == 2
    assert message in one_line_error(capsys)


def test_train_evaluate_predict_from_end_to_end(trained, dataset, tmp_path, capsys, unpictured):
    assert run("evaluate", trained, "--data", "model_ii", "--n", 60, "--out", tmp_path / "e") == 0
    text = capsys.readouterr().out
    assert "macro" in text
    assert (tmp_path / "e" / "report.html").exists()
    assert (
        run(
            "simulate",
            "model_ii",
            "--n",
            6,
            "--format",
            "deeplense",
            "--out",
            tmp_path / "images",
            "--quiet",
        )
        == 0
    )
    assert run("predict", trained, tmp_path / "images", "--out", tmp_path / "p.csv") == 0
    with open(tmp_path / "p.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6
    assert list(rows[0])[:5] == ["file", "class", "p_axion", "p_cdm", "p_no_sub"]
    assert all(
        sum(float(row[f"p_{c}"]) for c in ("axion", "cdm", "no_sub")) == pytest.approx(1, abs=1e-4)
        for row in rows
    )


def test_evaluating_the_training_images_is_warned_of(
    trained, dataset, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(
        "haloformer.evaluation.drawing.draw", lambda *args: {}
    )  # slow, and drawn in the test before
    assert run("evaluate", trained, "--data", dataset, "--out", tmp_path / "e") == 0
    assert "warning" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["model_iii", "common_task"])
def test_surveys_prints_what_simulate_reads(name, tmp_path, capsys):
    assert run("surveys", name) == 0
    (tmp_path / "mine.yaml").write_text(capsys.readouterr().out)
    assert (
        run("simulate", tmp_path / "mine.yaml", "--n", 3, "--out", tmp_path / "m.h5", "--quiet")
        == 0
    )


MISTAKES = {
    "unknown command": (["simulat"], "did you mean 'simulate'"),
    "unknown survey": (["simulate", "model_v", "--out", "{tmp}/x.h5"], "model_i"),
    "unknown option": (["simulate", "model_ii", "--sed", "3", "--out", "{tmp}/x.h5"], "--seed"),
    "not a number": (["simulate", "model_ii", "--n", "many", "--out", "{tmp}/x.h5"], "many"),
    "no images": (
        ["simulate", "model_ii", "--n", "0", "--out", "{tmp}/x.h5"],
        "at least one image",
    ),
    "unknown class": (["simulate", "model_ii", "--classes", "wimp", "--out", "{tmp}/x.h5"], "wimp"),
    "no gpu": (["simulate", "model_ii", "--device", "cuda:99", "--out", "{tmp}/x.h5"], "cuda"),
    "output exists": (["simulate", "model_ii", "--out", "{tmp}/exists.h5"], "exists"),
    "output in a file": (["simulate", "model_ii", "--out", "{tmp}/exists.h5/x.h5"], "exists.h5"),
    "no output": (["simulate", "model_ii"], "out"),
    "missing folder": (["convert", "{tmp}/nothing", "--out", "{tmp}/x.h5"], "does not exist"),
    "empty folder": (["convert", "{tmp}/empty", "--out", "{tmp}/x.h5"], "empty"),
    "missing data": (["inspect", "{tmp}/nothing.h5"], "nothing.h5"),
    "corrupt data": (["inspect", "{tmp}/exists.h5"], "exists.h5"),
    "corrupt training data": (
        ["train", "--data", "{tmp}/exists.h5", "--out", "{tmp}/r"],
        "exists.h5",
    ),
    "unknown model": (
        ["train", "--data", "model_ii", "--model", "resnet81", "--out", "{tmp}/r"],
        "resnet",
    ),
    "unknown normalisation": (
        ["train", "--data", "model_ii", "--normalization", "std", "--out", "{tmp}/r"],
        "std",
    ),
    "unknown field": (
        ["train", "--data", "model_ii", "--optimizer.lrr", "1", "--out", "{tmp}/r"],
        "'optimizer.lr'",
    ),
    "unknown preset": (
        ["train", "--preset", "standrd", "--data", "model_ii", "--out", "{tmp}/r"],
        "'standard'",
    ),
    "word for a number": (
        ["train", "--lr", "fast", "--out", "{tmp}/r"],
        "lr must be a number, not fast",
    ),
    "word for a whole number": (
        ["train", "--n_images", "few", "--out", "{tmp}/r"],
        "n_images must be a whole number or null",
    ),
    "one for two": (
        ["train", "--exposure", "[1]", "--out", "{tmp}/r"],
        "exposure must be a list of 2 numbers or null, not [1]",
    ),
    "none of the choices": (
        ["train", "--fit", "crap", "--out", "{tmp}/r"],
        "fit must be one of resize, crop, pad, not crap",
    ),
    "unknown schedule": (
        ["train", "--data", "model_ii", "--schedule", "linear", "--out", "{tmp}/r"],
        "cosine",
    ),
    "unknown target": (
        ["train", "--data", "model_ii", "--targets", "mass", "--out", "{tmp}/r"],
        "log10_m_axion",
    ),
    "unknown logger": (
        ["train", "--data", "model_ii", "--loggers", "wandbb", "--out", "{tmp}/r"],
        "'wandb'",
    ),
    "unknown study": (["study", "augmentations"], "'augmentation'"),
    "missing run": (["evaluate", "{tmp}/nothing", "--data", "model_ii"], "nothing"),
    "hostile archive": (["convert", "{tmp}/hostile", "--out", "{tmp}/x.h5"], "evil.npy"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_ends_in_one_line_and_exit_code_2_and_destroys_nothing(mistake, tmp_path, capsys):
    arguments, message = MISTAKES[mistake]
    (tmp_path / "exists.h5").write_bytes(b"precious")
    (tmp_path / "empty").mkdir()
    evil = tmp_path / "hostile" / "axion"
    evil.mkdir(parents=True)
    (evil / "evil.npy").write_bytes(_npy_pickle(_Evil(str(tmp_path / "owned"))))
    before = sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*"))
    assert run(*(a.replace("{tmp}", str(tmp_path)) for a in arguments)) == 2
    assert message in one_line_error(capsys)
    assert sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*")) == before
    assert (tmp_path / "exists.h5").read_bytes() == b"precious"


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.full((64, 64), np.nan), "NaN"),
        (np.zeros((32, 32)), "32"),
        (np.zeros((64, 64, 3)), "channel"),
        (np.zeros((0,)), "0"),
    ],
)
def test_an_image_that_cannot_be_classified_is_named(trained, tmp_path, capsys, array, message):
    np.save(tmp_path / "bad.npy", array)
    assert (
        run(
            "predict",
            trained,
            tmp_path / "bad.npy",
            "--on_error",
            "stop",
            "--out",
            tmp_path / "p.csv",
        )
        == 2
    )
    error = one_line_error(capsys)
    assert "bad.npy" in error
    assert message.lower() in error.lower()
    assert not (tmp_path / "p.csv").exists()


def test_files_that_are_passed_over_are_counted_in_one_line(tmp_path, capsys):
    for name in ("axion", "cdm"):
        (tmp_path / "in" / name).mkdir(parents=True)
        np.save(tmp_path / "in" / name / "1.npy", np.eye(8))
        (tmp_path / "in" / name / "2.mat").touch()
    assert main(["convert", str(tmp_path / "in"), "--out", str(tmp_path / "x.h5")]) == 0
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "2 .mat" in line]
    assert line.startswith("warning: ")


def test_a_dataset_that_cannot_fit_on_the_disk_is_refused_before_the_work_begins(tmp_path, capsys):
    assert (
        run("simulate", "model_i", "--n", 10**9, "--out", tmp_path / "huge.h5", "--quiet") == 2
    )  # 90 TB
    assert "GB" in one_line_error(capsys)
    assert list(tmp_path.iterdir()) == []


_FULL_DISK = """
import resource  # a limit on file size stands in for the full disk
import sys
from haloformer.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
sys.exit(main(["simulate", "model_ii", "--n", "60", "--format", form, "--out", out]))
"""


@pytest.mark.parametrize(("form", "limit"), [("hdf5", 300_000), ("deeplense", 30_000)])
def test_a_disk_that_fills_up_on_the_way_is_told_in_one_line(forked, tmp_path, form, limit):
    names = {"form": form, "limit": limit, "out": str(tmp_path / "x")}
    process = forked(exec, _FULL_DISK, names)
    _, error = process.communicate(timeout=240)
    assert process.returncode == 2, error
    assert len(error.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_while_simulating_leaves_nothing_half_written(forked, tmp_path):
    command = ["simulate", "model_ii", "--n", "200000", "--out", str(tmp_path / "x.h5")]
    process = forked(main_with_space, command)
    deadline = time.time() + 60
    while not list(tmp_path.glob("x.h5.*.part")) and time.time() < deadline:
        time.sleep(0.05)
    assert process.poll() is None
    process.send_signal(2)
    _, error = process.communicate(timeout=240)
    assert process.returncode == 130
    assert "Traceback" not in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("form", ["hdf5", "deeplense"])
def test_sigterm_is_obeyed_as_ctrl_c_is(tmp_path, monkeypatch, capsys, form):
    written = Simulator.batch

    def ended(self, *arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        return written(self, *arguments)

    monkeypatch.setattr(Simulator, "batch", ended)
    # As in a process of its own: a library that another test has used may have its own idea of it.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    arguments = ["simulate", "model_ii", "--n", "3", "--format", form]
    assert main([*arguments, "--out", str(tmp_path / "x")]) == 143
    assert capsys.readouterr().err == "haloformer simulate: terminated\n"
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


class _Evil:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def _npy_pickle(thing: object) -> bytes:
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (2,), }"
    header += b" " * (117 - len(header)) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + pickle.dumps(thing)


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1"])
def test_help_is_shown_whatever_the_terminal_can_encode(encoding):
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    for command in ("fit", "predict", "--help"):
        arguments = [command] if command == "--help" else [command, "--help"]
        shown = subprocess.run(
            [sys.executable, "-m", "haloformer", *arguments], capture_output=True, env=environment
        )
        assert (shown.returncode, shown.stderr) == (0, b"")
        assert len(shown.stdout) > 500


def test_the_matplotlib_backend_of_a_notebook_does_not_matter(tmp_path):
    environment = {**os.environ, "MPLBACKEND": "module://matplotlib_inline.backend_inline"}
    data, figure = str(tmp_path / "x.h5"), tmp_path / "x.png"
    assert main(["simulate", "model_ii", "--n", "3", "--out", data, "--quiet"]) == 0
    drawn = subprocess.run(
        [sys.executable, "-m", "haloformer", "inspect", data, "--figure", str(figure)],
        capture_output=True,
        env=environment,
    )
    assert (drawn.returncode, drawn.stderr) == (0, b"")
    assert figure.stat().st_size > 0


def test_a_name_in_capitals_means_the_same_name(capsys, tmp_path):
    assert main(["simulate", "Model_II", "--n", "3", "--out", str(tmp_path / "x.h5")]) == 2
    assert "did you mean 'model_ii'?" in capsys.readouterr().err


class _Full(io.StringIO):
    def flush(self) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def fileno(self) -> int:
        return os.open(os.devnull, os.O_WRONLY)


@pytest.mark.parametrize("arguments", [["surveys"], ["--version"], ["--help"], ["surveys", "-h"]])
def test_output_that_nobody_can_take_is_told_in_one_line(monkeypatch, capsys, arguments):
    monkeypatch.setattr(sys, "stdout", _Full())
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert "standard output cannot be written: No space left on device" in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_closed_stream_is_no_fault(monkeypatch, stream):
    monkeypatch.setattr(sys, stream, None)
    assert main(["surveys"]) == 0
    assert main(["surveys", "no such survey"]) == 2


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["try", ""], "an argument"),
        (["prepare", "--data", "model_ii", "--prepared", ""], "--prepared"),
        (["prepare", "--data="], "--data"),
        (["evaluate", " "], "an argument"),
        (["audit", "model_ii", "--out", "", "--overwrite"], "--out"),
        (["audit", "model_ii", "--out=x", ""], "an argument"),
    ],
)
def test_an_empty_argument_is_not_the_current_folder(
    capsys, tmp_path, monkeypatch, arguments, what
):
    monkeypatch.chdir(tmp_path)
    assert run(*arguments) == 2
    assert f"haloformer {arguments[0]}: {what} is empty: give a name" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("out", [["--out=~/a.txt"], ["--out", "~/a.txt"], ["--config", "c.yaml"]])
def test_a_tilde_that_the_shell_left_is_the_home_folder(tmp_path, monkeypatch, out):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text("out: ~/a.txt\n")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    assert run("surveys", "hst", *out) == 0
    assert (tmp_path / "home" / "a.txt").is_file()
    assert not (tmp_path / "~").exists()


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (EOFError(), "EOFError"),
        (OSError(), "OSError"),
        (OSError("damaged"), "damaged"),
        (PermissionError(13, "Permission denied", "x"), "Permission denied"),
        (ValueError("  \n two\tlines\nmore"), "two lines"),
    ],
)
def test_a_reason_is_never_empty(error, said):
    assert reason_of(error) == said
    kind = type(error).__name__
    assert kind_and_reason(error) == (kind if said == kind else f"{kind}: {said}")


def test_no_message_ends_without_its_reason(capsys, monkeypatch):
    def fail(*_):
        raise IsADirectoryError(errno.EISDIR, "Is a directory")

    monkeypatch.setattr("haloformer.cli.entry.run_command", fail)
    assert run("doctor") == 2
    assert capsys.readouterr().err == "haloformer doctor: Is a directory\n"
    monkeypatch.setattr("haloformer.cli.entry.run_command", lambda *_: (_ for _ in ()).throw(AssertionError))  # fmt: skip
    assert run("doctor") == 70
    assert "internal error: AssertionError" in capsys.readouterr().err
