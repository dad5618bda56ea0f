"""Conformal calibration: intervals that hold the true value as often as they say."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from scipy.stats import beta
from torch import Tensor

from haloformer.errors import InputError
from haloformer.outputs.losses import as_row, n_outputs
from haloformer.outputs.targets import checked_mapping, checked_numbers, is_usable

_ROUNDING = 1e-9
"""10 · 0.9 must not become 9.000…1."""


def check_enough(
    n: int,
    coverage: float,
    what: str = "a true value",
    instead: str = "take more validation images, or a smaller coverage",
) -> None:
    """Checks that there are as many calibration images as a coverage needs.

    Args:
        n: Calibration images.
        coverage: Share of true values that the intervals shall contain.
        what: What those images have.
        instead: What would be right.

    Raises:
        InputError: With fewer, only an infinite interval would do.
    """
    least = math.ceil(coverage / (1 - coverage) - _ROUNDING)
    if n < least:
        raise InputError(
            f"conformal intervals of coverage {coverage:g} need at least {least} calibration images with {what}, there are {n}: {instead}"
        )


def _rank(n: int, coverage: float) -> int:
    """Returns which of n sorted scores, counted from 1, a share ``coverage`` of new images does not exceed."""
    return math.ceil((n + 1) * coverage - _ROUNDING)


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
            raise InputError(
                f"conformal intervals: coverage must be between 0 and 1, not {self.coverage}"
            )
        if self.n < 1:
            raise InputError(f"conformal intervals: n must be at least 1, not {self.n}")
        signed = self.loss == "quantile"
        if not self.factors or not all(
            is_usable(factor) and (signed or factor >= 0) for factor in self.factors
        ):
            raise InputError(f"conformal intervals: factors = {self.factors} is not usable")

    @classmethod
    def fit(
        cls,
        mean: Tensor,
        sigma: Tensor,
        low: Tensor,
        high: Tensor,
        truth: Tensor,
        coverage: float,
        loss: str,
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
            raise InputError(
                f"conformal intervals: coverage must be between 0 and 1, not {coverage}"
            )
        mean, sigma, low, high, truth = (
            x.detach().cpu().double() for x in (mean, sigma, low, high, truth)
        )
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
            check_enough(n, coverage)
            rank = _rank(n, coverage)  # at most n
            if not torch.isfinite(known).all():
                raise InputError(
                    "conformal intervals: the predictions for the calibration images are not finite"
                )
            factors.append(float(known.kthvalue(rank).values))
            counts.append(n)
        return cls(tuple(factors), coverage, min(counts), loss)

    def apply(
        self, mean: Tensor, sigma: Tensor, low: Tensor, high: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Returns the calibrated low and high, (B, T) each, of predictions (B, T): ``apply(**predictions(…))``."""
        factors = as_row(self.factors, mean)
        if self.loss == "quantile":
            # Only narrowed intervals can lose the median; giving it back cannot lower the coverage.
            return torch.minimum(low - factors, mean), torch.maximum(high + factors, mean)
        half = factors * sigma if self.loss == "beta_nll" else factors.expand_as(mean)
        return mean - half, mean + half

    def coverage_by_chance(self, confidence: float = 0.95) -> tuple[float, float]:
        """Returns between which shares the coverage of endless new images lies, for which images calibrated it is chance, too.

        Over them it is Beta-distributed (Vovk 2012, arXiv:1209.2673).
        """
        rank = _rank(self.n, self.coverage)
        low, high = beta.interval(confidence, rank, self.n + 1 - rank)
        return float(low), float(high)

    def to_dict(self) -> dict[str, Any]:
        """Returns what `from_dict` takes, ready for JSON."""
        return {
            "factors": list(self.factors),
            "coverage": self.coverage,
            "n": self.n,
            "loss": self.loss,
        }

    @classmethod
    def from_dict(cls, values: Any) -> "Conformal":
        """Makes a calibration from what `to_dict` wrote, refusing what cannot be one."""
        values = checked_mapping(values, "conformal intervals")
        factors = checked_numbers(values.get("factors"), "conformal intervals: factors")
        (coverage,) = checked_numbers([values.get("coverage")], "conformal intervals: coverage")
        n, loss = values.get("n"), values.get("loss")
        if not isinstance(n, int) or isinstance(n, bool):
            raise InputError(f"conformal intervals: n must be a whole number, not {n!r}")
        return cls(factors, coverage, n, str(loss))
