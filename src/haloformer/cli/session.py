"""One call of a command: options, work, result, and what comes next."""

import contextlib
import dataclasses
import importlib
import io
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from haloformer.cli.registry import HOMES, Command
from haloformer.cli.shared import Streams, duration, verbosely
from haloformer.errors import InputError, exists_already

_TEXT_SUFFIXES = ("", ".txt", ".md", ".json")

LONG = 3.0
"""Seconds from which on a command says how long it took, and what comes next."""


def run_command(name: str, command: Command, arguments: list[str]) -> int:
    """Carries out a command and prints its result.

    Args:
        name: The command.
        command: How its function is used.
        arguments: What follows it on the command line.

    Returns:
        The exit code.
    """
    from haloformer.cli.parsing import Request, read

    began = time.perf_counter()
    function = getattr(importlib.import_module(HOMES[name]), command.function or name)
    request: Request = read(name, command, function, arguments)
    shared, keywords = request.shared, request.keywords
    with verbosely(shared) as log:
        log.info("haloformer %s: %s", name, _given(keywords))
        _check_places(command, keywords)
        if shared.dry_run:
            return _dry_run(name, request)
        to_stdout = _is_table_asked_for(name, command, keywords)
        out = _checked_out(request, command.as_table is not None) if command.text else None
        streams = Streams(shared, result_on_stdout=to_stdout)
        with _table_place(keywords) if to_stdout else contextlib.nullcontext() as table:
            with streams.working():
                result = function(**keywords)
            log.info("%s: carried out after %s", name, duration(time.perf_counter() - began))
            if to_stdout:
                result = dataclasses.replace(result, out=Path("standard output"))
            text, code = _presented(command, result, request, streams)
            if shared.json and _is_first_process():
                text = _document(command, result, table)
            elif table is not None:
                text = table.read_text(encoding="utf-8")
        _give(text, out, streams)
        seconds = time.perf_counter() - began
        silent = shared.quiet or command.ends_itself or isinstance(result, str)
        # What a text command prints may be read by another program: nothing is put behind it.
        silent = silent or (command.text and not sys.stderr.isatty())
        if seconds >= LONG and not silent and _is_first_process():
            aside = contextlib.redirect_stdout(sys.stderr) if command.text else streams.working()
            with aside:
                _print_end(name, keywords, result, arguments, seconds, code)
    return code


def _is_table_asked_for(name: str, command: Command, keywords: dict[str, Any]) -> bool:
    """Whether the table goes to standard output; refuses ``--out -`` where there is none."""
    if "-" not in (keywords.get("out"), (keywords.get("options") or {}).get("out")):
        return False
    if command.table is None or not command.table(keywords):
        raise InputError(
            "--out - prints the table of predict, or of fit --survey: "
            f"give a name for what {name} writes here"
        )
    return True


def _check_places(command: Command, keywords: dict[str, Any]) -> None:
    """Refuses files and folders that cannot be written, and tables that are there, before the work for them begins."""
    from haloformer.io.writing import check_writable

    given = {**(keywords.get("options") or {}), **keywords}
    is_table = command.table is not None and command.table(keywords)
    for place in (given.get(name) for name in ("out", "figure")):
        if not isinstance(place, str) or place in ("", "-"):
            continue
        if not Path(place).exists():
            check_writable(Path(place))
        elif is_table and Path(place).is_file() and not keywords.get("overwrite"):
            raise exists_already(Path(place))


def _given(keywords: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in keywords.items() if value is not None)


def _is_first_process() -> bool:
    """Whether this is the only process of a training, or the first of several."""
    return all(os.environ.get(name, "0") == "0" for name in ("RANK", "LOCAL_RANK"))


def _dry_run(name: str, request: Any) -> int:
    from haloformer.cli.planning import plan_of

    streams = Streams(request.shared, result_on_stdout=False)
    with streams.working():
        plan = plan_of(name, request.keywords)
    if request.shared.json:
        _give(_json_text(plan.as_document()), None, streams)
    elif not request.shared.quiet:
        plan.show()
    return 0


def _checked_out(request: Any, as_table: bool) -> Path | None:
    """Returns the file for what is printed; None for the screen."""
    if request.out in (None, "-"):
        return None
    from haloformer.io.writing import free_file

    if as_table and not _is_table(request.out) and Path(request.out).suffix not in _TEXT_SUFFIXES:
        from haloformer.io.tables import SUFFIXES_TOLD

        raise InputError(
            f"{request.out}: the list is written as a table ({SUFFIXES_TOLD}) "
            f"or as text ({', '.join(filter(None, _TEXT_SUFFIXES))}, or no ending)"
        )
    return free_file(Path(request.out), bool(request.keywords.get("overwrite")))


def _is_table(out: str | None) -> bool:
    """Whether a name is that of a table."""
    from haloformer.io.tables import TABLE_SUFFIXES

    return out is not None and Path(out).suffix.lower() in TABLE_SUFFIXES


@contextlib.contextmanager
def _table_place(keywords: dict[str, Any]) -> Iterator[Path]:
    """Lets a command write its table to a temporary file, which is printed in the end."""
    with tempfile.TemporaryDirectory(prefix="haloformer-") as folder:
        path = Path(folder) / "table.csv"
        keywords["out"] = str(path)
        yield path


def _presented(
    command: Command, result: object, request: Any, streams: Streams
) -> tuple[str | None, int]:
    """Prints a result for people; returns its text where that is kept, and the exit code."""
    if isinstance(result, str):
        return result, 0
    present: Callable[[Any], int | None] | None = command.present
    if present is None:
        return None, 0
    if command.as_table is not None and not request.shared.json and _is_table(request.out):
        command.as_table(result).write(request.out)
        return None, 0
    if command.text and request.out is not None and not request.shared.json:
        with contextlib.redirect_stdout(io.StringIO()) as kept:
            code = present(result) or 0
        return kept.getvalue(), code
    with streams.presenting():
        return None, present(result) or 0


def _document(command: Command, result: object, table: Path | None) -> str:
    from haloformer.cli.as_json import as_document, table_document

    found = (command.as_json or as_document)(result)
    if table is not None and isinstance(found, dict):
        found = {**found, **table_document(table)}
    return _json_text(found)


def _json_text(value: object) -> str:
    from haloformer.io.strict_json import to_json

    return to_json(value)


def _give(text: str | None, out: Path | None, streams: Streams) -> None:
    """Prints what was asked for, or writes it to its file."""
    if text is None:
        return
    if out is None:
        streams.result.write(text)
        return
    from haloformer.io.writing import write_text

    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, text)


def _print_end(
    name: str,
    keywords: dict[str, Any],
    result: object,
    arguments: list[str],
    seconds: float,
    code: int,
) -> None:
    from haloformer.cli.layout import broken_command, screen_width
    from haloformer.cli.next_steps import next_step

    print(f"done in {duration(seconds)}")
    if code == 0 and (step := next_step(name, keywords, result, arguments)) is not None:
        width = screen_width() if sys.stdout.isatty() else 10_000
        print(broken_command(f"next: {step}", width))
