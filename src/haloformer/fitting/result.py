"""What a fit returns."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from haloformer._version import code_version
from haloformer.reporting.tabular import Column, Tabular

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PLACE_UNITS = {"place_x": "pixel", "place_y": "pixel"}


@dataclass(frozen=True, repr=False)
class SmoothFit(Tabular):
    """The best smooth lens of each of B images, and a table with a row for each.

    Attributes:
        names: The P free parameters, by the names that travel with images (``scenes.UNITS``).
        values: (B, P) their values.
        covariance: (B, P, P) of the estimates, in the parameters' units.
        model: (B, 1, H, W) the expected image, in the unit of the images.
        sigma: (B, 1, H, W) standard deviation of the noise on it.
        residual: (B, 1, H, W) (image − model) / sigma; 0 where a pixel was not finite.
        chi2: (B,) mean square of the residual, per degree of freedom; 1 for a smooth lens.
        converged: (B,) bool: the fit has settled on light that is there. If not, the numbers are finite and mean little.
        detail: (B, 1, H, W) what remains of the residual when small changes of the main lens are fitted, too (:data:`~haloformer.fitting.detail.MACRO_CHANGES`);
            None if not asked for.
        facts: Survey, noise, pixel scale and the parameters' units, where `fit_smooth` made the fit.
    """

    names: tuple[str, ...]
    values: Tensor
    covariance: Tensor
    model: Tensor
    sigma: Tensor
    residual: Tensor
    chi2: Tensor
    converged: Tensor
    detail: Tensor | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def errors(self) -> Tensor:
        """(B, P) standard errors of the values."""
        return self.covariance.diagonal(dim1=-2, dim2=-1).clamp(min=0).sqrt()

    def __len__(self) -> int:
        return len(self.values)

    def columns(self) -> list[Column]:
        """Returns each parameter and its ``_error``, ``chi2`` and ``converged``."""
        units = {**_PLACE_UNITS, **self.facts.get("units", {})}
        found = []
        for k, name in enumerate(self.names):
            unit = units.get(name, "")
            found.append(Column(name, self.values[:, k].cpu().numpy(), unit))
            error = self.errors[:, k].cpu().numpy()
            found.append(Column(f"{name}_error", error, unit, f"error of {name}"))
        return [
            *found,
            Column("chi2", self.chi2.cpu().numpy(), "", "1 for a smooth lens of the survey"),
            Column("converged", self.converged.cpu().numpy(), "", "if not, numbers mean little"),
        ]

    def provenance(self) -> dict[str, Any]:
        """Returns survey, noise, pixel scale and code version."""
        known = {name: self.facts.get(name) for name in ("survey", "noise", "pixel_scale")}
        return {**known, "code_version": code_version()}

    def summary(self) -> str:
        """Returns how many fits there are and how good, in one line."""
        of = f" by lenses of {self.facts['survey']}" if "survey" in self.facts else ""
        middle = float(np.median(self.chi2.cpu())) if len(self) else float("nan")
        return (
            f"{len(self)} images{of}: {int(self.converged.sum())} converged, median χ² {middle:.3f}"
        )

    def plot(self, n: int = 3) -> "Figure":
        """Draws the first images, their best smooth lens, and what it leaves unexplained.

        Args:
            n: How many at most.

        Raises:
            InputError: n is below 1.
        """
        from haloformer.fitting.figures import draw_fits
        from haloformer.reporting.images import shown

        n = shown(n)
        images = (self.model + self.residual * self.sigma)[:n, 0].cpu().numpy()
        fits = [(f"image {k}", image, self.one(k)) for k, image in enumerate(images)]
        return draw_fits(fits, self.facts.get("pixel_scale", 1.0))

    def picture(self) -> "Figure | None":
        """Returns the figure of the first images; None without images."""
        return self.plot() if len(self) else None

    def one(self, k: int) -> "SmoothFit":
        """Returns the fit of image k alone, on the CPU.

        Args:
            k: Its number, from 0.
        """
        cut: dict[str, Any] = {
            name: value[k : k + 1].cpu()
            for name, value in vars(self).items()
            if isinstance(value, Tensor)
        }
        return replace(self, **cut)
