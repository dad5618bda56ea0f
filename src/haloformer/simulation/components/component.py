"""What a component of a lens is: its parameters, what it does to light, and its counterpart in lenstronomy."""

import abc
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor

from haloformer.simulation.components.setting import Setting
from haloformer.simulation.distributions import Quantity

Parameters = Mapping[str, np.ndarray]
"""Name → values of B images: (B,), or (B, n) for a population, whose missing members are NaN."""

Tensors = Mapping[str, Tensor]
"""The same on a device, in the type of the computation; positions may come in float64."""

PLACES = ("x", "y", "center_x", "center_y")
"""Parameters that stay in float64 until differences are taken: beside a mass float32 would be off by percents."""

Deflection = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""(x, y) → (α_x, α_y), each (B, H, W)."""

Profile = tuple[str, dict[str, Any]]
"""A profile of lenstronomy, and its keywords for one image."""


class Draws(Protocol):
    """Draws of B images, each a pure function of (survey, class, seed, image, name, element)."""

    def __len__(self) -> int: ...

    def draw(self, quantity: Quantity, name: str, size: int | None = None) -> np.ndarray:
        """Draws a number or a distribution: (B,), or (B, size) for several values of each image."""
        ...

    def shared(self, quantity: Quantity, name: str) -> np.ndarray:
        """Draws a number or a distribution (B,), the same for all components of a class that ask for this name."""
        ...

    def uniform(self, name: str, size: int | None = None) -> np.ndarray:
        """Draws between 0 and 1, both excluded: (B,) or (B, size). The first elements do not depend on size."""
        ...

    def normal(self, name: str, size: int | None = None) -> np.ndarray:
        """Draws from the standard normal distribution: (B,) or (B, size)."""
        ...


class OnGrid(Protocol):
    """Adds a component's deflections on a grid; for several threads at once, on images of their own."""

    def __call__(
        self, which: np.ndarray, into: np.ndarray, alpha_x: np.ndarray, alpha_y: np.ndarray
    ) -> None:
        """Adds the deflections of the images ``which`` (K,) of the component to the images ``into`` (K,), each another, of α.

        Args:
            which: Rows of the component's parameters.
            into: Rows of ``alpha_x`` and ``alpha_y``.
            alpha_x: (B', N, N) float32 in arcsec, changed.
            alpha_y: See ``alpha_x``.
        """
        ...


