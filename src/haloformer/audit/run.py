"""The body of `audit`: measures part by part, keeps each part when it is done, and writes the report."""

import datetime
import json
import os
import platform
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from haloformer._version import code_version
from haloformer.audit import report
from haloformer.audit.audited import AuditedModel, audited_model
from haloformer.audit.part import Inputs, weights_digest
from haloformer.audit.parts import PARTS
from haloformer.data.reader import find_inputs
from haloformer.errors import InputError
from haloformer.evaluation.testset import known_by_seed, unused_seed
from haloformer.io.strict_json import read_any_json, to_json
from haloformer.io.writing import check_parents, write_text
from haloformer.prediction.predictor import load
from haloformer.reporting import style
from haloformer.simulation.surveys import digest_of_own
from haloformer.vocabulary import unknown_name

AUDIT_FORMAT = 1

StoredPart = dict[str, Any]
"""Content of a file in ``parts/``: ``key`` (what decides the result), ``date``, ``code_version`` and ``result``."""


@dataclass(frozen=True)
class Asked:
    """What is to be measured, checked.

    Attributes:
        audited: The model.
        inputs: What else was given.
        wanted: The parts that are asked for.
        target: Folder to write.
        protocol: What stands in the report of how it was measured.
        keys: Part → what decides its result.
        stored: Parts that the folder holds.
    """

    audited: AuditedModel
    inputs: Inputs
    wanted: list[str]
    target: Path
    protocol: dict[str, object]
    keys: dict[str, dict[str, object]]
    stored: dict[str, StoredPart]

    @property
    def missing(self) -> list[str]:
        """The parts that are to be measured."""
        return [name for name in PARTS if name in self.wanted and name not in self.stored]


def asked_for(
    run: str,
    *,
    out: str,
    parts: list[str] | str | None,
    survey: str | None,
    compare: list[str] | str | None,
    real: list[str] | str | None,
    galaxies: list[str] | str | None,
    n: int,
    seed: int | None,
    batch_size: int,
    device: str,
    overwrite: bool,
    progress: bool | None,
) -> Asked:
    """Checks the arguments of :func:`haloformer.audit.audit`; raises InputError."""
    wanted = _listed(parts)
    _check_options(wanted, n, batch_size)
    files = [_listed(real), _listed(galaxies)]
    for paths in files:
        if paths:
            # Fail fast: before anything is measured.
            find_inputs(paths, keep_errors=False, channels=None)

    models = {name: load(name, device) for name in (run, *_listed(compare))}
    # Scenes that are new to all of them.
    scenes = unused_seed(*models.values()) if seed is None else seed

    def prepared(name: str, survey: str | None) -> AuditedModel:
        return audited_model(
            models[name],
            name,
            survey=survey,
            n=n,
            seed=scenes,
            batch_size=batch_size,
            progress=progress,
        )

    audited = prepared(run, survey)
    wanted = wanted or [
        name for name, part in PARTS.items() if part.of_composed or not audited.is_composed
    ]
    for name in wanted:
        if audited.is_composed and not PARTS[name].of_composed:
            raise InputError(
                f"part {name}: changes the masses and exposures of surveys of one lens, and {audited.survey.name} is none: "
                f"whether anything but detail tells its classes says haloformer audit --survey {audited.survey.name}"
            )
    others = {name: prepared(name, None) for name in _listed(compare)}
    inputs, protocol = Inputs(others, *files), _protocol(audited, run)
    protocol["compared_seen_in_training"] = [name for name in others if _seen(others[name])]
    shared = {name: protocol[name] for name in ("weights", "survey", "noise", "seed", "n")}
    if own := digest_of_own(audited.survey):
        shared["survey_digest"] = own
    keys = {name: {**shared, **part.settings(audited, inputs)} for name, part in PARTS.items()}
    stored = _stored_parts(Path(out), keys, wanted, overwrite)
    return Asked(audited, inputs, wanted, Path(out), protocol, keys, stored)


def run_audit(run: str, **given: Any) -> dict[str, Any]:
    """Carries out :func:`haloformer.audit.audit` (see :func:`asked_for` for the arguments)."""
    asked = asked_for(run, **given)
    stored = _measured_parts(asked)
    # As read back, so that a resumed audit gives the same as one that was done at once.
    found = {name: json.loads(to_json(stored[name]))["result"] for name in PARTS if name in stored}
    result = {"format": AUDIT_FORMAT, "protocol": asked.protocol, "parts": found}
    result["verdict"] = report.verdict(result)
    _write(asked.target, result)
    return {**result, "out": str(asked.target), "report": str(asked.target / "audit.html")}


