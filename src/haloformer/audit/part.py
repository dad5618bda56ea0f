"""What each part of an audit provides; :mod:`haloformer.audit.parts` lists them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from haloformer.audit.audited import AuditedModel

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Measured = dict[str, Any]
"""What a part measured, as JSON holds it."""


class Table(NamedTuple):
    """A table of a report: names of its columns, and rows of cells."""

    header: list[str]
    rows: list[list[str]]


@dataclass(frozen=True)
class Inputs:
    """What the user gave beside the model.

    Attributes:
        compare: More models, by the name that the user gave.
        real: Folders or files of real lens cutouts.
        galaxies: Folders or files of galaxies that are no lenses.
    """

    compare: Mapping[str, AuditedModel] = field(default_factory=dict)
    real: Sequence[str] = ()
    galaxies: Sequence[str] = ()


def _no_settings(audited: AuditedModel, inputs: Inputs) -> dict[str, object]:
    return {}


@dataclass(frozen=True)
class Part:
    """One part of an audit.

    Attributes:
        name: On the command line, in ``audit.json`` and as name of its file in ``parts/``.
        title: Heading of its section.
        measure: Measures a model.
        describe: Says in words how it was measured, from what was measured and n, the images per condition.
        sentences: Says what was found.
        tables: Returns the tables, from what was measured and the names of the classes.
        figures: Draws the figures, by name.
        captions: Their captions, by name, in the order of the report.
        of_composed: Whether it measures models of composed surveys, too.
        settings: What decides the result beside the model, survey, noise, seed and n: a part that was measured with
            other settings is not reused.
    """

    name: str
    title: str
    measure: Callable[[AuditedModel, Inputs], Measured]
    describe: Callable[[Measured, int], str]
    sentences: Callable[[Measured], str]
    tables: Callable[[Measured, Sequence[str]], list[Table]]
    figures: Callable[[Measured], "dict[str, Figure]"]
    captions: Mapping[str, str]
    of_composed: bool = True
    settings: Callable[[AuditedModel, Inputs], dict[str, object]] = _no_settings
