"""The fit of a real lens from beginning to end, in Python."""

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from haloformer.devices import one_thread
from haloformer.errors import InputError
from haloformer.fitting.reallens.evidence import Problem
from haloformer.fitting.reallens.given import check_not_skewed, scale_of, taken, told_otherwise
from haloformer.fitting.reallens.masses import PRIORS, PROFILES, Mass, Prior
from haloformer.fitting.reallens.observation import Observation, checked_observation
from haloformer.fitting.reallens.optimise import Fit, Report, covariance
from haloformer.fitting.reallens.perturbers import (
    COARSE_SPACING,
    best_places,
    detect,
    marginal_of_smooth,
    scan,
    with_multipoles,
)
from haloformer.fitting.reallens.result import Other, RealLensFit
from haloformer.fitting.reallens.sampling import check_sampler, sample
from haloformer.fitting.reallens.searches import (
    Search,
    even_twin,
    on_grid_of,
    on_own_grid,
    stiff,
    stiff_twin,
)
from haloformer.fitting.reallens.smooth import NEARLY, Prepared, centred, fit_smooth_lens, prepare
from haloformer.fitting.reallens.stages import Stages, key_of
from haloformer.io.quantities import in_arcsec
from haloformer.simulation.cosmology import check_redshift
from haloformer.vocabulary import unknown_name

SOURCE_PRIORS = ("falling", "even")
_LIVE = 100
_PLACES, _STIFF_PLACES = (7, 3), (3, 1)
"""From how many places fits with a perturber begin, and how many of them go on, from the smooth lens and from a stiff one."""


@dataclass(frozen=True)
class Options:
    """How a lens is fitted.

    Attributes:
        lens_light: Whether there is light of the lens galaxy in the image; False if it has been subtracted.
        multipoles: Whether multipoles of orders 1, 3 and 4 of the lens are free.
        perturber: Profile to look for: ``"pseudo_jaffe"``, ``"tnfw"`` or ``"point"``; None: none.
        r_trunc: Truncation radius of the perturber in arcsec; None: the tidal radius of a pseudo-Jaffe, 6 scale radii of a tNFW.
        z_lens: Redshift of the lens, for masses in M_sun.
        z_source: Redshift of the source.
        supersampling: Rays per side of a pixel.
        source_step: Distance of the source's coefficients in arcsec; None: half a pixel, and less where the source is smaller.
        start: Names and values of the lens with which the fit begins, and about whose place its light is sought, as
            :func:`~haloformer.fitting.reallens.start_file.read_start` returns them; None: found from the image alone.
        sample: How the posterior is sampled: ``"nested"``; None: it is not, and errors are Laplace's alone.
        live: Live points of nested sampling.
        source_prior: ``"falling"``: the source's brightness varies the less the farther out, as that of galaxies does, in a radius that has the
            largest evidence; ``"even"``: as much everywhere, as regularisation of one strength has it.
    """

    lens_light: bool = True
    multipoles: bool = False
    perturber: str | None = None
    r_trunc: float | None = None
    z_lens: float | None = None
    z_source: float | None = None
    supersampling: int = 2
    source_step: float | None = None
    start: Mapping[str, float] | None = None
    sample: str | None = None
    live: int = _LIVE
    source_prior: str = "falling"

    def __post_init__(self) -> None:
        self._check_types()
        if self.perturber not in (None, *PROFILES):
            raise InputError(f"perturber is '{self.perturber}': known are {', '.join(PROFILES)}")
        if self.source_prior not in SOURCE_PRIORS:
            raise InputError(
                f"source_prior is '{self.source_prior}': known are {', '.join(SOURCE_PRIORS)}"
            )
        if (self.z_lens is None) != (self.z_source is None):
            raise InputError("z_lens and z_source are needed together")
        front, back = self.z_lens, self.z_source
        if front is not None and back is not None and not 0 < front < back:
            raise InputError(
                f"z_lens is {front:g} and z_source {back:g}: the source must be behind the lens"
            )
        if back is not None:
            check_redshift("z_source", back)
        if self.r_trunc is not None and self.perturber is None:
            raise InputError("r_trunc is that of a perturber: give perturber, too")
        if self.live != _LIVE and self.sample is None:
            raise InputError("live is of nested sampling: give sample: nested, too")
        if self.r_trunc is not None and self.r_trunc <= 0.01:
            raise InputError(f"r_trunc is {self.r_trunc:g}″: it must be above 0.01″")
        if not 1 <= self.supersampling <= 5:
            raise InputError(f"supersampling is {self.supersampling}: 1 to 5 is needed")
        check_sampler(self.sample)
        if not 20 <= self.live <= 5000:
            raise InputError(f"live is {self.live}: 20 to 5000 live points are needed")
        if self.perturber == "tnfw" and self.z_lens is None:
            raise InputError("a tnfw perturber needs z_lens and z_source")

    def _check_types(self) -> None:
        """Raises InputError for what is of another type than its field."""
        for name in ("lens_light", "multipoles"):
            if not isinstance(getattr(self, name), bool | np.bool_):
                raise InputError(f"{name} must be true or false, not {getattr(self, name)!r}")
        for name in ("supersampling", "live"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | np.integer):
                raise InputError(f"{name} must be a whole number, not {value!r}")
        for name in ("r_trunc", "z_lens", "z_source", "source_step"):
            value = getattr(self, name)  # of a step it is told below what it may be
            wrong = value is not None and not (
                _is_real(value) and (name == "source_step" or np.isfinite(value))
            )
            if wrong:
                raise InputError(f"{name} must be a number, not {value!r}")
        if self.start is None:
            return
        if not isinstance(self.start, Mapping):
            raise InputError(f"start must map names to numbers, not {self.start!r}")
        for name, value in self.start.items():
            if name not in PRIORS:
                raise unknown_name("parameter in start", name, PRIORS)
            if not (_is_real(value) and np.isfinite(value)):
                raise InputError(f"start: {name} must be a number, not {value!r}")


