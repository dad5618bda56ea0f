"""Packages whose names are imported on first use: importing one imports little, and completion still shows all."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def lazy(
    package: str, homes: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Returns the ``__getattr__`` and the ``__dir__`` of a package.

    Args:
        package: Its name.
        homes: Each public name → the module that has it: a module of the package, or one in full.
    """

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module '{package}' has no attribute '{name}'")
        home = homes[name]
        module = home if home.startswith("haloformer.") else f"{package}.{home}"
        return getattr(importlib.import_module(module), name)

    def names() -> list[str]:
        return sorted(homes)  # not what happens to have been imported

    return get, names
