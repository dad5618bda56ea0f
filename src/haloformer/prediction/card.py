"""The model card: a README for people, with YAML at its top for a hub.

What an artefact tells of itself may come from anybody, and is escaped for each place that it
stands in.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from haloformer.errors import brief
from haloformer.prediction.predictor import Predictor
from haloformer.reporting.interval import format_value
from haloformer.reporting.markdown import cell
from haloformer.simulation import list_surveys

_AUDITS = Path(__file__).with_name("survey_audits.json")
"""Shipped survey → how well moments alone tell its classes apart; `benchmarks/audits.py` writes it."""


def model_card(predictor: Predictor, name: str | None = None) -> str:
    """Returns the model card of a trained model: what it is for, how it was trained, how well it does, and where it must not be trusted.

    Args:
        predictor: The model.
        name: What the model is called; by default its network.
    """
    import yaml

    called = name or predictor.artefact["model"]["name"]
    front = yaml.safe_dump(_front(predictor, called), sort_keys=False, allow_unicode=True)
    survey = _survey(predictor)
    lines = [
        "---", front.strip(), "---", "",
        f"# {_text(called)}: dark matter from strong lenses of {_text(survey)}", "",
        _what_it_does(predictor), "",
        "## Use", "", *_example(predictor), "",
        "## Intended use", "", _meant_for(predictor), "",
        "## Training data, and training", "", *_trained(predictor), "",
        "## Measured", "", *_measured_lines(_mapping(predictor.artefact.get("measured"))), "",
        "## Limits", "", *(f"- {line}" for line in _limits(predictor)), "",
        "## Licence and citation", "",
        "MIT. Please cite haloformer (https://github.com/haloformer/haloformer, `CITATION.cff`), and for the surveys DeepLense: Alexander et al. "
        "2020, ApJ 893, 15.", "",
    ]  # fmt: skip
    return "\n".join(lines)


def _survey(predictor: Predictor) -> str:
    return brief(predictor.artefact.get("survey") or "images from a file")


def _front(predictor: Predictor, called: str) -> dict[str, Any]:
    """Returns what a hub reads: the YAML at the top."""
    network = predictor.artefact["model"]["name"]
    front: dict[str, Any] = {
        "license": "mit",
        "library_name": "haloformer",
        "pipeline_tag": "image-classification" if predictor.class_names else "other",
        "tags": ["astronomy", "strong-gravitational-lensing", "dark-matter", "deeplense", network],
    }
    measured = _mapping(predictor.artefact.get("measured"))
    metrics = [
        {"type": kind, "name": told, "value": found[0]}
        for key, kind, told in (
            ("macro_auc", "roc_auc", "macro one-vs-rest AUC"),
            ("accuracy", "accuracy", "accuracy"),
        )
        if (found := _number(measured.get(key)))
    ]
    if _number(measured.get("macro_auc")):
        seed = brief(measured.get("seed"))
        data = {"name": f"{_survey(predictor)}, simulated, seed {seed}", "type": "simulated"}
        task = {"type": "image-classification"}
        result = {"task": task, "dataset": data, "metrics": metrics}
        front["model-index"] = [{"name": called, "results": [result]}]
    return front


def _what_it_does(predictor: Predictor) -> str:
    classes, targets = predictor.class_names, predictor.outputs.targets
    pixel_scale = predictor.grid.pixel_scale
    answers = []
    if classes:
        answers.append(f"tells the dark matter classes {', '.join(map(_code, classes))} apart")
    if targets:
        answers.append(f"estimates {', '.join(map(_code, targets))} with calibrated intervals")
    shape = " × ".join(map(str, predictor.image_shape))
    scale = "" if pixel_scale is None else f", pixels of {pixel_scale:g}″"
    return (
        f"A network that {' and '.join(answers)}, in images of strong gravitational lenses: "
        f"{shape} (channels, height, width){scale}."
    )


def _example(predictor: Predictor) -> list[str]:
    """Returns code that runs as it stands where the survey is a shipped one."""
    survey = _survey(predictor)
    simulated = survey in list_surveys()
    images = "images" if simulated else '"cutouts/*.fits"'
    made = [f'images = haloformer.simulate("{survey}", 3, seed=2000).images  # or files: "cutouts/*.fits"'] if simulated else []  # fmt: skip
    return [
        "```python", "import haloformer", "", *made,
        f'answers = haloformer.predict("path/to/this/folder", {images})',
        "print(answers)", "```", "",
        "The package is on no index: `pip install .` in a checkout of https://github.com/haloformer/haloformer.",
    ]  # fmt: skip


def _meant_for(predictor: Predictor) -> str:
    fit = "the fit of the best smooth lens, " if predictor.residual is not None else ""
    return (
        f"Research: images simulated as {_code(_survey(predictor))}, methods compared on them, and a start for other surveys by training on. "
        f"Not meant for statements about dark matter from images of real lenses. Cropping, {fit}and normalisation are part of the model: "
        "images go in as they are, in the units of the survey."
    )


def _trained(predictor: Predictor) -> list[str]:
    training = _mapping(predictor.artefact.get("training"))
    return [
        *(f"- {key.replace('_', ' ')}: {_text(training[key])}" for key in _TOLD if training.get(key) is not None),
        f"- noise: {_text(predictor.artefact.get('noise'))}",
    ]  # fmt: skip


_TOLD = (
    "data", "model", "n_train", "epochs", "best_epoch", "epoch_size", "batch_size", "optimizer", "lr", "weight_decay", "schedule", "ema",
    "augment", "pretrained", "train_seed", "val_seed", "code_version",
)  # fmt: skip


def _measured_lines(measured: Mapping[str, Any]) -> list[str]:
    if not _number(measured.get("macro_auc")):
        return [
            "Nothing was measured on test images when this was exported: `haloformer evaluate` does."
        ]
    rows = [
        *((f"AUC of {_text(name)}, one-vs-rest", _number(value)) for name, value in _mapping(measured.get("auc")).items()),
        ("macro AUC", _number(measured["macro_auc"])),
        ("accuracy", _number(measured.get("accuracy"))),
        *((f"mean absolute error of {_text(name)}, dex", _number(value, most=100)) for name, value in _mapping(measured.get("mae")).items()),
    ]  # fmt: skip
    n, seed, date, hardware, command = (
        measured.get(key) for key in ("n_images", "seed", "date", "hardware", "command")
    )
    facts = f"{n} test images of seed {seed}, {date}, {hardware}"
    return [
        f"{_text(facts)}: {_code(command)}", "", "| measure | value | 95 % interval |", "|---|---|---|",
        *(f"| {name} | {format_value(found[0])} | {' – '.join(map(format_value, found[1:]))} |" for name, found in rows if found),
    ]  # fmt: skip


def _limits(predictor: Predictor) -> list[str]:
    """Returns where the answers must not be trusted, each in a line."""
    lines = [
        "It knows only its survey's lens, source, noise and instrument. A confident answer for an image of another telescope, or a lens of "
        "another size, means little.",
        "It was trained on simulations. This card knows of no measurement on observed lenses.",
    ]  # fmt: skip
    if predictor.class_names:
        lines.append(_shortcut(predictor))
    lines.append(_out_of_distribution(predictor))
    if predictor.geometry is not None:
        lines.append(
            "An answer that another pixel scale or a mirrored image would change is flagged in the same way, with the reason: that takes some "
            "of the survey's own images, too. `haloformer evaluate` counts all that are flagged (`n_out_of_distribution`)."
        )
    return lines


def _shortcut(predictor: Predictor) -> str:
    """Returns what the audit of the survey says of the classes: from the stored results, where it is a shipped one."""
    survey = _survey(predictor)
    general = (
        "In the original DeepLense surveys the mass of the substructure enlarges the ring: a high AUC on them is not yet a statement about "
        "dark matter. `haloformer audit` measures how much of the answers is that."
    )  # fmt: skip
    audit = json.loads(_AUDITS.read_text(encoding="utf-8")).get(survey)
    if audit is None:
        return general
    auc = audit["moments"]
    return (
        f"{general} Nine moments of an image, without any network, tell the classes of {_code(survey)} apart with a macro AUC of "
        f"{auc['auc']:.3f} ({auc['low']:.3f} – {auc['high']:.3f}; {audit['n']} test images of seed {audit['seed']} with its usual noise, {audit['date']}, "
        f"`haloformer audit --survey {survey} --n {audit['n']}`)."
    )  # fmt: skip


def _out_of_distribution(predictor: Predictor) -> str:
    if predictor.detector is None:
        return (
            "It does not notice images unlike those of its training, and answers them all the same."
        )
    known = _mapping(predictor.artefact.get("ood"))
    rate, n, data = (known.get(key) for key in ("alarm_rate", "n", "data"))
    told = (
        f"{float(rate):.1%}"
        if isinstance(rate, int | float) and _is_share(rate)
        else "a small share"
    )
    return (
        "Images unlike those of its training get the class `unknown` and no estimates, with a reason; expect that of every image of a real "
        f"lens. The thresholds let {told} of usual images be flagged, too (from {_text(data if data is not None else n)}). An image that is "
        "not flagged need not be one of the survey."
    )  # fmt: skip


def _number(estimate: Any, most: float = 1.0) -> tuple[float, float, float] | None:
    """Returns a share, such as an AUC, or an error in dex and its interval, if that is what was measured."""
    found = _mapping(estimate)
    value, low, high = (found.get(key) for key in ("value", "low", "high"))
    if not all(_is_share(number, most) for number in (value, low, high)):
        return None
    return float(value), float(low), float(high)  # type: ignore[arg-type]


def _is_share(number: object, most: float = 1.0) -> bool:
    return isinstance(number, int | float) and math.isfinite(number) and 0 <= number <= most


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _text(value: object) -> str:
    """Returns a value as text of one line that is no markup."""
    return cell(_one_line(value))


def _code(value: object) -> str:
    """Returns a value as code of one line, which ends where it ends."""
    return f"`{_one_line(value)}`"


def _one_line(value: object) -> str:
    return brief(value).replace("`", "'")
