"""What ``artefact.json`` holds, each field checked for type, range and agreement with the others."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Protocol, Self

from pydantic import BeforeValidator, Field, InstanceOf, field_validator, model_validator

from haloformer.data.framing import Framing
from haloformer.data.normalization import Normalization
from haloformer.errors import InputError
from haloformer.fitting.channels import Residual
from haloformer.outputs.conformal import Conformal
from haloformer.outputs.layout import Outputs
from haloformer.validation import Strict, plain_keyword, validated
from haloformer.vocabulary import ARTEFACT_FORMAT, TIMMS_OWN

ARTEFACT_FILES = ("artefact.json", "weights.safetensors")

HUB_FILES = ("config.json", "model.safetensors")
"""What the two files of an artefact are called in a hub's folder."""

_MAX_SIZE, _MAX_CHANNELS, _MAX_CLASSES = 4096, 64, 1000
_FORBIDDEN_KWARGS = {
    "name",
    "img_size",
    "in_chans",
    "num_classes",
    "pretrained",
    *TIMMS_OWN,
}

Name = Annotated[str, Field(min_length=1)]
Side = Annotated[int, Field(strict=True, ge=1, le=_MAX_SIZE)]


class _Described(Protocol):
    """What is written to the artefact by ``to_dict``."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Returns what ``to_dict`` described; raises InputError."""


def _from(kind: type[_Described]) -> BeforeValidator:
    """Returns the validator that makes an object of what its ``to_dict`` wrote."""

    def read(value: object) -> object:
        if isinstance(value, kind):
            return value
        if not isinstance(value, Mapping):
            raise ValueError("must be a mapping")
        return kind.from_dict(value)

    return BeforeValidator(read)


class ModelFields(Strict, extra="ignore"):
    """What builds the network: the arguments of `haloformer.models.create_model`."""

    name: str
    img_size: tuple[Side, Side]
    in_chans: int = Field(strict=True, ge=1, le=_MAX_CHANNELS)
    num_classes: int = Field(strict=True, ge=1, le=_MAX_CLASSES)
    kwargs: dict[str, Any] = Field(default_factory=dict)

    @field_validator("img_size", mode="before")
    @classmethod
    def _square(cls, value: object) -> object:
        return (value, value) if isinstance(value, int) and not isinstance(value, bool) else value

    @field_validator("kwargs")
    @classmethod
    def _plain_values(cls, kwargs: dict[str, Any]) -> dict[str, Any]:
        for value in kwargs.values():
            plain_keyword(value)
        if refused := sorted(_FORBIDDEN_KWARGS & kwargs.keys()):
            raise ValueError(f"must not hold '{refused[0]}', which the artefact itself decides")
        return kwargs

    def options(self) -> dict[str, Any]:
        """Returns all that `haloformer.models.create_model` is given beside the name."""
        sizes = {"img_size": self.img_size, "in_chans": self.in_chans}
        return {**self.kwargs, **sizes, "num_classes": self.num_classes}


class ArtefactFields(Strict, extra="ignore"):
    """What builds a predictor; the provenance beside it is for people.

    Attributes:
        model: The network.
        class_names: The classes that it tells apart.
        outputs: What its numbers mean; artefacts of classifiers were written without, once.
        framing: How images come to its size and channels.
        image_shape: (C, H, W) of the images that go in.
        residual: The smooth fit whose residual it sees; None without.
        normalization: Of its input, fitted.
        conformal: Of its intervals; None without.
    """

    model: ModelFields
    class_names: tuple[Name, ...]
    outputs: Annotated[InstanceOf[Outputs], _from(Outputs)] | None = None
    framing: Annotated[InstanceOf[Framing], _from(Framing)] = Framing()
    image_shape: tuple[Side, Side, Side]
    residual: Annotated[InstanceOf[Residual], _from(Residual)] | None = None
    normalization: Annotated[InstanceOf[Normalization], _from(Normalization)]
    conformal: Annotated[InstanceOf[Conformal], _from(Conformal)] | None = None

    @property
    def layout(self) -> Outputs:
        """What the network's numbers mean."""
        return self.outputs or Outputs(self.class_names)

    @property
    def n_residual(self) -> int:
        """How many of the network's channels show what a fit leaves."""
        return 0 if self.residual is None else self.model.in_chans - self.image_shape[0]

    @model_validator(mode="after")
    def _classes_agree(self) -> "ArtefactFields":
        names = self.class_names
        if len(set(names)) != len(names):
            raise ValueError("class_names must be different names")
        if self.layout.class_names != names:
            raise ValueError("outputs.class_names must be class_names")
        if self.layout.n != self.model.num_classes:
            raise ValueError(
                f"class_names and outputs must give {self.model.num_classes} numbers, "
                "as model.num_classes says"
            )
        return self

    @model_validator(mode="after")
    def _shapes_agree(self) -> "ArtefactFields":
        shape = self.image_shape
        shown = shape if self.residual is None else self.residual.output_shape(shape)
        wanted = (self.model.in_chans, *self.model.img_size)
        if self.framing.output_shape(shown) != wanted:
            raise ValueError(
                f"image_shape must be framed to {list(wanted)}, as model.in_chans and model.img_size say"
            )
        return self

    @model_validator(mode="after")
    def _normalization_is_fitted(self) -> "ArtefactFields":
        normalization, channels = self.normalization, self.model.in_chans - self.n_residual
        if not normalization.is_fitted:
            raise ValueError(f"normalization '{normalization.kind}' lacks its statistics")
        for name, numbers in normalization.statistics.items():
            if len(numbers) != channels:
                raise ValueError(
                    f"normalization.statistics.{name} must hold {channels} numbers, one per channel"
                )
        return self

    @model_validator(mode="after")
    def _intervals_agree(self) -> "ArtefactFields":
        conformal, layout = self.conformal, self.layout
        if conformal is None or not layout.targets:
            return self
        if (len(conformal.factors), conformal.loss) != (len(layout.targets), layout.loss):
            raise ValueError("conformal does not belong to these outputs")
        return self


def checked_fields(artefact: dict[str, Any], where: Path) -> ArtefactFields:
    """Returns the fields that build a predictor; raises InputError with the first that is wrong."""
    if artefact.get("format") != ARTEFACT_FORMAT:
        raise InputError(
            f"{where}: format is {artefact.get('format')!r}, this version of haloformer reads {ARTEFACT_FORMAT}"
        )
    return validated(ArtefactFields, artefact, str(where))