def _is_real(value: object) -> bool:
    is_real = isinstance(value, int | float | np.integer | np.floating)
    return is_real and not isinstance(value, bool)


def _check_priors(priors: Mapping[str, Prior] | None) -> None:
    """Raises InputError for priors of parameters that do not exist: they would change nothing."""
    if not isinstance(priors or {}, Mapping):
        raise InputError(f"priors must map names to Prior(mean, sd), not {priors!r}")
    for name, prior in (priors or {}).items():
        if name not in PRIORS:
            raise unknown_name("parameter in priors", name, PRIORS)
        if not isinstance(prior, Prior):
            raise InputError(f"priors: {name} must be a Prior(mean, sd), not {prior!r}")


def fit_observation(
    seen: Observation,
    options: Options,
    priors: Mapping[str, Prior] | None = None,
    stages: Path | None = None,
    report: Report | None = None,
) -> RealLensFit:
    """Fits a lens: smooth first, then with multipoles and with a perturber where one is looked for.

    Args:
        seen: The image and what belongs to it.
        options: How.
        priors: Of the mass's parameters by name; the others are as usual.
        stages: File that keeps what has been done, so that a second call goes on there, and stays; None keeps nothing.
        report: Called with what is being done and the evidence, after each step.

    Raises:
        InputError: There are no arcs in the image, or no parameters of these names.
    """
    _check_priors(priors)
    with one_thread() as threads:
        return _fit_observation(seen, options, priors, stages, report, threads)


def _fit_observation(
    seen: Observation,
    options: Options,
    priors: Mapping[str, Prior] | None,
    stages: Path | None,
    report: Report | None,
    threads: int,
) -> RealLensFit:
    """Fits a lens; perturbers begin side by side in ``threads``."""
    began = time.process_time()
    falling = options.source_prior == "falling"
    near, begin = None, options.start or {}
    if "x" in begin and "y" in begin:
        near = float(begin["x"]), float(begin["y"])
    ready = prepare(
        seen, options.lens_light, options.supersampling, options.source_step, falling, near
    )
    mass = Mass(
        multipoles=options.multipoles,
        priors={**PRIORS, **(priors or {})},
        z_lens=options.z_lens,
        z_source=options.z_source,
        r_trunc=options.r_trunc,
    )
    mass = centred(mass, ready.light)
    how = dataclasses.replace(options, sample=None, live=_LIVE)  # of the fits, which go on
    done = Stages(stages, key_of(seen, (how, sorted((priors or {}).items()))))
    plain = dataclasses.replace(mass, multipoles=False)

    def smooth_lens() -> Fit:
        best, *others = fit_smooth_lens(
            ready, plain, _told(report, "smooth"), options.start, threads
        )
        done.keep_rows("others", [[*one.vector, one.evidence - best.evidence] for one in others])
        return best

    def even_of(fit: Fit, stage: str, what: str) -> Fit:
        told = _told(report, what)
        return done.fit(stage, fit.problem, lambda: even_twin(fit, ready, told))

    smooth = done.fit("smooth", ready.problem(plain), smooth_lens)
    others = tuple(
        Other(dict(zip(plain.names, vector)), gain) for *vector, gain in done.rows("others")
    )
    free = None
    if options.multipoles or options.perturber:
        twin = even_of(smooth, "even", "smooth")
        wide = smooth.problem.with_mass(dataclasses.replace(mass, multipoles=True))
        free = done.fit(
            "multipoles",
            wide,
            lambda: with_multipoles(smooth, twin, _told(report, "multipoles"), threads),
        )
    base = free if options.multipoles and free is not None else smooth
    found = RealLensFit(ready, base, others=others)
    if options.perturber:
        if base is not smooth:
            twin = even_of(base, "even_multipoles", "perturber")
        found = _perturbed(found, twin, options, done, report, threads)
        if not options.multipoles and free is not None:
            better = found.smooth
            if better is not smooth:  # multipoles begin there, too
                twin = even_of(better, "even_again", "multipoles")
                again = done.fit(
                    "multipoles_again",
                    wide,
                    lambda: with_multipoles(better, twin, _told(report, "multipoles"), threads),
                )
                free = min(free, again, key=lambda fit: fit.evidence)
            gain = marginal_of_smooth(better) - marginal_of_smooth(free)
            found = dataclasses.replace(found, multipoles=free, delta_multipoles=gain)
    if options.sample is not None:
        found = _sampled(found, options, done, report)
    seconds = time.process_time() - began
    return dataclasses.replace(found, seconds=seconds, resumed=bool(done.resumed))


