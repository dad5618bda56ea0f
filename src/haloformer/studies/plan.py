"""What a study is: variants of an experiment, read from YAML and checked."""

import dataclasses
import fnmatch
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from haloformer.errors import InputError
from haloformer.models import find_model, list_models
from haloformer.training.config import Experiment, compose, read_options
from haloformer.vocabulary import unknown_name

if TYPE_CHECKING:
    pass


PRETRAINED = "pretrained"
"""Name of the runs that others start from; ``"{pretrained}"`` in a variant stands for their folder."""


_KEYS = (
    "title",
    "question",
    "notes",
    "base",
    "variants",
    "grid",
    "reference",
    "pretrain",
    "seeds",
    "test",
    "figure",
)


_TEST_KEYS = ("data", "noise", "n", "seed")


_FIGURE_KEYS = ("kind", "x", "by")


_FIGURE_KINDS = ("bars", "curve")


@dataclass(frozen=True)
class Variant:
    """One setting of a study.

    Attributes:
        name: Its name, which is also part of its run folders' names.
        values: For a grid: axis → the name of the value there.
        changes: What differs from the base.
        reference: Name of the variant that it is compared with.
    """

    name: str
    values: dict[str, str]
    changes: dict[str, Any]
    reference: str | None


@dataclass(frozen=True)
class Study:
    """A study as its YAML file describes it, checked; see docs/studies.md. ``raw`` is what the file holds."""

    raw: dict[str, Any]
    title: str
    question: str
    notes: str
    base: dict[str, Any]
    variants: tuple[Variant, ...]
    axes: dict[str, list[str]]
    pretrain: dict[str, Any] | None
    seeds: tuple[int, ...]
    test: dict[str, Any]
    figure: dict[str, str]


def list_studies() -> dict[str, str]:
    """Returns the shipped studies: name → question."""
    return {
        file.name.removesuffix(".yaml"): str(
            yaml.safe_load(file.read_text(encoding="utf-8")).get("question", "")
        )
        for file in sorted(_shipped(), key=lambda file: file.name)
    }


def read_study(name: str) -> Study:
    """Reads a shipped study or a YAML file, and checks all of it but the images.

    Raises:
        InputError: There is no such study, a key or field is unknown, or a value makes no sense.
    """
    path = Path(name)
    if path.suffix.lower() in (".yaml", ".yml"):
        return parse_study(read_options(path), str(path))
    shipped = {file.name.removesuffix(".yaml"): file for file in _shipped()}
    spelling = name.replace("isation", "ization")
    if spelling not in shipped:
        raise unknown_name("study", name, shipped)
    return parse_study(
        yaml.safe_load(shipped[spelling].read_text(encoding="utf-8")), f"study {spelling}"
    )


def _shipped() -> list[Any]:
    folder = resources.files("haloformer").joinpath("configs", "studies")
    return [entry for entry in folder.iterdir() if entry.name.endswith(".yaml")]


def parse_study(raw: dict[str, Any], where: str) -> Study:
    """Checks what a study's YAML file holds, all but the images; errors begin with ``where``."""
    check_keys(raw, _KEYS, where)
    if ("variants" in raw) == ("grid" in raw):
        raise InputError(
            f"{where}: needs either variants (name: what it changes) or grid (field: values)"
        )
    axes: dict[str, dict[str, dict[str, Any]]] = {}
    if "variants" in raw:
        named = mapping(raw["variants"], f"{where}: variants")
        first = raw.get("reference") or next(iter(named), None)
        if first not in named:
            raise unknown_name(f"reference in {where}", str(first), named)
        variants = [
            Variant(
                name, {}, dict(mapping(changes or {}, f"{where}: variant '{name}'")), str(first)
            )
            for name, changes in named.items()
        ]
    else:
        axes = {
            axis: _axis(axis, values, where)
            for axis, values in mapping(raw["grid"], f"{where}: grid").items()
        }
        variants = _crossed(axes, raw.get("reference"), where)
    for variant in variants:
        if (
            not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.+=-]{0,99}", variant.name)
            or variant.name == PRETRAINED
        ):
            raise InputError(
                f"{where}: '{variant.name}' cannot name a variant: use letters, digits, '_', '.', '-'"
            )
    pretrain = raw.get("pretrain")
    plan = Study(
        raw=raw,
        title=str(raw.get("title") or where),
        question=str(raw.get("question") or ""),
        notes=" ".join(str(raw.get("notes") or "").split()),
        base=dict(mapping(raw.get("base") or {}, f"{where}: base")),
        variants=tuple(variants),
        axes={axis: list(values) for axis, values in axes.items()},
        pretrain=None if pretrain is None else dict(mapping(pretrain, f"{where}: pretrain")),
        seeds=_seed_list(raw.get("seeds", 3), where),
        test=dict(mapping(raw.get("test") or {}, f"{where}: test")),
        figure=_figure_choice(raw.get("figure") or {}, axes, where),
    )
    check_keys(plan.test, _TEST_KEYS, f"{where}: test")
    # A misspelt field shall not be found after an hour.
    layers: dict[str, dict[str, Any]] = {"base": {}}
    layers |= {f"variant '{variant.name}'": variant.changes for variant in plan.variants}
    for what, changes in (layers | {"pretrain": plan.pretrain or {}}).items():
        try:
            experiment = compose(None, plan.base, changes)
            find_model(experiment.model.name)
            if what == "base":
                common = experiment.trainer
            for name in ("seed", "out", "resume", "progress"):
                if getattr(experiment.trainer, name) != getattr(common, name):
                    raise InputError(f"{name} is for the study to choose")
        except InputError as error:
            raise InputError(f"{where}: {what}: {error}") from error
        if experiment.task.name == "regression":
            raise InputError(
                f"{where}: {what}: a study compares classifiers; task must be classification or both"
            )
        if PRETRAINED in _template(experiment) and plan.pretrain is None:
            raise InputError(
                f"{where}: {what}: pretrained is '{experiment.transfer.pretrained}', but pretrain is missing"
            )
    return plan


