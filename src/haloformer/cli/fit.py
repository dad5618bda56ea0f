"""``haloformer fit``."""

from typing import TYPE_CHECKING

from haloformer.cli.present import print_warnings
from haloformer.cli.registry import Command

if TYPE_CHECKING:
    from haloformer.fitting.to_table import FitSummary


def present(summary: "FitSummary") -> int:
    """Prints the counts of a fit and its median chi2; returns 1 if some images were errors."""
    errors = f", {summary.n_errors} errors" if summary.n_errors else ""
    print(
        f"wrote {summary.n_rows} rows to {summary.out}: median chi2 {summary.chi2:.3f}, "
        f"{summary.n_good} good fits, {summary.n_unsettled} not converged{errors}"
    )
    if poor := summary.n_rows - summary.n_errors - summary.n_good:
        low, high = summary.usual
        print_warnings(
            [
                f"{poor} of {summary.n_rows} images are not described by a lens of the survey (chi2 from {low:.3g} to "
                f"{high:.3g}): their parameters have no errors"
            ]
        )
    if summary.figure is not None:
        print(f"drew {summary.figure}")
    return 1 if summary.n_errors else 0


COMMAND = Command(
    "fit the best smooth lens to images: parameters, chi2, residual",
    positional=("images",),
    present=present,
    examples=(
        "haloformer fit cutouts/ --survey model_ii --noise instrument --out fits.csv",
        "haloformer fit test.h5 --survey model_i --out fits.parquet --figure fits.png",
    ),
)
