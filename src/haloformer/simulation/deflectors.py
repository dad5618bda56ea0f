"""Reduced deflection angles α(θ) of lenses, as pure functions of tensors; the source lies at β = θ − α(θ).

:class:`SIEShear` is the named, recombinable part of a survey built on them.

All arguments broadcast together; positions, angles and deflections are in arcsec. Every function is differentiable in every
floating-point argument.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from haloformer.simulation.distributions import Quantity, check_not_negative, check_shear
from haloformer.validation import checked

SIE_CORE = 1e-10  # arcsec; lenstronomy's core of the singular isothermal ellipsoid
_ASIDE = 1e-12  # arcsec; a pixel exactly on top of a point mass is seen from this far: deflected far away, not by 0/0
AXIS_RATIO_MAX = (
    1 - 1e-6
)  # the closed form is 0/0 for a circle; the error made here is ~1e-6 of the ellipticity's effect


def sie_deflection(
    x: Tensor, y: Tensor, theta_E: Tensor, e1: Tensor, e2: Tensor, x0: Tensor, y0: Tensor
) -> tuple[Tensor, Tensor]:
    """Singular isothermal ellipsoid (Kormann, Schneider & Bartelmann 1994; core as in Keeton 2001, eq. 33–34).

    Args:
        x: Image-plane positions, as ``y``.
        y: See ``x``.
        theta_E: Einstein radius, of the circularised mass: the deflection scales with √q theta_E in the lens's own axes.
        e1: Ellipticity (1−q)/(1+q) cos 2φ.
        e2: Ellipticity (1−q)/(1+q) sin 2φ.
        x0: Centre of the lens.
        y0: See ``x0``.

    Returns:
        (α_x, α_y).
    """
    # The square root's slope at zero is infinite: keep gradients finite for a round lens.
    c = torch.sqrt(torch.clamp(e1**2 + e2**2, min=1e-20)).clamp(max=0.9999)
    q = torch.clamp((1 - c) / (1 + c), max=AXIS_RATIO_MAX)
    phi = 0.5 * torch.atan2(e2, torch.where((e1 == 0) & (e2 == 0), torch.ones_like(e1), e1))
    cos, sin = torch.cos(phi), torch.sin(phi)
    dx, dy = x - x0, y - y0
    u, v = cos * dx + sin * dy, -sin * dx + cos * dy
    s = SIE_CORE / torch.sqrt(q)
    f = torch.sqrt(1 - q**2)
    psi = torch.sqrt(q**2 * (s**2 + u**2) + v**2)
    amplitude = theta_E * torch.sqrt(q) / f
    alpha_u = amplitude * torch.atan(f * u / (psi + s))
    alpha_v = amplitude * torch.atanh(f * v / (psi + q**2 * s))
    return cos * alpha_u - sin * alpha_v, sin * alpha_u + cos * alpha_v


def shear_deflection(x: Tensor, y: Tensor, gamma1: Tensor, gamma2: Tensor) -> tuple[Tensor, Tensor]:
    """External shear about the origin of coordinates: (γ1 x + γ2 y, γ2 x − γ1 y)."""
    return gamma1 * x + gamma2 * y, gamma2 * x - gamma1 * y


def point_mass_deflection(
    x: Tensor, y: Tensor, theta_E: Tensor, x0: Tensor, y0: Tensor
) -> tuple[Tensor, Tensor]:
    """Sum over point masses, α = Σ θ_E² Δ/|Δ|².

    Args:
        x: Pixel positions, (W,) along the columns.
        y: Pixel positions, (H,) along the rows.
        theta_E: Einstein radii, (B, n); zero for a mass that is not there. Its type is the result's: beside a mass float32 is accurate
            if the positions come in float64, since only their differences are rounded.
        x0: Positions of the masses, (B, n).
        y0: See ``x0``.

    Returns:
        (α_x, α_y), each (B, H, W).
    """
    # The grid is a product of two axes, so differences are taken on the axes: two of the seven operations per mass and pixel.
    dx = (x[None, :] - x0[..., None] + _ASIDE).to(theta_E.dtype)[:, :, None, :]  # (B, n, 1, W)
    dy = (y[None, :] - y0[..., None]).to(theta_E.dtype)[:, :, :, None]  # (B, n, H, 1)
    weight = (theta_E**2)[..., None, None] / (dx**2 + dy**2)
    return (weight * dx).sum(1), (weight * dy).sum(1)


def vortex_deflection(
    x: Tensor,
    y: Tensor,
    theta_E: Tensor,
    x0: Tensor,
    y0: Tensor,
    angle: Tensor,
    half_length: Tensor,
    n_masses: int,
) -> tuple[Tensor, Tensor]:
    """A vortex line: equal point masses evenly spaced on a straight line, ends included, in closed form.

    In complex notation z = x + iy, the conjugate deflection is θ_E² Σ_k 1/(z − z_k). On a regular line this is a difference of
    two digamma functions, ψ(u + n) − ψ(u), u being the position along the line counted in spacings from the last mass; so the
    cost does not depend on the number of masses.

    Args:
        x: Image-plane positions, as ``y``.
        y: See ``x``.
        theta_E: Einstein radius of *each* mass. Its type is the result's; positions in float64 keep float32 accurate beside a mass.
        x0: Centre of the line.
        y0: See ``x0``.
        angle: Angle of the line to the x axis, in radian.
        half_length: Half the length of the line, λ.
        n_masses: Number of masses, at least 2.

    Returns:
        (α_x, α_y).
    """
    spacing = 2 * half_length / (n_masses - 1)
    cos, sin = torch.cos(angle), torch.sin(angle)
    dx, dy = x - x0, y - y0
    along, across = (cos * dx + sin * dy) / spacing, (cos * dy - sin * dx) / spacing
    along = along + _ASIDE
    dtype = theta_E.dtype
    if n_masses < 2 * _SHIFT:  # too short for the series below, and quick to sum
        steps = torch.arange(n_masses, dtype=along.dtype, device=along.device) - 0.5 * (
            n_masses - 1
        )
        ta, tb = (along[..., None] - steps).to(dtype), across[..., None].to(dtype)
        norm = ta**2 + tb**2
        real, imag = (ta / norm).sum(-1), -(tb / norm).sum(-1)
    else:
        # The sum is odd and Hermitian in z, so one quadrant serves.
        sign_a, sign_b = torch.where(along < 0, -1.0, 1.0), torch.where(across < 0, -1.0, 1.0)
        a, b = along * sign_a - 0.5 * (n_masses - 1), across * sign_b
        real, imag = _digamma_difference(a, b, n_masses, dtype)
        real, imag = sign_a * real, sign_b * imag
    # conj(α) = θ_E² e^{-i angle} F / spacing
    scale, cos, sin = theta_E**2 / spacing.to(dtype), cos.to(dtype), sin.to(dtype)
    return scale * (cos * real + sin * imag), scale * (sin * real - cos * imag)


def _digamma_difference(a: Tensor, b: Tensor, n: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """ψ(u + n) − ψ(u) for u = a + ib with a ≥ −(n−1)/2 and b ≥ 0, as (real, imaginary) parts of type ``dtype``."""
    # Only the distance to the nearest mass needs the full precision of the positions.
    to_nearest = (a - torch.round(a.detach())).to(dtype)
    a, b = a.to(dtype), b.to(dtype)
    # Left of 1/2 the poles lie: there use the reflection ψ(u) = ψ(1 − u) − π cot(πu).
    left = a < 0.5
    va, vb = torch.where(left, 1 - a, a), torch.where(left, -b, b)
    far = _digamma_asymptotic(a + n, b)
    near = _digamma_asymptotic(va + _SHIFT, vb)
    steps = torch.arange(_SHIFT, dtype=a.dtype, device=a.device)
    ta, tb = va[..., None] + steps, vb[..., None]
    norm = ta**2 + tb**2
    real = far[0] - near[0] + (ta / norm).sum(-1)
    imag = far[1] - near[1] - (tb / norm).sum(-1)
    cot = _pi_cot_pi(to_nearest, b)
    return real + torch.where(left, cot[0], 0.0), imag + torch.where(left, cot[1], 0.0)


_SHIFT = 6  # with |v| ≥ 6.5 the series below is good to 1e-11


def _digamma_asymptotic(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """ψ(v) ≈ ln v − 1/(2v) − Σ B_2k / (2k v^2k), v = a + ib (Abramowitz & Stegun 6.3.18), for large |v| and a > 0."""
    norm = a**2 + b**2
    ra, rb = a / norm, -b / norm  # 1/v
    wa, wb = ra**2 - rb**2, 2 * ra * rb  # 1/v²
    pa, pb = torch.zeros_like(a), torch.zeros_like(b)
    for coefficient in (-1 / 132, 1 / 240, -1 / 252, 1 / 120, -1 / 12):
        pa, pb = (pa + coefficient) * wa - pb * wb, (pa + coefficient) * wb + pb * wa
    return 0.5 * torch.log(norm) - 0.5 * ra + pa, torch.atan2(b, a) - 0.5 * rb + pb


def _pi_cot_pi(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """π cot(π(a + ib)) for |a| ≤ ½ and b ≥ 0, in the form that loses nothing near the pole."""
    limit = (
        3.0 if a.dtype == torch.float32 else 6.0
    )  # beyond, it equals −iπ to rounding, and sinh² would overflow
    a, b = math.pi * a, math.pi * b.clamp(max=limit)
    sin, sinh = torch.sin(a), torch.sinh(b)
    weight = math.pi / (sin**2 + sinh**2)
    return weight * sin * torch.cos(a), -weight * sinh * torch.cosh(b)


@checked
@dataclass(frozen=True)
class SIEShear:
    """A singular isothermal ellipsoid with external shear about the origin. Each number may be a distribution.

    Attributes:
        mass: Point mass in M_sun whose Einstein radius it has; give this or ``theta_E``.
        theta_E: Einstein radius in arcsec.
        e1: Ellipticity.
        e2: Ellipticity.
        x: Centre in arcsec.
        y: Centre in arcsec.
        gamma1: External shear.
        gamma2: External shear.
    """

    mass: Quantity | None = None
    theta_E: Quantity | None = None
    e1: Quantity = 0.0
    e2: Quantity = 0.0
    x: Quantity = 0.0
    y: Quantity = 0.0
    gamma1: Quantity = 0.0
    gamma2: Quantity = 0.0

    def __post_init__(self) -> None:
        check_not_negative("mass", self.mass)
        check_not_negative("theta_E", self.theta_E)
        check_shear(self.gamma1, self.gamma2)