def _listed(value: list[str] | str | None) -> list[str]:
    """Returns a list of what may be written as ``a,b``."""
    values = value.split(",") if isinstance(value, str) else value or []
    return [name.strip() for name in values if name.strip()]


def _check_options(wanted: Sequence[str], n: int, batch_size: int) -> None:
    for name in wanted:
        if name not in PARTS:
            raise unknown_name("part", name, list(PARTS))
    for name, value, least in (("n", n, 30), ("batch_size", batch_size, 1)):
        if value < least:
            raise InputError(f"{name} is {value}: must be at least {least}")


def _measured_parts(asked: Asked) -> dict[str, StoredPart]:
    """Measures the wanted parts that the folder does not hold; returns all that it then holds."""
    stored = dict(asked.stored)
    (asked.target / "parts").mkdir(parents=True, exist_ok=True)
    for name in asked.missing:
        stored[name] = {
            "key": asked.keys[name],
            "date": _today(),
            "code_version": code_version(),
            "result": PARTS[name].measure(asked.audited, asked.inputs),
        }
        write_text(asked.target / "parts" / f"{name}.json", to_json(stored[name]))
    return stored


def _stored_parts(
    target: Path,
    keys: Mapping[str, Mapping[str, object]],
    wanted: Sequence[str],
    overwrite: bool,
) -> dict[str, StoredPart]:
    """Returns the parts that need not be measured again; raises InputError if the folder cannot take the audit."""
    check_parents(target)
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise InputError(f"{target}: is not a folder; choose another name for the audit")
    if not target.exists() or not any(target.iterdir()):
        return {}
    if not (target / "parts").is_dir():
        raise InputError(f"{target}: holds something else than an audit and is not overwritten")
    found = {}
    for name, key in keys.items():
        path = target / "parts" / f"{name}.json"
        if not path.is_file() or (overwrite and name in wanted):
            continue
        part = _read_part(path)
        if part["key"] == key:
            found[name] = part
        elif name in wanted:
            raise InputError(
                f"{path}: was measured with another model or other options: overwrite measures it again"
            )
    return found


def _read_part(path: Path) -> StoredPart:
    try:
        part = read_any_json(path)
    except InputError as error:
        raise InputError(
            f"{path}: is not a part of an audit: overwrite measures it again"
        ) from error
    if not isinstance(part, dict) or not {"key", "result"} <= set(part):
        raise InputError(f"{path}: is not a part of an audit: overwrite measures it again")
    return part


def _protocol(audited: AuditedModel, run: str) -> dict[str, object]:
    artefact = audited.predictor.artefact
    return {
        "run": Path(run).resolve().name,
        "model": artefact["model"]["name"],
        "weights": weights_digest(run),
        "class_names": list(audited.names),
        "residual": audited.predictor.residual is not None,
        "survey": audited.survey.name,
        "noise": audited.noise,
        "seed": audited.seed,
        "seen_in_training": _seen(audited),
        "n": audited.n,
        "n_fewer": audited.fewer,
        "device": str(audited.predictor.device),
        "platform": platform.machine(),
        "code_version": code_version(),
        "date": _today(),
    }


def _seen(audited: AuditedModel) -> bool:
    """Returns whether a model was trained, selected or calibrated on the scenes that it is tested on."""
    return known_by_seed(audited.predictor, audited.survey.name, audited.seed) is not None


def _today() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d")


def _write(target: Path, result: dict[str, Any]) -> None:
    """Writes figures and texts; each file appears when it is whole."""
    drawn = report.draw(result)
    (target / "figures").mkdir(exist_ok=True)
    for name, figure in drawn.items():
        with tempfile.TemporaryDirectory(prefix=".", dir=target / "figures") as part:
            for path in style.save(figure, Path(part) / name):
                os.replace(path, target / "figures" / path.name)
    svgs = {name: style.inline_svg(figure, name) for name, figure in drawn.items()}
    pngs = {name: f"figures/{name}.png" for name in drawn}
    write_text(target / "audit.md", report.to_markdown(result, pngs))
    write_text(target / "audit.json", to_json(result))
    write_text(target / "audit.html", report.to_html(result, svgs))
