"""The page of `haloformer app` in gradio.

Pictures are part of its text, so that none is left on disk.
"""

import base64
import html
import io
import logging
import socket
from collections.abc import Callable, Collection
from importlib import resources
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import torch
from starlette.middleware import Middleware

from haloformer.app import answers
from haloformer.app.answers import Answer, Lens, Table
from haloformer.app.limits import Guard, Uploads
from haloformer.app.origins import SameOrigin
from haloformer.data.reader import DATASET_SUFFIXES
from haloformer.errors import InputError
from haloformer.prediction.predictor import Predictor
from haloformer.reporting.html import table as html_table
from haloformer.simulation import list_surveys
from haloformer.simulation.noise import NOISE_MODES
from haloformer.vocabulary import CLASS_NAMES

KEPT_SECONDS = 900  # an uploaded dataset, so that its other images can be chosen
_MAX_KEPT_BYTES = 2**30  # of all uploads together; more are told to come back
_SESSIONS = 64  # answers that are held for the sliders, one an open page
_WAITING = 64  # requests that may wait; more are told that the app is busy
_IN_WORDS = {
    "axion": "axion vortex",
    "cdm": "cold dark matter subhalos",
    "no_sub": "no substructure",
}
_MOST_IMAGES = 2**40
_e = html.escape

Update = dict[str, Any]  # of a component, as gr.update returns it
Shown = tuple[Answer | None, str, str, Update, Update]


def build(predictor: Predictor, name: str, leaderboard: str | None, uploads: Uploads) -> gr.Blocks:
    """Returns the page.

    Args:
        predictor: The model that answers.
        name: Its name, for people.
        leaderboard: Path of a ``leaderboard.csv``; published AUCs are shown if None.
        uploads: Where gradio puts what is uploaded.
    """
    board = answers.leaderboard_table(leaderboard) if leaderboard else None
    with gr.Blocks(title="haloformer", analytics_enabled=False) as page:
        size = " × ".join(map(str, predictor.image_shape[1:]))
        gr.HTML(
            f"<header class='hf-head'><h1>haloformer</h1><p>What is dark matter made of? Read from pictures of strong gravitational "
            f"lenses. Model <b>{_e(name)}</b>, images of {size} pixels.</p></header>"
        )
        with gr.Tab("Classify"):
            _classify_tab(predictor, uploads)
        with gr.Tab("Simulate"):
            _simulate_tab(page, predictor)
        with gr.Tab("Models"):
            gr.HTML(_models(board))
    uploads.forget = page.temp_file_sets
    result: gr.Blocks = page.queue(max_size=_WAITING, default_concurrency_limit=1)
    return result


