"""What else could have changed an image of a lens: its mass, its place, its source. What they explain says nothing of dark matter."""

import functools
import json

import numpy as np
import torch
from scipy import sparse

from haloformer.oracle.scene import Lens, smooth_class
from haloformer.simulation.components import Sersic
from haloformer.simulation.components.component import LightComponent
from haloformer.simulation.composed import ComposedRenderer, ComposedSurvey, draw_scenes
from haloformer.simulation.psf import observe, ray_axis
from haloformer.simulation.surveys import describe_survey, get_any_survey

_DRAWS = 2048
_STEP = (
    0.005  # of a parameter's standard deviation in the survey: its posterior is as narrow as that
)
_NOT_OF_THE_LENS = ("z_", "snr", "source_flux", "exposure_time", "noise_correlation", "matched_")

CLUMPS, CORRELATION = 0.3, 0.04
"""Of a source that is no Sérsic profile: its brightness is known but for this fraction, correlated over so many arcsec."""
_SPACING, _MOST_SIDE = 0.03, 40  # arcsec, pixels: of the grid on which such a source may differ
_LEFT_OUT, _MOST_MODES = 1e-3, 600  # of the variance of what differs


def survey_columns(lens: Lens) -> np.ndarray:
    """Returns what a standard deviation of each number that the survey draws changes of an image.

    Lens, place and shape of the source, light of the lens galaxy; then the source's flux, in each band, and the exposure, where it matters.
    By central differences.

    Returns:
        (P, D), as :meth:`Lens.white`.
    """
    steps = {
        place: _STEP * size
        for place, size in spread_of(lens.survey).items()
        if place[0] in lens.parameters
    }
    for band in range(max(1, len(lens.survey.bands))):
        flux = np.ravel(lens.parameters["source_flux"])[band]
        steps["source_flux", band] = _STEP * float(flux)  # by ln(flux)
    rows = {name: np.repeat(v, 2 * len(steps), axis=0) for name, v in lens.parameters.items()}
    for k, ((name, band), step) in enumerate(steps.items()):
        numbers = rows[name].reshape(2 * len(steps), -1)  # a view: of one number, or of one a band
        numbers[2 * k : 2 * k + 2, band] += step * np.array([1.0, -1.0])
    renderer = ComposedRenderer(lens.survey, torch.float64)
    images = np.concatenate(
        [
            renderer.images({name: v[k : k + 8] for name, v in rows.items()}).images.numpy()
            for k in range(0, 2 * len(steps), 8)
        ]
    )
    white = lens.white(images)
    columns = [(white[0::2] - white[1::2]) / (2 * _STEP)]
    if (by_time := lens.by_exposure()) is not None:
        columns.append(by_time)
    found: np.ndarray = np.concatenate(columns)
    there: np.ndarray = np.isfinite(found).all(1) & (np.abs(found).max(1) > 0)
    return np.compress(there, found, axis=0)


def spread_of(survey: ComposedSurvey) -> dict[tuple[str, int], float]:
    """Returns the standard deviations of what is drawn of smooth lenses and their sources, of numbers that vary and are no counts.

    By the parameter's name and the band; the first, 0, of what is the same in all bands.
    """
    return _spread(json.dumps(describe_survey(survey)))


@functools.lru_cache(maxsize=8)
def _spread(description: str) -> dict[tuple[str, int], float]:
    survey = get_any_survey(json.loads(description))
    assert isinstance(survey, ComposedSurvey)
    label = survey.class_names.index(smooth_class(survey))
    index = np.arange(_DRAWS)
    labels = np.full(_DRAWS, label)
    drawn = draw_scenes(survey, labels, index, 0, survey.class_names).parameters
    found = {}
    for name, values in drawn.items():
        in_bands = bool(survey.bands) and values.shape == (_DRAWS, len(survey.bands))
        if name.startswith(_NOT_OF_THE_LENS) or not (values.ndim == 1 or in_bands):
            continue
        for band, each in enumerate(values.reshape(_DRAWS, -1).T):
            varies = np.isfinite(each).all() and np.ptp(each) > 1e-12
            if varies and not (each == np.round(each)).all():
                found[name, band] = float(each.std())
    return found


def has_structure(survey: ComposedSurvey) -> bool:
    """Returns whether sources are more than Sérsic profiles."""
    return any(type(part) is not Sersic for part in survey.source.light)


