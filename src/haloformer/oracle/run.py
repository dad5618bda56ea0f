"""The limits of a survey: AUCs that an observer reaches who knows all but what is asked, lens by lens, and their report."""

import datetime
import os
import platform
import shlex
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from haloformer._version import code_version
from haloformer.devices import one_blas_thread
from haloformer.errors import InputError
from haloformer.evaluation.metrics import class_aucs, log_odds, macro_auc
from haloformer.io.folders import refuse_existing, whole_folder
from haloformer.io.progress import progress_bar, tell
from haloformer.io.strict_json import to_json
from haloformer.io.writing import write_text
from haloformer.oracle.freedoms import has_structure, marginal, source_columns, survey_columns
from haloformer.oracle.kept import FOLDER, Found, Kept
from haloformer.oracle.likelihood import Seen, answers, known, observe
from haloformer.oracle.scene import Lens, smooth_class
from haloformer.reporting import style
from haloformer.reporting.interval import Interval, format_interval
from haloformer.simulation.composed import ComposedSurvey
from haloformer.simulation.distributions import Distribution
from haloformer.simulation.surveys import get_any_survey

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LEVELS = {
    "known": "lens and source are known",
    "survey": "all that the survey draws of lens and source is free",
    "source": "the source's structure is free, too",
}
"""What the observer has to give up, one after the other; the last that there is is the survey's limit."""

LEAST_LENSES, LEAST_REALISATIONS = 2, 20

_FILES = ("limits.json", "limits.md")
_RESAMPLES = 300
_LEAST = 0.03  # signal / noise that is drawn
_FEW = 10  # lenses, of which percentiles of resamples say too little


@dataclass
class _Level:
    """What was found of the lenses, with one of the freedoms of :data:`LEVELS`."""

    learned: list[Seen]
    tested: list[Seen]
    pairs: dict[tuple[str, str], list[tuple[np.ndarray, np.ndarray]]]
    sizes: dict[str, list[np.ndarray]]

    @classmethod
    def of(cls, lenses: list[Found]) -> "_Level":
        """Puts what was found of each lens together."""
        return cls(
            [one.learned for one in lenses],
            [one.tested for one in lenses],
            {pair: [one.pairs[pair] for one in lenses] for pair in lenses[0].pairs},
            {name: [one.sizes[name] for one in lenses] for name in lenses[0].sizes},
        )


@dataclass(frozen=True)
class Asked:
    """What is to be measured, checked.

    Attributes:
        survey: The survey.
        target: Folder to write.
        levels: Those of :data:`LEVELS` that there are.
        kept: What earlier calls found of its lenses.
    """

    survey: ComposedSurvey
    target: Path
    levels: list[str]
    kept: Kept

    @classmethod
    def of(
        cls, survey: str, out: str, *, lenses: int, realisations: int, seed: int, overwrite: bool
    ) -> "Asked":
        """Checks the arguments of :func:`survey_limits`; raises InputError."""
        for name, value, least in (("lenses", lenses, LEAST_LENSES), ("realisations", realisations, LEAST_REALISATIONS)):  # fmt: skip
            if value < least:
                raise InputError(f"{name} is {value}: must be at least {least}")
        given, target = _checked(survey), Path(out)
        _refuse(target, overwrite)
        levels = [name for name in LEVELS if name != "source" or has_structure(given)]
        return cls(given, target, levels, Kept(target, given, seed, realisations))

    def classes(self) -> list[str]:
        """Returns the classes with substructure."""
        return [name for name in self.survey.class_names if self.survey.substructure[name]]


@one_blas_thread()
def survey_limits(
    survey: str,
    out: str,
    *,
    lenses: int,
    realisations: int,
    seed: int,
    overwrite: bool,
    progress: bool | None,
) -> dict[str, Any]:
    """Measures the limits of a survey.

    Args:
        survey: Name of a shipped survey, or a YAML file.
        out: Folder to write ``limits.json``, ``limits.md`` and a figure to.
        lenses: How many.
        realisations: Of the dark matter of each class in each lens.
        seed: Of all draws.
        overwrite: Replace limits that are there.
        progress: Show a progress bar.

    Returns:
        The content of ``limits.json``, with ``out`` and ``report``.

    Raises:
        InputError: A survey without such limits, or a folder with some.
    """
    asked = Asked.of(survey, out, lenses=lenses, realisations=realisations, seed=seed, overwrite=overwrite)  # fmt: skip
    given, target = asked.survey, asked.target
    found = _of_lenses(asked, seed, lenses, realisations, progress)
    levels = {name: _Level.of([one[name] for one in found]) for name in asked.levels}
    result = {
        "survey": given.name,
        "classes": list(given.class_names),
        "limit": list(levels)[-1],
        "levels": {name: _summary(level, given.class_names, seed) for name, level in levels.items()},
        "lenses": lenses,
        "realisations": realisations,
        "seed": seed,
        "code_version": code_version(),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M"),
        "hardware": f"{platform.machine()}, {os.cpu_count()} cores",
    }  # fmt: skip
    with whole_folder(target, lambda: _refuse(target, overwrite)) as part:
        _write(part, survey, result, levels)
    report = str(target / "limits.md")
    return {**result, "verdict": verdict(result), "out": str(target), "report": report}


