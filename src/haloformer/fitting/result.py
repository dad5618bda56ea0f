"""What a fit returns."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class SmoothFit:
    """The best smooth lens of each of B images.

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

    @property
    def errors(self) -> Tensor:
        """(B, P) standard errors of the values."""
        return self.covariance.diagonal(dim1=-2, dim2=-1).clamp(min=0).sqrt()
