"""Fields of the page for files and numbers."""

from pathlib import Path
from typing import Any

import gradio as gr


def restrict(file: gr.File) -> None:
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


def number_field(label: str, **how: Any) -> gr.Number:
    """Returns a field for a number, 0 at first; who reads it says what is wrong with one, and where.

    Gradio's own limits, and its rounding, end in an error that does not name the field, and in a
    traceback where the page was started.

    Args:
        label: What stands above it.
        how: More keywords of gradio's.
    """
    return gr.Number(0, label=label, min_width=130, **how)


def slider_field(low: float, high: float, value: float, **how: Any) -> gr.Slider:
    """Returns a slider; who reads it checks what was typed beside it, as of a `number_field`.

    Args:
        low: The least.
        high: The most.
        value: Where it begins.
        how: More keywords of gradio's.
    """
    field = gr.Slider(low, high, value, **how)
    field.preprocess = lambda payload: payload  # type: ignore
    return field
