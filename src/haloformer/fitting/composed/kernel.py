"""The smooth lens of a composed survey and all its derivatives in one pass, and the fit of it, compiled by numba for the CPU.

The deflection of a power law is homogeneous in the position, α(λx) = λ^(2−γ) α(x), and its divergence is 2κ: these two fix the three
numbers of its Jacobian. From that and from one more sum of the angular series for the axis ratio (another one for the slope) follow the
derivatives by centre, Einstein radius, ellipticity and slope, without a second deflection. In polar components (r, φ) about the centre,
with t = γ − 1,

    H_rr = (1 − t) α_r / r,    H_rφ = (1 − t) α_φ / r,    H_φφ = 2κ − H_rr,

and turning the lens changes the deflection by (−(2 − t) α_φ, (2 − t) α_r − 2κ r).

Images are float32, parameters and sums float64. The functions release the GIL; threads are the caller's business.
"""

import math

import numpy as np
from numba import njit

from haloformer.fitting.composed.names import (
    A1C,
    E1,
    E2,
    FLUX,
    GAMMA,
    LEAST_ELLIPTICITY,
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
from haloformer.simulation.components.grid_kernels import log_row
from haloformer.simulation.kernels import FLAGS, exp_row
from haloformer.simulation.sources import SERSIC_R_MIN

TILE = 128  # rays of a row that are computed at a time
TERMS = 32  # of the angular series at most
LEAST_SQUARE = np.float32(1e-12)  # arcsec²
LEAST_BRIGHT = SERSIC_R_MIN**2

# Rows of the scratch space. Its offsets are constants, so that LLVM knows that they do not overlap.
(_DX, _RX, _RY, _IR, _CU, _SU, _W, _POW, _F1, _F2, _G1, _G2, _H1, _H2, _AR, _AP, _SCR, _SCP, _STR, _STP, _K2,
 _HRR, _HRP, _HPP, _BX, _BY, _GX, _GY, _GR, _GP, _LIGHT, _STEEP, _LOG, _SQ, _OCT, _CM, _SM, _C3, _S3, _C4, _S4,
 _ML, _UU, _VV) = (TILE * k for k in range(44))  # fmt: skip
SCRATCH = TILE * 44


@njit(nogil=True, cache=True)
def series(c, t, out):
    """Receives in ``out`` (3, TERMS) the coefficients a_n cⁿ of the angular series, their derivatives by c, and by t; returns their number."""
    out[:] = 0.0
    a, da, power, before = 1.0, 0.0, 1.0, 0.0  # a_n, its derivative, cⁿ and n cⁿ⁻¹
    terms = 4
    for n in range(TERMS):
        if n:
            low, high = 2.0 * n - (2.0 - t), 2.0 * n + (2.0 - t)
            k = -low / high
            dk = -(high + low) / high**2
            da = da * k + a * dk
            a *= k
            before = n * power
            power *= c
        out[0, n], out[1, n], out[2, n] = a * power, a * before, da * power
        if abs(a * before) > 1e-8 or abs(a * power) > 1e-9:
            terms = n + 1
    return min(-(-terms // 4) * 4, TERMS)


@njit(nogil=True, cache=True)
def log_flux_slope(n):
    """Returns d ln(flux)/dn of a Sérsic profile of unit brightness at R_sersic; see :func:`~haloformer.simulation.sources.sersic_flux`."""
    b, slope = 1.9992 * n - 0.3271, 1.9992
    x, digamma = 2.0 * n, 0.0
    while x < 6.0:
        digamma -= 1.0 / x
        x += 1.0
    inverse = 1.0 / (x * x)
    digamma += math.log(x) - 0.5 / x - inverse * (1 / 12 - inverse * (1 / 120 - inverse / 252))
    return 1.0 / n + slope - 2.0 * math.log(b) - 2.0 * n * slope / b + 2.0 * digamma


@njit(nogil=True, cache=True)
def log_unit_flux(R, n):
    """Returns ln(flux) of a Sérsic profile of unit brightness at R_sersic."""
    b = 1.9992 * n - 0.3271
    flux = math.log(2.0 * math.pi * n) + 2.0 * math.log(R) + b - 2.0 * n * math.log(b)
    return flux + math.lgamma(2.0 * n)


@njit(nogil=True, cache=True, fastmath=FLAGS, error_model="numpy")
def _clenshaw(s, n, a, terms, first, second):
    """Sums Σ a_n e^(2inφ) by b_n = a_n + 2 cos 2φ b_(n+1) − b_(n+2), four terms at a time."""
    for j in range(n):
        s[first + j] = np.float32(0.0)
        s[second + j] = np.float32(0.0)
    for k in range(terms - 4, -1, -4):
        a0, a1, a2, a3 = a[k], a[k + 1], a[k + 2], a[k + 3]
        for j in range(n):
            w = s[_W + j]
            b3 = a3 + w * s[first + j] - s[second + j]
            b2 = a2 + w * b3 - s[first + j]
            b1 = a1 + w * b2 - b3
            s[first + j] = a0 + w * b1 - b2
            s[second + j] = b1


@njit(nogil=True, cache=True, fastmath=FLAGS, error_model="numpy")
def sharp_columns(p, frame, wanted, axis, coefficients, s, bits, out):
    """Computes the surface brightness at the rays, and its derivatives.

    Args:
        p: (22,) float64 the values of ``NAMES``.
        frame: cos and sin of the angle of the multipoles' axis.
        wanted: Numbers of the parameters whose derivatives are wanted, by the logarithm for positive ones; not that by the exposure.
        axis: (M,) float64 positions of the rays in arcsec, of columns and rows alike.
        coefficients: (3, TERMS) float64, for use in between.
        s: (SCRATCH,) float32, for use in between.
        bits: The same memory as int32.
        out: (1 + len(wanted), M, M) float32, receives brightness in counts/s/arcsec², and derivatives.
    """
    f = np.float32
    M = axis.size
    theta_E, t = p[THETA_E], p[GAMMA] - 1.0
    e1, e2 = p[E1], p[E2]
    size_e = math.sqrt(e1 * e1 + e2 * e2)
    h1, h2 = (e1 / size_e, e2 / size_e) if size_e > 1e-12 else (1.0, 0.0)
    c = max(size_e, LEAST_ELLIPTICITY)
    larger = math.sqrt((1.0 + abs(h1)) / 2.0)
    smaller = h2 / (2.0 * larger)
    cos64, sin64 = (larger, smaller) if h1 >= 0 else (smaller, larger)
    q64 = (1.0 - c) / (1.0 + c)
    b64 = theta_E * math.sqrt(q64)
    terms = series(c, t, coefficients)
    a = coefficients.astype(np.float32)
    by_slope, by_shape, by_multipole = False, False, False
    for k in wanted:
        by_slope = by_slope or k == GAMMA
        by_shape = by_shape or k in (E1, E2)
        by_multipole = by_multipole or (A1C <= k < SOURCE_X)
    for k in range(A1C, SOURCE_X):
        by_multipole = by_multipole or p[k] != 0.0
    cos, sin, q = f(cos64), f(sin64), f(q64)
    inverse_b2, b, amplitude = f(1.0 / b64**2), f(b64), f((1.0 + c) * b64)
    T, left, twice = f(t), f(1.0 - t), f(2.0 - t)
    power = f(0.5 * (1.0 - t))
    ratio = f(-2.0 / (1.0 - c * c))  # d ln q / dc
    by_size = f(1.0 / (1.0 + c))
    around = f(1.0 / (2.0 * c))
    g1, g2, c1, c2 = f(p[SHEAR1]), f(p[SHEAR2]), f(h1), f(h2)
    unit64 = theta_E * math.sqrt((1.0 + c) / (1.0 - c))
    unit, by_unit = f(unit64), f(1.0 / (1.0 - c * c))
    inverse_theta2 = f(1.0 / theta_E**2)
    m1c, m1s, m3c, m3s, m4c, m4s = (
        f(unit64 * p[A1C]), f(unit64 * p[A1C + 1]), f(unit64 * p[A1C + 2]), f(unit64 * p[A1C + 3]),
        f(unit64 * p[A1C + 4]), f(unit64 * p[A1C + 5]),
    )  # fmt: skip
    frame_cos, frame_sin = f(frame[0]), f(frame[1])
    R64, n64 = p[SOURCE_R], p[SOURCE_N]
    s1, s2 = p[SOURCE_E1], p[SOURCE_E2]
    norm2 = 1.0 - s1 * s1 - s2 * s2
    norm = 1.0 / math.sqrt(norm2)
    aa, ab, ac = f((1.0 - s1) * norm), f(-s2 * norm), f((1.0 + s1) * norm)
    along1, along2, inverse_norm = f(s1 / norm2), f(s2 / norm2), f(norm)
    bn = 1.9992 * n64 - 0.3271
    start, slope = f(bn), f(bn)
    steepness = f(bn / n64)
    half_power = f(0.5 / n64)
    inverse_R2 = f(1.0 / R64**2)
    bright = f(p[FLUX] * math.exp(-log_unit_flux(R64, n64)))
    flux_slope = f(n64 * log_flux_slope(n64))
    index_slope = f(1.9992 * n64)
    least = f(LEAST_BRIGHT)
    exponential = n64 == 1.0
    by_index = False
    for k in wanted:
        by_index = by_index or k == SOURCE_N
    for j0 in range(0, M, TILE):
        n = min(TILE, M - j0)
        for j in range(n):
            s[_DX + j] = f(axis[j0 + j] - p[X])
        for row in range(M):
            dy = f(axis[row] - p[Y])
            y = f(axis[row])
            for j in range(n):
                dx = s[_DX + j]
                u, v = q * (cos * dx + sin * dy), cos * dy - sin * dx
                square = max(u * u + v * v, LEAST_SQUARE)
                inverse = f(1.0) / math.sqrt(square)
                cu, su = u * inverse, v * inverse
                s[_CU + j] = cu
                s[_SU + j] = su
                s[_W + j] = f(2.0) * (cu * cu - su * su)
                s[_POW + j] = square * inverse_b2
                r = max(dx * dx + dy * dy, LEAST_SQUARE)
                ir = f(1.0) / math.sqrt(r)
                s[_IR + j] = ir
                s[_RX + j] = dx * ir
                s[_RY + j] = dy * ir
                s[_K2 + j] = twice * b * inverse  # times the power below: 2κ
            _clenshaw(s, n, a[0], terms, _F1, _F2)
            if by_shape:
                _clenshaw(s, n, a[1], terms, _G1, _G2)
            if by_slope:
                _clenshaw(s, n, a[2], terms, _H1, _H2)
            if power != f(0.0) or by_slope:
                tile = s[_POW : _POW + n]
                log_row(tile, bits[_POW : _POW + n], s[_OCT : _OCT + n])
                for j in range(n):
                    s[_LOG + j] = s[_POW + j]  # 2 ln(R/b)
                    s[_POW + j] *= power
                exp_row(tile, bits[_OCT : _OCT + n], s[_OCT : _OCT + n])
            else:
                for j in range(n):
                    s[_POW + j] = f(1.0)
            # Deflection in polar components; the angle from the axis of the lens to the ray
            for j in range(n):
                cu, su, factor = s[_CU + j], s[_SU + j], s[_POW + j]
                size = amplitude * factor
                au = size * (s[_F1 + j] - s[_F2 + j]) * cu
                av = size * (s[_F1 + j] + s[_F2 + j]) * su
                cr, sr = cos * s[_RX + j] + sin * s[_RY + j], cos * s[_RY + j] - sin * s[_RX + j]
                ar, ap = cr * au + sr * av, cr * av - sr * au
                s[_AR + j] = ar
                s[_AP + j] = ap
                s[_K2 + j] *= factor
                hrr = left * ar * s[_IR + j]
                s[_HRR + j] = hrr
                s[_HRP + j] = left * ap * s[_IR + j]
                s[_HPP + j] = s[_K2 + j] - hrr
                s[_C4 + j] = cr
                s[_S4 + j] = sr
            if by_shape:
                for j in range(n):
                    cu, su = s[_CU + j], s[_SU + j]
                    cr, sr = s[_C4 + j], s[_S4 + j]
                    size = amplitude * s[_POW + j]
                    bu = size * (s[_G1 + j] - s[_G2 + j]) * cu
                    bv = size * (s[_G1 + j] + s[_G2 + j]) * su
                    # H (−R sin φ / q, R cos φ): what the elliptical angle changes; R cos φ = q u
                    rest = f(1.0) / s[_IR + j]
                    wu, wv = -rest * sr / q, rest * cr * q
                    wr, wp = cr * wu + sr * wv, cr * wv - sr * wu
                    change = -ratio * su * cu
                    log_size = by_size + ratio * (f(0.5) * T + left * cu * cu)
                    s[_SCR + j] = log_size * s[_AR + j] + cr * bu + sr * bv + change * (s[_HRR + j] * wr + s[_HRP + j] * wp)  # fmt: skip
                    s[_SCP + j] = log_size * s[_AP + j] + cr * bv - sr * bu + change * (s[_HRP + j] * wr + s[_HPP + j] * wp)  # fmt: skip
            if by_slope:
                for j in range(n):
                    cu, su = s[_CU + j], s[_SU + j]
                    cr, sr = s[_C4 + j], s[_S4 + j]
                    size = amplitude * s[_POW + j]
                    bu = size * (s[_H1 + j] - s[_H2 + j]) * cu
                    bv = size * (s[_H1 + j] + s[_H2 + j]) * su
                    log_size = f(-0.5) * s[_LOG + j]
                    s[_STR + j] = log_size * s[_AR + j] + cr * bu + sr * bv
                    s[_STP + j] = log_size * s[_AP + j] + cr * bv - sr * bu
            if by_multipole:
                for j in range(n):
                    s[_ML + j] = inverse_theta2 / (s[_IR + j] * s[_IR + j])
                log_row(s[_ML : _ML + n], bits[_ML : _ML + n], s[_OCT : _OCT + n])
                for j in range(n):
                    s[_ML + j] *= f(0.5)  # ln(r/θ_E)
                    cm = frame_cos * s[_RX + j] + frame_sin * s[_RY + j]
                    sm = frame_cos * s[_RY + j] - frame_sin * s[_RX + j]
                    cos2, sin2 = cm * cm - sm * sm, f(2.0) * cm * sm
                    cos3, sin3 = cos2 * cm - sin2 * sm, sin2 * cm + cos2 * sm
                    cos4, sin4 = cos2 * cos2 - sin2 * sin2, f(2.0) * cos2 * sin2
                    s[_CM + j] = cm
                    s[_SM + j] = sm
                    s[_C3 + j] = cos3
                    s[_S3 + j] = sin3
                    s[_C4 + j] = cos4
                    s[_S4 + j] = sin4
                for j in range(n):
                    ir, log = s[_IR + j], s[_ML + j]
                    along1_, across1 = (
                        m1c * s[_CM + j] + m1s * s[_SM + j],
                        m1c * s[_SM + j] - m1s * s[_CM + j],
                    )
                    along3, across3 = (
                        m3c * s[_C3 + j] + m3s * s[_S3 + j],
                        m3c * s[_S3 + j] - m3s * s[_C3 + j],
                    )
                    along4, across4 = (
                        m4c * s[_C4 + j] + m4s * s[_S4 + j],
                        m4c * s[_S4 + j] - m4s * s[_C4 + j],
                    )
                    ar = (
                        f(0.5) * along1_ * (log + f(1.0))
                        - f(0.125) * along3
                        - f(1.0 / 15.0) * along4
                    )
                    ap = f(-0.5) * log * across1 + f(0.375) * across3 + f(4.0 / 15.0) * across4
                    s[_UU + j] = ar
                    s[_VV + j] = ap
                    s[_AR + j] += ar
                    s[_AP + j] += ap
                    s[_HRR + j] += f(0.5) * along1_ * ir
                    s[_HRP + j] -= f(0.5) * across1 * ir
                    s[_HPP + j] += (f(0.5) * along1_ + along3 + along4) * ir
            for j in range(n):
                x = f(axis[j0 + j])
                rx, ry, ar, ap = s[_RX + j], s[_RY + j], s[_AR + j], s[_AP + j]
                s[_BX + j] = x - (ar * rx - ap * ry) - g1 * x - g2 * y - f(p[SOURCE_X])
                s[_BY + j] = y - (ar * ry + ap * rx) - g2 * x + g1 * y - f(p[SOURCE_Y])
            # The source: (ρ/R)² and its powers
            for j in range(n):
                u, v = aa * s[_BX + j] + ab * s[_BY + j], ab * s[_BX + j] + ac * s[_BY + j]
                square = u * u + v * v
                s[_GX + j] = aa * u + ab * v
                s[_GY + j] = ab * u + ac * v
                s[_F1 + j] = u
                s[_F2 + j] = v
                s[_STEEP + j] = f(1.0) if square > least else f(0.0)
                square = max(square, least)
                s[_SQ + j] = square
                s[_LIGHT + j] = square * inverse_R2
            if exponential and not by_index:
                for j in range(n):
                    s[_LIGHT + j] = math.sqrt(s[_LIGHT + j])
            else:
                tile = s[_LIGHT : _LIGHT + n]
                log_row(tile, bits[_LIGHT : _LIGHT + n], s[_OCT : _OCT + n])
                for j in range(n):
                    s[_LIGHT + j] *= half_power
                    s[_G2 + j] = s[_LIGHT + j]  # ln(ρ/R)/n
                exp_row(tile, bits[_OCT : _OCT + n], s[_OCT : _OCT + n])
            for j in range(n):
                s[_G1 + j] = s[_LIGHT + j]  # (ρ/R)^(1/n)
                s[_LIGHT + j] = max(start - slope * s[_LIGHT + j], f(-80.0))
            exp_row(s[_LIGHT : _LIGHT + n], bits[_OCT : _OCT + n], s[_OCT : _OCT + n])
            line = out[0, row, j0 : j0 + n]
            for j in range(n):
                light = bright * s[_LIGHT + j]
                line[j] = light
                s[_LIGHT + j] = light
                steep = -steepness * light * s[_G1 + j] * s[_STEEP + j] / s[_SQ + j]
                s[_STEEP + j] = steep
                gx, gy = steep * s[_GX + j], steep * s[_GY + j]
                s[_GX + j] = gx
                s[_GY + j] = gy
                s[_GR + j] = gx * s[_RX + j] + gy * s[_RY + j]
                s[_GP + j] = gy * s[_RX + j] - gx * s[_RY + j]
            for i in range(wanted.size):
                k = wanted[i]
                line = out[i + 1, row, j0 : j0 + n]
                if k == THETA_E:
                    if by_multipole:  # of these it is α itself but for the logarithm of order 1
                        for j in range(n):
                            along1_ = m1c * s[_CM + j] + m1s * s[_SM + j]
                            across1 = m1c * s[_SM + j] - m1s * s[_CM + j]
                            ar = T * (s[_AR + j] - s[_UU + j]) + s[_UU + j] - f(0.5) * along1_
                            ap = T * (s[_AP + j] - s[_VV + j]) + s[_VV + j] + f(0.5) * across1
                            line[j] = -(s[_GR + j] * ar + s[_GP + j] * ap)
                    else:
                        for j in range(n):
                            line[j] = -T * (s[_GR + j] * s[_AR + j] + s[_GP + j] * s[_AP + j])
                elif k == GAMMA:
                    for j in range(n):
                        line[j] = -(s[_GR + j] * s[_STR + j] + s[_GP + j] * s[_STP + j])
                elif k in (E1, E2):
                    dc, dphi = (c1, -c2 * around) if k == E1 else (c2, c1 * around)
                    more = by_unit if by_multipole else f(0.0)
                    if not by_multipole:
                        for j in range(n):
                            s[_UU + j] = f(0.0)
                            s[_VV + j] = f(0.0)
                    for j in range(n):
                        ar, ap = s[_AR + j] - s[_UU + j], s[_AP + j] - s[_VV + j]
                        turned_r = -twice * ap
                        turned_p = twice * ar - s[_K2 + j] / s[_IR + j]
                        line[j] = -(
                            s[_GR + j] * (dc * (s[_SCR + j] + more * s[_UU + j]) + dphi * turned_r)
                            + s[_GP + j]
                            * (dc * (s[_SCP + j] + more * s[_VV + j]) + dphi * turned_p)
                        )
                elif k == X:
                    for j in range(n):
                        hr = s[_HRR + j] * s[_GR + j] + s[_HRP + j] * s[_GP + j]
                        hp = s[_HRP + j] * s[_GR + j] + s[_HPP + j] * s[_GP + j]
                        line[j] = hr * s[_RX + j] - hp * s[_RY + j]
                elif k == Y:
                    for j in range(n):
                        hr = s[_HRR + j] * s[_GR + j] + s[_HRP + j] * s[_GP + j]
                        hp = s[_HRP + j] * s[_GR + j] + s[_HPP + j] * s[_GP + j]
                        line[j] = hr * s[_RY + j] + hp * s[_RX + j]
                elif k == SHEAR1:
                    for j in range(n):
                        line[j] = s[_GY + j] * y - s[_GX + j] * f(axis[j0 + j])
                elif k == SHEAR2:
                    for j in range(n):
                        line[j] = -s[_GX + j] * y - s[_GY + j] * f(axis[j0 + j])
                elif k == A1C:
                    for j in range(n):
                        line[j] = f(-0.5) * unit * (
                            s[_GR + j] * s[_CM + j] * (s[_ML + j] + f(1.0)) - s[_GP + j] * s[_ML + j] * s[_SM + j]
                        )  # fmt: skip
                elif k == A1C + 1:
                    for j in range(n):
                        line[j] = f(-0.5) * unit * (
                            s[_GR + j] * s[_SM + j] * (s[_ML + j] + f(1.0)) + s[_GP + j] * s[_ML + j] * s[_CM + j]
                        )  # fmt: skip
                elif k == A1C + 2:
                    for j in range(n):
                        line[j] = f(0.125) * unit * (s[_GR + j] * s[_C3 + j] - f(3.0) * s[_GP + j] * s[_S3 + j])  # fmt: skip
                elif k == A1C + 3:
                    for j in range(n):
                        line[j] = f(0.125) * unit * (s[_GR + j] * s[_S3 + j] + f(3.0) * s[_GP + j] * s[_C3 + j])  # fmt: skip
                elif k == A1C + 4:
                    for j in range(n):
                        line[j] = f(1.0 / 15.0) * unit * (s[_GR + j] * s[_C4 + j] - f(4.0) * s[_GP + j] * s[_S4 + j])  # fmt: skip
                elif k == A1C + 5:
                    for j in range(n):
                        line[j] = f(1.0 / 15.0) * unit * (s[_GR + j] * s[_S4 + j] + f(4.0) * s[_GP + j] * s[_C4 + j])  # fmt: skip
                elif k == SOURCE_X:
                    for j in range(n):
                        line[j] = -s[_GX + j]
                elif k == SOURCE_Y:
                    for j in range(n):
                        line[j] = -s[_GY + j]
                elif k == SOURCE_R:
                    for j in range(n):
                        line[j] = s[_LIGHT + j] * (steepness * s[_G1 + j] - f(2.0))
                elif k == SOURCE_N:
                    for j in range(n):
                        g = s[_G1 + j]
                        line[j] = s[_LIGHT + j] * (
                            slope * g * s[_G2 + j] - flux_slope - index_slope * (g - f(1.0))
                        )
                elif k == SOURCE_E1:
                    for j in range(n):
                        u, v = s[_F1 + j], s[_F2 + j]
                        half = (v * s[_BY + j] - u * s[_BX + j]) * inverse_norm + along1 * (
                            u * u + v * v
                        )
                        line[j] = s[_STEEP + j] * half
                elif k == SOURCE_E2:
                    for j in range(n):
                        u, v = s[_F1 + j], s[_F2 + j]
                        half = (
                            along2 * (u * u + v * v)
                            - (u * s[_BY + j] + v * s[_BX + j]) * inverse_norm
                        )
                        line[j] = s[_STEEP + j] * half
                elif k == FLUX:
                    for j in range(n):
                        line[j] = s[_LIGHT + j]
