"""Writes what ships: the best weights with all that is needed to use them, as two files that cannot hold code."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from haloformer.artefact.schema import ARTEFACT_FILES
from haloformer.io.strict_json import read_json
from haloformer.io.writing import write_bytes, write_text
from haloformer.vocabulary import ARTEFACT_FORMAT


def write_artefact(
    folder: Path,
    state_dict: Mapping[str, Tensor],
    description: dict[str, Any],
    names: tuple[str, str] = ARTEFACT_FILES,
) -> None:
    """Writes ``weights.safetensors`` and ``artefact.json``, each beside its place and then renamed.

    Args:
        folder: Created if missing.
        state_dict: The weights by name.
        description: The JSON-able rest: model, classes, normalisation, provenance.
        names: Other names for the description and the weights.
    """
    from safetensors.torch import save

    folder.mkdir(parents=True, exist_ok=True)
    # Copies: some networks (CoaT) use a layer in two places, and the format refuses tensors that share memory.
    weights = {
        name: tensor.detach().cpu().contiguous().clone() for name, tensor in state_dict.items()
    }
    write_bytes(folder / names[1], save(weights))
    write_text(
        folder / names[0], json.dumps({"format": ARTEFACT_FORMAT, **description}, indent=2) + "\n"
    )


def write_calibration(
    folder: Path,
    calibration: dict[str, Any] | None,
    ood: tuple[dict[str, Any], Mapping[str, Tensor]] | None,
    geometry: dict[str, Any] | None = None,
) -> None:
    """Adds to an artefact how its probabilities are calibrated, and what tells images unlike those of its training.

    In three steps, each a rename: whenever it is interrupted, the artefact is whole, and its statistics are never others than it describes.

    Args:
        folder: Of the artefact.
        calibration: For ``artefact.json``; None removes one that was there, as with ``ood``.
        ood: For ``artefact.json``, and the tensors of ``ood.safetensors``.
        geometry: For ``artefact.json``: what is usual of where the lenses lie.
    """
    from safetensors.torch import save

    path = folder / "artefact.json"
    description = read_json(path)
    description.pop("ood", None)
    for name, values in (("calibration", calibration), ("geometry", geometry)):
        description.pop(name, None)
        if values is not None:
            description[name] = values
    write_text(path, json.dumps(description, indent=2) + "\n")
    if ood is None:
        (folder / "ood.safetensors").unlink(missing_ok=True)
        return
    write_bytes(folder / "ood.safetensors", save(dict(ood[1])))
    write_text(path, json.dumps({**description, "ood": ood[0]}, indent=2) + "\n")
