"""What a component of a lens is: its parameters, what it does to light, and its counterpart in lenstronomy."""

import abc
from collections.abc import Mapping
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

Profile = tuple[str, dict[str, Any]]
"""A profile of lenstronomy, and its keywords for one image."""


class Draws(Protocol):
    """Draws of B images, each a pure function of (survey, class, seed, image, name, element)."""

    def __len__(self) -> int: ...

    def draw(self, quantity: Quantity, name: str, size: int | None = None) -> np.ndarray:
        """Draws a number or a distribution: (B,), or (B, size) for several values of each image."""
        ...

    def uniform(self, name: str, size: int | None = None) -> np.ndarray:
        """Draws between 0 and 1, both excluded: (B,) or (B, size). The first elements do not depend on size."""
        ...

    def normal(self, name: str, size: int | None = None) -> np.ndarray:
        """Draws from the standard normal distribution: (B,) or (B, size)."""
        ...


class MassComponent(abc.ABC):
    """Mass that deflects light. A frozen dataclass of quantities, with these methods.

    Attributes:
        kind: Its name in YAML.
        PREFIX: What stands before its parameters' names where they travel with an image; its kind if None.
        UNITS: The parameters that travel with an image, without that prefix, with their units. All that :meth:`deflection` needs is
            among them, so that an image can be rendered from what its file says.
    """

    kind: str
    PREFIX: ClassVar[str | None] = None
    UNITS: ClassVar[Mapping[str, str]]

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

    def deflection_on_grid(
        self, axis: Tensor, parameters: Parameters, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor] | None:
        """Returns the deflection on a square grid by a compiled kernel, for components that have a faster one there.

        Args:
            axis: (N,) float64, evenly spaced positions in arcsec, of columns and rows alike.
            parameters: Those of :attr:`UNITS`.
            dtype: Of the result.

        Returns:
            (α_x, α_y), each (B, N, N); None where there is no such kernel, and :meth:`deflection` serves.
        """
        return None

    @staticmethod
    @abc.abstractmethod
    def lenstronomy(parameters: Mapping[str, Any]) -> list[Profile]:
        """Returns the same in lenstronomy's words, for one image: numbers, or (n,) of a population."""

    @staticmethod
    @abc.abstractmethod
    def mass_within(radius: np.ndarray, parameters: Parameters, setting: Setting) -> np.ndarray:
        """Returns the mass (B,) in M_sun that is projected within circles of these radii (B,), in arcsec about the lens's centre."""


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

    @abc.abstractmethod
    def lenstronomy(self, parameters: Mapping[str, Any]) -> list[Profile]:
        """Returns the same in lenstronomy's words, for one image, with ``amp`` for a total flux of 1."""


def column(values: Tensor) -> Tensor:
    """Returns parameters (B,) as (B, 1, 1), to meet positions (B, H, W)."""
    return values[:, None, None]