def _perturbed(
    found: RealLensFit,
    twin: Fit,
    options: Options,
    done: Stages,
    report: Report | None,
    threads: int,
) -> RealLensFit:
    """Returns a smooth fit with the perturber that was looked for, and with a better smooth lens if the search came by one.

    Args:
        found: The smooth fit.
        twin: Its :func:`~haloformer.fitting.reallens.searches.even_twin`.
        options: How.
        done: Keeps what has been done.
        report: Called after each step.
        threads: In which fits run side by side.
    """
    ready, smooth, profile, told = found.ready, found.smooth, options.perturber, _told(report, "perturber")  # fmt: skip
    assert profile is not None  # by the caller
    strict = smooth.problem.with_mass(stiff(smooth.problem.mass, ready))
    stays = done.fit("stiff", strict, lambda: stiff_twin(smooth, ready, told))
    from_smooth = functools.partial(on_grid_of, smooth, twin)
    from_stiff = functools.partial(on_own_grid, smooth, ready)
    searches = [
        _search(twin, _PLACES, ready, profile, from_smooth),
        _search(stays, _STIFF_PLACES, ready, profile, from_stiff),
    ]
    scanned = scan(smooth, ready.seen, profile)
    detection = detect(smooth, searches, scanned, profile, done, told, threads)
    found = dataclasses.replace(found, scan=scanned, detection=detection, profile=profile)
    if detection is None or detection.smooth.evidence >= smooth.evidence:
        return found
    better = detection.smooth
    gain = smooth.evidence - better.evidence
    others = tuple(
        dataclasses.replace(one, delta_evidence=one.delta_evidence + gain)
        for one in found.others
        if one.delta_evidence + gain <= NEARLY
    )
    return dataclasses.replace(
        found, smooth=better, others=others, scan=scan(better, ready.seen, profile)
    )


def _search(
    twin: Fit,
    places: tuple[int, int],
    ready: Prepared,
    profile: str,
    in_full: Callable[[Fit, Problem], Fit],
) -> Search:
    """Returns a search from the best places of a scan: how many, and how many of them go on."""
    found = scan(twin, ready.seen, profile, COARSE_SPACING)
    tried, most = places
    return Search(twin, best_places(found, twin.value("theta_E"), tried), most, in_full)


def _sampled(
    found: RealLensFit, options: Options, done: Stages, report: Report | None
) -> RealLensFit:
    """Returns a fit with samples of its posterior, and of that of the smooth lens where a perturber is compared to it."""
    live = options.live
    smooth = sample(
        found.smooth,
        covariance(found.smooth),
        f"samples_{live}",
        done,
        live=live,
        report=_joined(report, "smooth"),
    )
    found = dataclasses.replace(found, samples_smooth=smooth)
    detection, scanned = found.detection, found.scan
    if detection is None or scanned is None or found.best is not detection.fit:
        return found
    told = _joined(report, "perturber")
    spread, name = detection.covariance, f"samples_perturber_{live}"
    both = sample(detection.fit, spread, name, done, live=live, places=scanned.area, report=told)
    return dataclasses.replace(found, samples_perturber=both)


