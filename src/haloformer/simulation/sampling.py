"""Images of galaxies, looked up where light rays hit them: between pixels, and without light outside."""

import torch
import torch.nn.functional as F
from torch import Tensor

_POLE = (
    3**0.5 - 2
)  # of the cubic B-spline's inverse filter: c_i = Σ_k √3 z^|k| f_(i+k) (Unser 1999, box 2)
_REACH = {torch.float32: 14, torch.float64: 28}  # where |z|^k is below the rounding
_MARGIN = 4  # pixels without light about an image, so that its spline ends at 0


def sample_bilinear(images: Tensor, x: Tensor, y: Tensor, scale: Tensor) -> Tensor:
    """Returns images at positions, linear between the centres of pixels, as lenstronomy's ``INTERPOL``.

    Args:
        images: (B, N, M), centred on the origin.
        x: (B or 1, H, W) along the rows, in arcsec, as ``y``.
        y: See ``x``.
        scale: (B,) arcsec per pixel.

    Returns:
        (B, H, W), 0 outside of the images.
    """
    height, width = images.shape[-2:]
    arcsec = scale[:, None, None]
    u, v = 2 * x / (arcsec * width), 2 * y / (arcsec * height)
    places = torch.stack([u, v], dim=-1).to(images.dtype)
    found = F.grid_sample(images[:, None], places, mode="bilinear", align_corners=False)
    return found[:, 0]


def sample_cubic(coefficients: Tensor, x: Tensor, y: Tensor, scale: Tensor) -> Tensor:
    """Returns images at positions by cubic B-splines, which have slopes and curvatures everywhere.

    Args:
        coefficients: (B, N + 8, M + 8), from :func:`spline_coefficients`.
        x: As in :func:`sample_bilinear`.
        y: See ``x``.
        scale: (B,) arcsec per pixel.

    Returns:
        (B, H, W), 0 outside of the images.
    """
    height, width = coefficients.shape[-2:]
    arcsec = scale[:, None, None]
    column, across = _between(x / arcsec + (width - 1) / 2, coefficients.dtype)
    row, down = _between(y / arcsec + (height - 1) / 2, coefficients.dtype)
    inside = (column >= 1) & (column < width - 2) & (row >= 1) & (row < height - 2)
    first = (row - 1).clamp(0, height - 4) * width + (column - 1).clamp(0, width - 4)
    flat, shape = coefficients.flatten(1), first.shape
    total = torch.zeros(shape, dtype=coefficients.dtype, device=coefficients.device)
    for j, weight in enumerate(_cubic_weights(down)):
        for i, other in enumerate(_cubic_weights(across)):
            values = flat.gather(1, (first + j * width + i).flatten(1)).reshape(shape)
            total = total + weight * other * values
    return torch.where(inside, total, 0.0)


def spline_coefficients(images: Tensor) -> Tensor:
    """Returns the coefficients of the cubic B-splines that run through images' pixels, and through 0 about them.

    Args:
        images: (B, N, M).

    Returns:
        (B, N + 8, M + 8): four pixels more on each side.
    """
    reach = _REACH[images.dtype]
    padded = F.pad(images, (_MARGIN,) * 4)
    for dim in (-1, -2):
        along = padded.transpose(dim, -1)
        size = along.shape[-1]
        wide = F.pad(along, (reach, reach))
        # Sums of shifted images rather than a convolution, whose rounding may depend on the batch size.
        filtered = 3**0.5 * along
        for k in range(1, reach + 1):
            both = wide[..., reach - k : reach - k + size] + wide[..., reach + k : reach + k + size]
            filtered = filtered + 3**0.5 * _POLE**k * both
        padded = filtered.transpose(dim, -1)
    return padded.contiguous()


def _between(position: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Returns the pixels before positions, and how far behind these they lie, from 0 to 1."""
    whole = torch.floor(position)
    return whole.long(), (position - whole).to(dtype)


def _cubic_weights(t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns the four cubic B-splines that are not 0 at ``t`` behind the second of their centres."""
    s = 1 - t
    return (
        s**3 / 6,
        2 / 3 - t**2 * (2 - t) / 2,
        2 / 3 - s**2 * (2 - s) / 2,
        t**3 / 6,
    )
