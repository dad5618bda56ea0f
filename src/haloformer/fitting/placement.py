"""Where the lens of an image lies on its pixels, and how large those are, if not as its survey has it.

A survey whose lens is fixed has it on a fixed point of the pixel grid, with pixels of a fixed size. The
fit holds both. What the fit leaves of an image tells whether they are wrong: a lens that is moved by
δ leaves −δ · ∇I, and pixels larger by a factor 1 + s leave s · r · ∇I, where I is the fitted image.
"""

import torch
from torch import Tensor

from haloformer.fitting.linear import fitted_amounts
from haloformer.fitting.model import SmoothModel

OFFSETS = ("x", "y", "scale")
"""What `offsets` estimates: pixels to the right, pixels upwards in the order of the rows, and the
relative excess of the pixel scale."""


def offsets(
    model: SmoothModel, u: Tensor, residual: Tensor, known: Tensor, seconds: Tensor
) -> Tensor:
    """Estimates how far an image's lens is from where its survey has it.

    One linear least-squares step from where the fit ended, with all that was fitted free, too. Good to a
    few hundredths of a pixel for smooth lenses up to a pixel or so. Substructure moves and widens the
    ring itself, by a quarter of a pixel and by a few percent in the faithful surveys: what is usual for
    a class must be compared with that class.

    Args:
        model: As for :func:`~haloformer.fitting.detail.residual_detail`, like all others.
        u: See there.
        residual: See there.
        known: See there.
        seconds: See there.

    Returns:
        (B, 3) float64, in the order of :data:`OFFSETS`: pixels, and the relative excess of the scale.
    """
    problem = model.problem
    found = model.derivatives(u, seconds)
    image = found.moments.mean
    by_x, by_y = torch.zeros_like(image), torch.zeros_like(image)
    by_x[:, :, 1:-1] = (image[:, :, 2:] - image[:, :, :-2]) / 2
    by_y[:, 1:-1] = (image[:, 2:] - image[:, :-2]) / 2
    place = problem.axis / problem.survey.instrument.pixel_scale
    by_scale = by_x * place[None, None, :] + by_y * place[None, :, None]
    patterns = torch.stack([*found.by_parameter, -by_x, -by_y, by_scale], 1)
    patterns = patterns * (known / found.moments.variance.sqrt())[:, None]
    amounts = fitted_amounts(patterns.flatten(2), residual.flatten(1))
    return amounts[:, -len(OFFSETS) :].clamp(-1e3, 1e3)
