"""How far a trained classifier can be trusted: shortcuts, noise, another camera, symmetries, and images that it should not answer.

`audit` measures part by part, and writes each part when it is done, so that an interrupted audit goes on where it stopped.
"""

import datetime
import hashlib
import json
import os
import platform
from pathlib import Path
from typing import Any

from haloformer._version import code_version
from haloformer.artefact.read import artefact_files
from haloformer.audit import noise, out_of_distribution, report, shift, shortcut, symmetry
from haloformer.audit.bench import Bench, make_bench
from haloformer.data.reader import find_inputs
from haloformer.errors import InputError
from haloformer.evaluation.testset import training_of
from haloformer.io.strict_json import to_json
from haloformer.io.writing import file_sha256, write_text
from haloformer.prediction.predictor import load
from haloformer.reporting import style
from haloformer.vocabulary import unknown_name

__all__ = ["PARTS", "audit"]

PARTS = ("shortcut", "noise", "shift", "symmetry", "ood")
AUDIT_FORMAT = 1


def audit(
    run: str,
    *,
    out: str,
    parts: list[str] | str | None = None,
    survey: str | None = None,
    compare: list[str] | str | None = None,
    real: list[str] | str | None = None,
    galaxies: list[str] | str | None = None,
    n: int = 1500,
    seed: int | None = None,
    batch_size: int = 256,
    device: str = "auto",
    overwrite: bool = False,
    progress: bool | None = None,
) -> dict[str, Any]:
    """Measures how far a trained classifier can be trusted, beyond its AUC on images like those of its training.

    shortcut: how far a few moments of the image get, and what is left of the model where all classes have the same mass.
    noise: the same lenses exposed for longer and shorter. shift: another PSF, pixel scale, survey. symmetry: turned and mirrored
    images. ood: what it says of images that are no lenses of its survey, and which of them it flags.

    The folder ``out`` gets ``audit.html`` (one self-contained page), ``audit.md``, ``audit.json``, ``figures/`` and ``parts/``. Each
    part is kept when it is done: the same call goes on where one was interrupted, and a call for other parts adds them.

    Args:
        run: Run folder or artefact folder of a trained classifier, or the name of a shipped model.
        out: Folder to write.
        parts: Of shortcut, noise, shift, symmetry, ood, such as noise,shift; all by default.
        survey: The survey that the model was trained on, as a YAML file, where it is none of the shipped ones.
        compare: More run folders, for the table of models against surveys in the part shift.
        real: Folders or files of real lens cutouts, for the part ood.
        galaxies: Folders or files of galaxies that are no lenses, for the part ood.
        n: Images per point; the parts symmetry and ood, which see each image many times, take a third.
        seed: Of the scenes; by default the first after the seeds of the training.
        batch_size: Images per batch; does not change the result.
        device: ``"auto"`` takes a GPU if there is one.
        overwrite: Measure again what is there already.
        progress: Show progress bars; by default when standard error is a terminal.

    Returns:
        The content of ``audit.json``, with ``out`` and ``report``, the paths of the folder and of the page.

    Raises:
        InputError: The model cannot be read or is no classifier, or ``out`` holds something else.
    """
    wanted = _names(parts) or list(PARTS)
    for name in wanted:
        if name not in PARTS:
            raise unknown_name("part", name, PARTS)
    for name, value, least in (("n", n, 30), ("batch_size", batch_size, 1)):
        if value < least:
            raise InputError(f"{name} is {value}: must be at least {least}")
    files, others = {"real": _names(real), "galaxies": _names(galaxies)}, _names(compare)
    for paths in files.values():
        if paths:
            # What is not there is said before anything is measured.
            find_inputs(paths, keep_errors=False, channels=None)
    target = Path(out)
    settings: dict[str, Any] = {"n": n, "progress": progress, "batch_size": batch_size}
    bench = make_bench(load(run, device), run, survey=survey, seed=seed, **settings)
    more = {
        other: make_bench(load(other, device), other, survey=None, seed=bench.seed, **settings)
        for other in others
    }
    protocol = _protocol(bench, run)
    key = {name: protocol[name] for name in ("weights", "survey", "noise", "seed", "n")}
    keys = {name: dict(key) for name in PARTS}
    keys["shift"]["compare"] = others
    carried = [bench.predictor.artefact.get(name) for name in ("calibration", "ood")]
    keys["ood"] |= {
        **files,
        "statistics": hashlib.sha256(json.dumps(carried).encode()).hexdigest()[:16],
    }
    done = _done(target, keys, wanted, overwrite)
    (target / "parts").mkdir(parents=True, exist_ok=True)
    for name in [name for name in PARTS if name in wanted and name not in done]:
        measured = _measure(name, bench, more, files)
        part = {
            "key": keys[name],
            "date": _now(),
            "code_version": code_version(),
            "result": measured,
        }
        write_text(target / "parts" / f"{name}.json", to_json(part))
        done[name] = part
    # As read back, so that an audit that went on is the same as one that was done at once.
    found = {name: json.loads(to_json(done[name]))["result"] for name in PARTS if name in done}
    result = {"format": AUDIT_FORMAT, "protocol": protocol, "parts": found}
    result["verdict"] = report.verdict(result)
    _write(target, result)
    return {**result, "out": str(target), "report": str(target / "audit.html")}


