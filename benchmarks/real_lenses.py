"""How good is the fit of a real lens, and how fast? J0946+1006 with its subhalo, and simulated HST lenses with and without one.

    python benchmarks/real_lenses.py j0946 FOLDER        # data.fits, noise_map.fits, psf.fits of SLACS J0946+1006; some 4 minutes
    python benchmarks/real_lenses.py j0946 FOLDER --source_prior falling   # what the fit does by default, and the evidence prefers
    python benchmarks/real_lenses.py j0946 FOLDER --independent   # the noise map as it is given, as in published fits: all checks pass
    python benchmarks/real_lenses.py simulated FOLDER --n 10 --twins 50   # 10 lenses with a perturber of 3e9 M_sun, 50 without; 3 minutes each
    python benchmarks/real_lenses.py simulated FOLDER --n 10 --smooth   # the smooth fits of lenses without alone; some 20 s each
    python benchmarks/real_lenses.py simulated FOLDER --n 10 --smooth --white   # noise of independent pixels
    python benchmarks/real_lenses.py simulated FOLDER --n 10 --smooth --sharp   # a PSF known between pixels
    python benchmarks/real_lenses.py simulated FOLDER --n 10 --smooth --independent   # noise is fitted as if it were independent
    python benchmarks/real_lenses.py simulated FOLDER --n 4 --smooth --truth   # fits begin at the true lens, to be compared with blind ones

``j0946`` ends with an error if the fit is not what is published: θ_E within 0.02″ of 1.40″, the perturber, found without being told where,
within 0.05″ of (−1.056, −0.659)″ and 20 % of 3.5e9 M_sun, with the truncation radius of 1.1 kpc (0.307″) of Vegetti et al. (2010), and −2 ln
evidence lower by 200 or more; the source varies as much everywhere (``--source_prior even``). Times are the processor's, of one thread.

``simulated`` writes one file for each fit into the folder, and goes on where it was ended; another call may add lenses. At the end it says how
often smooth twins pass as lenses with a perturber, with its 95 % interval (Clopper & Pearson 1934).
"""

import argparse
import dataclasses
import datetime
import json
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from scipy import stats

from haloformer._version import code_version
from haloformer.errors import InputError
from haloformer.fitting.reallens import RealLensFit, checked_observation, fit_observation
from haloformer.fitting.reallens.files import LensFiles, read_observation
from haloformer.fitting.reallens.observation import Observation
from haloformer.fitting.reallens.run import SOURCE_PRIORS, Options
from haloformer.io.strict_json import to_json
from haloformer.io.writing import write_text
from haloformer.readers.reading import Reading
from haloformer.simulation import Simulator, get_any_survey
from haloformer.simulation.components.pseudo_jaffe import PseudoJaffe
from haloformer.simulation.components.setting import Setting
from haloformer.simulation.composed.survey import ComposedSurvey
from haloformer.simulation.cosmology import Cosmology
from haloformer.simulation.psf import psf_kernel
from simulation import hardware, table

SEED = 2_046
MASS = 3e9  # M_sun
NOISE_MAP = 1.39  # by which the noise maps of HST images exceed the scatter of their pixels, as correlated noise needs
PLACE, PUBLISHED = (-1.056, -0.659), 3.5e9  # of the subhalo in the frame of the cutout
R_TRUNC = 0.307  # arcsec, 1.1 kpc