def _joined(report: Report | None, what: str) -> Report | None:
    if report is None:
        return None
    return lambda doing, evidence: report(f"{what}, {doing}", evidence)


def _told(report: Report | None, what: str) -> Report | None:
    if report is None:
        return None
    return lambda _, evidence: report(what, evidence)


def fit(
    image: Any,
    *,
    psf: np.ndarray | None = None,
    psf_scale: float | None = None,
    noise: np.ndarray | float | None = None,
    neighbour_correlation: float | None = None,
    mask: np.ndarray | None = None,
    pixel_scale: float | None = None,
    radius: float | None = None,
    name: str = "lens",
    wcs: Any = None,
    priors: Mapping[str, Prior] | None = None,
    report: Report | None = None,
    **options: Any,
) -> RealLensFit:
    """Fits the lens in an image: mass, lens light and a pixelised source, from the image alone.

    Args:
        image: (H, W) in any linear unit, rows up as in FITS; pixels that are NaN or masked do not count. Of an NDData, CCDData, Cutout2D or HDU of
            astropy the mask, the uncertainty, the point-spread function and the WCS are taken, too, where they are not given here.
        psf: Point-spread function.
        psf_scale: Side of its pixels in arcsec, if they are finer than the image's.
        noise: (H, W) standard deviation of each pixel, or that of all; None measures it in the corners.
        neighbour_correlation: Of the noise of neighbouring pixels, which drizzling and resampling make alike: 0 if it is independent; the noise
            is then taken as it is given. None measures in the corners how alike it is, and whether a noise map is larger than the scatter of blank
            pixels, as many of drizzled images are, to allow for that.
        mask: (H, W); pixels where it is not 0 are left out.
        pixel_scale: In arcsec, as a number or a Quantity; None takes that of the WCS or the HDU's header, and 0.05 without one, which is told.
        radius: In arcsec; pixels farther from the middle are left out.
        name: Of the lens, for reports.
        wcs: Of astropy; gives angles East of North, and RA and Dec.
        priors: Name of a parameter → what is expected of it.
        report: Called with what is being done and the evidence, after each step.
        options: Fields of :class:`Options`, such as ``perturber="pseudo_jaffe"``, ``z_lens=0.222``, ``z_source=0.609``.

    Returns:
        What was found; it draws itself in a notebook, and has ``plot()``, ``to_table()``, ``to_pandas()`` and ``save(folder)``.

    Raises:
        InputError: What was given cannot be used, or there are no arcs.

    Examples:
        >>> fit = haloformer.fit(image, psf=psf, noise=noise_map, pixel_scale=0.05)  # doctest: +SKIP
        >>> fit.to_table()["theta_E"].quantity  # in arcsec  # doctest: +SKIP
        >>> fit.save("fit")  # doctest: +SKIP
    """
    known = {each.name for each in dataclasses.fields(Options)}
    if unknown := sorted(set(options) - known):
        if unknown[0] == "noise_map":
            raise InputError("unknown option 'noise_map': in Python it is noise")
        if unknown[0] == "survey":
            raise InputError(
                "unknown option 'survey': this fits a real lens; those of a survey are fitted by "
                "haloformer.fitting.fit_smooth(images, survey)"
            )
        raise unknown_name("option", unknown[0], known | set(fit.__kwdefaults__ or ()))
    chosen = Options(**options)
    given = taken(image, {"psf": psf, "noise": noise, "mask": mask, "wcs": wcs})
    check_not_skewed(given.wcs, name)
    scale = in_arcsec(pixel_scale, "pixel_scale")
    its_scale = scale_of(given) if scale is None else scale
    fine = in_arcsec(psf_scale, "psf_scale")
    seen = checked_observation(
        given.image, psf=given.psf, noise=given.noise, mask=given.mask, wcs=given.wcs,
        neighbour_correlation=neighbour_correlation, psf_scale=given.psf_scale(its_scale) if fine is None else fine,
        pixel_scale=its_scale, radius=in_arcsec(radius, "radius"), name=name, unit=given.unit,
        electrons=given.electrons(),
    )  # fmt: skip
    if scale is not None:
        with contextlib.suppress(InputError):  # a header that the argument is there to correct
            seen = told_otherwise(seen, given.header_scales())
    elif given.header_scales() is None:
        note = f"without pixel_scale and WCS, pixels are taken to be of {seen.pixel_scale:g}″"
        seen = seen.warned(note)
    elif note := given.doubt():
        seen = seen.warned(note)
    return fit_observation(seen, chosen, priors, report=report)
