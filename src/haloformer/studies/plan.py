"""What a study is: variants of an experiment, read from YAML and checked."""

import dataclasses
import fnmatch
import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, ConfigDict, Field, PlainValidator, model_validator

from haloformer.errors import InputError
from haloformer.models import find_model, list_models
from haloformer.studies.settings import Options, nothing_is_empty, settings_of
from haloformer.studies.shipped import Shipped
from haloformer.training.config import Experiment, Noise, compose
from haloformer.validation import Strict, validated
from haloformer.vocabulary import unknown_name

PRETRAINED = "pretrained"
"""Name of the runs that others start from; ``"{pretrained}"`` in a variant stands for their folder."""

_SHIPPED = Shipped("study", "studies")
_NAME = r"[A-Za-z0-9][A-Za-z0-9_.+=-]{0,99}"


def seed_list(seeds: object, first: int = 0) -> tuple[int, ...]:
    """Returns seeds that are given as a number of them, counted from ``first``, or as a list."""
    if isinstance(seeds, int) and not isinstance(seeds, bool) and seeds >= 1:
        return tuple(range(first, first + seeds))
    if (
        isinstance(seeds, list | tuple)
        and seeds
        and all(isinstance(seed, int) for seed in seeds)
        and len({*seeds}) == len(seeds)
    ):
        return tuple(seeds)
    raise InputError(
        f"seeds must be how many (at least 1), or a list of different whole numbers, not {seeds!r}"
    )


class HeldOutImages(Strict):
    """Images that all runs are tested on. Those of a file are as they are; simulated ones take noise, n and seed."""

    data: str | None = None
    noise: Noise | None = None
    n: Annotated[int, Field(ge=2, strict=True)] | None = None
    seed: Annotated[int, Field(ge=0, strict=True)] | None = None


class FigureChoice(Strict):
    """Figure of a study: for a grid, ``x`` and ``by`` are its axes; ``by`` has a panel or a line for each value."""

    model_config = ConfigDict(coerce_numbers_to_str=True)

    kind: Literal["bars", "curve"] | None = None
    x: str | None = None
    by: str | None = None


class StudyFile(Strict):
    """A study as its YAML file describes it; see docs/studies.md."""

    model_config = ConfigDict(coerce_numbers_to_str=True)

    title: str | None = None
    question: str | None = None
    notes: str | None = None
    base: Options = Field(default_factory=dict)
    variants: dict[str, Options] | None = None
    grid: dict[str, Annotated[list[object], Field(min_length=1)] | dict[str, Options]] | None = None
    reference: str | dict[str, str] | None = None
    pretrain: dict[str, object] | None = None
    seeds: Annotated[tuple[int, ...], PlainValidator(seed_list)] = (0, 1, 2)
    test: Annotated[HeldOutImages, BeforeValidator(nothing_is_empty)] = HeldOutImages()
    figure: Annotated[FigureChoice, BeforeValidator(nothing_is_empty)] = FigureChoice()

    @model_validator(mode="after")
    def _variants_or_grid(self) -> "StudyFile":
        if (self.variants is None) == (self.grid is None):
            raise InputError(
                "needs either variants (name: what it changes) or grid (field: values)"
            )
        return self


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
    changes: dict[str, object]
    reference: str | None


@dataclass(frozen=True)
class Study:
    """A study that was read and checked.

    Attributes:
        raw: What its file holds.
        title: Its title.
        question: The question that it answers.
        notes: What else readers should know.
        base: Fields that all runs share.
        variants: What is compared.
        axes: For a grid: axis → names of the values there.
        pretrain: Fields of the run that others start from.
        seeds: Of the trainings of each variant.
        test: Images for the test.
        figure: What is drawn.
    """

    raw: dict[str, object]
    title: str
    question: str
    notes: str
    base: dict[str, object]
    variants: tuple[Variant, ...]
    axes: dict[str, list[str]]
    pretrain: dict[str, object] | None
    seeds: tuple[int, ...]
    test: HeldOutImages
    figure: FigureChoice


def list_studies() -> dict[str, str]:
    """Returns the shipped studies: name → question."""
    return _SHIPPED.summaries("question")


def read_study(name: str) -> Study:
    """Reads a shipped study or a YAML file, and checks all of it but the images.

    Raises:
        InputError: There is no such study, a key or field is unknown, or a value makes no sense.
    """
    return parse_study(*_SHIPPED.read(name))


def parse_study(raw: dict[str, object], where: str) -> Study:
    """Checks what a study's YAML file holds, all but the images; errors begin with ``where``."""
    file = validated(StudyFile, raw, where)
    try:
        axes = {axis: _axis(axis, values) for axis, values in (file.grid or {}).items()}
        variants = _crossed(axes, file.reference) if file.variants is None else _named(file)
        _check_names(variants)
        plan = Study(
            raw=raw,
            title=file.title or where,
            question=file.question or "",
            notes=" ".join((file.notes or "").split()),
            base=file.base,
            variants=tuple(variants),
            axes={axis: list(values) for axis, values in axes.items()},
            pretrain=file.pretrain,
            seeds=file.seeds,
            test=file.test,
            figure=_figure_choice(file.figure, list(axes)),
        )
        _check_experiments(plan)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    return plan


