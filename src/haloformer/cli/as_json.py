"""A command's result as what JSON has: tables with units and provenance, null for NaN."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def as_document(result: object) -> object:
    """Returns a result as mappings, lists, texts and numbers.

    A table says its provenance, and of each column name, unit, description and values; of a data
    class each field has its name.
    """
    if result is None or isinstance(result, bool | int | float | str):
        return result
    if isinstance(result, Mapping):
        return {str(key): as_document(value) for key, value in result.items()}
    if isinstance(result, list | tuple | set | frozenset | range):
        return [as_document(value) for value in result]
    if callable(columns := getattr(result, "columns", None)):
        return _table(result, columns())
    if dataclasses.is_dataclass(result):
        fields = dataclasses.fields(result)
        return {each.name: as_document(getattr(result, each.name)) for each in fields}
    if callable(tolist := getattr(result, "tolist", None)):  # of arrays and tensors
        return as_document(tolist())  # masked values are None
    return str(result)  # a path, a date, a unit


def _table(result: Any, columns: Any) -> dict[str, object]:
    return {
        "summary": result.summary(),
        "provenance": as_document(result.provenance()),
        "columns": [
            {
                "name": each.name,
                "unit": each.unit,
                "description": each.description,
                "values": as_document(each.values),
            }
            for each in columns
        ],
    }


def table_document(path: Path) -> dict[str, object]:
    """Returns a CSV table that a command wrote: its columns' units, and its rows; null where nothing is."""
    import csv

    from haloformer.io.tables import column_unit

    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        rows = [{name: _value(name, text) for name, text in row.items()} for row in reader]
        names = reader.fieldnames or []
    units = {name: unit for name in names if (unit := column_unit(name))}
    return {"units": units, "rows": rows}


def _value(column: str, text: str) -> object:
    from haloformer.io.tables import column_kind

    if text == "":
        return None
    if text in ("True", "False"):
        return text == "True"
    kind = column_kind(column)
    if kind == "text":
        return text
    return int(text) if kind == "whole" else float(text)
