"""The detail of a residual: what is left of it when small changes of the lens as a whole are fitted, too."""

import torch
from torch import Tensor

from haloformer.fitting.linear import fitted_amounts
from haloformer.fitting.model import SmoothModel

MACRO_CHANGES = ("mass at the centre", "Einstein radius", "shear", "quadrupole of the mass inside")
"""What is fitted to the residual for its detail: all that substructure does to the lens as a whole, and not at a place. The last two have
two components each. Linear, after the fit, so that it costs no steps."""


def residual_detail(
    model: SmoothModel, u: Tensor, residual: Tensor, known: Tensor, seconds: Tensor
) -> Tensor:
    """Returns the residual without what small changes of the lens as a whole, and of all that is fitted, can explain of it.

    A further deflection δα moves the point of the source that a pixel sees by −δα, as if the source moved by δα: the image changes by
    ∂I/∂x_s δα_x + ∂I/∂y_s δα_y. Each change of the lens is a field δα; its amount follows by linear least squares.

    Args:
        model: The model that was fitted.
        u: (B, P) where the fit ended.
        residual: (B, H, W) in standard deviations.
        known: (B, H, W) which pixels count.
        seconds: (B,) of one exposure.

    Returns:
        (B, H, W).
    """
    problem = model.problem
    found = model.derivatives(u, seconds, by_position=True)
    by_x, by_y = found.by_position
    values, _ = problem.physical(u)
    # Coordinates of the pixels from the lens's centre: (B or 1, 1, W) and (B or 1, H, 1)
    along_x, along_y = model.axes(values)
    x = along_x[:, None, :] - problem.value(values, "lens_x")
    y = along_y[:, :, None] - problem.value(values, "lens_y")
    fields = macro_fields(x, y, problem.survey.instrument.pixel_scale)
    macro = [by_x * towards_x + by_y * towards_y for towards_x, towards_y in fields]
    inverse_sigma = known / found.moments.variance.sqrt()
    patterns = torch.stack([*found.by_parameter, *macro], 1) * inverse_sigma[:, None]
    patterns, left = patterns.flatten(2).double(), residual.flatten(1).double()
    amounts = fitted_amounts(patterns, left)
    return (left - (amounts[:, None] @ patterns)[:, 0]).float().reshape(residual.shape)


def macro_fields(x: Tensor, y: Tensor, pixel_scale: float) -> list[tuple[Tensor, Tensor]]:
    """Deflections by :data:`MACRO_CHANGES`, of any size: the gradients of ln r, r, (x² − y²)/2, xy, (x² − y²)/r⁴ and xy/r⁴.

    Args:
        x: (B, 1, W) arcsec from the lens's centre.
        y: (B, H, 1) the same.
        pixel_scale: Twice as much softens the centre, where no arc is.
    """
    square = x * x + y * y + (2 * pixel_scale) ** 2
    r = square.sqrt()
    difference, product, fourth, sixth = x * x - y * y, x * y, square**2, square**3
    return [
        (x / square, y / square),
        (x / r, y / r),
        (x, -y),
        (y, x),
        (2 * x / fourth - 4 * x * difference / sixth, -2 * y / fourth - 4 * y * difference / sixth),
        (y / fourth - 4 * x * product / sixth, x / fourth - 4 * y * product / sixth),
    ]
