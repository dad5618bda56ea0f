"""The tab that simulates lenses by sliders."""

from typing import Any

import gradio as gr
import torch

from haloformer.app import answers, lenses, parts
from haloformer.app.known import Models
from haloformer.app.lenses import Lens
from haloformer.app.uploading import number_field, slider_field
from haloformer.errors import InputError
from haloformer.simulation import list_surveys
from haloformer.simulation.noise import NOISE_MODES
from haloformer.vocabulary import CLASS_NAMES

_SLIDERS: dict[str, tuple[float, float, float, float, str]] = {
    "theta_E": (0.3, 2, 1.2, 0.01, "Einstein radius (″)"),
    "gamma": (1.5, 2.6, 2.08, 0.01, "Slope of the mass, 2: isothermal"),
    "shear": (0, 0.3, 0.05, 0.005, "Shear"),
    "shear_angle": (0, 180, 45, 1, "Angle of the shear (°)"),
    "multipoles": (0, 4, 1, 0.1, "Multipoles, 1: usual"),
    "log10_Sigma_sub": (-3, -0.3, -1, 0.05, "Halos, log10 (Σ_sub kpc²)"),
    "log10_m_axion": (-24, -21.5, -23.4, 0.05, "Axion mass, log10 (m / eV)"),
    "vortex_angle": (0, 180, 45, 1, "Angle of the vortex (°)"),
    "n_subhalos": (0, 100, 25, 1, "Number of subhalos"),
    "slope": (-2.5, 0, -0.9, 0.1, "Their masses, dN/dm ∝ mˢ"),
    "source_x": (-0.6, 0.6, 0.1, 0.01, "Source, x (″)"),
    "source_y": (-0.6, 0.6, 0.05, 0.01, "Source, y (″)"),
    "exposure": (100, 10000, 1000, 1, "Exposure (s)"),
    "snr": (3, 100, 20, 1, "Signal to noise, brightest pixel"),
}
"""Argument of `compose` or `simulate` → least, most, where it begins, step, label."""

_KEPT_NAMES = ("noise", "draw")
_PLAIN_ONLY = ("source_x", "source_y", "exposure")
_PLAIN = (*_PLAIN_ONLY, "log10_m_axion", "vortex_angle", "n_subhalos", "slope", *_KEPT_NAMES)
_MOST_OF_PLAIN = {"log10_m_axion": -22.0}  # as these surveys draw it
_ROUNDED = {"exposure": 0, "snr": 0, "theta_E": 2, "gamma": 2}


