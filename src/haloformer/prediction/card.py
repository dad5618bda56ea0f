"""The model card: a README for people, with YAML at its top for a hub.

What an artefact tells of itself may come from anybody, and is escaped for each place that it
stands in.
"""

import math
from collections.abc import Mapping
from typing import Any

from haloformer.errors import brief
from haloformer.prediction.predictor import Predictor
from haloformer.reporting.markdown import cell


def model_card(predictor: Predictor) -> str:
    """The model card of a trained model: what it is for, how it was trained, how well it does, and where it must not be trusted."""
    import yaml

    artefact = predictor.artefact
    training, measured = _mapping(artefact.get("training")), _mapping(artefact.get("measured"))
    name, survey = artefact["model"]["name"], brief(artefact.get("survey") or "images from a file")
    classes, targets = predictor.class_names, predictor.outputs.targets
    front: dict[str, Any] = {
        "license": "mit",
        "library_name": "haloformer",
        "pipeline_tag": "image-classification" if classes else "other",
        "tags": ["astronomy", "strong-gravitational-lensing", "dark-matter", "deeplense", name],
    }
    if macro := _number(measured.get("macro_auc")):
        seed = brief(measured.get("seed"))
        data = {"name": f"{survey}, simulated, seed {seed}", "type": "simulated"}
        result: dict[str, Any] = {"task": {"type": "image-classification"}, "dataset": data}
        result["metrics"] = [
            {"type": "roc_auc", "name": "macro one-vs-rest AUC", "value": macro[0]}
        ]
        front["model-index"] = [{"name": name, "results": [result]}]
    shape = " × ".join(map(str, predictor.image_shape))
    pixel_scale = predictor.grid.pixel_scale
    scale = "" if pixel_scale is None else f" of {pixel_scale:g}″"
    answers = []
    if classes:
        answers.append(f"tells the dark matter classes {', '.join(map(_code, classes))} apart")
    if targets:
        answers.append(f"estimates {', '.join(map(_code, targets))} with calibrated intervals")
    lines = [
        "---", yaml.safe_dump(front, sort_keys=False, allow_unicode=True).strip(), "---", "",
        f"# {_text(name)}: dark matter from strong lenses of {_text(survey)}", "",
        f"A network that {' and '.join(answers)}, in images of strong gravitational lenses: {shape} (channels, height, width), pixels{scale}.",
        "", "## Use", "", "```python", "import haloformer", "",
        'predictor = haloformer.load("path/to/this/folder")',
        f"predictor.{'probabilities' if classes else 'estimates'}(images)  # raw images, tensor (B, {', '.join(map(str, predictor.image_shape))})",
        "```", "",
        f"Meant for research: for images simulated as {_code(survey)}, and as a start for other surveys by training on. Cropping, "
        + ("the fit of the best smooth lens, " if predictor.residual is not None else "")
        + "and normalisation are part of the model. Images go in as they are, in the units of the survey.", "",
        "## Training", "",
        *(f"- {key.replace('_', ' ')}: {_text(training[key])}" for key in _TOLD if training.get(key) is not None),
        f"- noise: {_text(artefact.get('noise'))}", "", "## Measured", "", *_measured_lines(measured), "", "## Limits", "",
        "- It knows only its survey's lens, source, noise and instrument. A confident answer for an image of another telescope, or a lens of "
        "another size, means little.",
        "- It was trained on simulations. This card knows of no measurement on observed lenses.",
        "- In the original DeepLense surveys the mass of the substructure enlarges the ring: a high AUC on them is not yet a statement about dark "
        "matter.",
        "", "## Licence and citation", "",
        "MIT. Please cite haloformer (https://github.com/haloformer/haloformer, `CITATION.cff`), and for the surveys DeepLense: Alexander et al. "
        "2020, ApJ 893, 15.", "",
    ]  # fmt: skip
    return "\n".join(lines)


_TOLD = (
    "data", "model", "n_train", "epochs", "best_epoch", "epoch_size", "batch_size", "optimizer", "lr", "weight_decay", "schedule", "ema",
    "augment", "pretrained", "train_seed", "val_seed", "code_version",
)  # fmt: skip


def _measured_lines(measured: Mapping[str, Any]) -> list[str]:
    if not _number(measured.get("macro_auc")):
        return [
            "Nothing was measured on test images when this was exported: `haloformer evaluate` does."
        ]
    rows = [(name, _number(value)) for name, value in _mapping(measured.get("auc")).items()]
    rows.append(("macro", _number(measured["macro_auc"])))
    n, seed, date, hardware, command = (
        measured.get(key) for key in ("n_images", "seed", "date", "hardware", "command")
    )
    facts = f"{n} test images of seed {seed}, {date}, {hardware}"
    return [
        f"{_text(facts)}: {_code(command)}", "", "| class | one-vs-rest AUC | 95 % interval |", "|---|---|---|",
        *(f"| {_text(name)} | {row[0]:.4f} | {row[1]:.4f} – {row[2]:.4f} |" for name, row in rows if row),
    ]  # fmt: skip


def _number(estimate: Any) -> tuple[float, float, float] | None:
    """Returns an AUC and its interval, if that is what was measured."""
    found = _mapping(estimate)
    value, low, high = (found.get(key) for key in ("value", "low", "high"))
    if not all(_is_share(number) for number in (value, low, high)):
        return None
    return float(value), float(low), float(high)  # type: ignore[arg-type]


def _is_share(number: object) -> bool:
    return isinstance(number, int | float) and math.isfinite(number) and 0 <= number <= 1


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
