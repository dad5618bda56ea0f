"""How far the lens of an image is from where its survey has it on the pixels, told by what the fit leaves."""

import torch
from torch import Tensor

from haloformer.fitting.linear import fitted_amounts
from haloformer.fitting.model import SmoothModel
from haloformer.fitting.problem import PLACE


def offsets(
    model: SmoothModel, u: Tensor, residual: Tensor, known: Tensor, seconds: Tensor
) -> Tensor:
    """Estimates how far an image's lens is from where it was fitted.

    One linear least-squares step from where the fit ended, with all that was fitted free, too. Good to a few hundredths of a pixel for
    smooth lenses up to a pixel or so. Substructure moves and widens the ring itself, by a quarter of a pixel and by a few percent in the
    faithful surveys: what is usual for a class must be compared with that class.

    Args:
        model: As for :func:`~haloformer.fitting.detail.residual_detail`, like all others.
        u: See there.
        residual: See there.
        known: See there.
        seconds: See there.

    Returns:
        (B, 3) float64, in the order of :data:`~haloformer.fitting.problem.PLACE`: pixels, and the relative excess of the scale.
    """
    found, names = model.derivatives(u, seconds, by_place=True), model.problem.names
    others = [part for name, part in zip(names, found.by_parameter) if name not in PLACE]
    patterns = torch.stack([*others, *found.by_place], 1)
    patterns = patterns * (known / found.moments.variance.sqrt())[:, None]
    amounts = fitted_amounts(patterns.flatten(2), residual.flatten(1))
    return amounts[:, len(others) :].clamp(-1e3, 1e3)
