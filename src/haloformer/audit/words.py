"""Numbers and lists in sentences and in cells of tables."""

import math
from collections.abc import Sequence
from typing import Any

from haloformer.audit.audited import interval
from haloformer.reporting.interval import Interval, format_interval, format_value


def listed(names: Sequence[str]) -> str:
    """Returns ``a, b and c``."""
    return ", ".join(names[:-1]) + (" and " if len(names) > 1 else "") + names[-1]


def with_ci(value: Interval) -> str:
    """Returns ``0.912 (0.880–0.935)``."""
    return format_interval(value, 3)


def signed(value: Interval) -> str:
    """Returns ``−0.012 (−0.020 to −0.004)``; the value alone where there is no interval."""
    numbers = (f"{x:+.3f}".replace("-", "−") for x in (value.value, value.low, value.high))
    first, low, high = numbers
    return f"{first} ({low} to {high})" if math.isfinite(value.low) else first


def auc_cells(row: dict[str, Any], names: Sequence[str]) -> list[str]:
    """Returns the macro AUC with its interval, and the AUC of each class."""
    return [
        with_ci(interval(row["macro_auc"])),
        *(format_value(interval(row["auc"][name]).value, 3) for name in names),
    ]


def change_cell(row: dict[str, Any]) -> str:
    """Returns the paired change with its interval; empty where none was measured."""
    return signed(interval(row["difference"])) if "difference" in row else ""
