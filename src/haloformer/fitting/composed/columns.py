"""Surface brightness of a smooth lens and its derivatives by tensors; see :mod:`.kernel` for the equations."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from haloformer.fitting.composed.names import (
    A1C,
    E1,
    E2,
    FLUX,
    GAMMA,
    LEAST_ELLIPTICITY,
    LOGARITHMIC,
    NAMES,
    SHEAR1,
    SHEAR2,
    SOURCE_E1,
    SOURCE_E2,
    SOURCE_N,
    SOURCE_R,
    SOURCE_X,
    SOURCE_Y,
    THETA_E,
    X,
    Y,
)
from haloformer.simulation.components.epl import TERMS
from haloformer.simulation.components.multipoles import ORDERS
from haloformer.simulation.sources import SERSIC_R_MIN, sersic_b

_LEAST_SQUARE = 1e-12  # arcsec²
_SERSIC_B = sersic_b(1.0) - sersic_b(0.0)  # db/dn

Pair = tuple[Tensor, Tensor]
"""Two components of a vector field, (B, M, M) each: along x and y, or polar, away from the lens's centre and around it."""


def physical(u: Tensor) -> Tensor:
    """Returns values (B, 22) of what is fitted (B, 22)."""
    logs = torch.tensor([name in LOGARITHMIC for name in NAMES], device=u.device)
    return torch.where(logs, torch.where(logs, u, 0.0).exp(), u)


def sharp_columns(values: Tensor, wanted: list[int], axis: Tensor) -> Tensor:
    """Returns surface brightness at the rays and its derivatives, (B, 1 + len(wanted), M, M) float32.

    Args:
        values: (B, 22) float64 in the order of ``NAMES``.
        wanted: Numbers of the parameters; see :func:`~haloformer.fitting.composed.kernel.sharp_columns`.
        axis: (M,) float64 positions of the rays in arcsec.
    """
    f = torch.float32
    p = [values[:, k, None, None] for k in range(len(NAMES))]
    lens = _Lens.of(p, axis)
    rx, ry = lens.unit
    ar, ap = lens.alpha
    x, y = axis.to(f)[None, None, :], axis.to(f)[None, :, None]
    g1, g2 = p[SHEAR1].to(f), p[SHEAR2].to(f)
    beta_x = x - (ar * rx - ap * ry) - g1 * x - g2 * y - p[SOURCE_X].to(f)
    beta_y = y - (ar * ry + ap * rx) - g2 * x + g1 * y - p[SOURCE_Y].to(f)
    found, (gx, gy) = _source(beta_x, beta_y, p)
    found |= {SOURCE_X: -gx, SOURCE_Y: -gy, SHEAR1: gy * y - gx * x, SHEAR2: -gx * y - gy * x}
    gr, gp = gx * rx + gy * ry, gy * rx - gx * ry
    for k in wanted:
        if k in lens.changes:
            change = lens.changes[k]
            found[k] = -(gr * change[0] + gp * change[1])
    return torch.stack([found[FLUX], *(found[k] for k in wanted)], 1)