class MassComponent(abc.ABC):
    """Mass that deflects light. A frozen dataclass of quantities, with these methods.

    Attributes:
        kind: Its name in YAML.
        PREFIX: What stands before its parameters' names where they travel with an image; its kind if None.
        UNITS: The parameters that travel with an image, without that prefix, with their units. All that :meth:`deflection` needs is
            among them, so that an image can be rendered from what its file says.
        IN_LENS: It may be one of the components of ``lens``, which every image has; else it belongs to ``substructure`` alone.
        ARE_SUBHALOS: Its ``mass`` is that of subhalos, one or many in an image.
        IN_LENS_PLANE: It lies where the lens is. What does not needs :meth:`beside`, as its effect depends on all that does.
    """

    kind: str
    PREFIX: ClassVar[str | None] = None
    UNITS: ClassVar[Mapping[str, str]]
    IN_LENS: ClassVar[bool] = True
    ARE_SUBHALOS: ClassVar[bool] = False
    IN_LENS_PLANE: ClassVar[bool] = True

    @abc.abstractmethod
    def draw(
        self, draws: Draws, setting: Setting, lens: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Draws the parameters of :attr:`UNITS`.

        Args:
            draws: Of the B images.
            setting: Redshifts and distances of the B lenses.
            lens: Parameters (B,) of the lens's first component, which populations are placed around; empty for that one itself.
        """

    @staticmethod
    @abc.abstractmethod
    def deflection(x: Tensor, y: Tensor, parameters: Tensors) -> tuple[Tensor, Tensor]:
        """Returns the reduced deflection (α_x, α_y) in arcsec; the source lies at β = θ − α(θ).

        Args:
            x: (B or 1, H, W) positions in arcsec, as ``y``.
            y: See ``x``.
            parameters: Those of :attr:`UNITS`, each (B,) or (B, n), in the type of the result but for positions, which may be float64.
        """

    def at_points(self, x: Tensor, y: Tensor, parameters: Parameters) -> tuple[Tensor, Tensor]:
        """Returns the deflection (α_x, α_y) at a few points of B images, in float32 and on their device: that of :meth:`deflection`.

        Args:
            x: (B, H, W) positions in arcsec, as ``y``.
            y: See ``x``.
            parameters: Those of :attr:`UNITS`.
        """
        return self.deflection(x, y, as_tensors(parameters, device=x.device))

    def on_grid(self, axis: np.ndarray, parameters: Parameters) -> "OnGrid":
        """Returns what adds the deflections of B images on a square grid of rays, on the CPU and in float32.

        This one computes them all by :meth:`deflection`. A component that has a compiled kernel, and is used where numba is, returns that.

        Args:
            axis: (N,) float64, evenly spaced positions in arcsec, of columns and rows alike.
            parameters: Those of :attr:`UNITS`.
        """
        along = torch.as_tensor(axis)
        x, y = torch.broadcast_tensors(along[None, None, :], along[None, :, None])
        with torch.no_grad():
            alpha_x, alpha_y = self.at_points(x, y, parameters)
        return added_arrays(alpha_x.float().numpy(), alpha_y.float().numpy())

    def beside(
        self, x: Tensor, y: Tensor, parameters: Tensors, lens: "Deflection"
    ) -> tuple[Tensor, Tensor]:
        """Returns what this component adds to the deflection by all that lies in the lens plane; of one that is no exception, its own.

        Args:
            x: (B or 1, H, W) positions in arcsec, as ``y``.
            y: See ``x``.
            parameters: As of :meth:`deflection`.
            lens: Deflection (B, H, W) by what lies in the lens plane.
        """
        return self.deflection(x, y, parameters)

    @staticmethod
    @abc.abstractmethod
    def lenstronomy(parameters: Mapping[str, Any]) -> list[Profile]:
        """Returns the same in lenstronomy's words, for one image: numbers, or (n,) of a population."""

    @staticmethod
    @abc.abstractmethod
    def mass_within(radius: np.ndarray, parameters: Parameters, setting: Setting) -> np.ndarray:
        """Returns the mass (B,) in M_sun that is projected within circles of these radii (B,), in arcsec about the lens's centre."""


class AtRays(Protocol):
    """Adds a component's brightness at rays; for several threads at once, on images of their own."""

    def __call__(
        self, which: np.ndarray, into: np.ndarray, x: np.ndarray, y: np.ndarray, total: np.ndarray
    ) -> None:
        """Adds the brightness of the galaxies ``which`` (K,) to the images ``into`` (K,), each another, of ``total``.

        Args:
            which: Rows of the component's parameters.
            into: Rows of the other arrays.
            x: (B', N, N) float32 positions in arcsec relative to the galaxy's centre, as ``y``.
            y: See ``x``.
            total: (B', N, N) float32, changed.
        """
        ...


class LightComponent(abc.ABC):
    """A part of a galaxy's light. A frozen dataclass of quantities, with these methods.

    Attributes:
        kind: Its name in YAML.
        UNITS: As of a :class:`MassComponent`.
    """

    kind: str
    UNITS: ClassVar[Mapping[str, str]]

    @abc.abstractmethod
    def draw(self, draws: Draws, setting: Setting) -> dict[str, np.ndarray]:
        """Draws the parameters of :attr:`UNITS`, positions relative to the galaxy's centre."""

    def in_band(self, band: int) -> "LightComponent":
        """Returns the component as a band shows it, with the same parameters; itself where it looks alike in all of them.

        Args:
            band: Number of the band among the survey's.
        """
        return self

    @abc.abstractmethod
    def brightness(self, x: Tensor, y: Tensor, parameters: Tensors) -> Tensor:
        """Returns the surface brightness (B, H, W) in 1/arcsec², for a total flux of 1.

        Args:
            x: (B or 1, H, W) positions in arcsec relative to the galaxy's centre, as ``y``.
            y: See ``x``.
            parameters: Those of :attr:`UNITS`, each (B,) or (B, n).
        """

    def at_rays(self, parameters: Parameters, share: np.ndarray) -> "AtRays":
        """Returns what adds the brightness of B galaxies at rays, on the CPU and in float32.

        This one calls :meth:`brightness`. A component that has a compiled kernel, and is used where numba is, returns that.

        Args:
            parameters: Those of :attr:`UNITS`.
            share: (B,) the brightness is multiplied by this.
        """
        tensors = {
            name: torch.as_tensor(values, dtype=torch.float32)
            for name, values in parameters.items()
        }

        def add(
            which: np.ndarray, into: np.ndarray, x: np.ndarray, y: np.ndarray, total: np.ndarray
        ) -> None:
            rows = torch.from_numpy(which)
            some = {name: values[rows] for name, values in tensors.items()}
            with torch.no_grad():
                found = self.brightness(torch.from_numpy(x[into]), torch.from_numpy(y[into]), some)
            total[into] += share[which, None, None].astype(np.float32) * found.numpy()

        return add

    @abc.abstractmethod
    def lenstronomy(self, parameters: Mapping[str, Any]) -> list[Profile]:
        """Returns the same in lenstronomy's words, for one image, with ``amp`` for a total flux of 1."""


def added_arrays(given_x: np.ndarray, given_y: np.ndarray) -> OnGrid:
    """Returns what adds deflections (B, N, N) that are there already."""

    def add(which: np.ndarray, into: np.ndarray, alpha_x: np.ndarray, alpha_y: np.ndarray) -> None:
        alpha_x[into] += given_x[which]
        alpha_y[into] += given_y[which]

    return add


def as_tensors(
    parameters: Parameters,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> dict[str, Tensor]:
    """Returns parameters as tensors of this type, those of places as float64."""
    return {
        name: torch.as_tensor(values).to(device, torch.float64 if name in PLACES else dtype)
        for name, values in parameters.items()
    }


def column(values: Tensor) -> Tensor:
    """Returns parameters (B,) as (B, 1, 1), to meet positions (B, H, W)."""
    return values[:, None, None]
