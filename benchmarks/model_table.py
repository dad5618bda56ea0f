"""Writes the table that ``haloformer models`` lists, and results/measurements/zoo.md from it: what every registered model costs.

    python benchmarks/model_table.py              the models that are new or whose entry changed
    python benchmarks/model_table.py vit_nano     these, in any case
    python benchmarks/model_table.py --all        all

Each model is built for 64×64 and 150×150 images of one channel and three classes. The table is written after each, so
that it can be interrupted.
"""

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

from haloformer.models import ModelInfo, create_model, has_attention, list_models
from haloformer.models.cost import count_parameters
from haloformer.models.details import SIZES, macs_at

ROOT = Path(__file__).parents[1]
TABLE = ROOT / "src" / "haloformer" / "models" / "table.json"
DOCUMENT = ROOT / "results" / "measurements" / "zoo.md"


def entry(info: ModelInfo) -> dict[str, Any]:
    """What the registry says."""
    return {
        "name": info.name,
        "family": info.family,
        "size": info.size,
        "source": info.source,
        "pretrained": info.pretrained,
        "paper": info.paper,
        "notes": info.notes,
        "built_from": f"{info.timm_name} {json.dumps(dict(info.kwargs), sort_keys=True)}",
    }


def measured(info: ModelInfo) -> dict[str, Any]:
    """What only building the model tells."""
    model = create_model(info.name, SIZES[0])
    return {
        "parameters": count_parameters(model),
        **{
            f"macs_{size}": macs_at(info, size, model if size == SIZES[0] else None)
            for size in SIZES
        },
        "attention": has_attention(model),
    }


def read(path: Path = TABLE) -> dict[str, dict[str, Any]]:
    rows = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    return {row["name"]: row for row in rows}


def write(rows: dict[str, dict[str, Any]], path: Path = TABLE) -> None:
    """Writes the rows in the order of the registry, one per line."""
    listed = [
        json.dumps(rows[info.name], ensure_ascii=False)
        for info in list_models()
        if info.name in rows
    ]
    part = path.with_suffix(".part")
    part.write_text("[\n" + ",\n".join(listed) + "\n]\n", encoding="utf-8")
    os.replace(part, path)


def document(rows: list[dict[str, Any]]) -> str:
    """The families, each with its sizes and what they cost, as Markdown."""
    lines = [
        "# The zoo",
        "",
        "Every model by family: parameters with one channel and three classes at 64×64 pixels, and multiply-accumulate operations for an image of 64×64 / 150×150.",
        "Sizes in bold are ours, for lens cutouts; the others are the papers' variants. Written by `python benchmarks/model_table.py`;",
        "`haloformer models` lists the same.",
        "",
        "| family | paper | models: parameters, operations | attention maps |",
        "|---|---|---|---|",
    ]
    families: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        families.setdefault((row["family"], row["paper"]), []).append(row)
    for (family, paper), members in families.items():
        number = paper.rpartition("arXiv:")[2].rstrip(")")
        models = "<br>".join(
            f"{'**' if row['size'] in ('nano', 'tiny') else ''}`{row['name']}`{'**' if row['size'] in ('nano', 'tiny') else ''} "
            f"{row['parameters'] / 1e6:.2f} M, {_operations(row['macs_64'])} / {_operations(row['macs_150'])}"
            for row in members
        )
        shown = {row["attention"] for row in members}
        attention = "yes" if shown == {True} else "no" if shown == {False} else "some"
        lines.append(
            f"| {family} | [{number}](https://arxiv.org/abs/{number}) | {models} | {attention} |"
        )
    return "\n".join(lines) + "\n"


def _operations(macs: int | None) -> str:
    if macs is None:
        return "–"
    return f"{macs / 1e9:.2f} G" if macs >= 1e9 else f"{macs / 1e6:.1f} M"


def main(names: list[str], everything: bool) -> None:
    rows = read()
    infos = [info for info in list_models() if not names or info.name in names]
    for number, info in enumerate(infos, start=1):
        before, now = rows.get(info.name, {}), entry(info)
        began = time.perf_counter()
        fresh = everything or info.name in names or before.get("built_from") != now["built_from"]
        if fresh:
            numbers = measured(info)
        else:
            numbers = {
                key: before[key]
                for key in ("parameters", *(f"macs_{size}" for size in SIZES), "attention")
            }
        # None until benchmarks/compatibility.py has tried the model.
        exceptions = (
            before.get("exceptions") if before.get("built_from") == now["built_from"] else None
        )
        rows[info.name] = {**now, **numbers, "exceptions": exceptions}
        if fresh:
            write(rows)
            seconds = time.perf_counter() - began
            print(f"{number}/{len(infos)} {info.name}: {numbers} in {seconds:.1f} s", flush=True)
    write(rows)
    if len(rows) == len(list_models()):
        DOCUMENT.write_text(document([rows[info.name] for info in list_models()]), encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help="only these models")
    parser.add_argument("--all", action="store_true", help="measure again what is in the table")
    arguments = parser.parse_args()
    main(arguments.names, arguments.all)
