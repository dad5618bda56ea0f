"""The list of networks as a table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from haloformer._version import code_version
from haloformer.reporting.tabular import Column, Tabular, masked, texts

_TEXTS = {
    "name": "what create_model takes",
    "family": "",
    "size": "nano and tiny are made for lens cutouts; paper: as in the papers",
    "paper": "",
    "notes": "",
}
_NUMBERS = {
    "parameters": "number of trainable values",
    "macs_64": "multiply-accumulate operations of one image of 64 × 64 pixels",
    "macs_150": "the same of 150 × 150 pixels",
}
_ANSWERS = {
    "pretrained": "whether ImageNet weights can be downloaded",
    "attention": "whether its attention can be shown on the image",
}


@dataclass(frozen=True, eq=False, repr=False)
class ListedModels(Tabular):
    """Networks, a row for each.

    Attributes:
        rows: As `haloformer models` has them.
    """

    rows: Sequence[Mapping[str, Any]]

    def columns(self) -> list[Column]:
        """Returns name, family, size, paper, and what they cost."""

        def of(name: str) -> list[Any]:
            return [row.get(name) for row in self.rows]

        return [
            *(Column(name, texts(of(name)), "", told) for name, told in _TEXTS.items()),
            *(Column(name, masked(of(name), int), "", told) for name, told in _NUMBERS.items()),
            *(Column(name, np.array(of(name), bool), "", told) for name, told in _ANSWERS.items()),
        ]

    def provenance(self) -> dict[str, Any]:
        """Returns the code version."""
        return {"code_version": code_version()}

    def summary(self) -> str:
        """Returns how many there are."""
        return f"{len(self.rows)} networks"
