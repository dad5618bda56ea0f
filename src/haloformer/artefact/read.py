"""Finds and reads artefacts: run folders, hub folders and shipped models."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from haloformer.artefact.schema import (
    ARTEFACT_FILES,
    HUB_FILES,
    ArtefactFields,
    checked_fields,
)
from haloformer.errors import InputError
from haloformer.io.strict_json import read_json

_SHIPPED = Path(__file__).parents[1] / "weights"


@dataclass(frozen=True)
class Artefact:
    """An artefact that has been read and checked, all but its weights.

    Attributes:
        path: Of the description.
        weights: Path of the weights.
        description: All of ``artefact.json``.
        fields: What of it builds a predictor.
    """

    path: Path
    weights: Path
    description: dict[str, Any]
    fields: ArtefactFields


def read_artefact(path: Path) -> Artefact:
    """Reads the description of an artefact, given what `artefact_folder` takes; raises InputError."""
    where, weights = artefact_files(path)
    description = read_json(where)
    return Artefact(where, weights, description, checked_fields(description, where))


def shipped_models() -> tuple[str, ...]:
    """Returns the names of the trained models that come with the package."""
    return tuple(sorted(entry.parent.name for entry in _SHIPPED.glob("*/artefact.json")))


def artefact_folder(path: Path) -> Path:
    """Returns the folder of ``artefact.json``, given it, the run folder around it, or the name of a shipped model.

    A folder of that name goes before a shipped model.
    """
    if not path.exists():
        if str(path) in shipped_models():
            return _SHIPPED / str(path)
        raise InputError(
            f"{path}: no such run folder, and no shipped model: those are {', '.join(shipped_models())}"
        )
    for folder in (path / "artefact", path):
        if any((folder / name).is_file() for name in (ARTEFACT_FILES[0], HUB_FILES[0])):
            return folder
    raise InputError(
        f"{path}: holds no trained model (artefact/artefact.json); has its training finished?"
    )


def artefact_files(path: Path) -> tuple[Path, Path]:
    """Returns the description and the weights, given what `artefact_folder` takes."""
    folder = artefact_folder(path)
    names = ARTEFACT_FILES if (folder / ARTEFACT_FILES[0]).is_file() else HUB_FILES
    return folder / names[0], folder / names[1]


def run_folder(path: Path) -> Path:
    """Returns the run folder of a run folder or of the artefact folder in it."""
    inside = path.name == "artefact" and not (path / "artefact").exists()
    return path.parent if inside else path


def load_weights(model: nn.Module, path: Path) -> None:
    """Fills the model from a safetensors file that must fit it exactly."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise InputError(f"{path}: no such file; the artefact lacks its weights")
    try:
        weights = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as safetensors: {_first_line(error)}") from error
    for name, tensor in weights.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise InputError(f"{path}: '{name}' holds NaN or infinite values")
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise InputError(
            f"{path}: does not fit the model that artefact.json describes: {_first_line(error)}"
        ) from error


def _first_line(error: Exception) -> str:
    """Returns what matters of a many-line message; of PyTorch's mismatch lists, the first mismatch."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [
        type(error).__name__
    ]
    return (lines[1] if len(lines) > 1 and lines[0].endswith(":") else lines[0])[:300]
