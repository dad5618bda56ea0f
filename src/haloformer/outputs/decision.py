"""From numbers to an answer: one rule for tables, pages, pictures and the Python interface.

An image that is flagged, whatever for, has no class and no estimates: probabilities of such an image are those of the training classes
and say nothing of it. A parameter that one class alone has, such as the mass of the axion, is estimated for images of that class only.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from haloformer.outputs.targets import TARGETS
from haloformer.vocabulary import UNKNOWN


@dataclass(frozen=True)
class Answers:
    """What is said of B images.

    Attributes:
        classes: B names, `UNKNOWN` where an image is flagged; none for a model without classes.
        probabilities: (B, K) float64, of flagged images, too; None for a model without classes.
        estimates: ``mean``, ``sigma``, ``low`` and ``high`` (B, T), NaN where nothing is said; empty for a model without targets.
        flagged: (B,) bool.
        reasons: B texts, why an image is flagged; empty where it is not.
    """

    classes: list[str]
    probabilities: Tensor | None
    estimates: dict[str, Tensor]
    flagged: Tensor
    reasons: list[str]


def decide(
    class_names: Sequence[str],
    probabilities: Tensor | None,
    targets: Sequence[str],
    estimates: dict[str, Tensor],
    flagged: Tensor,
    reasons: Sequence[str] = (),
    *,
    raw: bool = False,
) -> Answers:
    """Returns the answers for B images.

    Args:
        class_names: The K classes.
        probabilities: (B, K) of them; None without classes.
        targets: The T parameters that are estimated.
        estimates: Their values, (B, T) each; empty without targets.
        flagged: (B,) bool: nothing is to be said of these.
        reasons: B texts, or none.
        raw: Give the most probable class and all estimates all the same.
    """
    classes: list[str] = []
    if probabilities is not None:
        classes = [class_names[k] for k in probabilities.argmax(dim=1).tolist()]
    if not raw:
        classes = [UNKNOWN if flag else name for name, flag in zip(classes, flagged.tolist())]
        estimates = _without_unknown(estimates, targets, classes, class_names, flagged)
    return Answers(classes, probabilities, estimates, flagged, list(reasons) or [""] * len(flagged))


def _without_unknown(
    estimates: dict[str, Tensor],
    targets: Sequence[str],
    classes: Sequence[str],
    class_names: Sequence[str],
    flagged: Tensor,
) -> dict[str, Tensor]:
    """Returns the estimates, NaN where an image is flagged or its class has no such parameter."""
    if not estimates:
        return estimates
    blank = flagged[:, None].expand(-1, len(targets)).clone()
    for t, target in enumerate(targets):
        owner = TARGETS[target].class_name if target in TARGETS else None
        if owner in class_names:
            blank[:, t] |= torch.tensor([name != owner for name in classes], dtype=torch.bool)
    return {name: values.masked_fill(blank, float("nan")) for name, values in estimates.items()}