def launch(page: gr.Blocks, host: str, port: int, uploads: Uploads, hosts: Collection[str]) -> str:
    """Serves the page in the background and returns its address; ``hosts`` are the names that it answers to."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as free:
        free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            free.bind((host, port))
        except OSError as error:
            raise InputError(
                f"cannot listen on {host}, port {port}: {error.strerror or error}"
            ) from error
        port = free.getsockname()[1]
    fonts = [
        "system-ui",
        "-apple-system",
        "Segoe UI",
        "Roboto",
        "Helvetica Neue",
        "sans-serif",
    ]  # none is fetched
    theme = gr.themes.Base(
        primary_hue="blue",
        neutral_hue="slate",
        radius_size="lg",
        font=fonts,
        font_mono=["ui-monospace", "monospace"],
    )
    css = resources.files("haloformer.app").joinpath("page.css").read_text(encoding="utf-8")
    page.launch(
        server_name=host, server_port=port, share=False, quiet=True, prevent_thread_lock=True, inbrowser=False,
        show_error=False, max_threads=8, max_file_size=answers.MAX_UPLOAD_BYTES, state_session_capacity=_SESSIONS,
        ssr_mode=False, pwa=False, mcp_server=False, enable_monitoring=False, run_history=False, footer_links=[],
        theme=theme, css=css,
        app_kwargs={"middleware": [
            Middleware(SameOrigin, hosts),
            Middleware(Guard, uploads, answers.MAX_UPLOAD_BYTES, _MAX_KEPT_BYTES),
        ]},
    )  # fmt: skip
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"


def _classify_tab(predictor: Predictor, uploads: Uploads) -> None:
    kept = gr.State(None, time_to_live=KEPT_SECONDS)
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=300):
            file = gr.File(
                label="FITS, .npy, PNG, JPEG or dataset (.h5); at most 64 MB, not stored",
                file_types=list(answers.UPLOAD_SUFFIXES), elem_id="hf-file", height=150,
            )  # fmt: skip
            _restrict(file)
            number = gr.Number(
                0, label="Image number in the dataset", precision=0, minimum=0, visible=False
            )
            scale = gr.Number(
                0, label="Pixel scale (arcsec), where the file does not say it; 0: as it is", minimum=0, elem_id="hf-scale"
            )  # fmt: skip
            stretch = gr.Radio(
                list(answers.STRETCHES), value="asinh", label="Stretch", elem_id="hf-stretch"
            )
            percent = gr.Slider(
                80,
                100,
                99.5,
                step=0.1,
                label="Pixels between black and white (%)",
                elem_id="hf-percent",
            )
            layer = gr.Slider(
                1, 2, 1, step=1, label="Layer of attention", visible=False, elem_id="hf-layer"
            )
        with gr.Column(scale=3, min_width=300):
            told = gr.HTML(
                _note("Drop an image of a lens to see what the model says of it."),
                elem_id="hf-answer",
            )
            pictures = gr.HTML("", elem_id="hf-pictures")

    def read(*values: Any) -> Shown:
        return _read_upload(predictor, uploads, *values)

    def seen(found: Answer | None, *how: Any) -> str:
        return _guarded(lambda: "" if found is None else _seen(found, *how))

    inputs, outputs = (
        [file, number, scale, stretch, percent, layer],
        [kept, told, pictures, layer, number],
    )
    options: dict[str, Any] = {
        "concurrency_id": "model",
        "concurrency_limit": 1,
        "api_visibility": "private",
    }
    file.change(read, inputs, outputs, **options)
    number.change(read, inputs, outputs, trigger_mode="always_last", **options)
    gr.on(
        [stretch.change, percent.change, layer.change],
        seen,
        [kept, stretch, percent, layer],
        pictures,
        trigger_mode="always_last",
        show_progress="hidden",
        **options,
    )


def _read_upload(
    predictor: Predictor,
    uploads: Uploads,
    path: str | None,
    index: float | None,
    scale: float | None,
    stretch: str,
    percent: float,
    previous: int,
) -> Shown:
    """Returns an upload's answer, text and pictures, and updates of slider and number."""
    dataset = path is not None and path.lower().endswith(DATASET_SUFFIXES)
    choose = gr.update(visible=dataset)
    if path is None:
        told = _note("Drop an image of a lens to see what the model says of it.")
        return None, told, "", gr.update(), choose
    shown: list[Any] = []

    def read() -> str:
        number = answers.whole(index or 0, "the image number", 0, _MOST_IMAGES)
        width = answers.number(scale or 0, "the pixel scale", 0, 1e4)
        found = answers.classify(predictor, path, number=number, pixel_scale=width or None)
        n = max(len(found.layers), 1)
        level = answers.whole(previous or 1, "the layer", 1, 1000)
        level = min(level, n) if level > 1 else n
        slider = gr.update(
            visible=n > 1, maximum=max(n, 2), value=level, label=f"Layer of attention, 1 … {n}"
        )
        shown.extend([found, _seen(found, stretch, percent, level), slider])
        return _answer(found)

    try:
        told = _guarded(read, "This file could not be read.")
    finally:
        if not dataset:
            uploads.read(path)
    found, pictures, slider = shown or [None, "", gr.update(visible=False)]
    return found, told, pictures, slider, choose


def _guarded(work: Callable[[], str], failed: str = "This could not be shown.") -> str:
    """Returns what ``work`` says; of what keeps it from that a person is told, whatever it was given."""
    try:
        return work()
    except InputError as error:
        return _alert(answers.without_folders(error))
    except Exception:  # whoever runs the app sees why
        logging.getLogger(__name__).exception("a request failed")
        return _alert(failed)


def _restrict(file: gr.File) -> None:
    """Keeps gradio from two habits: fetching addresses, and leaving files behind.

    It would fetch an address that a visitor names as his file, and leave an empty file with each
    answer.
    """
    usual = file.async_move_resource_to_block_cache

    async def move(path: str | Path | None) -> str | None:
        if path is not None and "://" in str(path):
            raise gr.Error("Only uploaded files are read.")
        return await usual(path)

    file.async_move_resource_to_block_cache = move  # type: ignore
    file._process_single_file = lambda found: found.path  # type: ignore


