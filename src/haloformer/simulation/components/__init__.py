"""What lenses and galaxies are made of: one file per component, and the registry of their kinds."""

from typing import TYPE_CHECKING, Annotated, Union

from pydantic import Field, WrapValidator

from haloformer.simulation.components.clumpy import Clumpy
from haloformer.simulation.components.component import LightComponent, MassComponent
from haloformer.simulation.components.epl import EPL
from haloformer.simulation.components.galaxy import RealGalaxy
from haloformer.simulation.components.granules import Granules
from haloformer.simulation.components.lens_light import LensLight
from haloformer.simulation.components.line_of_sight import LineOfSight
from haloformer.simulation.components.multipoles import Multipoles
from haloformer.simulation.components.nfw import NFW
from haloformer.simulation.components.point_masses import PointMasses
from haloformer.simulation.components.pseudo_jaffe import PseudoJaffe
from haloformer.simulation.components.sersic import Sersic
from haloformer.simulation.components.setting import Setting
from haloformer.simulation.components.shear import Shear
from haloformer.simulation.components.soliton import Soliton
from haloformer.simulation.components.spiral import Spiral
from haloformer.simulation.components.tnfw import TNFW
from haloformer.simulation.components.vortex import VortexLine

MASS_COMPONENTS: tuple[type[MassComponent], ...] = (
    EPL,
    Shear,
    Multipoles,
    PointMasses,
    VortexLine,
    PseudoJaffe,
    NFW,
    TNFW,
    Granules,
    Soliton,
    LineOfSight,
)
"""All kinds of mass. A new one needs its file, its test, and a line here."""

LIGHT_COMPONENTS: tuple[type[LightComponent], ...] = (
    Clumpy,
    RealGalaxy,
    Sersic,
    Spiral,
)
"""All kinds of light. A new one needs its file, its test, and a line here."""

if TYPE_CHECKING:
    LightPart = LightComponent
    MassPart = MassComponent
else:
    LightPart = Annotated[
        Annotated[Union[LIGHT_COMPONENTS], Field(discriminator="kind")],  # noqa: UP007 - of a tuple
        WrapValidator(
            lambda value, read: value if isinstance(value, LightComponent) else read(value)
        ),
    ]
    MassPart = Annotated[
        Annotated[Union[MASS_COMPONENTS], Field(discriminator="kind")],  # noqa: UP007 - of a tuple
        WrapValidator(
            lambda value, read: value if isinstance(value, MassComponent) else read(value)
        ),
    ]
# A component that is built already may be of a kind that only its user knows.

__all__ = [
    "EPL",
    "LIGHT_COMPONENTS",
    "MASS_COMPONENTS",
    "NFW",
    "TNFW",
    "Clumpy",
    "Granules",
    "LensLight",
    "LightComponent",
    "LightPart",
    "LineOfSight",
    "MassComponent",
    "MassPart",
    "Multipoles",
    "PointMasses",
    "PseudoJaffe",
    "RealGalaxy",
    "Sersic",
    "Setting",
    "Shear",
    "Soliton",
    "Spiral",
    "VortexLine",
]