def _named(file: StudyFile) -> list[Variant]:
    """Returns the variants that have names; the first is the reference unless another is named."""
    named = file.variants or {}
    if not named:
        raise InputError("variants names no variant")
    reference = file.reference or next(iter(named), None)
    if not isinstance(reference, str) or reference not in named:
        raise unknown_name("reference", str(reference), named)
    return [Variant(name, {}, changes, reference) for name, changes in named.items()]


def _axis(
    axis: str, values: list[object] | dict[str, dict[str, object]]
) -> dict[str, dict[str, object]]:
    """Returns value's name → what it changes: values of one field, or groups of changes that have names."""
    if isinstance(values, dict):
        return values
    if axis == "model":  # "*_nano": all models of that name
        values = [name for value in values for name in _models_like(str(value))]
    return {
        Path(str(value)).stem if "/" in str(value) else str(value): {axis: value}
        for value in values
    }


def _models_like(pattern: str) -> list[str]:
    """Returns the networks of a pattern; a name as it is."""
    if "*" not in pattern:
        return [pattern]
    known = [info.name for info in list_models()]
    found = fnmatch.filter(known, pattern)
    if not found:
        raise unknown_name("model", pattern, known)
    return found


def _crossed(
    axes: Mapping[str, Mapping[str, dict[str, object]]], reference: str | dict[str, str] | None
) -> list[Variant]:
    """Returns every combination of the axes' values."""
    if isinstance(reference, str):
        raise InputError(f"reference of a grid is axis: value, not '{reference}'")
    fixed = reference or {}
    for axis, value in fixed.items():
        if axis not in axes:
            raise unknown_name("axis in reference", axis, axes)
        if value not in axes[axis]:
            raise unknown_name("value in reference", value, axes[axis])
    variants = []
    for names in itertools.product(*axes.values()):
        values = dict(zip(axes, names))
        changes: dict[str, object] = {}
        for axis, name in values.items():
            changes |= axes[axis][name]
        compared = "-".join({**values, **fixed}.values()) if fixed else None
        variants.append(Variant("-".join(names), values, changes, compared))
    return variants


def _check_names(variants: list[Variant]) -> None:
    """Variants' names become parts of file names."""
    for variant in variants:
        if not re.fullmatch(_NAME, variant.name) or variant.name == PRETRAINED:
            raise InputError(
                f"'{variant.name}' cannot name a variant: use letters, digits, '_', '.', '-'"
            )


def _figure_choice(given: FigureChoice, axes: list[str]) -> FigureChoice:
    """Returns the figure with what it leaves open filled in: a curve for two axes, the last one as x."""
    if len(axes) > 2:
        raise InputError(f"a grid has one or two axes, not {len(axes)}: {', '.join(axes)}")
    kind = given.kind or ("curve" if len(axes) > 1 else "bars")
    if not axes and kind == "curve":
        raise InputError("figure: a curve needs a grid; variants are shown as bars")
    x = given.x or next((axis for axis in reversed(axes) if axis != given.by), None)
    by = given.by or next((axis for axis in axes if axis != x), None)
    for key, axis in (("x", x), ("by", by)):
        if axis and axis not in axes:
            raise unknown_name(f"axis in figure: {key}", axis, axes)
    return FigureChoice(kind=kind, x=x, by=by)


def _check_experiments(plan: Study) -> None:
    """Fail fast: catch misspelt fields before training starts."""
    common = _experiment(plan, "base", {})
    for variant in plan.variants:
        _check_experiment(plan, f"variant '{variant.name}'", variant.changes, common)
    _check_experiment(plan, "base", {}, common)
    _check_experiment(plan, "pretrain", plan.pretrain or {}, common)


def _experiment(plan: Study, what: str, changes: Mapping[str, object]) -> Experiment:
    try:
        experiment = compose(None, plan.base, changes)
        find_model(experiment.model.name)
    except InputError as error:
        raise InputError(f"{what}: {error}") from error
    return experiment


def _check_experiment(
    plan: Study, what: str, changes: Mapping[str, object], common: Experiment
) -> None:
    experiment = _experiment(plan, what, changes)
    for name in ("seed", "out", "resume", "progress"):
        if getattr(experiment.trainer, name) != getattr(common.trainer, name):
            raise InputError(f"{what}: {name} is for the study to choose")
    if experiment.task.name == "regression":
        raise InputError(
            f"{what}: a study compares classifiers; task must be classification or both"
        )
    start = experiment.transfer.pretrained
    if plan.pretrain is None and isinstance(start, str) and f"{{{PRETRAINED}}}" in start:
        raise InputError(f"{what}: pretrained is '{start}', but pretrain is missing")


def with_options(
    plan: Study,
    preset: str | list[str] | None,
    options: Mapping[str, object] | None,
    seeds: int | None,
) -> Study:
    """Returns the study with the user's presets and options put over its base."""
    base = compose(None, plan.base, {"preset": preset}, options or {})
    chosen = plan.seeds if seeds is None else seed_list(seeds, base.trainer.seed)
    if seeds is None and plan.seeds == tuple(range(len(plan.seeds))):
        chosen = tuple(base.trainer.seed + seed for seed in plan.seeds)
    settings = {
        key: value
        for key, value in settings_of(base).items()
        if key not in ("seed", "out", "progress")
    }
    return dataclasses.replace(plan, base=settings, seeds=chosen)
