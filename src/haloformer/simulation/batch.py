"""A batch of simulated images with everything that is known of them."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor


@dataclass
class LensBatch:
    """A batch of simulated lenses with everything that is known of them.

    Attributes:
        images: (B, C, H, W); one channel, or one for each of the survey's bands.
        labels: (B,) int64, indices into ``class_names``.
        parameters: Arrays (B,), (B, n_max) or (B, bands) by name; float64 with NaN where a parameter does not apply; ``seed`` and ``index`` int64.
        class_names: The classes in canonical order.
        attributes: Survey, noise mode, units, seed, code version and so on; JSON-able.
    """

    images: Tensor
    labels: Tensor
    parameters: dict[str, np.ndarray]
    class_names: tuple[str, ...]
    attributes: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.labels)
