"""The light of the lens galaxy in magnitudes: components in front of the arcs, as bright as they are said to be."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from haloformer.errors import InputError
from haloformer.simulation.components import LightPart
from haloformer.simulation.components.component import LightComponent
from haloformer.simulation.components.lens_light import LensLight
from haloformer.simulation.distributions import Quantity
from haloformer.validation import checked, validated


@checked
@dataclass(frozen=True)
class LensGalaxyLight:
    """Light components about one centre, near that of the mass. Each number may be a distribution.

    A :class:`~haloformer.simulation.components.lens_light.LensLight` follows the mass, and is as bright as the arcs; this one is what it is
    said to be.

    Attributes:
        light: The components.
        magnitudes: Apparent magnitude of each; those of a survey's bands go before.
        x: Centre in arcsec, relative to that of the mass.
        y: See ``x``.
        mode: It is in the images; what is left of it by a subtraction is known of a ``LensLight`` only.
    """

    light: tuple[LightPart, ...]
    magnitudes: tuple[Quantity, ...] = ()
    x: Quantity = 0.0
    y: Quantity = 0.0
    mode: Literal["present"] = "present"

    def __post_init__(self) -> None:
        if not self.light:
            raise InputError("lens_light needs at least one component in light")
        if self.magnitudes:
            self.check_magnitudes(self.magnitudes, "lens_light: magnitudes")

    @property
    def UNITS(self) -> dict[str, str]:
        """The parameters that travel with an image, with their units."""
        units = {"x": "arcsec", "y": "arcsec"}
        for number, part in enumerate(self.light):
            own = component_prefix(number, part)
            units |= {f"{own}{name}": unit for name, unit in part.UNITS.items()}
            units[f"{own}flux"] = "counts/s"
        return units

    def check_magnitudes(self, magnitudes: tuple[Quantity, ...], where: str) -> None:
        """Raises InputError unless each component has its magnitude."""
        if len(magnitudes) != len(self.light):
            raise InputError(
                f"{where} has {len(magnitudes)} numbers for {len(self.light)} components of light"
            )


def component_prefix(number: int, part: LightComponent) -> str:
    """Returns what stands before the names of a component's parameters: ``sersic_``, then ``1_sersic_``."""
    return f"{part.kind}_" if number == 0 else f"{number}_{part.kind}_"


def read_lens_light(value: object) -> object:
    """Returns fields that have ``light`` as :class:`LensGalaxyLight`, other fields as ``LensLight``, and anything else as it is.

    Raises:
        InputError: They cannot be used, or there are none.
    """
    if isinstance(value, Mapping):
        kind = LensGalaxyLight if "light" in value else LensLight
        return validated(kind, dict(value), "lens_light")
    if value is not None and not isinstance(value, LensLight | LensGalaxyLight):
        raise InputError(f"lens_light: must be a mapping, not {value!r}")
    return value