def j0946(folder: Path, prior: str, independent: bool) -> None:
    files = LensFiles(
        str(folder / "data.fits"),
        str(folder / "psf.fits"),
        str(folder / "noise_map.fits"),
        radius=1.85,
        neighbour_correlation=0.0 if independent else None,
    )
    seen = read_observation(files, Reading(pixel_scale=0.05))
    redshifts = {"z_lens": 0.222, "z_source": 0.609, "source_prior": prior}
    smooth = fit_observation(seen, Options(**redshifts))
    tidal = fit_observation(seen, Options(perturber="pseudo_jaffe", **redshifts))
    published = fit_observation(
        seen, Options(perturber="pseudo_jaffe", r_trunc=R_TRUNC, **redshifts)
    )
    rows = [["model", "θ_E [″]", "γ", "−2 ln evidence", "χ² (pixels)", "place [″]", "mass [1e9 M_sun]", "within 1 kpc", "ΔE", "ΔE marginal", "CPU s"]]  # fmt: skip
    rows.append(j0946_row("smooth", smooth))
    rows.append(j0946_row("perturber, tidal radius", tidal))
    rows.append(j0946_row("perturber, r_t = 0.307″", published))
    free = published.multipoles
    assert free is not None
    gain = published.smooth.evidence - free.evidence
    rows.append(
        ["multipoles instead", f"{free.value('theta_E'):.4f}", f"{free.value('gamma'):.3f}", f"{free.evidence:.1f}", "", "", "", "",
         f"{gain:.1f}", f"{published.delta_multipoles:.1f}", ""]
    )  # fmt: skip
    print(table(rows))
    print(f"verdict: {published.verdict}")
    detection = published.detection
    assert detection is not None
    print(
        "where its starts ended (place, mass, ΔE beside the smooth lens, or that of a search that did not go on):"
    )
    for x, y, m, gain in detection.others:
        mass = published.best.problem.mass.solar_masses(m) or 0.0
        print(f"  ({x:.3f}, {y:.3f})″  {mass / 1e9:.2f}e9 M_sun  {gain:.1f}")
    found = published.perturbers[0]
    off = np.hypot(found["x"] - PLACE[0], found["y"] - PLACE[1])
    checks = {
        "θ_E within 0.02″ of 1.40″": abs(smooth.best.value("theta_E") - 1.40) <= 0.02,
        f"perturber within 0.05″ of {PLACE}″ ({off:.3f}″)": off <= 0.05,
        "mass within 20 % of 3.5e9 M_sun": abs(found["mass"] / PUBLISHED - 1) <= 0.2,
        "ΔE ≥ 200": found["delta_evidence"] >= 200,
        "multipoles are a tie": published.verdict.startswith("a tie"),
    }
    for what, holds in checks.items():
        print(f"{'yes' if holds else 'NO '}  {what}")
    if not all(checks.values()):
        raise SystemExit(1)


def j0946_row(label: str, fit: RealLensFit) -> list[str]:
    row = [
        label,
        f"{fit.best.value('theta_E'):.4f}",
        f"{fit.best.value('gamma'):.3f}",
        f"{fit.evidence:.1f}",
    ]
    row.append(f"{fit.chi2:.0f} ({fit.pixels})")
    if fit.perturbers:
        one = fit.perturbers[0]
        row += [
            f"({one['x']:.3f}, {one['y']:.3f})",
            *(f"{one[k] / 1e9:.2f} ± {one[f'{k}_error'] / 1e9:.2f}" for k in ("mass", "mass_1kpc")),
        ]
        row += [f"{one['delta_evidence']:.1f}", f"{one['delta_evidence_marginal']:.1f}"]
    else:
        row += [""] * 5
    return [*row, f"{fit.seconds:.0f}"]


# --- simulated lenses ---------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Simulated:
    """A simulated lens: its image, the noise map that comes with it, the truth, and where its perturber is."""

    seen: Observation
    noise_map: np.ndarray
    theta_E: float
    z: tuple[float, float]
    r_trunc: float
    place: tuple[float, float]


def smooth_survey() -> ComposedSurvey:
    """HST lenses as the survey hst has them, with the lens's light in the image and without substructure; of as many rays as fits of real lenses have."""
    survey = get_any_survey("hst").with_camera(supersampling=Options().supersampling)
    light = dataclasses.replace(survey.lens_light, mode="present")
    return dataclasses.replace(survey, substructure={"no_sub": ()}, lens_light=light)