@dataclass(frozen=True)
class _Lens:
    """The deflection about a lens's centre, without shear.

    Attributes:
        unit: Direction from the centre, along x and y.
        alpha: Deflection, polar.
        changes: Its derivatives by the lens's parameters, polar; by ln θ_E.
    """

    unit: Pair
    alpha: Pair
    changes: dict[int, Pair]

    @classmethod
    def of(cls, p: list[Tensor], axis: Tensor) -> "_Lens":
        """Returns the deflection at rays; ``p`` are values (B, 1, 1)."""
        f = torch.float32
        dx, dy = (axis[None, None, :] - p[X]).to(f), (axis[None, :, None] - p[Y]).to(f)
        dx, dy = torch.broadcast_tensors(dx, dy)
        r = torch.sqrt((dx * dx + dy * dy).clamp(min=_LEAST_SQUARE))
        unit = dx / r, dy / r
        law = _PowerLaw.of(p, dx, dy, r, unit)
        more = _Multipoles.of(p, r, unit)
        t = (p[GAMMA] - 1).to(f)
        hrr = (1 - t) * law.alpha[0] / r
        hpp = law.twice_kappa - hrr + more.jacobian[2]
        hrr, hrp = hrr + more.jacobian[0], (1 - t) * law.alpha[1] / r + more.jacobian[1]
        rx, ry = unit
        c, h1, h2 = (each.to(f) for each in _ellipse(p[E1], p[E2]))
        by_unit, around = 1 / (1 - c * c), 1 / (2 * c)
        by_c = [law.by_shape[k] + by_unit * more.alpha[k] for k in range(2)]
        turned = (
            -(2 - t) * law.alpha[1],
            (2 - t) * law.alpha[0] - law.twice_kappa * r,
        )
        changes = {
            THETA_E: _pair(lambda k: t * law.alpha[k] + more.alpha[k] - more.order_1[k]),
            GAMMA: law.by_slope,
            E1: _pair(lambda k: h1 * by_c[k] - h2 * around * turned[k]),
            E2: _pair(lambda k: h2 * by_c[k] + h1 * around * turned[k]),
            X: (hrp * ry - hrr * rx, hpp * ry - hrp * rx),
            Y: (-hrr * ry - hrp * rx, -hrp * ry - hpp * rx),
            **{A1C + k: field for k, field in enumerate(more.fields)},
        }
        return cls(unit, _pair(lambda k: law.alpha[k] + more.alpha[k]), changes)


def _pair(component: Callable[[int], Tensor]) -> Pair:
    return component(0), component(1)


