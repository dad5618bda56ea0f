"""What the numbers mean that a network puts out: logits of the classes first, then what the regression needs of each target."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from haloformer.errors import InputError
from haloformer.outputs.losses import LOSSES, n_outputs
from haloformer.outputs.targets import TARGETS, Scaling
from haloformer.vocabulary import unknown_name


@dataclass(frozen=True)
class Outputs:
    """The layout of a network's outputs.

    Attributes:
        class_names: Classes that are told apart; empty for a regression alone.
        targets: Names of :data:`~haloformer.outputs.targets.TARGETS`; empty for a classification alone.
        loss: Of the regression, which decides what is predicted for each target.
        coverage: Of the predicted intervals.
        scaling: Mean and spread of the targets in training.
    """

    class_names: tuple[str, ...]
    targets: tuple[str, ...] = ()
    loss: str = "beta_nll"
    coverage: float = 0.9
    scaling: Scaling | None = None

    def __post_init__(self) -> None:
        for name in self.targets:
            if name not in TARGETS:
                raise unknown_name("target", name, TARGETS)
        if self.loss not in LOSSES:
            raise unknown_name("regression loss", self.loss, LOSSES)

    @property
    def n(self) -> int:
        """Numbers per image."""
        return len(self.class_names) + len(self.targets) * n_outputs(self.loss)

    def split(self, numbers: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Returns logits (B, K) and the regression's numbers (B, T·n), each None where the task has none."""
        k = len(self.class_names)
        return (numbers[:, :k] if k else None), (numbers[:, k:] if self.targets else None)

    def to_dict(self) -> dict[str, Any]:
        """Returns what `from_dict` takes, ready for JSON."""
        return {
            "class_names": list(self.class_names),
            "targets": list(self.targets),
            "loss": self.loss,
            "coverage": self.coverage,
            "scaling": None if self.scaling is None else self.scaling.to_dict(),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str = "outputs") -> "Outputs":
        """Makes a layout of what `to_dict` wrote, refusing what cannot be one."""
        names = {key: values.get(key) or [] for key in ("class_names", "targets")}
        for key, listed in names.items():
            texts = isinstance(listed, list) and all(
                isinstance(item, str) and item for item in listed
            )
            if not texts or len(set(listed)) != len(listed):
                raise InputError(f"{where}: {key} must be a list of different names")
        coverage = values.get("coverage", 0.9)
        if not isinstance(coverage, float) or not 0 < coverage < 1:
            raise InputError(f"{where}: coverage must be between 0 and 1, not {coverage!r}")
        scaling = None
        if names["targets"]:
            if not isinstance(values.get("scaling"), Mapping):
                raise InputError(f"{where}: scaling is missing")
            scaling = Scaling.from_dict(values["scaling"])
            if len(scaling.mean) != len(names["targets"]):
                raise InputError(
                    f"{where}: scaling is of {len(scaling.mean)} targets, not {len(names['targets'])}"
                )
        if not names["class_names"] and not names["targets"]:
            raise InputError(f"{where}: neither classes nor targets")
        return cls(
            tuple(names["class_names"]),
            tuple(names["targets"]),
            str(values.get("loss", "beta_nll")),
            coverage,
            scaling,
        )