def simulated(number: int, perturber: bool, how: "How") -> Simulated:
    """Returns a lens with or without a perturber: all else is the same.

    Args:
        number: Of the lens.
        perturber: Whether it has one.
        how: The image and what is said of it.
    """
    survey = smooth_survey()
    bare = dataclasses.replace(
        survey, lens_light=dataclasses.replace(survey.lens_light, mode="none")
    )
    arcs = Simulator(bare, seed=SEED, noise="none").batch([number])
    p = {name: values[0] for name, values in arcs.parameters.items() if values.ndim == 1}
    setting = Setting.of(Cosmology(), np.array([p["z_lens"]]), np.array([p["z_source"]]))
    theta_E = float(p["lens_theta_E"])
    r_trunc = float((MASS / (np.pi * setting.sigma_crit[0]) * theta_E) ** (1 / 3))
    place = beside_the_arc(arcs.images[0, 0].numpy(), survey.instrument.pixel_scale, number)
    if perturber:
        x, y = place[0] - float(p["lens_x"]), place[1] - float(p["lens_y"])
        part = PseudoJaffe(mass=MASS, r_trunc=r_trunc, x=x, y=y)
        survey = dataclasses.replace(survey, substructure={"no_sub": (part,)})
    clean = Simulator(survey, seed=SEED, noise="none").batch([number]).images[0, 0].double().numpy()
    noisy = Simulator(survey, seed=SEED, noise="instrument").batch([number]).images[0, 0]
    camera = survey.instrument
    seconds = float(p["exposure_time"]) * camera.num_exposures
    sigma = NOISE_MAP * np.sqrt(camera.background_rms**2 + np.clip(clean, 0, None) / seconds)
    image, psf = noisy.double().numpy(), {"psf": psf_at_pixels(camera)}
    if how.white:
        sigma = sigma / NOISE_MAP
        image = clean + sigma * np.random.default_rng([SEED, number, 1]).standard_normal(
            clean.shape
        )
    if how.sharp:
        rays = camera.supersampling or 1
        psf = {"psf": np.array(psf_kernel(camera)), "psf_scale": camera.pixel_scale / rays}
    seen = checked_observation(
        image, **psf, noise=sigma, neighbour_correlation=0.0 if how.independent else None, pixel_scale=camera.pixel_scale,
        radius=min(theta_E + 0.75, 2.15), name=f"simulated {number}",
    )  # fmt: skip
    return Simulated(
        seen, sigma, theta_E, (float(p["z_lens"]), float(p["z_source"])), r_trunc, place
    )


def beside_the_arc(arcs: np.ndarray, pixel_scale: float, number: int) -> tuple[float, float]:
    """Returns a place within 0.1″ of a pixel of the arcs that has at least half of their largest brightness."""
    rng = np.random.default_rng([SEED, number])
    rows, columns = np.nonzero(arcs >= 0.5 * arcs.max())
    k = int(rng.integers(len(rows)))
    middle = (len(arcs) - 1) / 2
    angle, far = 2 * np.pi * rng.random(), 0.1 * np.sqrt(rng.random())
    x = (columns[k] - middle) * pixel_scale + far * np.cos(angle)
    y = (rows[k] - middle) * pixel_scale + far * np.sin(angle)
    return float(x), float(y)


def psf_at_pixels(camera: object) -> np.ndarray:
    """Returns the camera's point-spread function for images of which each pixel is an average already, as the fit's are.

    As a star in the middle of a pixel shows it, with the averaging over that pixel taken out.
    """
    fine = psf_kernel(dataclasses.replace(camera, supersampling=3))
    n = len(fine) // 3 // 2 * 2 + 11
    wide = np.zeros((3 * n, 3 * n))
    start = (3 * n - len(fine)) // 2
    wide[start : start + len(fine), start : start + len(fine)] = fine
    averaged = wide.reshape(n, 3, n, 3).sum(axis=(1, 3))
    box = np.sinc(np.fft.fftfreq(n))
    sharp = np.fft.ifft2(np.fft.fft2(averaged) / (box[:, None] * box[None, :])).real
    return sharp[4:-4, 4:-4].clip(min=0)


@dataclasses.dataclass(frozen=True)
class Record:
    """What is kept of one fit."""

    number: int
    theta_E: float
    fitted: float | None = None
    gamma: float | None = None
    gamma_error: float | None = None
    true_gamma: float | None = None
    chi2: float | None = None
    good: bool = False
    seconds: float = 0.0
    statistic: float | None = None
    off: float | None = None
    mass: float | None = None
    theta_E_error: float | None = None
    evidence: float | None = None
    error: str = ""


