"""The packaged table of all models and their costs, which would take minutes to measure."""

import json
from importlib import resources
from typing import Any


def model_table() -> list[dict[str, Any]]:
    """Returns the rows of ``table.json``, one per model."""
    file = resources.files("haloformer").joinpath("models/table.json")
    rows: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))
    return rows
