"""Presets: shipped YAML files with options of an experiment, and one for every family of networks.

Recipes are files in ``configs/recipes``. A family's preset (``--preset swin``) names its smallest
network; it is made from the packaged table of models, unless ``configs/models`` has a file that
says more.
"""

import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from haloformer.errors import InputError
from haloformer.files import read_yaml
from haloformer.models.table import model_table
from haloformer.vocabulary import unknown_name

_SMALLEST_FIRST = ("nano", "tiny", "paper", "other")


def list_presets() -> dict[str, str]:
    """Returns the shipped presets: name → what its first comment line says."""
    return {
        name: text.partition("\n")[0].removeprefix("#").strip()
        for name, text in _preset_texts().items()
    }


def preset_text(name: str) -> str:
    """Returns the YAML of a shipped preset, comments included.

    Raises:
        InputError: There is no such preset; names the nearest one.
    """
    texts = _preset_texts()
    if name not in texts:
        raise unknown_name("preset", name, texts)
    return texts[name]


def preset_options(name: str) -> Mapping[str, Any]:
    """Returns the options of a shipped preset, or of a YAML file.

    Raises:
        InputError: There is no such preset, or the file cannot be read.
    """
    path = Path(name)
    if path.suffix.lower() in (".yaml", ".yml"):
        return read_options(path)
    return yaml.safe_load(preset_text(name)) or {}


def read_options(path: Path) -> dict[str, Any]:
    """Returns the options that a YAML file holds, or the ``config.yaml`` of a run's folder.

    Raises:
        InputError: It cannot be read, or is no mapping.
    """
    if path.is_dir() and (path / "config.yaml").exists():
        path = path / "config.yaml"
    content = read_yaml(path)
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise InputError(f"{path}: must hold options, one 'name: value' per line")
    return content


def _preset_texts() -> dict[str, str]:
    """Returns the YAML of every preset by name: recipes first, then the families of networks."""
    families = _family_texts() | _packaged_texts("models")
    return _packaged_texts("recipes") | dict(sorted(families.items()))


def _packaged_texts(folder: str) -> dict[str, str]:
    place = resources.files("haloformer").joinpath("configs", folder)
    files = sorted(place.iterdir(), key=lambda entry: entry.name)
    return {
        file.name.removesuffix(".yaml"): file.read_text(encoding="utf-8")
        for file in files
        if file.name.endswith(".yaml")
    }


def _family_texts() -> dict[str, str]:
    """Returns a preset for every family of networks: the first of its smallest size in the table."""
    chosen: dict[str, dict[str, Any]] = {}
    for row in sorted(model_table(), key=lambda row: _SMALLEST_FIRST.index(row["size"])):
        chosen.setdefault(row["family"], row)
    return {
        re.sub(r"[^a-z0-9]+", "_", family.lower()).strip("_"): _family_text(family, row)
        for family, row in chosen.items()
    }


def _family_text(family: str, row: Mapping[str, Any]) -> str:
    return (
        f"# {family}: {row['paper']}\n"
        "# docs/models/networks.md says how fast it learns.\n"
        f"model: {row['name']}\n"
    )