def check_keys(given: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    """Raises InputError for a key that is not known, with the nearest that is."""
    for key in given:
        if key not in known:
            raise unknown_name(f"key in {where}", str(key), known)


def mapping(value: Any, where: str) -> Mapping[str, Any]:
    """Returns a mapping with texts as keys, or says that it is none."""
    if not isinstance(value, Mapping):
        raise InputError(f"{where}: must be 'name: value' lines, not {value!r}")
    return {str(key): item for key, item in value.items()}


def _axis(axis: str, values: Any, where: str) -> dict[str, dict[str, Any]]:
    """Returns value's name → what it changes: values of one field, or groups of changes that have names."""
    if isinstance(values, Mapping):
        return {
            str(name): dict(mapping(changes or {}, f"{where}: {axis}"))
            for name, changes in values.items()
        }
    if not isinstance(values, list) or not values:
        raise InputError(
            f"{where}: grid: {axis} must be a list of values, or names with what each changes"
        )
    if axis == "model":  # "*_nano": all models of that name
        names = [info.name for info in list_models()]
        values = [
            found for v in values for found in (fnmatch.filter(names, v) if "*" in str(v) else [v])
        ]
    return {
        Path(str(value)).stem if "/" in str(value) else str(value): {axis: value}
        for value in values
    }


def _crossed(
    axes: Mapping[str, Mapping[str, dict[str, Any]]], reference: Any, where: str
) -> list[Variant]:
    """Returns every combination of the axes' values."""
    fixed = {
        axis: str(value) for axis, value in mapping(reference or {}, f"{where}: reference").items()
    }
    for axis, value in fixed.items():
        if axis not in axes:
            raise unknown_name(f"axis in {where}: reference", axis, axes)
        if value not in axes[axis]:
            raise unknown_name(f"value in {where}: reference", value, axes[axis])
    variants = []
    for names in itertools.product(*axes.values()):
        values = dict(zip(axes, names))
        changes: dict[str, Any] = {}
        for axis, name in values.items():
            changes |= axes[axis][name]
        compared = "-".join({**values, **fixed}.values()) if fixed else None
        variants.append(Variant("-".join(names), values, changes, compared))
    return variants


def _seed_list(seeds: Any, where: str, first: int = 0) -> tuple[int, ...]:
    if isinstance(seeds, int) and not isinstance(seeds, bool) and seeds >= 1:
        return tuple(range(first, first + seeds))
    if (
        isinstance(seeds, list)
        and seeds
        and all(isinstance(s, int) for s in seeds)
        and len({*seeds}) == len(seeds)
    ):
        return tuple(seeds)
    raise InputError(
        f"{where}: seeds must be how many (at least 1), or a list of different whole numbers, not {seeds!r}"
    )


def _figure_choice(given: Any, axes: Mapping[str, Any], where: str) -> dict[str, str]:
    choice = dict(mapping(given, f"{where}: figure"))
    check_keys(choice, _FIGURE_KEYS, f"{where}: figure")
    names = list(axes)
    choice.setdefault("kind", "curve" if len(names) > 1 else "bars")
    if choice["kind"] not in _FIGURE_KINDS:
        raise unknown_name(f"figure kind in {where}", str(choice["kind"]), _FIGURE_KINDS)
    if len(names) > 2:
        raise InputError(
            f"{where}: a grid has one or two axes, not {len(names)}: {', '.join(names)}"
        )
    if names:
        choice.setdefault("x", next(axis for axis in reversed(names) if axis != choice.get("by")))
        if len(names) == 2:
            choice.setdefault("by", next(axis for axis in names if axis != choice["x"]))
    elif choice["kind"] == "curve":
        raise InputError(f"{where}: figure: a curve needs a grid; variants are shown as bars")
    for key in ("x", "by"):
        if key in choice and choice[key] not in axes:
            raise unknown_name(f"axis in {where}: figure: {key}", str(choice[key]), axes)
    return choice


def with_options(
    plan: Study,
    preset: str | list[str] | None,
    options: Mapping[str, Any] | None,
    seeds: int | None,
) -> Study:
    """Returns the study with the user's presets and options put over its base."""
    base = compose(None, plan.base, {"preset": preset}, options or {})
    chosen = plan.seeds if seeds is None else _seed_list(seeds, "seeds", base.trainer.seed)
    if seeds is None and plan.seeds == tuple(range(len(plan.seeds))):
        chosen = tuple(base.trainer.seed + seed for seed in plan.seeds)
    settings = {
        key: value
        for key, value in settings_of(base).items()
        if key not in ("seed", "out", "progress")
    }
    return dataclasses.replace(plan, base=settings, seeds=chosen)


def settings_of(experiment: Experiment) -> dict[str, Any]:
    """Returns the fields, by short name, that differ from the defaults: a run's description that people can read."""
    defaults = Experiment().flat()
    return {key: value for key, value in experiment.flat().items() if value != defaults[key]}


def _template(experiment: Experiment) -> str:
    """Returns ``pretrained`` if it asks for the study's own pretraining; else nothing."""
    pretrained = experiment.transfer.pretrained
    return pretrained if isinstance(pretrained, str) and f"{{{PRETRAINED}}}" in pretrained else ""
