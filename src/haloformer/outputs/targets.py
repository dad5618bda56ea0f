"""Physical parameters that can be estimated, their true values, and their standard units."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from haloformer.errors import InputError
from haloformer.simulation.dark_matter import axion_mass, subhalo_masses
from haloformer.vocabulary import CLASS_ALIASES, unknown_name


@dataclass(frozen=True)
class Target:
    """A physical parameter that can be predicted.

    Attributes:
        name: As the user writes it.
        unit: Of the value.
        label: For the axis of a figure.
        description: One line for people.
        class_name: The class whose images have it.
        from_parameters: From the parameters of B images to (B,) values, NaN where an image has none. Raises KeyError
            with the name of a parameter that is missing.
    """

    name: str
    unit: str
    label: str
    description: str
    class_name: str
    from_parameters: Callable[[Mapping[str, np.ndarray]], np.ndarray]


def _log10_total_mass(parameters: Mapping[str, np.ndarray]) -> np.ndarray:
    total = np.nansum(subhalo_masses(parameters), axis=-1)
    result: np.ndarray = np.log10(total, out=np.full(total.shape, np.nan), where=total > 0)
    return result


TARGETS: dict[str, Target] = {
    target.name: target
    for target in (
        Target(
            name="log10_m_axion",
            unit="dex of eV",
            label="log₁₀ (axion mass / eV)",
            description="mass of the axion, which sets the length of vortices and the size of granules",
            class_name="axion",
            from_parameters=axion_mass,
        ),
        Target(
            name="log10_m_subhalos",
            unit="dex of M_sun",
            label="log₁₀ (total subhalo mass / M☉)",
            description="total mass of the subhalos in the image",
            class_name="cdm",
            from_parameters=_log10_total_mass,
        ),
    )
}


class MissingParameterError(InputError):
    """Images come without the parameter that a target is computed from."""


def target_values(
    names: Sequence[str], parameters: Mapping[str, np.ndarray], where: str = "the data"
) -> Tensor:
    """Returns the true values (B, T) float32 of B images, NaN where an image has none.

    Args:
        names: The T targets, of `TARGETS`.
        parameters: The parameters that travel with the images, each (B, …).
        where: What the parameters come from, such as a file name, for the error message.

    Raises:
        MissingParameterError: The images come without the parameter that it is computed from.
        InputError: There is no such target, or it is infinite.
    """
    columns = []
    for name in names:
        if name not in TARGETS:
            raise unknown_name("regression target", name, TARGETS)
        try:
            column = TARGETS[name].from_parameters(parameters)
        except KeyError as error:
            raise MissingParameterError(
                f"{where}: the images come without the parameter {error}, which the target '{name}' needs; "
                "simulated data have it"
            ) from error
        if np.isinf(column).any():
            raise InputError(
                f"{where}: the target '{name}' is infinite for image {int(np.isinf(column).argmax())}"
            )
        columns.append(column)
    return torch.from_numpy(np.stack(columns, axis=1).astype(np.float32))


def of_their_class(
    values: Tensor, targets: Sequence[str], class_names: Sequence[str], labels: Tensor
) -> Tensor:
    """Returns true values (B, T), NaN where an image is not of the target's class, if the data have that class.

    Other classes may have what a target is computed from, too, such as the subhalos of axions in surveys where these suppress them.

    Args:
        values: (B, T).
        targets: The T targets.
        class_names: Of the data, by any of their names.
        labels: (B,) indices into ``class_names``.
    """
    names = [CLASS_ALIASES.get(name.lower(), name) for name in class_names]
    found = values.clone()
    for t, target in enumerate(targets):
        if (owner := TARGETS[target].class_name) in names:
            found[labels != names.index(owner), t] = torch.nan
    return found


@dataclass(frozen=True)
class Scaling:
    """Standard units: (value − mean) / std, one mean and std per target.

    Attributes:
        mean: T numbers in the targets' units.
        std: T numbers above 0.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.mean or len(self.mean) != len(self.std):
            raise InputError(
                f"target scaling: {len(self.mean)} means and {len(self.std)} stds; needs one per target"
            )
        if not all(is_usable(number) for number in (*self.mean, *self.std)) or min(self.std) <= 0:
            raise InputError(f"target scaling: mean = {self.mean}, std = {self.std} is not usable")

    @classmethod
    def fit(cls, targets: Tensor | np.ndarray, names: Sequence[str] | None = None) -> "Scaling":
        """Returns the scaling of training targets (N, T); NaN are ignored.

        Raises:
            InputError: A target has no value at all; ``names`` (T) lets the message say which.
        """
        values = np.asarray(targets, np.float64)
        for k in np.flatnonzero(np.isnan(values).all(axis=0)).tolist():
            name = names[k] if names else f"number {k}"
            raise InputError(
                f"regression target '{name}': no training image has it"
                + (
                    f": those of class {TARGETS[name].class_name} have it, where their survey draws it"
                    if name in TARGETS
                    else ""
                )
            )
        std = np.nanstd(values, axis=0)
        # A target that is always the same is learned by its mean alone; any unit will do.
        return cls(
            tuple(np.nanmean(values, axis=0).tolist()),
            tuple(np.where(std > 1e-6, std, 1.0).tolist()),
        )

    def to_dict(self) -> dict[str, Any]:
        """Returns what `from_dict` takes, ready for JSON."""
        return {"mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_dict(cls, values: Any) -> "Scaling":
        """Makes a scaling from what `to_dict` wrote, refusing what cannot be one."""
        values = checked_mapping(values, "target scaling")
        return cls(
            checked_numbers(values.get("mean"), "target scaling: mean"),
            checked_numbers(values.get("std"), "target scaling: std"),
        )


def is_usable(number: float) -> bool:
    """Tells whether float32 can compute with a number."""
    return math.isfinite(number) and abs(number) < 1e30  # beyond it, float32 overflows


def checked_mapping(values: Any, what: str) -> Mapping[str, Any]:
    """Returns a mapping from a file that anybody may have written."""
    if not isinstance(values, Mapping):
        raise InputError(f"{what}: must be a mapping, not {str(values)[:80]}")
    return values


def checked_numbers(values: Any, what: str) -> tuple[float, ...]:
    """Returns numbers from a file that anybody may have written."""
    fine = isinstance(values, list | tuple) and all(
        isinstance(value, int | float) and not isinstance(value, bool) for value in values
    )
    if not fine:
        raise InputError(f"{what} must be numbers, not {str(values)[:80]}")
    try:
        return tuple(float(value) for value in values)
    except OverflowError as error:
        raise InputError(f"{what} holds a number beyond all bounds") from error
