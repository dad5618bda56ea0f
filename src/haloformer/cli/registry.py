"""What a command is, and where each lives."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from haloformer.reporting.tabular import Tabular

HOMES: dict[str, str] = {
    "try": "haloformer.trial.command",
    "simulate": "haloformer.cli.simulate",
    "convert": "haloformer.cli.convert",
    "inspect": "haloformer.cli.inspect",
    "prepare": "haloformer.cli.prepare",
    "train": "haloformer.cli.train",
    "study": "haloformer.studies.command",
    "benchmark": "haloformer.studies.command",
    "tune": "haloformer.tuning.command",
    "presets": "haloformer.cli.presets",
    "evaluate": "haloformer.evaluation.command",
    "calibrate": "haloformer.evaluation.command",
    "audit": "haloformer.audit.command",
    "limits": "haloformer.oracle.command",
    "compare": "haloformer.evaluation.command",
    "predict": "haloformer.prediction.command",
    "export": "haloformer.cli.export",
    "fit": "haloformer.fitting.command",
    "explain": "haloformer.explanation.command",
    "app": "haloformer.app",
    "models": "haloformer.cli.models",
    "surveys": "haloformer.cli.surveys",
    "doctor": "haloformer.cli.doctor",
    "completion": "haloformer.cli.completion",
}
"""Command → module of its function, whose signature is the options and whose docstring
is their help. In the order of ``haloformer --help``."""


@dataclass(frozen=True)
class Command:
    """How a function is used on the command line.

    Attributes:
        summary: One line for the overview.
        positional: Arguments that are given without a name.
        examples: Lines for ``--help``.
        experiment: Whether the fields of an experiment are options, too.
        present: Prints the function's result for people; may return the exit code. A result that
            is a text is printed as it is.
        function: Name of the function, where it is not that of the command.
        table: Of its options: whether it writes one table, which ``--out -`` prints.
        text: Whether all it makes is what it prints, which ``--out`` writes to a file.
        as_table: Makes a table of the result, which ``--out`` writes where its ending is that of a table.
        dry_run: Whether it can tell what it would do; see :mod:`haloformer.cli.planning`.
        as_json: What ``--json`` prints of the result; see :mod:`haloformer.cli.as_json`.
        ends_itself: Whether it says itself how long it took, or runs until it is ended.
    """

    summary: str
    positional: tuple[str, ...] = ()
    examples: tuple[str, ...] = ()
    experiment: bool = False
    present: Callable[[Any], int | None] | None = None
    function: str = ""
    table: Callable[[Mapping[str, Any]], bool] | None = None
    text: bool = False
    as_table: "Callable[[Any], Tabular] | None" = None
    dry_run: bool = False
    as_json: Callable[[Any], object] | None = None
    ends_itself: bool = False