def _ellipse(e1: Tensor, e2: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the size of an ellipticity, which is not 0, and its direction."""
    size = torch.sqrt(e1**2 + e2**2)
    some = size > 1e-12
    safe = torch.where(some, size, 1.0)
    h1, h2 = torch.where(some, e1 / safe, 1.0), torch.where(some, e2 / safe, 0.0)
    return size.clamp(min=LEAST_ELLIPTICITY), h1, h2


@dataclass(frozen=True)
class _PowerLaw:
    """Deflection by a power law, polar.

    Attributes:
        alpha: It.
        twice_kappa: 2κ.
        by_shape: Its derivative by the size c of the ellipticity.
        by_slope: By γ.
    """

    alpha: Pair
    twice_kappa: Tensor
    by_shape: Pair
    by_slope: Pair

    @classmethod
    def of(cls, p: list[Tensor], dx: Tensor, dy: Tensor, r: Tensor, unit: Pair) -> "_PowerLaw":
        """Returns the deflection at positions from the centre, ``r`` away along ``unit``."""
        f = dx.dtype
        c64, h1, h2 = _ellipse(p[E1], p[E2])
        larger = torch.sqrt((1 + h1.abs()) / 2)
        smaller = h2 / (2 * larger)
        cos = torch.where(h1 >= 0, larger, smaller).to(f)
        sin = torch.where(h1 >= 0, smaller, larger).to(f)
        c, t = c64.to(f), (p[GAMMA] - 1).to(f)
        q = (1 - c) / (1 + c)
        b = p[THETA_E].to(f) * torch.sqrt(q)
        u, v = q * (cos * dx + sin * dy), cos * dy - sin * dx
        R = torch.sqrt((u * u + v * v).clamp(min=_LEAST_SQUARE))
        cu, su = u / R, v / R
        rx, ry = unit
        cr, sr = cos * rx + sin * ry, cos * ry - sin * rx
        log_ratio = torch.log(b / R)
        scale = (1 + c) * b * torch.exp((t - 1) * log_ratio)

        def polar(x: Tensor, y: Tensor) -> Pair:
            return cr * x + sr * y, cr * y - sr * x

        sums = _series(p[GAMMA] - 1, c64, cu, su)
        alpha, by_c, by_t = (polar(scale * x, scale * y) for x, y in sums)
        twice_kappa = (2 - t) * torch.exp(t * log_ratio)
        hrr, hrp = (1 - t) * alpha[0] / r, (1 - t) * alpha[1] / r
        ratio = -2 / (1 - c * c)  # d ln q / dc
        # By the elliptical angle: H (−R sin φ / q, R cos φ)
        wr, wp = polar(-r * sr / q, r * cr * q)
        change = -ratio * su * cu
        log_size = 1 / (1 + c) + ratio * (0.5 * t + (1 - t) * cu * cu)
        along = log_size * alpha[0] + by_c[0] + change * (hrr * wr + hrp * wp)
        around = log_size * alpha[1] + by_c[1] + change * (hrp * wr + (twice_kappa - hrr) * wp)
        by_slope = log_ratio * alpha[0] + by_t[0], log_ratio * alpha[1] + by_t[1]
        return cls(alpha, twice_kappa, (along, around), by_slope)


def _series(t: Tensor, c: Tensor, cu: Tensor, su: Tensor) -> list[Pair]:
    """Returns Σ a_n cⁿ e^(i (2n+1) φ) and its derivatives by c and t, real and imaginary parts; cos φ and sin φ are given."""
    c2, s2 = cu * cu - su * su, 2 * cu * su
    a, da, power, before = torch.ones_like(t), torch.zeros_like(t), torch.ones_like(c), c * 0
    turn_u, turn_v = cu, su
    found: list[Pair] = []
    for n in range(TERMS[torch.float32]):
        if n:
            low, high = 2 * n - (2 - t), 2 * n + (2 - t)
            k, dk = -low / high, -(low + high) / high**2
            a, da = a * k, da * k + a * dk
            before, power = n * power, power * c
            turn_u, turn_v = turn_u * c2 - turn_v * s2, turn_u * s2 + turn_v * c2
        weights = [each.to(cu.dtype) for each in (a * power, a * before, da * power)]
        terms = [(w * turn_u, w * turn_v) for w in weights]
        found = [(x + u, y + v) for (x, y), (u, v) in zip(found, terms)] if n else terms
    return found


@dataclass(frozen=True)
class _Multipoles:
    """Deflection by multipoles, polar.

    Attributes:
        alpha: It.
        fields: By the strength of each.
        order_1: What of order 1 does not grow with θ_E, as its logarithm falls.
        jacobian: H_rr, H_rφ and H_φφ.
    """

    alpha: Pair
    fields: list[Pair]
    order_1: Pair
    jacobian: tuple[Tensor, Tensor, Tensor]

    @classmethod
    def of(cls, p: list[Tensor], r: Tensor, unit: Pair) -> "_Multipoles":
        """Returns the deflection ``r`` away from the centre along ``unit``."""
        f = r.dtype
        c, _, _ = _ellipse(p[E1], p[E2])
        size = (p[THETA_E] * torch.sqrt((1 + c) / (1 - c))).to(f)
        log = torch.log(r / p[THETA_E].to(f))
        angle = 0.5 * torch.atan2(p[E2], p[E1])
        cos, sin = angle.cos().to(f), angle.sin().to(f)
        cu, su = cos * unit[0] + sin * unit[1], cos * unit[1] - sin * unit[0]
        cm, sm, reached = torch.ones_like(cu), torch.zeros_like(cu), 0
        fields: list[Pair] = []
        along: list[Tensor] = []
        for m in ORDERS:
            for _ in range(m - reached):
                cm, sm = cm * cu - sm * su, sm * cu + cm * su
            reached = m
            if m == 1:
                fields += [(0.5 * cm * (log + 1), -0.5 * log * sm)]
                fields += [(0.5 * sm * (log + 1), 0.5 * log * cm)]
                around = -sm, cm
            else:
                fields += [(cm / (1 - m**2), -m * sm / (1 - m**2))]
                fields += [(sm / (1 - m**2), m * cm / (1 - m**2))]
            along += [cm, sm]
        strength = [p[A1C + k].to(f) for k in range(len(fields))]
        alpha = _pair(lambda k: size * _total([s * each[k] for s, each in zip(strength, fields)]))
        parts = [size * s * each for s, each in zip(strength, along)]
        first, others = parts[0] + parts[1], _total(parts[2:])
        across = size * (strength[0] * around[0] + strength[1] * around[1])
        jacobian = 0.5 * first / r, 0.5 * across / r, (0.5 * first + others) / r
        scaled = [(size * x, size * y) for x, y in fields]
        return cls(alpha, scaled, (0.5 * first, 0.5 * across), jacobian)


def _total(parts: list[Tensor]) -> Tensor:
    return torch.stack(parts).sum(0)


def _source(x: Tensor, y: Tensor, p: list[Tensor]) -> tuple[dict[int, Tensor], Pair]:
    """Returns a Sérsic profile at positions (B, M, M) from its centre, its derivatives by its parameters, and its gradient."""
    f = x.dtype
    e1, e2, R, n = p[SOURCE_E1], p[SOURCE_E2], p[SOURCE_R], p[SOURCE_N]
    norm2 = 1 - e1**2 - e2**2
    norm = norm2.rsqrt()
    a, b, c = ((1 - e1) * norm).to(f), (-e2 * norm).to(f), ((1 + e1) * norm).to(f)
    u, v = a * x + b * y, b * x + c * y
    square = u * u + v * v
    least = SERSIC_R_MIN**2
    slope = sersic_b(n)
    log_flux = math.log(2 * math.pi) + n.log() + 2 * R.log() + slope - 2 * n * slope.log()
    log_factorial, digamma = log_gamma(2 * n)
    bright = (p[FLUX] * torch.exp(-log_flux - log_factorial)).to(f)
    clipped = square.clamp(min=least)
    log = 0.5 * torch.log(clipped / (R**2).to(f)) / n.to(f)
    g = log.exp()
    light = bright * torch.exp(slope.to(f) * (1 - g))
    steep = torch.where(square > least, -(slope / n).to(f) * light * g / clipped, 0.0)
    half1 = (v * y - u * x) * norm.to(f) + (e1 / norm2).to(f) * square
    half2 = -(u * y + v * x) * norm.to(f) + (e2 / norm2).to(f) * square
    by_n = 1 / n + _SERSIC_B - 2 * slope.log() - 2 * n * _SERSIC_B / slope + 2 * digamma
    found = {
        FLUX: light,
        SOURCE_R: light * ((slope / n).to(f) * g - 2),
        SOURCE_N: light
        * (slope.to(f) * g * log - (n * by_n).to(f) - (n * _SERSIC_B).to(f) * (g - 1)),
        SOURCE_E1: steep * half1,
        SOURCE_E2: steep * half2,
    }
    return found, (steep * (a * u + b * v), steep * (b * u + c * v))


def log_gamma(x: Tensor) -> tuple[Tensor, Tensor]:
    """Returns ln Γ(x) and its derivative for x > 0.5, by Stirling's series beyond 6, the same on every device."""
    shift_log, shift = torch.zeros_like(x), torch.zeros_like(x)
    for k in range(6):
        shift_log, shift = shift_log + torch.log(x + k), shift + 1 / (x + k)
    z = x + 6
    inverse = 1 / (z * z)
    log = (z - 0.5) * z.log() - z + 0.5 * math.log(2 * math.pi)
    log = log + (1 / 12 - inverse * (1 / 360 - inverse / 1260)) / z
    slope = z.log() - 0.5 / z - inverse * (1 / 12 - inverse * (1 / 120 - inverse / 252))
    return log - shift_log, slope - shift