def _checked(survey: str) -> ComposedSurvey:
    given = get_any_survey(survey)
    if not isinstance(given, ComposedSurvey):
        varies = any(isinstance(value, Distribution) for value in vars(given.deflector).values())
        what = "it is not composed" if varies else "its lens is always the same"
        raise InputError(
            f"survey {given.name}: {what}; limits are of composed surveys, such as model_i_fair or hst, and of files with such a base"
        )
    if not given.has_noise("original"):
        raise InputError(f"survey {given.name}: its images have no noise, and so no limits")
    if given.lens_of_class:
        raise InputError(
            f"survey {given.name}: its classes have different lenses, which tell them apart without dark matter"
        )
    smooth_class(given)
    if not any(given.substructure.values()):
        raise InputError(
            f"survey {given.name}: none of its classes has substructure ({', '.join(given.class_names)}): there is nothing to tell"
        )
    return given


def _refuse(target: Path, overwrite: bool) -> None:
    """Refuses a folder that may not be written; one of a call that was ended may."""
    if target.is_dir() and not target.is_symlink() and os.listdir(target) == [FOLDER]:
        return
    refuse_existing(target, overwrite, _FILES, "limits")


def _of_lenses(
    asked: Asked, seed: int, lenses: int, realisations: int, progress: bool | None
) -> list[dict[str, Found]]:
    """Returns what is found of each lens, on each of the levels."""
    survey, kept, classes = asked.survey, asked.kept, asked.classes()
    known_before = {number: kept.read(number) for number in range(lenses)}
    if done := sum(one is not None for one in known_before.values()):
        tell(f"{done} of {lenses} lenses are known from an earlier call")
    found = []
    each = realisations * len(classes)
    with progress_bar(f"limits {survey.name}", lenses * each, progress) as advance:
        for number, one in known_before.items():
            if one is None:
                one = of_lens(survey, classes, asked.levels, seed, number, realisations, advance)
                kept.write(number, one)
            else:
                advance(each)
            found.append(one)
    return found


def of_lens(
    survey: ComposedSurvey,
    classes: list[str],
    levels: list[str],
    seed: int,
    number: int,
    realisations: int,
    advance: Callable[[int], None],
) -> dict[str, Found]:
    """Returns what is found of a lens, on each of the levels."""
    lens = Lens.of(survey, seed, number)
    signals: dict[str, np.ndarray] = {}
    for name in classes:
        parts = []
        for part in lens.signals(name, realisations):
            parts.append(part)
            advance(len(part))
        signals[name] = np.concatenate(parts)
    columns: list[np.ndarray] = []
    found = {}
    for level in levels:
        if level == "survey":
            columns.append(survey_columns(lens))
        elif level == "source":
            columns.append(source_columns(lens))
        left = {
            name: marginal(s, np.concatenate(columns)) if columns else s
            for name, s in signals.items()
        }
        found[level] = _seen(left, survey.class_names, np.random.default_rng([seed, number]))
    return found


def _seen(
    signals: dict[str, np.ndarray], names: tuple[str, ...], rng: np.random.Generator
) -> Found:
    learned, tested = observe(signals, names, rng)
    nothing = np.zeros_like(next(iter(signals.values())))
    pairs = {
        (first, second): known(signals.get(first, nothing), signals.get(second, nothing), rng)
        for first, second in combinations(names, 2)
    }
    sizes = {name: np.sqrt((s**2).sum(1)) for name, s in signals.items()}
    return Found(learned, tested, pairs, sizes)


def _summary(level: _Level, names: tuple[str, ...], seed: int) -> dict[str, Any]:
    labels = [seen.labels for seen in level.tested]
    odds = [log_odds(each) for each in answers(level.learned, level.tested)]
    known_pairs = {pair: _pooled(found) for pair, found in level.pairs.items()}
    return {
        "reached": _as_dict(_over_lenses(labels, odds, seed)),
        "reached_by_class": {
            name: float(auc.value)
            for name, auc in zip(names, class_aucs(np.concatenate(labels), np.concatenate(odds)))
        },
        "bound": float(np.mean(list(known_pairs.values()))),
        "bound_by_pair": {f"{a}, {b}": value for (a, b), value in known_pairs.items()},
        "signal": {
            name: dict(zip(("p16", "p50", "p84"), map(float, np.percentile(np.concatenate(sizes), (16, 50, 84)))))
            for name, sizes in level.sizes.items()
        },
    }  # fmt: skip