def _simulate_tab(page: gr.Blocks, predictor: Predictor) -> None:
    surveys = list(list_surveys(composed=False))
    first = predictor.artefact.get("survey")
    first = first if first in surveys else surveys[0]
    noise = (
        predictor.artefact.get("noise")
        if predictor.artefact.get("noise") in NOISE_MODES
        else "original"
    )
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=300):
            with gr.Row():
                survey = gr.Dropdown(surveys, value=first, label="Survey", min_width=120)
                mode = gr.Dropdown(list(NOISE_MODES), value=noise, label="Noise", min_width=120)
            kind = gr.Radio(
                [(_IN_WORDS[name], name) for name in CLASS_NAMES],
                value="axion",
                label="Dark matter",
            )
            mass = gr.Slider(
                -24, -22, -23.4, step=0.05, label="Axion mass, log10 (m / eV)", elem_id="hf-mass"
            )
            angle = gr.Slider(0, 180, 45, step=1, label="Angle of the vortex (°)")
            count = gr.Slider(
                0, 100, 25, step=1, label="Number of subhalos", visible=False, elem_id="hf-count"
            )
            slope = gr.Slider(
                -2.5, 0, -0.9, step=0.1, label="Slope of their masses, dN/dm ∝ mˢ", visible=False
            )
            x = gr.Slider(-0.6, 0.6, 0.1, step=0.01, label="Source, x (″)", elem_id="hf-x")
            y = gr.Slider(-0.6, 0.6, 0.05, step=0.01, label="Source, y (″)")
            exposure = gr.Slider(
                100, 10000, round(answers.usual_exposure(first)), step=1, label="Exposure (s)"
            )
            draw = gr.Number(
                0, label="Draw of noise and subhalos", precision=0, minimum=0, maximum=10**6
            )
        with gr.Column(scale=3, min_width=300):
            pictures = gr.HTML("", elem_id="hf-lens")
            told = gr.HTML("", elem_id="hf-lens-answer")
    drawn = gr.State(None, time_to_live=KEPT_SECONDS)

    def redraw(*values: Any) -> tuple[Lens | None, str, Any]:
        names = ("source_x", "source_y", "log10_m_axion", "vortex_angle", "n_subhalos", "slope", "exposure", "noise", "draw")  # fmt: skip
        made: list[Lens] = []

        def draw() -> str:
            options = dict(zip(names, values[2:], strict=True))
            made.append(answers.simulate(values[0], values[1], **options))
            return _lens(made[0])

        told = _guarded(draw)
        return (made[0], told, gr.update()) if made else (None, told, "")

    def ask(lens: Lens | None) -> str:
        return "" if lens is None else _guarded(lambda: answered(lens))

    def answered(lens: Lens) -> str:
        if reason := answers.why_no_answer(predictor, lens):
            return _note(reason)
        return _answer(
            answers.answer(predictor, torch.from_numpy(lens.image)[None], "with substructure")
        )

    sliders: list[Any] = [survey, kind, x, y, mass, angle, count, slope, exposure, mode, draw]
    options: dict[str, Any] = {
        "api_visibility": "private",
        "show_progress": "hidden",
        "concurrency_limit": 1,
    }
    for trigger in (page.load, *(each.change for each in sliders)):
        once: dict[str, Any] = {} if trigger == page.load else {"trigger_mode": "always_last"}
        trigger(
            redraw, sliders, [drawn, pictures, told], concurrency_id="lens", **once, **options
        ).then(ask, drawn, told, concurrency_id="model", **options)
    kind.change(lambda name: [gr.update(visible=name == "axion")] * 2 + [gr.update(visible=name == "cdm")] * 2,
                kind, [mass, angle, count, slope], **options)  # fmt: skip
    survey.change(_usual_exposure, survey, exposure, **options)


def _usual_exposure(survey: Any) -> Any:
    """Returns the usual exposure of a survey; no change for what is none."""
    return (
        round(answers.usual_exposure(survey))
        if survey in list_surveys(composed=False)
        else gr.update()
    )


# --- HTML -------------------------------------------------------------------------------------------------------------


def _note(text: str) -> str:
    return f"<p class='hf-note'>{_e(text)}</p>"


def _alert(text: str) -> str:
    return f"<div class='hf-alert' role='alert'><b>This does not work.</b> {_e(text)}</div>"


