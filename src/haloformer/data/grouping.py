"""Which classes are told apart: all of them, or groups of them."""

import numpy as np

from haloformer.errors import InputError
from haloformer.vocabulary import unknown_name

GROUPINGS: dict[str, dict[str, str] | None] = {
    "all": None,
    "substructure": {"axion": "substructure", "cdm": "substructure", "no_sub": "no_sub"},
    "axion_cdm": {"axion": "axion", "cdm": "cdm"},
}
"""Grouping → class of the data → class that is learned; None: each class is itself."""

LEFT_OUT = -1
"""Label of images whose class a grouping leaves out."""


def group_classes(
    class_names: tuple[str, ...], grouping: str
) -> tuple[tuple[str, ...], np.ndarray]:
    """Returns the classes to be learned, and for each class of the data its number among them.

    Args:
        class_names: Classes of the data, in the order of its labels.
        grouping: One of :data:`GROUPINGS`.

    Returns:
        Names, and (K,) int64 new labels, :data:`LEFT_OUT` for classes that are not used.

    Raises:
        InputError: An unknown grouping, or data without the classes it needs.
    """
    if grouping not in GROUPINGS:
        raise unknown_name("grouping of classes", grouping, GROUPINGS)
    groups = GROUPINGS[grouping]
    if groups is None:
        return class_names, np.arange(len(class_names))
    names = tuple(dict.fromkeys(groups.values()))  # in the order in which they are written above
    if missing := [
        name for name in names if name not in {groups.get(known) for known in class_names}
    ]:
        raise InputError(
            f"classes: {grouping} needs images of '{missing[0]}', which are not among {list(class_names)}"
        )
    return names, np.array(
        [names.index(groups[name]) if name in groups else LEFT_OUT for name in class_names]
    )
