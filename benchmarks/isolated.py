"""Runs a part of a benchmark in a process of its own: its peak memory is its own, and its death is survived."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

CHILD = "--child"


def run_isolated(script: str, task: dict[str, Any], timeout: float) -> dict[str, Any]:
    """Runs ``script --child TASK`` and returns the JSON object in its last line, or ``{"error": reason}``.

    Args:
        script: The benchmark's own file.
        task: What the child is told, as JSON.
        timeout: Seconds after which it is ended.
    """
    command = [sys.executable, "-W", "ignore", str(Path(script).resolve()), CHILD, json.dumps(task)]
    try:
        child = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        return {"error": f"took longer than {timeout:.0f} s"}
    lines = child.stdout.strip().splitlines()
    if child.returncode == 0 and lines:
        return json.loads(lines[-1])
    if child.returncode < 0:
        return {"error": f"ended by signal {-child.returncode} (9: probably out of memory)"}
    said = child.stderr.strip().splitlines() or ["no message"]
    return {"error": one_line(said[-1])}


def one_line(text: object, most: int = 200) -> str:
    """A text on one line, not too long, that does not end a cell of a Markdown table."""
    line = " ".join(str(text).split()).replace("|", "/")
    return line if len(line) <= most else line[: most - 1] + "…"


def versions() -> str:
    """The date, and the versions of what is measured."""
    import platform

    import timm
    import torch

    import haloformer

    return (
        f"{time.strftime('%Y-%m-%d')}, haloformer {haloformer.__version__}, Python {platform.python_version()}, "
        f"torch {torch.__version__}, timm {timm.__version__}"
    )
