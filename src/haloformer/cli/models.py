"""``haloformer models``."""

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from itertools import groupby
from typing import TYPE_CHECKING, Any, Literal

from haloformer.cli.present import print_table
from haloformer.cli.registry import Command
from haloformer.errors import InputError
from haloformer.vocabulary import unknown_name

if TYPE_CHECKING:
    from haloformer.reporting.tabular import Tabular

Row = Mapping[str, Any]  # of the packaged table of models


def present(found: Row | Sequence[Row]) -> None:
    """Prints the list of networks, or one in detail."""
    if isinstance(found, Mapping):
        _print_model(found)
    elif not found:
        print("no model has all these properties")
    else:
        _print_list(found)


def as_table(found: Row | Sequence[Row]) -> "Tabular":
    """Returns the networks, or the one, as a table for ``--out`` with the ending of one."""
    from haloformer.cli.listed_models import ListedModels

    return ListedModels([found] if isinstance(found, Mapping) else list(found))


COMMAND = Command(
    "list the networks",
    positional=("name",),
    present=present,
    text=True,
    as_table=as_table,
    examples=(
        "haloformer models",
        "haloformer models --size nano --max-parameters 1M --attention",
        "haloformer models --family Swin --json",
        "haloformer models --out models.ecsv",
        "haloformer models resnet18 --img-size 96",
    ),
)


def models(
    name: str | None = None,
    *,
    family: str | None = None,
    size: Literal["nano", "tiny", "paper", "other"] | None = None,
    max_parameters: str | None = None,
    pretrained: bool = False,
    attention: bool = False,
    img_size: int | None = None,
) -> Row | Sequence[Row]:
    """Lists the networks that can be trained, or builds one and shows it in detail.

    MACs are the multiply-accumulate operations of one image of one channel, of 64×64 and 150×150
    pixels.

    Args:
        name: A model to show in detail; any timm name works, too. Or a pattern of names to list, such
            as '*_nano'.
        family: Only models of this family, such as ViT or Swin; upper and lower case are the same.
        size: nano (at most 1.5 M parameters) and tiny (4 to 7 M) are made for lens cutouts; paper:
            as in the papers.
        max_parameters: Only models of at most so many, such as 5M or 5e6.
        pretrained: Only models with ImageNet weights that can be downloaded.
        attention: Only models whose attention can be shown on the image.
        img_size: For one model: the side of the images in pixels, beside 64 and 150.
    """
    if name is not None and not any(sign in name for sign in "*?["):
        filters = {"family": family, "size": size, "max_parameters": max_parameters, "pretrained": pretrained, "attention": attention}  # fmt: skip
        for key, value in filters.items():
            if value:
                raise InputError(
                    f"--{key} chooses from the list: leave it out, or the name '{name}'"
                )
        return _described(name, img_size)
    if img_size is not None:
        raise InputError("--img_size is for one model: give its name, too")
    from haloformer.models.table import model_table

    rows: list[dict[str, Any]] = model_table()
    if family is not None:
        rows = _of_family(rows, family)
    most = float("inf") if max_parameters is None else _number(max_parameters)
    required = [key for key, is_ in (("pretrained", pretrained), ("attention", attention)) if is_]
    return [
        row
        for row in rows
        if size in (None, row["size"])
        and row["parameters"] <= most
        and (name is None or fnmatchcase(row["name"], name.lower()))
        and all(row[key] for key in required)
    ]


def _of_family(rows: Sequence[dict[str, Any]], family: str) -> list[dict[str, Any]]:
    families = {row["family"].lower(): row["family"] for row in rows}
    if family.lower() not in families:
        raise unknown_name("family", family, families.values())
    return [row for row in rows if row["family"].lower() == family.lower()]


def _print_list(rows: Sequence[Row]) -> None:
    numbers = {"weights": "parameters", "MACs\nat 64": "macs_64", "MACs\nat 150": "macs_150"}
    answers = {"Image-\nNet": "pretrained", "atten-\ntion": "attention"}
    cells = [
        [
            *(row[key] for key in ("name", "family", "size")),
            *(_with_unit(row[key]) for key in numbers.values()),
            *("yes" if row[key] else "no" for key in answers.values()),
            _arxiv(row["paper"]),
        ]
        for row in rows
    ]
    columns = ["name", "family", "size", *numbers, *answers, "arXiv"]
    print_table(f"{len(rows)} models", columns, cells, right=numbers)


def _described(name: str, img_size: int | None) -> Row:
    from haloformer.models import find_model
    from haloformer.models.details import describe_model
    from haloformer.models.table import model_table

    row = describe_model(find_model(name), img_size)
    listed = {known["name"]: known for known in model_table()}
    row["exceptions"] = listed[name]["exceptions"] if name in listed else None
    return row


def _print_model(row: Row) -> None:
    tried = row["exceptions"] is not None
    shown = {
        **row,
        "parameters": f"{row['parameters']:,}",
        **{key: _with_unit(value) for key, value in row.items() if key.startswith("macs")},
        "pretrained": row["weights_url"] or "no ImageNet weights to download; a file can be given",
        "attention": "; ".join(_layer_ranges(row["attention_layers"])) or row["no_attention"],
        "keywords": ", ".join(f"{key}: {value}" for key, value in row["keywords"].items())
        or "none",
        "exceptions": "; ".join(row["exceptions"]) or "none" if tried else "not tried",
    }
    hidden = {"name", "weights_url", "attention_layers", "no_attention"}
    cells = [
        [key.replace("_", " "), str(value)] for key, value in shown.items() if key not in hidden
    ]
    print_table(row["name"], ["field", "value"], cells)


def _layer_ranges(layers: Sequence[str]) -> list[str]:
    """Returns layers, each ``name: kind``, with neighbours of the same kind as one line.

    ``blocks.0 … blocks.5 (6 layers): global``.
    """
    lines = []
    for kind, run in groupby((layer.split(": ", 1) for layer in layers), lambda pair: pair[1]):
        names = [name for name, _ in run]
        more = f" … {names[-1]} ({len(names)} layers)" if len(names) > 1 else ""
        lines.append(f"{names[0]}{more}: {kind}")
    return lines


def _number(text: str) -> float:
    """Returns a number of parameters as people write it: 5e6, 5M, 900k."""
    factors = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9}
    found = re.fullmatch(r"([0-9.]+(?:e[+]?[0-9]+)?)([kmg]?)", text.strip().lower())
    try:
        number = float(found[1]) * factors[found[2]] if found else 0.0
    except ValueError:
        number = 0.0
    if number <= 0:
        raise InputError(f"max_parameters must be a number such as 5M or 5e6, not '{text}'")
    return number


def _with_unit(number: int | None) -> str:
    """Returns a large number with three digits and its unit: 5.72 M, 411 M, 1.25 G."""
    if number is None:
        return "–"
    value, unit = (number / 1e9, "G") if number >= 999.5e6 else (number / 1e6, "M")
    return f"{value:.{2 if value < 9.995 else 1 if value < 99.95 else 0}f} {unit}"


def _arxiv(paper: str) -> str:
    """Returns the arXiv number in ``Title (arXiv:1234.56789)``."""
    return paper.rpartition("arXiv:")[2].rstrip(")")
