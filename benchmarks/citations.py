"""Writes the architectures' papers into docs/comparison.md, from the registry's ``paper`` fields.

python benchmarks/citations.py
"""

import re
from pathlib import Path

from haloformer.io.writing import write_text
from haloformer.models import list_models

DOCUMENT = Path(__file__).parents[1] / "docs" / "comparison.md"

BEGIN, END = "<!-- written by benchmarks/citations.py -->", "<!-- until here -->"


def linked(paper: str) -> str:
    """The arXiv numbers of a paper's line as links."""
    return re.sub(r"arXiv:(\d{4}\.\d{4,5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", paper)


def table() -> str:
    """A row for every paper of every family in the registry."""
    rows = dict.fromkeys((info.family, info.source, linked(info.paper)) for info in list_models())
    ordered = sorted(rows, key=lambda row: (row[0].lower(), row[1:]))
    return "\n".join(
        ["| family | written in | paper |", "|---|---|---|"]
        + [f"| {family} | {source} | {paper} |" for family, source, paper in ordered]
    )


def with_table(text: str) -> str:
    """The page with its table written anew."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{table()}\n\n{END}{after}"


def main() -> None:
    write_text(DOCUMENT, with_table(DOCUMENT.read_text(encoding="utf-8")))
    print(f"wrote {DOCUMENT.name}")


if __name__ == "__main__":
    main()