def _pooled(pairs: list[tuple[np.ndarray, np.ndarray]]) -> float:
    """Returns the AUC of (N,) against (M,) of all lenses together."""
    first, second = (np.concatenate([pair[k] for pair in pairs]) for k in (0, 1))
    scores = np.concatenate([first, second])
    labels = np.concatenate([np.ones(len(first), int), np.zeros(len(second), int)])
    return macro_auc(labels, np.stack([-scores, scores], axis=1)).value


def _over_lenses(labels: list[np.ndarray], odds: list[np.ndarray], seed: int) -> Interval:
    """Returns the macro AUC of all lenses together, with the interval of drawing other lenses."""
    rng = np.random.default_rng([seed, 0x4C494D])

    def auc(rows: np.ndarray) -> float:
        return macro_auc(
            np.concatenate([labels[k] for k in rows]), np.concatenate([odds[k] for k in rows])
        ).value

    drawn = [auc(rng.integers(len(labels), size=len(labels))) for _ in range(_RESAMPLES)]
    low, high = np.percentile(drawn, (2.5, 97.5))
    return Interval(auc(np.arange(len(labels))), float(low), float(high))


def _as_dict(interval: Interval) -> dict[str, float]:
    return {"value": interval.value, "low": interval.low, "high": interval.high}


def verdict(result: dict[str, Any]) -> str:
    """Says how well the survey's classes can be told apart."""
    level = result["levels"][result["limit"]]
    reached = Interval(**level["reached"])
    few = f" (of {result['lenses']} lenses: its interval is too narrow)" * (result["lenses"] < _FEW)
    return (
        f"Survey {result['survey']}: who knows how its lenses, sources, noise and dark matter vary can reach a macro AUC of "
        f"{format_interval(reached, 3)}{few}; nobody can do better than {level['bound']:.3f}."
    )


def _write(folder: Path, survey: str, result: dict[str, Any], levels: dict[str, _Level]) -> None:
    write_text(folder / "limits.json", to_json(result))
    write_text(folder / "limits.md", _markdown(survey, result))
    style.save(_figure(levels), folder / "limits")


def _markdown(survey: str, result: dict[str, Any]) -> str:
    names = result["classes"]
    lines = [
        f"# How well can the classes of {result['survey']} be told apart?",
        "",
        verdict(result),
        "",
        f"| what is free | reached, macro AUC (95 %) | {' | '.join(names)} | bound, mean over pairs |",
        "|---" * (len(names) + 3) + "|",
    ]
    for name, level in result["levels"].items():
        classes = [f"{level['reached_by_class'][k]:.3f}" for k in names]
        reached = format_interval(Interval(**level["reached"]), 3)
        lines.append(f"| {LEVELS[name]} | {reached} | {' | '.join(classes)} | {level['bound']:.3f} |")  # fmt: skip
    lines += [
        "",
        "Reached: by likelihood ratios in each lens, learned from four fifths of the realisations of its dark matter and tested on the "
        "others. Bound: which of two known images it is; no observer can do better. The truth lies between.",
        "",
        "| what dark matter changes, in standard deviations of the noise | median (16 % – 84 %) of each class |",
        "|---|---|",
    ]
    for name, level in result["levels"].items():
        told = ", ".join(f"{c} {s['p50']:.2g} ({s['p16']:.2g} – {s['p84']:.2g})" for c, s in level["signal"].items())  # fmt: skip
        lines.append(f"| {LEVELS[name]} | {told} |")
    lines += [
        "",
        "![Signals of the classes](limits.png)",
        "",
        f"`haloformer limits {shlex.quote(survey)} --lenses {result['lenses']} --realisations {result['realisations']} --seed {result['seed']}`: "
        f"{result['date']}, {result['hardware']}, code {result['code_version']}. Intervals: over lenses.",
    ]
    return "\n".join(lines) + "\n"


@style.styled
def _figure(levels: dict[str, _Level]) -> "Figure":
    """Draws how large the signals of each class are, with each of the freedoms."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * len(levels), 3.6), layout="constrained")
    axes = np.ravel(figure.subplots(1, len(levels), sharey=True))
    for ax, (name, level) in zip(axes, levels.items()):
        for k, (class_name, sizes) in enumerate(level.sizes.items()):
            values = np.sort(np.concatenate(sizes))
            share = 1 - np.arange(len(values)) / len(values)
            dash = style.DASHES[k % len(style.DASHES)]
            ax.step(np.maximum(values, _LEAST), share, label=class_name, color=style.class_color(k), linestyle=dash)  # fmt: skip
        ax.set(xscale="log", xlim=(_LEAST, None), xlabel="signal / noise")
        ax.set_title(textwrap.fill(LEVELS[name], 34))
    axes[0].set_ylabel("share of images with more")
    axes[0].legend()
    return figure
