"""Regression of physical parameters: what can be asked of an image, how it is learned, and how sure the answer is.

A network gives ``n_outputs(loss)`` raw numbers per target, as (B, T·n) with the numbers of one target side by side. It
works in standard units (`Scaling`); here targets and predictions are physical, and NaN marks an image that has no true
value: the axion mass of a lens without axions is not zero, it does not exist, and such images teach nothing.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from haloformer.errors import InputError
from haloformer.vocabulary import unknown_name

LOSSES: dict[str, int] = {"beta_nll": 2, "quantile": 3, "mse": 1}
"""How regression is learned: name → raw numbers per target.

``beta_nll``: a Gaussian's mean and log variance, by the β-weighted likelihood of Seitzer et al. 2022 (arXiv:2203.09168).
``quantile``: median and the two ends of the interval of the wished coverage, by the pinball loss.
``mse``: the mean only.
"""

LOG_VARIANCE_BOUND = 12.0
"""|log variance| in standard units stays below this: σ between 0.0025 and 400 standard deviations of the target."""


@dataclass(frozen=True)
class Target:
    """A physical parameter that can be predicted.

    Attributes:
        name: As the user writes it.
        unit: Of the value.
        label: For the axis of a figure.
        description: One line for people.
        class_name: The class whose images have it.
        from_parameters: From the parameters of B images to (B,) values, NaN where an image has none. Raises KeyError
            with the name of a parameter that is missing.
    """

    name: str
    unit: str
    label: str
    description: str
    class_name: str
    from_parameters: Callable[[Mapping[str, np.ndarray]], np.ndarray]


def _log10_total_mass(parameters: Mapping[str, np.ndarray]) -> np.ndarray:
    total = np.nansum(np.asarray(parameters["subhalo_mass"], np.float64), axis=-1)  # (B, n_max), NaN: no such subhalo
    return np.log10(total, out=np.full(total.shape, np.nan), where=total > 0)


TARGETS: dict[str, Target] = {
    target.name: target
    for target in (
        Target(
            name="log10_m_axion",
            unit="dex of eV",
            label="log₁₀ (axion mass / eV)",
            description="mass of the axion, which sets the length of the vortex",
            class_name="axion",
            from_parameters=lambda parameters: np.asarray(parameters["log10_m_axion"], np.float64),
        ),
        Target(
            name="log10_m_subhalos",
            unit="dex of M_sun",
            label="log₁₀ (total subhalo mass / M☉)",
            description="total mass of the subhalos in the image",
            class_name="cdm",
            from_parameters=_log10_total_mass,
        ),
    )
}


def target_values(names: Sequence[str], parameters: Mapping[str, np.ndarray], where: str = "the data") -> Tensor:
    """Returns the true values (B, T) float32 of B images, NaN where an image has none.

    Args:
        names: The T targets, of `TARGETS`.
        parameters: The parameters that travel with the images, each (B, …).
        where: What the parameters come from, such as a file name, for the error message.

    Raises:
        InputError: There is no such target, or the images come without the parameter that it is computed from.
    """
    columns = []
    for name in names:
        if name not in TARGETS:
            raise unknown_name("regression target", name, TARGETS)
        try:
            column = TARGETS[name].from_parameters(parameters)
        except KeyError as error:
            raise InputError(
                f"{where}: the images come without the parameter {error}, which the target '{name}' needs; "
                "simulated data have it"
            ) from error
        if np.isinf(column).any():
            raise InputError(f"{where}: the target '{name}' is infinite for image {int(np.isinf(column).argmax())}")
        columns.append(column)
    return torch.from_numpy(np.stack(columns, axis=1).astype(np.float32))


def n_outputs(loss: str) -> int:
    """Returns how many raw numbers per target the network gives for a loss."""
    if loss not in LOSSES:
        raise unknown_name("regression loss", loss, LOSSES)
    return LOSSES[loss]


@dataclass(frozen=True)
class Scaling:
    """Standard units: (value − mean) / std, one mean and std per target.

    Attributes:
        mean: T numbers in the targets' units.
        std: T numbers above 0.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.mean or len(self.mean) != len(self.std):
            raise InputError(f"target scaling: {len(self.mean)} means and {len(self.std)} stds; needs one per target")
        if not all(_usable(number) for number in (*self.mean, *self.std)) or min(self.std) <= 0:
            raise InputError(f"target scaling: mean = {self.mean}, std = {self.std} is not usable")

    @classmethod
    def fit(cls, targets: Tensor | np.ndarray, names: Sequence[str] | None = None) -> "Scaling":
        """Returns the scaling of training targets (N, T); NaN are ignored.

        Raises:
            InputError: A target has no value at all; ``names`` (T) lets the message say which.
        """
        values = np.asarray(targets, np.float64)
        for k in np.flatnonzero(np.isnan(values).all(axis=0)).tolist():
            name = names[k] if names else f"number {k}"
            raise InputError(
                f"regression target '{name}': no training image has it"
                + (f"; are there images of class {TARGETS[name].class_name}?" if name in TARGETS else "")
            )
        std = np.nanstd(values, axis=0)
        # A target that is always the same is learned by its mean alone; any unit will do.
        return cls(tuple(np.nanmean(values, axis=0).tolist()), tuple(np.where(std > 1e-6, std, 1.0).tolist()))

    def to_dict(self) -> dict[str, Any]:
        """Returns what `from_dict` takes, ready for JSON."""
        return {"mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_dict(cls, values: Any) -> "Scaling":
        """Makes a scaling from what `to_dict` wrote, refusing what cannot be one."""
        values = _mapping(values, "target scaling")
        return cls(
            _numbers(values.get("mean"), "target scaling: mean"), _numbers(values.get("std"), "target scaling: std")
        )


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
        raise ValueError(f"targets of shape {tuple(targets.shape)} for outputs of shape {tuple(outputs.shape)}")
    valid = ~torch.isnan(targets)
    standard = (targets.float() - _row(scaling.mean, raw)) / _row(scaling.std, raw)
    y = torch.where(valid, standard, 0.0)  # a NaN, even if it is masked afterwards, would make the gradient NaN
    if loss == "beta_nll":
        mean, log_variance = raw[..., 0], _bounded(raw[..., 1])
        each = 0.5 * (log_variance + (y - mean).square() * torch.exp(-log_variance))
        each = each * torch.exp(beta * log_variance.detach())
    elif loss == "quantile":
        levels = torch.tensor([(1 - coverage) / 2, 0.5, (1 + coverage) / 2], device=raw.device)
        error = y[..., None] - torch.stack(_quantiles(raw), dim=-1)  # (B, T, 3)
        each = torch.maximum(levels * error, (levels - 1) * error).mean(dim=-1)
    else:
        each = (y - raw[..., 0]).square()
    return torch.where(valid, each, 0.0).sum() / valid.sum().clamp_min(1)


def predictions(outputs: Tensor, *, loss: str, scaling: Scaling, coverage: float = 0.9) -> dict[str, Tensor]:
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
    z = math.sqrt(2) * float(torch.erfinv(torch.tensor(coverage, dtype=torch.float64)))  # half-width of N(0, 1)
    if loss == "beta_nll":
        mean, sigma = raw[..., 0], torch.exp(0.5 * _bounded(raw[..., 1]))
        low, high = mean - z * sigma, mean + z * sigma
    elif loss == "quantile":
        low, mean, high = _quantiles(raw)
        sigma = (high - low) / (2 * z)
    else:
        mean = raw[..., 0]
        sigma = low = high = torch.full_like(mean, torch.nan)
    centre, unit = _row(scaling.mean, raw), _row(scaling.std, raw)
    return {
        "mean": centre + unit * mean,
        "sigma": unit * sigma,
        "low": centre + unit * low,
        "high": centre + unit * high,
    }


@dataclass(frozen=True)
class Conformal:
    """Intervals that contain the true value as often as they say: split conformal prediction.

    A network's own uncertainty is only as good as its training. On n calibration images that it did not learn from, the
    score that a share ``coverage`` of them does not exceed, with the finite-sample correction ⌈(n + 1) coverage⌉ / n,
    becomes a factor per target:

    - ``beta_nll``: score |y − μ| / σ, interval μ ± factor · σ.
    - ``quantile``: score max(low − y, y − high), interval [low − factor, high + factor] (Romano et al. 2019,
      arXiv:1905.03222); it may be narrower than the network's, but always holds the median.
    - ``mse``: score |y − μ|, interval μ ± factor.

    A new image's true value then lies in its interval with probability at least ``coverage`` and at most
    ``coverage`` + 1/(n + 1), whatever the network, **if calibration and new images are exchangeable**: from the same
    survey with the same noise and the same distribution of parameters, and neither trained on nor used to choose the
    model. The promise is about the average over all images that have the target: at masses that the image does not
    reveal, coverage may be lower, and elsewhere higher.

    Attributes:
        factors: T numbers; dimensionless for ``beta_nll``, otherwise in the target's unit (dex).
        coverage: The share promised.
        n: Calibration images (of the target that had fewest).
        loss: By which the network was trained, one of `LOSSES`.
    """

    factors: tuple[float, ...]
    coverage: float
    n: int
    loss: str

    def __post_init__(self) -> None:
        n_outputs(self.loss)
        if not 0 < self.coverage < 1:
            raise InputError(f"conformal intervals: coverage must be between 0 and 1, not {self.coverage}")
        if self.n < 1:
            raise InputError(f"conformal intervals: n must be at least 1, not {self.n}")
        signed = self.loss == "quantile"
        if not self.factors or not all(_usable(factor) and (signed or factor >= 0) for factor in self.factors):
            raise InputError(f"conformal intervals: factors = {self.factors} is not usable")

    @classmethod
    def fit(
        cls, mean: Tensor, sigma: Tensor, low: Tensor, high: Tensor, truth: Tensor, coverage: float, loss: str
    ) -> "Conformal":
        """Returns the calibration from predictions for images whose truth is known.

        Args:
            mean: (N, T) as `predictions` returns it, and so on, so that ``fit(**predictions(…), truth=…)`` does.
            sigma: (N, T).
            low: (N, T).
            high: (N, T).
            truth: (N, T) in physical units; NaN are ignored.
            coverage: Share of true values that the intervals shall contain.
            loss: One of `LOSSES`.

        Raises:
            InputError: Too few images for that coverage, for which only an infinite interval would do.
        """
        n_outputs(loss)
        if not 0 < coverage < 1:
            raise InputError(f"conformal intervals: coverage must be between 0 and 1, not {coverage}")
        mean, sigma, low, high, truth = (x.detach().cpu().double() for x in (mean, sigma, low, high, truth))
        if loss == "beta_nll":
            scores = (truth - mean).abs() / sigma
        elif loss == "quantile":
            scores = torch.maximum(low - truth, truth - high)
        else:
            scores = (truth - mean).abs()
        factors, counts = [], []
        for k in range(truth.shape[1]):
            known = scores[~torch.isnan(truth[:, k]), k]
            n = len(known)
            rank = math.ceil((n + 1) * coverage - 1e-9)  # 1e-9: 10 · 0.9 must not become 9.000…1
            if rank > n:
                least = math.ceil(coverage / (1 - coverage) - 1e-9)
                raise InputError(
                    f"conformal intervals of coverage {coverage:g} need at least {least} calibration images with a true "
                    f"value, there are {n}: take more validation images, or a smaller coverage"
                )
            if not torch.isfinite(known).all():
                raise InputError("conformal intervals: the predictions for the calibration images are not finite")
            factors.append(float(known.kthvalue(rank).values))
            counts.append(n)
        return cls(tuple(factors), coverage, min(counts), loss)

    def apply(self, mean: Tensor, sigma: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the calibrated low and high, (B, T) each, of predictions (B, T): ``apply(**predictions(…))``."""
        factors = _row(self.factors, mean)
        if self.loss == "quantile":
            # Only narrowed intervals can lose the median; giving it back cannot lower the coverage.
            return torch.minimum(low - factors, mean), torch.maximum(high + factors, mean)
        half = factors * sigma if self.loss == "beta_nll" else factors.expand_as(mean)
        return mean - half, mean + half

    def to_dict(self) -> dict[str, Any]:
        """Returns what `from_dict` takes, ready for JSON."""
        return {"factors": list(self.factors), "coverage": self.coverage, "n": self.n, "loss": self.loss}

    @classmethod
    def from_dict(cls, values: Any) -> "Conformal":
        """Makes a calibration from what `to_dict` wrote, refusing what cannot be one."""
        values = _mapping(values, "conformal intervals")
        factors = _numbers(values.get("factors"), "conformal intervals: factors")
        (coverage,) = _numbers([values.get("coverage")], "conformal intervals: coverage")
        n, loss = values.get("n"), values.get("loss")
        if not isinstance(n, int) or isinstance(n, bool):
            raise InputError(f"conformal intervals: n must be a whole number, not {n!r}")
        return cls(factors, coverage, n, str(loss))


# --- helpers ----------------------------------------------------------------------------------------------------------


def _per_target(outputs: Tensor, loss: str, scaling: Scaling) -> Tensor:
    """Returns raw outputs as (B, T, n) float32: half precision would overflow in squares and exponentials."""
    return outputs.float().reshape(outputs.shape[0], len(scaling.mean), n_outputs(loss))


def _bounded(raw: Tensor) -> Tensor:
    """Returns a log variance: the raw number where it is moderate, and never so large that its exponential overflows."""
    return LOG_VARIANCE_BOUND * torch.tanh(raw / LOG_VARIANCE_BOUND)


def _quantiles(raw: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns low ≤ median ≤ high of (B, T, 3): the ends are the median and a positive distance, so they cannot cross."""
    median = raw[..., 1]
    return median - F.softplus(raw[..., 0]), median, median + F.softplus(raw[..., 2])


def _row(values: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device)


def _usable(number: float) -> bool:
    return math.isfinite(number) and abs(number) < 1e30  # beyond it, float32 overflows


def _mapping(values: Any, what: str) -> Mapping[str, Any]:
    if not isinstance(values, Mapping):
        raise InputError(f"{what}: must be a mapping, not {str(values)[:80]}")
    return values


def _numbers(values: Any, what: str) -> tuple[float, ...]:
    """Returns numbers from a file that anybody may have written."""
    fine = isinstance(values, list | tuple) and all(
        isinstance(value, int | float) and not isinstance(value, bool) for value in values
    )
    if not fine:
        raise InputError(f"{what} must be numbers, not {str(values)[:80]}")
    try:
        return tuple(float(value) for value in values)
    except OverflowError as error:
        raise InputError(f"{what} holds a number beyond all bounds") from error
