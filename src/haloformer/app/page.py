"""The page of `haloformer app` in gradio.

Pictures are part of its text, so that none is left on disk.
"""

import socket
from collections.abc import Collection
from importlib import resources

import gradio as gr
from starlette.middleware import Middleware

from haloformer.app import answers, parts, tables
from haloformer.app.classify_tab import classify_tab
from haloformer.app.fit_tab import fit_tab
from haloformer.app.fits import Fits
from haloformer.app.known import Models
from haloformer.app.limits import Guard, Uploads
from haloformer.app.origins import SameOrigin
from haloformer.app.simulate_tab import simulate_tab
from haloformer.errors import InputError

KEPT_SECONDS = 900  # an uploaded dataset, so that its other images can be chosen
_MAX_KEPT_BYTES = 2**30  # of all uploads together; more are told to come back
_SESSIONS = 64  # answers that are held for the sliders, one an open page
_WAITING = 64  # requests that may wait; more are told that the app is busy
_COLOURS = {
    "color_accent": "#0072b2",
    "link_text_color": "#0072b2",
    "link_text_color_dark": "#6cb8ec",
    "slider_color": "#0072b2",
    "slider_color_dark": "#6cb8ec",
    "body_text_color_subdued": "#565e68",
    "body_text_color_subdued_dark": "#a8b1bd",
    "block_label_text_color": "#424a54",
    "block_label_text_color_dark": "#c3cad3",
    "block_title_text_color": "#424a54",
    "block_title_text_color_dark": "#c3cad3",
    "button_primary_background_fill": "#0072b2",
    "button_primary_background_fill_hover": "#005a8d",
    "button_primary_text_color": "#ffffff",
    "button_primary_background_fill_dark": "#0072b2",
    "button_primary_background_fill_hover_dark": "#005a8d",
}
"""Of gradio's own parts, so that each text has a contrast of 4.5 to what is behind it."""


def build(models: Models, leaderboard: str | None, uploads: Uploads, fits: Fits) -> gr.Blocks:
    """Returns the page.

    Args:
        models: Those that answer.
        leaderboard: Path of a ``leaderboard.csv``; published AUCs are shown if None.
        uploads: Where gradio puts what is uploaded.
        fits: Runs fits.
    """
    board = tables.leaderboard_table(leaderboard) if leaderboard else None
    with gr.Blocks(title="haloformer", analytics_enabled=False) as page:
        gr.HTML(
            "<header class='hf-head'><h1>haloformer</h1><p>What is dark matter made of? Read from pictures of strong "
            "gravitational lenses.</p></header>"
        )
        with gr.Tab("Classify"):
            classify_tab(models, uploads, KEPT_SECONDS)
        with gr.Tab("Fit"):
            fit_tab(fits)
        with gr.Tab("Simulate"):
            simulate_tab(page, models, KEPT_SECONDS)
        with gr.Tab("Models"):
            gr.HTML(parts.models(board))
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
    ).set(**_COLOURS)
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
