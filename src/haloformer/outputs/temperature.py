"""Temperature scaling: one number that makes a trained network's probabilities mean what they say (Guo et al. 2017, arXiv:1706.04599).

Networks are mostly overconfident. Their logits divided by a temperature, the same for all images, are as right as before and more
honest; the temperature is that under which validation images, on which nothing was trained, are most probable.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from torch import Tensor

from haloformer.errors import InputError
from haloformer.outputs.layout import Outputs
from haloformer.outputs.out_of_distribution import OodDetector

BOUNDS = (0.01, 100.0)
"""No network is colder or hotter than this."""


@dataclass(frozen=True)
class Calibration:
    """What was found on the validation images.

    Attributes:
        temperature: What the logits are divided by; above 1 for an overconfident network.
        n: Images.
        nll_before: Mean −ln p(true class) in nats with the network's own probabilities.
        nll_after: The same with the calibrated ones.
    """

    temperature: float
    n: int
    nll_before: float
    nll_after: float

    @classmethod
    def fit(cls, logits: np.ndarray, labels: np.ndarray) -> "Calibration":
        """Returns the calibration for logits (N, K) of images with true classes (N,).

        What is minimised has one (N + 2)-th of the weight on a random class, as in Platt 1999: N images that are all told right do
        not show that the next one will be, and no temperature near 0 may be learned from them.
        """
        logits = np.asarray(logits, np.float64)
        rows = np.arange(len(labels))
        doubt = 1 / (len(labels) + 2)

        def nll(log_temperature: float, doubt: float) -> float:
            log_p = log_softmax(logits / math.exp(log_temperature), axis=1)
            return float(-((1 - doubt) * log_p[rows, labels] + doubt * log_p.mean(axis=1)).mean())

        bounds = (math.log(BOUNDS[0]), math.log(BOUNDS[1]))
        best = minimize_scalar(
            nll, bounds=bounds, args=(doubt,), method="bounded", options={"xatol": 1e-4}
        ).x
        # No gain, such as for logits that are all the same: nothing is changed.
        best = float(best) if nll(best, doubt) < nll(0.0, doubt) else 0.0
        return cls(math.exp(best), len(labels), nll(0.0, 0.0), nll(best, 0.0))

    def to_dict(self) -> dict[str, Any]:
        """Returns what `temperature_of` reads, ready for JSON."""
        return asdict(self)


def calibrated(
    outputs: Outputs, numbers: Tensor, labels: Tensor, seen: list[dict[str, Tensor]]
) -> tuple[Calibration | None, OodDetector | None]:
    """Returns temperature and detector of unlike images, of what a network makes of images whose classes are known.

    Args:
        outputs: What its numbers mean.
        numbers: (N, outputs.n).
        labels: (N,) classes; of a regression alone, any.
        seen: Features of the images, batch by batch, as :func:`haloformer.outputs.out_of_distribution.ood_features` gives them.
    """
    logits = outputs.split(numbers)[0]
    temperature = None if logits is None else Calibration.fit(logits.numpy(), labels.numpy())
    detector = OodDetector.fit(
        {part: torch.cat([batch[part] for batch in seen]) for part in seen[0]}, labels
    )
    return temperature, detector


def temperature_of(artefact: dict[str, Any], where: str) -> float:
    """Returns the temperature that an ``artefact.json`` holds under ``calibration``; 1 if it has none.

    Raises:
        InputError: It holds something that cannot be one.
    """
    if artefact.get("calibration") is None:
        return 1.0
    values = artefact["calibration"]
    if not isinstance(values, dict):
        raise InputError(f"{where}: calibration must be an object")
    temperature: Any = values.get("temperature")
    number = isinstance(temperature, int | float) and not isinstance(temperature, bool)
    if not number or not BOUNDS[0] <= temperature <= BOUNDS[1]:  # NaN fails the comparison
        raise InputError(
            f"{where}: calibration.temperature must be a number from {BOUNDS[0]:g} to {BOUNDS[1]:g}, not {str(temperature)[:40]}"
        )
    return float(temperature)