def simulate_tab(page: gr.Blocks, models: Models, kept_seconds: int) -> None:
    """Puts the tab on the page.

    Args:
        page: On which it stands.
        models: Those that may know the survey that is drawn.
        kept_seconds: How long a lens is held for its prediction.
    """
    facts = models.facts[models.first]
    plain = list(list_surveys(composed=False))
    surveys = [*plain, *lenses.COMPOSED]
    first = facts.survey if facts.survey in surveys else plain[0]
    noise = facts.noise if facts.noise in NOISE_MODES else "original"
    shown, usual = lenses.dials_of(first, "axion"), lenses.usual_dials(first)
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=300):
            with gr.Row():
                survey = gr.Dropdown(
                    surveys, value=first, label="Survey", min_width=120, elem_id="hf-survey"
                )
                mode = gr.Dropdown(list(NOISE_MODES), value=noise, label="Noise", min_width=120)
            kind = gr.Radio(
                [(parts.WORDS[name], name) for name in CLASS_NAMES],
                value="axion",
                label="Dark matter",
                elem_id="hf-kind",
            )
            sliders = {
                name: slider_field(
                    low,
                    _most(name, high, first),
                    _rounded(name, usual.get(name, value)),
                    step=step,
                    label=label,
                    visible=name in shown,
                    elem_id=f"hf-{name}",
                )
                for name, (low, high, value, step, label) in _SLIDERS.items()
            }
            draw = number_field("Draw of all that the sliders leave open", elem_id="hf-draw")
        with gr.Column(scale=3, min_width=300):
            pictures = gr.HTML("", elem_id="hf-lens")
            told = gr.HTML("", elem_id="hf-lens-answer")  # fmt: skip
    drawn = gr.State(None, time_to_live=kept_seconds)
    names = (*_SLIDERS, *_KEPT_NAMES)

    def redraw(*values: Any) -> tuple[Lens | None, str, Any]:
        made: list[Lens] = []

        def draw_it() -> str:
            made.append(_drawn(values[0], values[1], dict(zip(names, values[2:], strict=True))))
            return parts.lens(made[0])

        text = parts.guarded(draw_it)
        return (made[0], text, gr.update()) if made else (None, text, "")

    def ask(lens: Lens | None) -> str:
        return "" if lens is None else parts.guarded(lambda: _answered(models, lens))

    def fitted(name: Any, class_name: Any) -> list[Any]:
        """Shows the sliders that change such a lens."""
        return _moved(name, class_name, {})

    def chosen(name: Any, class_name: Any) -> list[Any]:
        """Moves them to where the survey has its lenses, too."""
        return _moved(name, class_name, lenses.usual_dials(name) if name in surveys else {})

    given: list[Any] = [survey, kind, *sliders.values(), mode, draw]
    options: dict[str, Any] = {
        "api_visibility": "private",
        "show_progress": "hidden",
        "concurrency_limit": 1,
    }
    for trigger in (page.load, *(each.change for each in given)):
        once: dict[str, Any] = {} if trigger == page.load else {"trigger_mode": "always_last"}
        trigger(
            redraw, given, [drawn, pictures, told], concurrency_id="lens", **once, **options
        ).then(ask, drawn, told, concurrency_id="model", **options)
    kind.change(fitted, [survey, kind], list(sliders.values()), **options)
    survey.change(chosen, [survey, kind], list(sliders.values()), **options)


def _drawn(survey: Any, class_name: Any, values: dict[str, Any]) -> Lens:
    """Returns the lens that the sliders say."""
    if survey in lenses.COMPOSED:
        given = {name: value for name, value in values.items() if name not in _PLAIN_ONLY}
        return lenses.compose(survey, class_name, **given)
    if survey not in list_surveys(composed=False):
        raise InputError("there is no such survey")
    return lenses.simulate(survey, class_name, **{name: values[name] for name in _PLAIN})


def _answered(models: Models, lens: Lens) -> str:
    """Returns what a model of its survey says of a lens."""
    name = models.of_survey(lens.survey, lens.noise, models.first)
    if name is None:
        return parts.note(
            f"No model here was trained on {lens.survey} with the noise '{lens.noise}': none is asked about this lens."
        )
    predictor = models.get(name)
    if reason := answers.why_no_answer(predictor, lens):
        return parts.note(reason)
    return parts.answer(
        answers.answer(predictor, torch.from_numpy(lens.image)[None], f"With substructure, by the model {name}")
    )  # fmt: skip


def _moved(survey: Any, class_name: Any, values: dict[str, float]) -> list[Any]:
    known = (
        survey in (*list_surveys(composed=False), *lenses.COMPOSED) and class_name in CLASS_NAMES
    )
    if not known:
        return [gr.update() for _ in _SLIDERS]
    shown = lenses.dials_of(survey, class_name)
    updates = []
    for name in _SLIDERS:
        most = _most(name, _SLIDERS[name][1], survey)
        update: dict[str, Any] = {"visible": name in shown, "maximum": most}
        if name in values:
            update["value"] = _rounded(name, values[name])
        updates.append(gr.update(**update))
    return updates


def _most(name: str, high: float, survey: str) -> float:
    """Returns what a slider reaches with a survey."""
    return high if survey in lenses.COMPOSED else min(high, _MOST_OF_PLAIN.get(name, high))


def _rounded(name: str, value: float) -> float:
    return round(value, _ROUNDED[name]) if name in _ROUNDED else value
