"""`tune`: a search for good values of an experiment's fields, by Optuna."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from haloformer.errors import InputError

if TYPE_CHECKING:
    from haloformer.tuning.report import SearchResult


def tune(
    name: str,
    *,
    out: str | None = None,
    trials: int | None = None,
    workers: int = 1,
    timeout_minutes: float | None = None,
    preset: str | list[str] | None = None,
    options: dict[str, Any] | None = None,
    progress: bool = True,
) -> "SearchResult":
    """Searches for good values of an experiment's fields; judged by validation images, never by test images.

    Calling it again goes on where it stopped: only the missing trials are done, an interrupted one resumes.

    Args:
        name: A shipped search (quick, transformer), or a YAML file of your own.
        out: Folder to write, or to continue; ``searches/NAME`` by default.
        trials: How many trials there shall be, those of earlier calls included; by default as the search says.
        workers: Processes that train at the same time; the processor's cores are shared out among them, and GPUs if there are several.
        timeout_minutes: Begin no further trial after so many minutes; the running ones are finished.
        preset: Presets that are put over the search's base.
        options: Fields of the experiment, such as ``{"epochs": 5}``, that are put over the search's base and its presets.
        progress: Say of each trial what it tries and how it went.

    Returns:
        The best trial, and the folder.

    Raises:
        InputError: An unknown search, key or field; a value that makes no sense; a folder that holds something else or is in use; or no
            trial succeeded. A trial that fails is no error of the search: ``trials.csv`` has its message.
        KeyboardInterrupt: Ctrl-C; finished trials are kept, the running ones saved.
    """
    if workers < 1:
        raise InputError(f"workers must be at least 1, not {workers}")
    if timeout_minutes is not None and not timeout_minutes > 0:
        raise InputError(f"timeout_minutes must be above 0, not {timeout_minutes}")
    from haloformer.studies.settings import command_line
    from haloformer.tuning.plan import read_search, warn_of_idle_search, with_options
    from haloformer.tuning.search import carry_out
    from haloformer.tuning.storage import require_optuna

    require_optuna()
    plan = with_options(read_search(name), name, preset, options, trials)
    warn_of_idle_search(plan, options)
    folder = Path(out) if out is not None else Path("searches") / Path(name).stem
    given: dict[str, object] = {
        "trials": trials,
        "workers": workers if workers != 1 else None,
        "timeout_minutes": timeout_minutes,
        "out": out,
        "preset": preset,
    }
    command = command_line("tune", [name], given, options)
    return carry_out(plan, folder, command, workers, timeout_minutes, progress)
