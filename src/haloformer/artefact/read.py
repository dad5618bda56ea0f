"""Finds and reads artefacts: run folders, hub folders and shipped models."""

import contextlib
import logging
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from haloformer.artefact.schema import (
    ARTEFACT_FILES,
    HUB_FILES,
    ArtefactFields,
    ModelFields,
    checked_fields,
)
from haloformer.errors import InputError
from haloformer.files import check_regular
from haloformer.io.strict_json import read_json
from haloformer.models.shapes import Shapes, network_shapes
from haloformer.models.weights import weights_file

_MAX_HEADER_BYTES = 1 << 23  # a tensor takes about a hundred
# A network under construction has several parts for each tensor that is saved: layers, tables, heads that are replaced.
_PARTS, _PARTS_PER_TENSOR, _VALUES = 5000, 10, 2**23
_log = logging.getLogger(__name__)
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
    """Reads the description of an artefact, given what `artefact_folder` takes.

    Raises:
        InputError: Something in it is wrong, or its network is not the one whose weights lie beside it.
    """
    where, weights = artefact_files(path)
    description = read_json(where)
    fields = checked_fields(description, where)
    check_fit(weights, where, fields.model)
    _log.info("trained network %s: %s, weights in %s", fields.model.name, where, weights.name)
    return Artefact(where, weights, description, fields)


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


def weights_description(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Returns what an artefact says of its weights; empty for weights that do not come from one.

    Args:
        path: As `haloformer.models.weights.weights_file` takes it.

    Raises:
        InputError: The file beside the weights is damaged.
    """
    file = weights_file(path)
    for description, weights in (ARTEFACT_FILES, HUB_FILES):
        beside = file.with_name(description)
        if file.name == weights and beside.is_file():
            described = read_json(beside)
            # Other packages, too, write a config.json beside model.safetensors.
            return described if isinstance(described.get("class_names"), list) else {}
    return {}


def run_folder(path: Path) -> Path:
    """Returns the run folder of a run folder or of the artefact folder in it."""
    inside = path.name == "artefact" and not (path / "artefact").exists()
    return path.parent if inside else path


def check_fit(weights: Path, where: Path, model: ModelFields) -> None:
    """Checks that a described network is that of the weights, before memory is asked for either.

    Args:
        weights: A safetensors file, of which the header alone is read.
        where: The description, for messages.
        model: What it says.

    Raises:
        InputError: The file cannot be read, or names or shapes differ.
    """
    found = _header(weights)
    bounds = {
        "most": _PARTS + _PARTS_PER_TENSOR * len(found),
        "most_values": _VALUES + 4 * sum(math.prod(shape) for shape, _ in found.values()),
    }
    try:
        wanted = network_shapes(model.name, **bounds, **model.options())
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    faults = {
        "lacks": [name for name in wanted if name not in found],
        "has an unknown": [name for name in found if name not in wanted],
        "has another shape or kind of": [n for n in wanted if n in found and found[n] != wanted[n]],
    }
    for what, names in faults.items():
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise InputError(
                f"{weights}: does not fit the model that {where.name} describes, {model.name!r}: "
                f"{what} '{names[0]}'{more}"
            )


def load_weights(model: nn.Module, path: Path) -> None:
    """Fills the model from a safetensors file that must fit it exactly."""
    from safetensors.torch import load_file

    with _readable(path):
        weights = load_file(path)
    for name, tensor in weights.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise InputError(f"{path}: '{name}' holds NaN or infinite values")
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise InputError(
            f"{path}: does not fit the model that artefact.json describes: {_first_line(error)}"
        ) from error


def _header(path: Path) -> Shapes:
    """Returns the shapes in a safetensors file, and whether the numbers are floating-point ones."""
    from safetensors import safe_open

    with _readable(path):
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
        if length > _MAX_HEADER_BYTES:
            raise ValueError(f"its header has {length:,} bytes, more than {_MAX_HEADER_BYTES:,}")
        with safe_open(path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            return {
                name: (tuple(found.get_shape()), "F" in found.get_dtype())
                for name, found in slices.items()
            }


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Raises InputError for whatever keeps a safetensors file from being read."""
    from safetensors import SafetensorError

    check_regular(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; the artefact lacks its weights")
    try:
        yield
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as safetensors: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    """Returns what matters of a many-line message; of PyTorch's mismatch lists, the first mismatch."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [
        type(error).__name__
    ]
    return (lines[1] if len(lines) > 1 and lines[0].endswith(":") else lines[0])[:300]