def _measure(
    name: str, bench: Bench, more: dict[str, Bench], files: dict[str, list[str]]
) -> dict[str, Any]:
    if name == "shift":
        return shift.shift(bench, more)
    if name == "ood":
        return out_of_distribution.ood(bench, **files)
    return {"shortcut": shortcut.shortcut, "noise": noise.noise, "symmetry": symmetry.symmetry}[
        name
    ](bench)


def _names(value: list[str] | str | None) -> list[str]:
    """Returns a list of what may be written as ``a,b``."""
    values = value.split(",") if isinstance(value, str) else value or []
    return [name.strip() for name in values if name.strip()]


def _done(target: Path, keys: dict[str, Any], wanted: list[str], overwrite: bool) -> dict[str, Any]:
    """Returns the parts that need not be measured again, or says why the folder cannot be written."""
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise InputError(f"{target}: is not a folder; choose another name for the audit")
    if not target.exists() or not any(target.iterdir()):
        return {}
    if not (target / "parts").is_dir():
        raise InputError(f"{target}: holds something else than an audit and is not overwritten")
    found = {}
    for name in PARTS:
        path = target / "parts" / f"{name}.json"
        if not path.is_file() or (overwrite and name in wanted):
            continue
        try:
            part = json.loads(path.read_text(encoding="utf-8"))
            same = part["key"] == keys[name]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{path}: is not a part of an audit: overwrite measures it again"
            ) from error
        if same:
            found[name] = part
        elif name in wanted:
            raise InputError(
                f"{path}: was measured with another model or other options: overwrite measures it again"
            )
    return found


def _protocol(bench: Bench, run: str) -> dict[str, Any]:
    training, artefact = training_of(bench.predictor), bench.predictor.artefact
    return {
        "run": Path(run).resolve().name,
        "model": artefact["model"]["name"],
        "weights": file_sha256(artefact_files(Path(run))[1])[:16],
        "class_names": list(bench.names),
        "residual": bench.predictor.residual is not None,
        "survey": bench.survey.name,
        "noise": bench.noise,
        "seed": bench.seed,
        "seen_in_training": bench.seed in (training.get("train_seed"), training.get("val_seed")),
        "n": bench.n,
        "n_fewer": bench.fewer,
        "device": str(bench.predictor.device),
        "platform": platform.machine(),
        "code_version": code_version(),
        "date": _now(),
    }


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d")


def _write(target: Path, result: dict[str, Any]) -> None:
    """Writes figures and texts; each file appears when it is whole."""
    drawn = report.draw(result)
    (target / "figures").mkdir(exist_ok=True)
    for name, figure in drawn.items():
        for path in style.save(figure, target / "figures" / f".{name}.{os.getpid()}.part"):
            os.replace(path, target / "figures" / f"{name}{path.suffix}")
    svgs = {name: style.inline_svg(figure, name) for name, figure in drawn.items()}
    write_text(
        target / "audit.md",
        report.to_markdown(result, {name: f"figures/{name}.png" for name in drawn}),
    )
    write_text(target / "audit.json", to_json(result))
    write_text(target / "audit.html", report.to_html(result, svgs))
