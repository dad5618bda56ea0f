"""What each part of an audit provides; :mod:`haloformer.audit.parts` lists them."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from haloformer.artefact.read import artefact_files
from haloformer.audit.audited import AuditedModel
from haloformer.io.writing import file_sha256

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


def weights_digest(run: str) -> str:
    """Returns what tells a model's weights from others, given its run, its artefact or the name of a shipped one."""
    return file_sha256(artefact_files(Path(run))[1])[:16]


def statistics_of(audited: AuditedModel, *names: str) -> dict[str, object]:
    """Returns settings that tell how a model was calibrated: what its artefact holds under these names."""
    held = json.dumps([audited.predictor.artefact.get(name) for name in names])
    return {"statistics": hashlib.sha256(held.encode()).hexdigest()[:16]}


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