def recorded(folder: Path | None, number: int, perturber: bool, how: "How") -> Record:
    """Returns what is kept of a fit, or does it now."""
    path = None
    if folder is not None:
        kind = "with" if perturber else "without"
        path = folder / f"{'_'.join([*how.words, kind])}_{number:04d}.json"
        if path.is_file():
            return Record(**json.loads(path.read_text(encoding="utf-8")))
    found = fitted(number, perturber, how)
    if path is not None:
        write_text(path, to_json(dataclasses.asdict(found)))
    print(" ".join(smooth_row(found)), found.statistic or "", flush=True)
    return found


@dataclasses.dataclass(frozen=True)
class How:
    """How lenses are simulated and fitted.

    Attributes:
        smooth: Without a search for a perturber.
        white: With noise of independent pixels.
        sharp: With a point-spread function that is known between the pixels.
        independent: Correlated noise is fitted as if it were independent, with a noise map that is larger to allow for it.
        prior: Of the source.
        truth: Fits begin at the true lens.
    """

    smooth: bool = False
    white: bool = False
    sharp: bool = False
    independent: bool = False
    prior: str = "falling"
    truth: bool = False

    @property
    def words(self) -> list[str]:
        """For names of files."""
        kinds = [name for name, value in dataclasses.asdict(self).items() if value is True]
        return kinds if self.prior == "falling" else [*kinds, self.prior]


def fitted(number: int, perturber: bool, how: How) -> Record:
    lens = simulated(number, perturber, how)
    options = Options(multipoles=True, source_prior=how.prior)  # lenses of hst have multipoles
    if not how.smooth:
        options = dataclasses.replace(
            options, perturber="pseudo_jaffe", z_lens=lens.z[0], z_source=lens.z[1]
        )
    drawn = Simulator(smooth_survey(), seed=SEED, noise="none").parameters([number])
    truth = {name: float(drawn[name][0]) for name in ("gamma1", "gamma2")}
    truth |= {k: float(drawn[f"lens_{k}"][0]) for k in ("theta_E", "gamma", "e1", "e2", "x", "y")}
    if how.truth:
        options = dataclasses.replace(options, start=truth)
    try:
        fit = fit_observation(lens.seen, options)
    except InputError as error:
        return Record(number, lens.theta_E, error=str(error))
    gamma = fit.parameters["gamma"]
    found = Record(
        number, lens.theta_E, fit.smooth.value("theta_E"), gamma["value"], gamma["error"], truth["gamma"], fit.chi2 / fit.pixels,
        not fit.flags, fit.seconds, theta_E_error=fit.parameters["theta_E"]["error"], evidence=fit.smooth.evidence,
    )  # fmt: skip
    if fit.detection is None:
        return found
    best = fit.detection.fit
    x, y, m = (best.value(f"perturber_{name}") for name in ("x", "y", "m"))
    return dataclasses.replace(
        found,
        statistic=fit.detection.delta_marginal,
        off=float(np.hypot(x - lens.place[0], y - lens.place[1])),
        mass=(best.problem.mass.solar_masses(m) or np.nan) / MASS,
    )


def run_simulated(folder: Path | None, n: int, twins: int, how: How, limit: float) -> None:
    if folder is not None:
        same_code(folder)
    without = [recorded(folder, number, False, how) for number in range(twins)]
    with_ = [] if how.smooth else [recorded(folder, number, True, how) for number in range(n)]
    head = ["lens", "θ_E [″]", "fitted", "γ error / σ", "χ² per pixel", "good fit", "CPU s", "−2 ln evidence"]  # fmt: skip
    if how.smooth:
        print(table([head, *map(smooth_row, without)]))
        pulls = [pull for one in without if (pull := pull_of(one)) is not None]
        print(
            f"γ error / σ: median {np.median(pulls):+.2f}, root mean square {np.sqrt(np.mean(np.square(pulls))):.2f}"
        )
        return
    rows = [[*head, "T without", "T with", "off [″]", "mass / true"]]
    for k in range(max(n, twins)):
        row = smooth_row(without[k]) if k < twins else [str(k), *[""] * (len(head) - 1)]
        row.append(f"{statistic(without[k]):.1f}" if k < twins else "")
        one = with_[k] if k < n else None
        row.append("" if one is None else f"{statistic(one):.1f}")
        row.append("" if one is None or one.off is None else f"{one.off:.3f}")
        row.append("" if one is None or one.mass is None else f"{one.mass:.2f}")
        rows.append(row)
    print(table(rows))
    conclude([statistic(one) for one in without], [statistic(one) for one in with_], limit)


