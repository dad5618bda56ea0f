"""``haloformer doctor``."""

from typing import TYPE_CHECKING

from haloformer.cli.present import print_table
from haloformer.cli.registry import Command

if TYPE_CHECKING:
    from haloformer.cli.examination import Examination


def present(found: "Examination") -> int:
    """Prints what was found; returns 1 if something is wrong."""
    for title, rows in found.topics.items():
        print_table(title, ["", ""], [(name, value) for name, value in rows.items()], headed=False)
    for problem in found.problems:
        print(f"✗ {problem}")
    if not found.problems:
        print("✓ nothing is wrong")
    return 1 if found.problems else 0


COMMAND = Command(
    "tell what this installation has and can do, and what is wrong with it",
    present=present,
    as_json=lambda found: found.as_dict(),
    text=True,
    examples=("haloformer doctor", "haloformer doctor --json > doctor.json"),
)


def doctor() -> "Examination":
    """Tells versions, devices, threads, caches and optional parts of this installation, and tries whether it works.

    A few lenses are simulated and fitted by each way of computing that there is, and the answers
    compared. What is wrong is said with what to do about it; the exit code is then 1. Good to have
    beside a question or a bug report.
    """
    from haloformer.cli.examination import examine

    return examine()
