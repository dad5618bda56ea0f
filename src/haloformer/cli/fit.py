"""``haloformer fit``."""

from typing import TYPE_CHECKING, cast

from haloformer.cli.present import print_table, print_warnings, rows_in_words, say
from haloformer.cli.registry import Command

if TYPE_CHECKING:
    from haloformer.fitting.reallens.files import LensSummary
    from haloformer.fitting.to_table import FitSummary


def present(summary: "FitSummary | LensSummary") -> int:
    """Prints the counts of a fit and its median chi2, or what was found of a real lens; returns 1 if some images were errors."""
    if hasattr(summary, "fit"):
        return _present_lens(cast("LensSummary", summary))
    return _present_table(summary)


def _present_lens(summary: "LensSummary") -> int:
    """Prints the parameters of a lens; returns 1 if they are not to be trusted."""
    from haloformer.fitting.reallens.saving import FILES, SAMPLES_FIGURE

    fit = summary.fit
    if summary.resumed:
        say("went on with an earlier call")
    print_table(fit.seen.name, ("parameter", "value"), fit.rows())
    if fit.scan is not None:
        say(fit.verdict)
    print_warnings((*fit.flags, *fit.cautions))
    files = [*FILES, *([f"{summary.format}.json"] if summary.format else [])]
    files += [SAMPLES_FIGURE] if fit.samples is not None else []
    say(f"wrote {', '.join(files)} into {summary.out}; {fit.seconds:.0f} s of CPU time")
    return 1 if fit.flags else 0


def _present_table(summary: "FitSummary") -> int:
    errors = f", {summary.n_errors} errors" if summary.n_errors else ""
    say(
        f"wrote {rows_in_words(summary.n_rows)} to {summary.out}: median chi2 {summary.chi2:.3f}, "
        f"{summary.n_good} good fits, {summary.n_unsettled} not converged{errors}"
    )
    for note in summary.notes:
        say(note)
    print_warnings(_warnings(summary))
    if summary.figure is not None:
        say(f"drew {summary.figure}")
    return 1 if summary.n_errors else 0


def _warnings(summary: "FitSummary") -> list[str]:
    found = list(summary.warnings)
    n, n_resampled = summary.n_rows - summary.n_errors, summary.n_resampled
    if n_resampled:
        found.append(
            f"{n_resampled} of {n} images were resampled to the survey's pixels, which ties the noise of neighbouring pixels to each "
            "other: chi2 is no longer 1 for a smooth lens"
        )
    if poor := n - summary.n_good:
        low, high = summary.usual
        own = f" (so are {1 - summary.usual_share:.0%} of its own)" if summary.usual_share < 0.995 else ""  # fmt: skip
        found.append(
            f"{poor} of {n} images are not described by a lens of the survey{own}, with chi2 from {low:.3g} to {high:.3g}: their "
            "parameters have no errors"
        )
    return found


COMMAND = Command(
    "fit lenses: images of a survey into a table, or one real lens with a pixelised source",
    positional=("images",),
    present=present,
    dry_run=True,
    table=lambda options: options.get("survey") is not None,
    examples=(
        "haloformer fit cutouts/ --survey model_ii --noise instrument --out fits.csv",
        "haloformer fit test.h5 --survey model_i --out fits.parquet --figure fits.png",
        "haloformer fit lens.fits --psf psf.fits --noise_map noise.fits --radius 1.85 --perturber --out fit",
    ),
)