def source_columns(lens: Lens) -> np.ndarray:
    """Returns what a source that is not quite this one would change of an image.

    Its brightness S differs by a Gaussian field of covariance (A² S_i S_j) exp(−r²/2l²), A and l being :data:`CLUMPS` and
    :data:`CORRELATION`: the modes of it on a grid about the source, lensed and observed. In bands that show the same galaxy it differs
    alike, else in each by a field of its own.

    Returns:
        (P, D), as :meth:`Lens.white`.
    """
    survey = lens.survey
    reach = 0.5 * _SPACING * (_MOST_SIDE - 1)
    axis = np.linspace(-reach, reach, _MOST_SIDE)
    rays = _rays_on_grid(lens, axis)
    flux = np.ravel(lens.parameters["source_flux"])
    looks = survey.band_looks(survey.source.light)
    columns = []
    for number, light in enumerate(looks):
        shown = flux if len(looks) == 1 else np.where(np.arange(len(flux)) == number, flux, 0.0)
        modes = _modes(_brightness(lens, light, axis), axis)
        for first in range(0, modes.shape[1], 50):
            seen = _observed(lens, rays @ modes[:, first : first + 50])
            seen = seen[:, None] * shown[:, None, None] if survey.bands else seen * shown
            columns.append(lens.white(lens.image[None] + _STEP * seen) / _STEP)
    return np.concatenate(columns)


def _observed(lens: Lens, at_rays: np.ndarray) -> np.ndarray:
    """Returns what the camera sees, (P, N, N) in counts/s, of brightness at its rays (rays, P)."""
    n = len(ray_axis(lens.survey.instrument))
    bright = torch.from_numpy(np.ascontiguousarray(at_rays.T).reshape(-1, n, n))
    seen: np.ndarray = observe(bright, lens.survey.instrument).numpy()
    return seen


def _modes(brightness: np.ndarray, axis: np.ndarray) -> np.ndarray:
    """Returns the modes (side², P) in which a source of brightness (side, side) on a grid of that axis differs, per arcsec² as it is."""
    brightness = brightness.ravel()
    x, y = (each.ravel() for each in np.meshgrid(axis, axis))
    square = (x[:, None] - x[None]) ** 2 + (y[:, None] - y[None]) ** 2
    like = np.exp(-0.5 * square / CORRELATION**2)
    covariance = CLUMPS**2 * brightness[:, None] * brightness[None] * like
    values, vectors = np.linalg.eigh(covariance)
    values, vectors = values[::-1].clip(min=0), vectors[:, ::-1]
    kept = int(np.searchsorted(np.cumsum(values), (1 - _LEFT_OUT) * values.sum())) + 1
    kept = min(kept, _MOST_MODES)
    found: np.ndarray = vectors[:, :kept] * np.sqrt(values[:kept])
    return found


def _brightness(lens: Lens, light: tuple[LightComponent, ...], axis: np.ndarray) -> np.ndarray:
    """Returns the brightness (side, side) per arcsec² of a source of flux 1 on a grid about its place, of components as a band shows them."""
    grid = torch.from_numpy(axis)
    x, y = torch.broadcast_tensors(grid[None, None, :], grid[None, :, None])
    renderer = ComposedRenderer(lens.survey, torch.float64)
    seen = renderer.brightness(light, lens.parameters, x.contiguous(), y.contiguous())
    found: np.ndarray = seen[0].numpy()
    return found.clip(min=0)


def _rays_on_grid(lens: Lens, axis: np.ndarray) -> sparse.csr_array:
    """Returns the weights (rays, side²) by which the rays see the points of a grid about the source, bilinear between them."""
    renderer = ComposedRenderer(lens.survey, torch.float64)
    alpha = renderer.smooth_deflection(lens.parameters)
    x, y = (
        (along - float(lens.parameters[f"source_{k}"][0]) - bent)[0].numpy().ravel()
        for along, bent, k in ((renderer.x, alpha[0], "x"), (renderer.y, alpha[1], "y"))
    )
    side, step = len(axis), axis[1] - axis[0]
    column, row = (x - axis[0]) / step, (y - axis[0]) / step
    inside = np.flatnonzero((column >= 0) & (column < side - 1) & (row >= 0) & (row < side - 1))
    column, row = column[inside], row[inside]
    first_column, first_row = np.floor(column).astype(int), np.floor(row).astype(int)
    right, down = column - first_column, row - first_row
    entries = [
        (
            (first_row + i) * side + first_column + j,
            (down if i else 1 - down) * (right if j else 1 - right),
        )
        for i in (0, 1)
        for j in (0, 1)
    ]
    return sparse.csr_array(
        (
            np.concatenate([weight for _, weight in entries]),
            (np.tile(inside, 4), np.concatenate([place for place, _ in entries])),
        ),
        shape=(len(x), side**2),
    )


def marginal(signals: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Returns what is left of signals when what the freedoms explain is given up: (1 + JJᵀ)^(−1/2) s.

    The noise and the freedoms together have the covariance 1 + JJᵀ; multiplied so they are white again, of variance 1.

    Args:
        signals: (B, D).
        columns: (P, D), the transpose of J, for one standard deviation of each.
    """
    products = columns.astype(float) @ columns.T.astype(float)
    values, vectors = np.linalg.eigh(products)
    seen = values > 1e-8 * max(values[-1], 1.0)
    values, vectors = values[seen], vectors[:, seen]
    along = (vectors / np.sqrt(values)).T.astype(np.float32) @ columns  # orthonormal
    shrink = (1 - 1 / np.sqrt(1 + values)).astype(np.float32)
    found: np.ndarray = signals - ((signals @ along.T) * shrink) @ along
    return found
