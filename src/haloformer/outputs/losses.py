"""Regression of physical parameters: what can be asked of an image, how it is learned, and how sure the answer is.

A network gives ``n_outputs(loss)`` raw numbers per target, as (B, T·n) with the numbers of one target side by side. It
works in standard units (`Scaling`); here targets and predictions are physical, and NaN marks an image that has no true
value: the axion mass of a lens without axions is not zero, it does not exist, and such images teach nothing.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from haloformer.outputs.targets import Scaling
from haloformer.vocabulary import unknown_name

LOSSES: dict[str, int] = {"beta_nll": 2, "quantile": 3, "mse": 1}
"""How regression is learned: name → raw numbers per target.

``beta_nll``: a Gaussian's mean and log variance, by the β-weighted likelihood of Seitzer et al. 2022 (arXiv:2203.09168).
``quantile``: median and the two ends of the interval of the wished coverage, by the pinball loss.
``mse``: the mean only.
"""


LOG_VARIANCE_BOUND = 12.0
"""|log variance| in standard units stays below this: σ between 0.0025 and 400 standard deviations of the target."""


def n_outputs(loss: str) -> int:
    """Returns how many raw numbers per target the network gives for a loss."""
    if loss not in LOSSES:
        raise unknown_name("regression loss", loss, LOSSES)
    return LOSSES[loss]


def regression_loss(
    outputs: Tensor,
    targets: Tensor,
    *,
    loss: str,
    scaling: Scaling,
    beta: float = 0.5,
    coverage: float = 0.9,
) -> Tensor:
    """Returns the mean loss over all true values of a batch; exactly 0, without gradient, if it has none.

    - ``beta_nll``: (ln σ² + (y − μ)²/σ²) / 2, times σ^(2β) through which no gradient flows (Seitzer et al. 2022):
      β = 0 is the Gaussian likelihood, which neglects what it finds hard; β = 1 gives μ the gradient of mse.
    - ``quantile``: the mean over the three quantiles q_τ of max(τ (y − q), (τ − 1)(y − q)).
    - ``mse``: (y − μ)².

    Args:
        outputs: (B, T·n) raw numbers of the network, any floating dtype.
        targets: (B, T) in physical units; NaN are ignored.
        loss: One of `LOSSES`.
        scaling: Of the T targets.
        beta: Of ``beta_nll``.
        coverage: Of the interval of ``quantile``.
    """
    raw = _per_target(outputs, loss, scaling)
    if targets.shape != raw.shape[:2]:
        raise ValueError(
            f"targets of shape {tuple(targets.shape)} for outputs of shape {tuple(outputs.shape)}"
        )
    valid = ~torch.isnan(targets)
    standard = (targets.float() - as_row(scaling.mean, raw)) / as_row(scaling.std, raw)
    y = torch.where(
        valid, standard, 0.0
    )  # a NaN, even if it is masked afterwards, would make the gradient NaN
    if loss == "beta_nll":
        mean, log_variance = raw[..., 0], _bounded(raw[..., 1])
        each = 0.5 * (log_variance + (y - mean).square() * torch.exp(-log_variance))
        each = each * torch.exp(beta * log_variance.detach())
    elif loss == "quantile":
        levels = torch.tensor([(1 - coverage) / 2, 0.5, (1 + coverage) / 2], device=raw.device)
        error = y[..., None] - torch.stack(loss_quantiles(raw), dim=-1)  # (B, T, 3)
        each = torch.maximum(levels * error, (levels - 1) * error).mean(dim=-1)
    else:
        each = (y - raw[..., 0]).square()
    return torch.where(valid, each, 0.0).sum() / valid.sum().clamp_min(1)


def predictions(
    outputs: Tensor, *, loss: str, scaling: Scaling, coverage: float = 0.9
) -> dict[str, Tensor]:
    """Returns what raw outputs say, in physical units.

    Args:
        outputs: (B, T·n) raw numbers of the network.
        loss: One of `LOSSES`, the one that it was trained by.
        scaling: Of the T targets.
        coverage: Share of true values that [low, high] shall contain; for ``quantile`` that of the training.

    Returns:
        ``mean``, ``sigma``, ``low`` and ``high``, (B, T) float32 each. For ``quantile`` the mean is the median and
        sigma that of the Gaussian whose interval is as wide. ``mse`` knows no uncertainty: sigma, low and high are NaN
        (and `Conformal` then gives every image an interval of the same width).
    """
    raw = _per_target(outputs, loss, scaling)
    z = math.sqrt(2) * float(
        torch.erfinv(torch.tensor(coverage, dtype=torch.float64))
    )  # half-width of N(0, 1)
    if loss == "beta_nll":
        mean, sigma = raw[..., 0], torch.exp(0.5 * _bounded(raw[..., 1]))
        low, high = mean - z * sigma, mean + z * sigma
    elif loss == "quantile":
        low, mean, high = loss_quantiles(raw)
        sigma = (high - low) / (2 * z)
    else:
        mean = raw[..., 0]
        sigma = low = high = torch.full_like(mean, torch.nan)
    centre, unit = as_row(scaling.mean, raw), as_row(scaling.std, raw)
    return {
        "mean": centre + unit * mean,
        "sigma": unit * sigma,
        "low": centre + unit * low,
        "high": centre + unit * high,
    }


def _per_target(outputs: Tensor, loss: str, scaling: Scaling) -> Tensor:
    """Returns raw outputs as (B, T, n) float32: half precision would overflow in squares and exponentials."""
    return outputs.float().reshape(outputs.shape[0], len(scaling.mean), n_outputs(loss))


def _bounded(raw: Tensor) -> Tensor:
    """Returns a log variance: the raw number where it is moderate, and never so large that its exponential overflows."""
    return LOG_VARIANCE_BOUND * torch.tanh(raw / LOG_VARIANCE_BOUND)


def loss_quantiles(raw: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns low ≤ median ≤ high of (B, T, 3): the ends are the median and a positive distance, so they cannot cross."""
    median = raw[..., 1]
    return median - F.softplus(raw[..., 0]), median, median + F.softplus(raw[..., 2])


def as_row(values: Sequence[float], like: Tensor) -> Tensor:
    """Returns numbers as a tensor (T,) of the type and on the device of another."""
    return torch.tensor(values, dtype=like.dtype, device=like.device)
