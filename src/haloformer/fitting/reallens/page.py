"""A fit as a page, and as what a notebook shows."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from markupsafe import Markup

from haloformer.reporting import html
from haloformer.reporting.style import data_uri

if TYPE_CHECKING:
    from haloformer.fitting.reallens.result import RealLensFit

_METHODS = (
    "The mass is a power-law ellipsoid with external shear. For each mass, the source (cubic splines on two grids, a Gaussian process "
    "with an exponential correlation) and the lens's light (a sum of Gaussians) are solved exactly and integrated over; the "
    "hyper-parameters have the largest evidence. χ² is with the covariance of the noise. Errors are Laplace's, at these hyper-parameters; systematic errors of the mass model are "
    "not among them. x and y are in arcsec along columns and rows from the middle of the image."
)
_PERTURBER = (
    "Δ evidence is by how much −2 ln evidence falls with a perturber, at the best parameters of both models; marginal: with all "
    "parameters integrated over, and the perturber's place over all places that were tried. Multipoles of the lens explain images as "
    "perturbers do: where both gain as much, the answer is a tie."
)


def to_html(fit: "RealLensFit", picture: str) -> str:
    """Returns a self-contained page.

    Args:
        fit: The fit.
        picture: Its figure, as a data URI.
    """
    sections = [
        html.section("", html.photo(picture, "the six panels of the fit", wide=True)),
        html.section("Parameters", html.pairs_table(fit.rows())),
        html.section("What was done", html.paragraph(_METHODS), *_about_perturber(fit)),
    ]
    if fit.notes:
        notes = [html.paragraph(note) for note in fit.notes]
        sections.append(html.section("To be known", *notes))
    lead: Sequence[Markup] = [html.paragraph(headline(fit)), *map(html.warning, fit.flags)]
    return html.page("Fit of a lens", fit.seen.name, lead, sections)


def fragment(fit: "RealLensFit") -> Markup:
    """Returns what a notebook shows: figure, table and warnings."""
    warnings = Markup("").join(html.warning(flag) for flag in fit.flags)
    return (
        warnings
        + html.paragraph(headline(fit))
        + html.photo(data_uri(fit.plot(), 110), "the six panels of the fit", wide=True)
        + html.pairs_table(fit.rows())
    )


def headline(fit: "RealLensFit") -> str:
    """Returns the main results in one sentence."""
    theta_E = fit.best.value("theta_E")
    text = f"Einstein radius {theta_E:.3f}″, slope {fit.best.value('gamma'):.2f}."
    return text if fit.scan is None else f"{text} {fit.verdict[0].upper()}{fit.verdict[1:]}."


def _about_perturber(fit: "RealLensFit") -> list[Markup]:
    return [] if fit.scan is None else [html.paragraph(_PERTURBER)]
