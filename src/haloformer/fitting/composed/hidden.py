"""The noise of light that was subtracted: its photons are still in an image's noise, and nobody sees them."""

import torch
from torch import Tensor

from haloformer.fitting.composed.method import Finished, FitImages
from haloformer.fitting.composed.names import E1, E2, THETA_E, X, Y
from haloformer.fitting.composed.problem import ComposedProblem
from haloformer.simulation.components.epl import axes_of
from haloformer.simulation.distributions import Quantity, least_of
from haloformer.simulation.sources import sersic_b

_FAINT = 0.15  # of the arcs' peak
_FACTORS = (0.2, 4.0)  # between which the light is


def hidden_variance(problem: ComposedProblem, u: Tensor, images: FitImages) -> Tensor:
    """Returns the variance (B, N, N) float32 of the photons of the lens galaxy's light, in (counts/s)².

    A Sérsic profile of the survey's middle size and index, as elliptical and at the same place as the lens's mass, whose brightness at the
    Einstein radius is the survey's middle part of the arcs' peak.

    Args:
        problem: Of a survey whose lens light was subtracted.
        u: (B, 22) the lenses.
        images: What is fitted; their brightest pixels stand for the arcs'.
    """
    light = problem.subtracted
    assert light is not None  # by the caller
    size, index, contrast = (_middle(each) for each in (light.R, light.n_sersic, light.contrast))
    axis = torch.as_tensor(images.camera.quick.axis, device=u.device)  # middles of the pixels
    values = [u[:, k, None, None] for k in (E1, E2, X, Y)]
    c, cos, sin = axes_of(values[0], values[1])
    dx, dy = axis[None, None, :] - values[2], axis[None, :, None] - values[3]
    q = ((1 - c) / (1 + c)).clamp(min=0.3)
    along, across = (cos * dx + sin * dy) * q.sqrt(), (cos * dy - sin * dx) / q.sqrt()
    theta_E = u[:, THETA_E].clamp(-5, 3).exp()[:, None, None]
    radius = (torch.hypot(along, across) / theta_E).clamp(min=0.1)
    b = sersic_b(index)
    profile = torch.exp(-b * ((radius / size) ** (1 / index) - (1 / size) ** (1 / index)))
    bright = (images.data * images.known).flatten(1)
    peak = bright.topk(5, dim=1).values.mean(1).clamp(min=0)
    seconds = images.seconds.clamp(min=1e-6)
    variance = contrast * (peak / seconds)[:, None, None] * profile
    return variance.to(torch.float32)


def rescaled(extra: Tensor, images: FitImages, found: Finished) -> Tensor:
    """Returns a variance (B, N, N) as high as an image's scatter says, where there is little light of the arcs.

    Args:
        extra: (B, N, N) what :func:`hidden_variance` returned.
        images: What was fitted, with it as their further variance.
        found: What the fit has found.
    """
    scatter = found.residual.square() * found.variance
    rest = found.variance - extra
    peak = found.mean.flatten(1).amax(1)[:, None, None]
    weight = images.known * (found.mean < _FAINT * peak) * extra / found.variance.square()
    factor = (weight * (scatter - rest)).sum((1, 2)) / (weight * extra).sum((1, 2)).clamp(min=1e-30)
    return extra * torch.nan_to_num(factor, nan=1.0).clamp(*_FACTORS)[:, None, None]


def _middle(quantity: Quantity) -> float:
    if isinstance(quantity, float | int):
        return float(quantity)
    if hasattr(quantity, "mean"):
        return float(quantity.mean)
    if hasattr(quantity, "median"):
        return float(quantity.median)
    return (least_of(quantity) - least_of(quantity, -1)) / 2