def conclude(without: list[float], with_: list[float], limit: float) -> None:
    """Prints how often the statistic is above a limit."""
    print(
        "T is ΔE, all parameters integrated over, multipoles free with and without the perturber."
    )
    for what, values in (
        ("false detections among smooth twins", without),
        ("perturbers found", with_),
    ):
        if not values:
            continue
        above = sum(value > limit for value in values)
        rate = stats.binomtest(above, len(values)).proportion_ci(0.95)
        print(
            f"{what}, T > {limit:g}: {above} of {len(values)}, {above / len(values):.1%} (95 %: {rate.low:.1%} to {rate.high:.1%})"
        )
    if without:
        print(f"largest T of a smooth twin: {max(without):.1f}")


def same_code(folder: Path) -> None:
    """Ends if the folder holds fits of other code: they are not to be mixed."""
    path = folder / "code.json"
    now = {"code_version": code_version(), "seed": SEED, "mass": MASS}
    if path.is_file():
        before = json.loads(path.read_text(encoding="utf-8"))
        if before != now:
            raise SystemExit(
                f"{folder} holds fits of {before}, and this is {now}: take another folder"
            )
        return
    folder.mkdir(parents=True, exist_ok=True)
    write_text(path, to_json(now))


def statistic(one: Record) -> float:
    return -np.inf if one.statistic is None else one.statistic


def pull_of(one: Record) -> float | None:
    if one.gamma is None or one.gamma_error is None or one.true_gamma is None:
        return None
    return (one.gamma - one.true_gamma) / one.gamma_error


def smooth_row(one: Record) -> list[str]:
    if one.error or one.fitted is None or one.chi2 is None:
        return [str(one.number), f"{one.theta_E:.3f}", one.error[:40], "", "", "no", "", ""]
    pull = pull_of(one)
    error = "" if one.theta_E_error is None else f" ± {one.theta_E_error:.3f}"
    return [str(one.number), f"{one.theta_E:.3f}", f"{one.fitted:.3f}{error}", "" if pull is None else f"{pull:+.1f}", f"{one.chi2:.2f}",
            "yes" if one.good else "no", f"{one.seconds:.0f}", "" if one.evidence is None else f"{one.evidence:.1f}"]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("j0946", "simulated"))
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--n", type=int, default=10)
    parser.add_argument("--twins", type=int, help="smooth lenses; as many as --n by default")
    parser.add_argument("--smooth", action="store_true")
    parser.add_argument("--white", action="store_true")
    parser.add_argument("--sharp", action="store_true")
    parser.add_argument("--source_prior", choices=SOURCE_PRIORS, help="j0946: even by default")
    parser.add_argument("--independent", action="store_true")
    parser.add_argument("--truth", action="store_true", help="fits begin at the true lens")
    parser.add_argument(
        "--limit", type=float, default=20.0, help="T above which there is a perturber"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    began = time.perf_counter()
    print(f"{datetime.date.today()}, {hardware()}, {code_version()}, seed {SEED}")
    if arguments.what == "j0946":
        if arguments.folder is None:
            parser.error("j0946 needs the folder with data.fits, noise_map.fits and psf.fits")
        j0946(arguments.folder, arguments.source_prior or "even", arguments.independent)
    else:
        twins = arguments.n if arguments.twins is None else arguments.twins
        how = How(
            arguments.smooth,
            arguments.white,
            arguments.sharp,
            arguments.independent,
            arguments.source_prior or "falling",
            arguments.truth,
        )
        run_simulated(arguments.folder, arguments.n, twins, how, arguments.limit)
    print(f"{time.perf_counter() - began:.0f} s in all")


if __name__ == "__main__":
    main()
