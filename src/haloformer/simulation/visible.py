"""Whether a survey's lenses leave an image at all: arcs that the camera resolves, and that lie where it looks."""

import math
from dataclasses import dataclass

import numpy as np

from haloformer.errors import InputError
from haloformer.simulation import rng
from haloformer.simulation.composed.scenes import (
    RandomDraws,
    drawn_redshifts,
    lens_setting,
    source_place,
)
from haloformer.simulation.composed.survey import ComposedSurvey, prefix
from haloformer.simulation.possible import check_possible
from haloformer.simulation.surveys import AnySurvey, Survey

_DRAWS = 64
_MOST_WITHOUT = 0.5  # share of lenses without an image; wide distributions have some
_LEAST_PIXELS = 0.5  # Einstein radius below which all images of a source share a pixel
_BEYOND = 1.5  # half diagonals of the image: galaxies are extended, and lenses no circles
_ONLY_DISTORT = ("shear", "multipoles")  # beside a lens galaxy: where its images are, they are


@dataclass(frozen=True)
class _Places:
    """Einstein radius (B,) of lenses, and places of lens and source, all in arcsec."""

    theta_E: np.ndarray
    lens_x: np.ndarray
    lens_y: np.ndarray
    source_x: np.ndarray
    source_y: np.ndarray


def check_visible(survey: AnySurvey) -> None:
    """Raises InputError if most lenses of a survey have no image, or one in which nothing is lensed, or if a number is impossible.

    Surveys whose lens has more mass than a galaxy's, such as a cluster, are not judged; an Einstein radius of 0 is that of no lens.
    """
    check_possible(survey)
    if isinstance(survey, ComposedSurvey):
        _check_behind(survey)
        if any(part.kind not in _ONLY_DISTORT for part in survey.lens[1:]):
            return
        places = _of_composed(survey)
    else:
        places = _of_one_lens(survey)
    name, camera = f"survey {survey.name}: ", survey.instrument
    radius = f"theta_E is {_told(places.theta_E)}"
    least = _LEAST_PIXELS * camera.pixel_scale
    small = (places.theta_E > 0) & (places.theta_E < least)
    if small.mean() > _MOST_WITHOUT:
        raise InputError(
            f"{name}{radius}, less than half a pixel ({least:g} arcsec): nothing is seen to be lensed; "
            "galaxies have 0.3 to 3 arcsec"
        )
    side = camera.num_pix * camera.pixel_scale
    away = _distance_of_arcs(places)
    if (away > _BEYOND * side / math.sqrt(2)).mean() > _MOST_WITHOUT:
        offset = np.hypot(places.source_x - places.lens_x, places.source_y - places.lens_y)
        raise InputError(
            f"{name}{radius}, and the source lies {_told(offset)} from it: images {np.median(away):.3g} arcsec off, "
            f"of which a picture of {side:.3g} arcsec shows none; theta_E, x and y must fit it, or num_pix and pixel_scale"
        )


def _check_behind(survey: ComposedSurvey) -> None:
    """Raises InputError if most sources would have to be moved behind the lens."""
    z_lens, z_source = drawn_redshifts(survey, _draws(survey))
    share = float((z_source < z_lens + survey.z_behind - 1e-9).mean())
    if share > _MOST_WITHOUT:
        wanted = "z_source" if survey.z_beyond is None else "z_lens + z_beyond"
        raise InputError(
            f"survey {survey.name}: {wanted} is below z_lens + z_behind ({survey.z_behind:g}) in {100 * share:.0f} % of the lenses: "
            "a source lies behind its lens"
        )


def _told(values: np.ndarray) -> str:
    low, high = (f"{value:.3g}" for value in (values.min(), values.max()))
    return f"{low} arcsec" if low == high else f"{low} to {high} arcsec"


def _distance_of_arcs(places: _Places) -> np.ndarray:
    """Returns how far (B,) from the picture's centre the nearest image of the source is, roughly, in arcsec.

    A source within the Einstein radius has images, or a ring, in the annulus from the one to the other side of it; one
    beyond has a single one, farther out than itself by up to the Einstein radius.
    """
    x, y = places.source_x - places.lens_x, places.source_y - places.lens_y
    beta, of_lens = np.hypot(x, y), np.hypot(places.lens_x, places.lens_y)
    inner, outer = places.theta_E - beta, places.theta_E + beta
    ring = np.maximum(0, np.maximum(of_lens - outer, inner - of_lens))
    size = np.maximum(beta, 1e-12)
    along = -(places.lens_x * x + places.lens_y * y) / size  # where the line passes the centre
    nearest = np.clip(along, beta, outer)
    single = np.hypot(places.lens_x + nearest * x / size, places.lens_y + nearest * y / size)
    found: np.ndarray = np.where(beta < places.theta_E, ring, single)
    return found


def _draws(survey: AnySurvey) -> RandomDraws:
    stream = np.full(_DRAWS, rng.name_word(f"{survey.name}/"), np.uint64)
    return RandomDraws(0, stream, np.arange(_DRAWS))


def _of_composed(survey: ComposedSurvey) -> _Places:
    draws, part = _draws(survey), survey.lens[0]
    lens = part.draw(draws.of(prefix(part) or part.kind), lens_setting(survey, draws), {})
    x, y = source_place(survey, draws.of("source_"), lens)
    return _Places(lens["theta_E"], lens["x"], lens["y"], x, y)


def _of_one_lens(survey: Survey) -> _Places:
    draws, lens, source = _draws(survey), survey.deflector, survey.source
    if lens.mass is not None:
        theta_E = survey.theta_E(draws.draw(lens.mass, "mass"))
    else:
        theta_E = draws.draw(0.0 if lens.theta_E is None else lens.theta_E, "theta_E")
    of_lens = [draws.draw(each, name) for name, each in (("x", lens.x), ("y", lens.y))]
    of_source = [
        draws.draw(each, name) for name, each in (("source_x", source.x), ("source_y", source.y))
    ]
    return _Places(survey.scale() * theta_E, *of_lens, *of_source)
