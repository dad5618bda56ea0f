"""File fields of the page."""

from pathlib import Path

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
