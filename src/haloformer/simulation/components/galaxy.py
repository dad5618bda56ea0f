"""Real galaxies: pictures from a library, of any size, turned and mirrored."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from haloformer.errors import InputError
from haloformer.simulation.components.component import (
    Draws,
    LightComponent,
    Profile,
    Tensors,
    column,
)
from haloformer.simulation.components.setting import Setting
from haloformer.simulation.distributions import LogNormal, Quantity, Uniform, check_not_negative
from haloformer.simulation.galaxies import GalaxyLibrary, read_bands, read_library
from haloformer.simulation.sampling import sample_bilinear, sample_cubic
from haloformer.validation import FileName, Number, WholeNumber, checked

_SIZE = LogNormal(0.18, 0.4, 0.06, 0.6)
_FARTHEST = 20.0  # redshift; of the farthest galaxies that are known it is 14


@checked
@dataclass(frozen=True)
class RealGalaxy(LightComponent):
    """A galaxy of a library (see :func:`~haloformer.simulation.galaxies.read_library`). Each number may be a distribution.

    Attributes:
        kind: Its name in YAML.
        path: The library: a folder of FITS files, or a FITS, HDF5 or ``.npz`` file.
        split: Which galaxies: ``"train"``, ``"test"``, or ``"all"``.
        R: Half-light radius in arcsec, or of whole pictures half of their width; not used where ``physical``.
        physical: Each galaxy keeps its own size in kpc, which follows from pixel scale and redshift in the library.
        angle: By which it is turned, in radian.
        flip: Whether half of the galaxies are mirrored.
        interpolation: Between pixels: ``"cubic"``, which has slopes, or ``"bilinear"``.
        pixel_scale: Arcsec per pixel of the library, before what its files say.
        band: Of several, counted from 0; their mean if None; or ``"each"``: in the first band of the survey the first one, and so on.
        galaxy_class: Only galaxies of this class, the ``ans`` of Galaxy10.
        z_max: Only galaxies that are nearer.
        which: Only galaxies with these numbers, from 0, among those that class and redshift leave; all if empty.
        whole: Whole pictures, less the median of a corner, instead of galaxies that are cut out of them; noise and what is negative stays.
        most: So many galaxies are read at most.
    """

    kind: Literal["galaxy"] = field(default="galaxy", kw_only=True)
    path: FileName
    split: Literal["train", "test", "all"] = "train"
    R: Quantity = _SIZE
    physical: bool = False
    angle: Quantity = Uniform(0.0, 2 * math.pi)
    flip: bool = True
    interpolation: Literal["cubic", "bilinear"] = "cubic"
    pixel_scale: Annotated[Number, Field(gt=0)] | None = None
    band: Annotated[WholeNumber, Field(ge=0)] | Literal["each"] | None = None
    galaxy_class: WholeNumber | None = None
    z_max: Annotated[Number, Field(gt=0)] | None = None
    which: tuple[Annotated[WholeNumber, Field(ge=0)], ...] = ()
    whole: bool = False
    most: Annotated[WholeNumber, Field(ge=1, le=20_000)] = 1000

    UNITS: ClassVar[Mapping[str, str]] = {
        "galaxy": "",
        "R": "arcsec",
        "angle": "radian",
        "flip": "",
    }

    def __post_init__(self) -> None:
        check_not_negative("R", self.R, zero=False)

    @property
    def library(self) -> GalaxyLibrary:
        """The galaxies, which are read once; where they are of each band, those of the first."""
        return self._library(0)

    def _library(self, shown: int) -> GalaxyLibrary:
        """Returns the galaxies; where they are of each band, those of the band ``shown``."""
        if self.band != "each":
            return read_library(
                self.path,
                pixel_scale=self.pixel_scale,
                band=self.band,
                galaxy_class=self.galaxy_class,
                z_max=self.z_max,
                which=self.which,
                whole=self.whole,
                most=self.most,
            )
        bands = read_bands(
            self.path,
            pixel_scale=self.pixel_scale,
            galaxy_class=self.galaxy_class,
            z_max=self.z_max,
            which=self.which,
            whole=self.whole,
            most=self.most,
        )
        if shown >= len(bands):
            there = "there is one, 0" if len(bands) == 1 else f"there are 0 to {len(bands) - 1}"
            raise InputError(f"{bands[0].names[0]} has no band {shown}; {there}")
        return bands[shown]

    def in_band(self, band: int) -> "RealGalaxy":
        """The same galaxy in a band of its own, where the library has one for each."""
        if self.band != "each":
            return self
        own = {one.name: getattr(self, one.name) for one in fields(RealGalaxy)}
        return _RealGalaxyInBand(**own, shown=band)

    def draw(self, draws: Draws, setting: Setting) -> dict[str, np.ndarray]:
        """Draws the galaxy's number in its library, which is the same whatever the split, its size, angle and mirroring."""
        library = self.library
        members = library.members(self.split)
        chosen = np.floor(draws.uniform("galaxy") * len(members)).astype(int)
        galaxy = members[chosen.clip(max=len(members) - 1)]
        mirrored = draws.uniform("flip") < 0.5
        return {
            "galaxy": galaxy.astype(float),
            "R": self._physical(galaxy, setting) if self.physical else draws.draw(self.R, "R"),
            "angle": draws.draw(self.angle, "angle"),
            "flip": (mirrored & self.flip).astype(float),
        }

    def _physical(self, galaxy: np.ndarray, setting: Setting) -> np.ndarray:
        """Returns the half-light radii (B,) in arcsec that galaxies would have at the sources' redshifts."""
        library = self.library
        unknown = np.isnan(library.arcsec) | ~(library.redshift > 0)
        if unknown[galaxy].any():
            name = library.names[galaxy[unknown[galaxy]][0]]
            raise InputError(
                f"{name} has no pixel scale or no redshift, from which its size would follow: give R instead of physical"
            )
        far = library.redshift > _FARTHEST
        if far[galaxy].any():
            number = galaxy[far[galaxy]][0]
            raise InputError(
                f"{library.names[number]} has a redshift of {library.redshift[number]:g}, where no galaxy is seen: at most {_FARTHEST:g}"
            )
        distance = setting.cosmology.angular_diameter_distances
        own, there = distance(library.redshift[galaxy]), distance(setting.z_source)
        radius: np.ndarray = library.arcsec[galaxy] * own / there
        return radius

    def brightness(self, x: Tensor, y: Tensor, parameters: Tensors) -> Tensor:
        """The library's picture at turned positions."""
        R, angle = parameters["R"], parameters["angle"].double()
        cubic = self.interpolation == "cubic"
        images, radius, offset = self.library.on(R.device, R.dtype, cubic)
        galaxy = parameters["galaxy"].round().long()
        scale = R / radius[galaxy]
        cos, sin = (column(f(angle).to(R.dtype)) for f in (torch.cos, torch.sin))
        mirror = column(1 - 2 * parameters["flip"])
        u, v = (cos * x + sin * y) * mirror, cos * y - sin * x
        # The middle of the picture is not that of the light.
        beside = offset[galaxy] * scale[:, None]
        u, v = u + column(beside[:, 0]), v + column(beside[:, 1])
        sample = sample_cubic if cubic else sample_bilinear
        found = sample(images[galaxy], u, v, scale) / column(scale**2)
        # A spline swings a little below 0 beside what is bright.
        return found if self.whole else found.clamp(min=0)

    def lenstronomy(self, parameters: Mapping[str, Any]) -> list[Profile]:
        """``INTERPOL``, which is bilinear."""
        library, galaxy = self.library, int(parameters["galaxy"])
        scale = float(parameters["R"]) / library.radius[galaxy]
        image = library.images[galaxy].astype(float) / scale**2
        if parameters["flip"]:
            image = image[:, ::-1]
        x, y = scale * library.offset[galaxy] * (-1 if parameters["flip"] else 1, 1)
        angle = float(parameters["angle"])
        cos, sin = math.cos(angle), math.sin(angle)
        turned = {"center_x": sin * y - cos * x, "center_y": -sin * x - cos * y, "phi_G": angle}
        return [("INTERPOL", {"image": image, "amp": 1, "scale": scale, **turned})]


@dataclass(frozen=True)
class _RealGalaxyInBand(RealGalaxy):
    """A galaxy of each band as one of them shows it: cut out as in the others.

    Attributes:
        shown: The band.
    """

    shown: int = field(default=0, kw_only=True)

    @property
    def library(self) -> GalaxyLibrary:
        """The galaxies in this band."""
        return self._library(self.shown)

    def in_band(self, band: int) -> RealGalaxy:
        """Itself: it is of a band already."""
        return self
