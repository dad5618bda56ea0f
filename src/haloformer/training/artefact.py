"""Writes what ships: the best weights with all that is needed to use them, as two files that cannot hold code."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from haloformer.vocabulary import ARTEFACT_FORMAT


def write_artefact(folder: Path, state_dict: Mapping[str, Tensor], description: dict[str, Any]) -> None:
    """Writes ``weights.safetensors`` and ``artefact.json``, each beside its place and then renamed.

    Args:
        folder: Created if missing.
        state_dict: The weights by name.
        description: The JSON-able rest: model, classes, normalisation, provenance.
    """
    from safetensors.torch import save

    folder.mkdir(parents=True, exist_ok=True)
    # Copies: some networks (CoaT) use a layer in two places, and the format refuses tensors that share memory.
    weights = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state_dict.items()}
    part = folder / "weights.safetensors.part"
    part.write_bytes(save(weights))
    os.replace(part, folder / "weights.safetensors")
    write_text(folder / "artefact.json", json.dumps({"format": ARTEFACT_FORMAT, **description}, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes a text file beside its place and renames it, so that it is never seen half-written."""
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


def file_sha256(path: Path) -> str:
    """Returns the SHA-256 of a file, by which the very same weights are found again."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
