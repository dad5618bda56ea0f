"""What ``artefact.json`` holds: the fields that build a model, each checked."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from haloformer.data.framing import Framing
from haloformer.errors import InputError
from haloformer.fitting.channels import Residual
from haloformer.outputs.layout import Outputs
from haloformer.vocabulary import ARTEFACT_FORMAT

ARTEFACT_FILES = ("artefact.json", "weights.safetensors")


HUB_FILES = ("config.json", "model.safetensors")
"""What the two files of an artefact are called in a hub's folder."""


_MAX_SIZE, _MAX_CHANNELS, _MAX_CLASSES = 4096, 64, 1000


_MAX_NUMBER = 10_000  # no width, depth or patch of an image model is near it


_FORBIDDEN_KWARGS = {
    "name",
    "img_size",
    "in_chans",
    "num_classes",
    "pretrained",
    "pretrained_cfg",
    "pretrained_cfg_overlay",
    "checkpoint_path",
    "cache_dir",
}


@dataclass(frozen=True)
class ModelFields:
    """What builds the model, and what goes in and comes out of it."""

    name: str
    img_size: tuple[int, int]
    in_chans: int
    num_classes: int
    kwargs: dict[str, Any]
    outputs: Outputs
    framing: Framing
    residual: Residual | None
    image_shape: tuple[int, int, int]

    @property
    def n_residual(self) -> int:
        """How many of ``in_chans`` show what a fit leaves."""
        return 0 if self.residual is None else self.in_chans - self.image_shape[0]


def checked_fields(artefact: dict[str, Any], where: Path) -> ModelFields:
    """Returns the fields that build the model, each checked for type, range and agreement with the others."""

    def fail(key: str, wanted: str) -> InputError:
        return InputError(f"{where}: {key} must be {wanted}")

    def whole(value: Any, most: int) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most

    if artefact.get("format") != ARTEFACT_FORMAT:
        raise InputError(
            f"{where}: format is {artefact.get('format')!r}, this version of haloformer reads {ARTEFACT_FORMAT}"
        )
    model = artefact.get("model")
    if not isinstance(model, dict):
        raise fail("model", "an object")
    name, size = model.get("name"), model.get("img_size")
    if not isinstance(name, str):
        raise fail("model.name", "a text")
    sides = [size, size] if whole(size, _MAX_SIZE) else size
    if (
        not isinstance(sides, list)
        or len(sides) != 2
        or not all(whole(side, _MAX_SIZE) for side in sides)
    ):
        raise fail("model.img_size", f"a number of pixels or two, at most {_MAX_SIZE}")
    if not whole(model.get("in_chans"), _MAX_CHANNELS):
        raise fail("model.in_chans", f"a whole number between 1 and {_MAX_CHANNELS}")
    if not whole(model.get("num_classes"), _MAX_CLASSES):
        raise fail("model.num_classes", f"a whole number between 1 and {_MAX_CLASSES}")
    kwargs = model.get("kwargs", {})
    if not isinstance(kwargs, dict) or not all(_plain(value) for value in kwargs.values()):
        raise fail(
            "model.kwargs", f"an object of numbers up to {_MAX_NUMBER:,}, texts, and lists of them"
        )
    if refused := sorted(_FORBIDDEN_KWARGS & kwargs.keys()):
        raise InputError(
            f"{where}: model.kwargs must not hold '{refused[0]}', which the artefact itself decides"
        )
    names = artefact.get("class_names")
    if not isinstance(names, list) or not all(isinstance(item, str) and item for item in names):
        raise fail("class_names", "a list of names")
    if len(set(names)) != len(names):
        raise fail("class_names", "different names")
    outputs = Outputs(tuple(names))
    if "outputs" in artefact:  # artefacts of classifiers were written without, once
        if not isinstance(artefact["outputs"], dict):
            raise fail("outputs", "an object")
        outputs = Outputs.from_dict(artefact["outputs"], f"{where}: outputs")
        if list(outputs.class_names) != names:
            raise fail("outputs.class_names", "class_names")
    if outputs.n != model["num_classes"]:
        raise fail(
            "class_names", f"{model['num_classes']} different names, as model.num_classes says"
        )
    framing = _framing(artefact.get("framing", {}), where)
    shape = artefact.get("image_shape")
    if (
        not isinstance(shape, list)
        or len(shape) != 3
        or not all(whole(side, _MAX_SIZE) for side in shape)
    ):
        raise fail("image_shape", "three whole numbers: channels, height, width")
    residual = None
    if artefact.get("residual") is not None:
        if not isinstance(artefact["residual"], dict):
            raise fail("residual", "an object")
        residual = Residual.from_dict(artefact["residual"], f"{where}: residual")
    try:
        seen = tuple(shape) if residual is None else residual.output_shape(tuple(shape))
        fits = framing.output_shape(seen) == (model["in_chans"], *sides)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    if not fits:
        raise fail(
            "image_shape",
            f"{[model['in_chans'], *sides]}, as model.in_chans and model.img_size say",
        )
    if not isinstance(artefact.get("normalization"), dict):
        raise fail("normalization", "an object")
    return ModelFields(
        name=name,
        img_size=(sides[0], sides[1]),
        in_chans=model["in_chans"],
        num_classes=model["num_classes"],
        kwargs=kwargs,
        outputs=outputs,
        framing=framing,
        residual=residual,
        image_shape=(shape[0], shape[1], shape[2]),
    )


def _framing(values: Any, where: Path) -> Framing:
    if not isinstance(values, dict):
        raise InputError(f"{where}: framing must be an object")
    try:
        return Framing.from_dict(values)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def _plain(value: Any, depth: int = 0) -> bool:
    if isinstance(value, list):
        return depth < 3 and all(_plain(item, depth + 1) for item in value)
    if isinstance(value, int | float):  # NaN fails the comparison
        return isinstance(value, bool) or abs(value) <= _MAX_NUMBER
    return value is None or isinstance(value, str)
