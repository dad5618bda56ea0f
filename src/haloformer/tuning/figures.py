"""The figures of a search."""

import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING, TypedDict

import numpy as np

from haloformer.reporting import style
from haloformer.tuning.plan import Parameter, Search, metric_in_words, stored_choice
from haloformer.tuning.trials import best_trial, failed_trials

if TYPE_CHECKING:
    import optuna
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def draw_figures(plan: Search, study: "optuna.Study") -> dict[str, "Figure"]:
    """Returns the figures by name; importances only where there is enough to tell."""
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances
    from optuna.trial import TrialState

    drawn = {"history": _history(plan, study), "slices": _slices(plan, study)}
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    always = [p.name for p in plan.space if all(p.name in trial.params for trial in complete)]
    if len(complete) >= 4 and len(always) >= 2 and len({trial.value for trial in complete}) > 1:
        shares = get_param_importances(
            study, evaluator=FanovaImportanceEvaluator(seed=0), params=always
        )
        drawn["importances"] = _importances(plan, shares, len(complete))
    return drawn


@style.styled
def _history(plan: Search, study: "optuna.Study") -> "Figure":
    """Draws each trial's value, and the best so far."""
    figure = style.new_figure(7.2, 4.4)
    axes = figure.add_subplot()
    seen: dict[str, list[tuple[int, float]]] = {"COMPLETE": [], "PRUNED": []}
    for trial in study.get_trials(deepcopy=False):
        if trial.state.name in seen and trial.value is not None:
            seen[trial.state.name].append((trial.number, trial.value))
    complete = np.array(seen["COMPLETE"])
    better = np.maximum if plan.direction == "maximize" else np.minimum
    last = max(number for points in seen.values() for number, _ in points)
    axes.step(
        np.append(complete[:, 0], last),
        better.accumulate(np.append(complete[:, 1], complete[-1, 1])),
        where="post",
        color=style.class_color(0),
        label="best so far",
    )
    axes.plot(
        *complete.T, "o", color=style.class_color(1), markersize=5.5, label="trained to the end"
    )
    if seen["PRUNED"]:
        axes.plot(
            *np.array(seen["PRUNED"]).T,
            "o",
            color=style.FAINT,
            markerfacecolor=style.PAPER,
            markersize=5,
            zorder=1,
            label="stopped early",
        )
    for k, trial in enumerate(failed_trials(study)):
        axes.plot(
            trial.number,
            0,
            "x",
            color=style.INK,
            transform=axes.get_xaxis_transform(),
            clip_on=False,
            label="failed" if k == 0 else None,
        )
    axes.locator_params(axis="x", integer=True)
    axes.set(xlabel="Trial", ylabel=_capital(metric_in_words(plan)))
    axes.set_title(_shortened(plan.title))
    axes.grid(axis="y", color=style.FAINT, alpha=0.25, linewidth=0.6)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


@style.styled
def _importances(plan: Search, shares: Mapping[str, float], n: int) -> "Figure":
    """Draws which share of the metric's variance each field explains (functional ANOVA, Hutter et al. 2014)."""
    figure = style.new_figure(6.4, 1.6 + 0.36 * len(shares))
    axes = figure.add_subplot()
    names = list(shares)
    axes.barh(
        range(len(names)), [shares[name] for name in names], height=0.62, color=style.class_color(1)
    )
    for place, name in enumerate(names):
        axes.annotate(f" {shares[name]:.2f}", (shares[name], place), va="center", fontsize=9.5)
    axes.set_yticks(range(len(names)), [style.literal(name) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlim(0, 1.12 * max(shares.values()))
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(f"Share of the variance of the {metric_in_words(plan)}, {n} trials")
    axes.set_title("What mattered within the searched ranges")
    return figure


@style.styled
def _slices(plan: Search, study: "optuna.Study") -> "Figure":
    """Draws the metric against each searched field."""
    from optuna.trial import TrialState

    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    pruned = study.get_trials(deepcopy=False, states=(TrialState.PRUNED,))
    best = best_trial(study)
    groups: list[tuple[list[optuna.trial.FrozenTrial], _Look]] = [
        (pruned, {"color": style.FAINT, "markerfacecolor": style.PAPER, "markersize": 4}),
        (complete, {"color": style.class_color(1), "markersize": 5}),
        ([best] if best else [], {"color": style.class_color(0), "markersize": 7.5}),
    ]
    columns = min(3, len(plan.space))
    lines = -(-len(plan.space) // columns)
    figure = style.new_figure(0.9 + 2.6 * columns, 0.7 + 2.4 * lines)
    panels = figure.subplots(lines, columns, sharey=True, squeeze=False).flat
    for parameter, axes in zip(plan.space, panels):
        for trials, look in groups:
            points = _points(parameter, trials)
            if points:
                axes.plot(*np.array(points).T, "o", **look)
        _scale_x(axes, parameter)
        axes.set_xlabel(style.literal(_capital(parameter.name.replace("_", " "))))
        axes.grid(axis="y", color=style.FAINT, alpha=0.25, linewidth=0.6)
    for axes in list(figure.axes)[len(plan.space) :]:
        axes.set_visible(False)
    figure.supylabel(_capital(metric_in_words(plan)), fontsize=11)
    figure.suptitle(
        "Each trial; red: the best; hollow: stopped early", x=0.01, ha="left", fontsize=11
    )
    return figure


class _Look(TypedDict, total=False):
    color: str
    markerfacecolor: str
    markersize: float


def _points(
    parameter: Parameter, trials: "list[optuna.trial.FrozenTrial]"
) -> list[tuple[float, float]]:
    """Returns where the trials stand in the panel of a field; choices are numbered from 0."""
    found = [
        (trial.params[parameter.name], trial.value)
        for trial in trials
        if parameter.name in trial.params and trial.value is not None
    ]
    if parameter.kind != "choice":
        return [(float(place), value) for place, value in found]
    choices = [stored_choice(value) for value in parameter.values]
    return [(choices.index(choice), value) for choice, value in found]


def _scale_x(axes: "Axes", parameter: Parameter) -> None:
    """Gives a panel the axis of its field: the names of choices, or a logarithm where the search has one."""
    from matplotlib.ticker import LogLocator, NullFormatter

    if parameter.kind == "choice":
        names = [style.literal(str(stored_choice(value))) for value in parameter.values]
        axes.set_xticks(range(len(names)), names)
        axes.set_xlim(-0.5, len(names) - 0.5)
    elif parameter.is_logarithmic:
        low, high = parameter.bounds
        axes.set_xscale("log")
        axes.set_xlim(low / (high / low) ** 0.05, high * (high / low) ** 0.05)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 3) if high / low < 30 else (1,)))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())


def _capital(text: str) -> str:
    return style.literal(text[:1].upper() + text[1:])


def _shortened(text: str) -> str:
    return style.literal(textwrap.shorten(text, 60, placeholder=" …"))