def _answer(found: Answer) -> str:
    parts = []
    if found.warning:
        parts.append(
            f"<div class='hf-alert' role='alert'><b>Unlike the images that the model knows: do not trust its answer.</b> {_e(found.warning)}.</div>"
        )
    if found.probabilities:
        best = str(found.class_name)
        bars = "".join(
            f"<li><span>{_e(_IN_WORDS.get(name, name))} <small>{_e(name)}</small></span>"
            f"<span class='hf-bar'><i style='width:{100 * p:.1f}%'></i></span><b>{100 * p:.1f} %</b></li>"
            for name, p in found.probabilities.items()
        )
        doubtful = " hf-doubt" if found.warning else ""
        parts.append(
            f"<section class='hf-card{doubtful}'><h2>{_e(_IN_WORDS.get(best, best).capitalize())}</h2><ul class='hf-bars'>{bars}</ul></section>"
        )
    if found.estimates:
        rows = "".join(
            f"<li><span>{_e(name)}</span><b>{value:.2f}</b><small>{low:.2f} … {high:.2f} ({100 * found.coverage:.0f} % interval)</small></li>"
            for name, (value, low, high) in found.estimates.items()
        )
        parts.append(f"<section class='hf-card'><ul class='hf-estimates'>{rows}</ul></section>")
    scale = f" {found.scale}" if found.scale else ""
    cannot = (
        " This model cannot tell images unlike those it knows." if found.warning is None else ""
    )
    return "".join(parts) + f"<p class='hf-quiet'>{_e(found.name)}.{_e(scale)}{cannot}</p>"


def _seen(found: Answer, stretch: str, percent: float, layer: int) -> str:
    if found.image is None:
        return ""
    shown = [_picture(answers.light(found.image, stretch, percent), "The image", found.name)]
    if found.attention is not None:
        k = min(max(int(layer or 1), 1), len(found.layers)) - 1
        text = f"Where layer {k + 1} of {len(found.layers)} looks"
        shown.append(
            _picture(
                answers.overlay(found.image, found.attention[k], stretch, percent),
                text,
                found.layers[k],
            )
        )
    return f"<div class='hf-pictures'>{''.join(shown)}</div>"


def _lens(lens: Lens) -> str:
    both = np.concatenate([lens.image, lens.smooth])  # one stretch for the two
    shown = answers.light(both, percent=99.8)
    same = not lens.difference.any()
    pictures = [
        _picture(shown[: len(lens.image)], "With substructure", f"{lens.size:.1f}″ wide"),
        _picture(shown[len(lens.image) :], "Without", "same source, lens and noise draw"),
        _picture(answers.signed(lens.difference), "Difference, free of noise",
                 "none: this class has no substructure" if same else f"orange more, blue less light; at most {np.abs(lens.difference).max():.2g} counts/s"),
    ]  # fmt: skip
    return f"<div class='hf-pictures hf-three'>{''.join(pictures)}</div>"


def _picture(colours: np.ndarray, title: str, detail: str) -> str:
    from PIL import Image

    data = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(colours[::-1])).save(data, "PNG")  # y upwards
    source = base64.b64encode(data.getvalue()).decode()
    return (
        f"<figure><img alt='{_e(title)}: {_e(detail)}' src='data:image/png;base64,{source}'>"
        f"<figcaption><b>{_e(title)}</b> <small>{_e(detail)}</small></figcaption></figure>"
    )


def _models(board: Table | None) -> str:
    def section(title: str, text: str, kind: str, table: Table) -> str:
        return f"<section class='hf-card'><h2>{_e(title)}</h2><p class='hf-quiet'>{_e(text)}</p>{html_table(*table, kind=kind)}</section>"

    shipped = section(
        "Trained models of this package",
        "AUCs on simulated test images that neither training nor any choice has seen.",
        "hf-table",
        answers.shipped_table(),
    )
    if board is not None:
        return shipped + section(
            "Leaderboard",
            "Networks trained alike by haloformer benchmark.",
            "hf-table hf-long",
            board,
        )
    text = (
        "Networks in sizes for lens cutouts, with the best macro AUC that a paper gives for any network of the family, on the released "
        "images of each survey. These were not measured here. haloformer benchmark trains them alike; --leaderboard shows its results."
    )
    return shipped + section("Networks", text, "hf-table hf-long", answers.published_table())
