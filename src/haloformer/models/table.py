"""The packaged table of all models and what they cost: what would take minutes to build and seconds to import."""

import json
from importlib import resources
from typing import Any


def model_table() -> list[dict[str, Any]]:
    """Returns the rows of ``table.json``, one per model."""
    return json.loads(
        resources.files("haloformer").joinpath("models/table.json").read_text(encoding="utf-8")
    )
