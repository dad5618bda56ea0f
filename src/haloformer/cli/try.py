"""``haloformer try``."""

import shlex
import textwrap
from typing import TYPE_CHECKING

from haloformer.cli.present import print_table, print_warnings
from haloformer.cli.registry import Command
from haloformer.vocabulary import UNKNOWN

if TYPE_CHECKING:
    from haloformer.trial.run import Answer, TrialSummary

_WIDTH = 60  # columns of what is printed


def present(summary: "TrialSummary") -> int:
    """Prints what was found, what it means, and what to do next; returns 1 if the fit is not to be trusted."""
    print_table("the lens (SIMULATED, HST-like)", ("", "fitted", "true"), _fitted(summary))
    mass = summary.truth["SUB_MASS"] / 1e9
    _say(
        f"Fitted is a smooth lens. The image also has a subhalo of {mass:.0f}·10⁹ M_sun, and the lens has multipoles: the errors know of "
        "neither, so the truth may lie several of them away."
    )
    print_warnings(summary.fit.flags)
    *known, lens = summary.answers
    print()
    print_table("classes of dark matter, by model_i", ("image", "true", "answer", "p"), [
        *([each.file, each.truth or "", each.found, f"{each.probability:.3f}"] for each in known),
        [lens.file, "HST-like", lens.found, "–" if lens.found == UNKNOWN else f"{lens.probability:.3f}"],
    ])  # fmt: skip
    _say(_why(lens))
    _print_next(summary)
    return 1 if summary.fit.flags else 0


def _fitted(summary: "TrialSummary") -> list[list[str]]:
    """Returns the rows of the table of the fit."""
    found, truth = summary.fit.parameters, summary.truth
    rows = [
        ("Einstein radius [″]", "theta_E", f"{truth['THETA_E']:.3f}"),
        ("slope of the mass", "gamma", f"{truth['SLOPE']:.3f}"),
        ("axis ratio", "axis_ratio", ""),
        ("source's radius [″]", "source_radius", ""),
    ]
    cells = []
    for label, name, true in rows:
        value, error = found[name]["value"], found[name]["error"]
        plus = "" if error is None else f" ± {error:.3f}"
        cells.append([label, f"{value:.3f}{plus}", true])
    per_pixel = summary.fit.chi2 / summary.fit.pixels
    return [*cells, ["χ² per pixel", f"{per_pixel:.2f}", "1"]]


def _why(lens: "Answer") -> str:
    """Returns why the lens has no class."""
    rule = (
        "Each network that comes with the package answers for the survey that it was trained on, and for no other: "
        "model_i for simulated lenses of Model I, which all have the same lens in the same place."
    )
    if lens.found != UNKNOWN:
        return f"{rule} What it says of {lens.file} means nothing."
    sure = f"its {lens.probability:.2f} for {lens.likeliest} would mean nothing"
    return (
        f"{rule} {lens.file} is out of distribution, {lens.score:.0f} times beyond the threshold ({lens.reason}): "
        f"it gets no class, and {sure}."
    )


def _say(text: str) -> None:
    print(textwrap.fill(text, _WIDTH))


def _print_next(summary: "TrialSummary") -> None:
    """Prints the files, the time and the next commands."""
    at, truth = shlex.quote(str(summary.out)), summary.truth
    print(f"""
picture  {summary.out / "fit" / "fit.png"}
page     {summary.out / "fit" / "fit.html"}
table    {summary.out / "predictions.csv"}
done in {summary.seconds:.0f} s

next: is there a subhalo in it? (3 minutes or more)
  haloformer fit {at}/simulated_lens.fits \\
    --psf {at}/psf.fits \\
    --noise_map {at}/noise.fits --radius 2.1 \\
    --z_lens {truth["Z_LENS"]:.4f} --z_source {truth["Z_SOURCE"]:.4f} \\
    --perturber --out {at}/subhalo
your own cutout:
  haloformer fit cutout.fits --psf psf.fits \\
    --noise_map noise.fits --out fit
your own network (minutes), and how good it is:
  haloformer train --preset quick,noise_free \\
    --data model_ii --out runs/first
  haloformer evaluate runs/first --data model_ii""")


COMMAND = Command(
    "fit, draw and classify images that come with the package: what it does, in a minute or two",
    present=present,
    ends_itself=True,
    function="try_out",
    examples=("haloformer try", "haloformer try --out first"),
)
