"""Draws the pictures of docs/physics.md: from a bent ray to what an image can tell of dark matter.

python examples/physics_pictures.py docs/images
"""

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from haloformer.fitting import fit_smooth
from haloformer.reporting.style import class_color
from haloformer.simulation import Scenes, Simulator, Survey, draw_scenes, get_survey
from haloformer.simulation.deflectors import shear_deflection, sie_deflection
from haloformer.simulation.distributions import Uniform
from haloformer.simulation.instruments import background_rms, pixel_axis
from haloformer.simulation.matching import match_mass

SEED = 11
SURVEYS = {"model_i": "Model I", "model_ii": "Model II", "model_iii": "Model III"}
CLASSES = {"no_sub": "no substructure", "cdm": "cold dark matter", "axion": "axion vortex"}
COLOURS = {
    name: class_color(k) for k, name in enumerate(("axion", "cdm", "no_sub"))
}  # as in the reports
LENS = ("lens_theta_E", "lens_e1", "lens_e2", "lens_x", "lens_y", "gamma1", "gamma2")
SUBHALOS = ("subhalo_mass", "subhalo_x", "subhalo_y", "subhalo_theta_E")
SOURCE = {"source_x": 0.12, "source_y": 0.10}  # arcsec, where one source serves several panels
LINE = "#56B4E9"
FITTED = {
    "model_i": "original",
    "model_ii": "instrument",
}  # surveys, and the noise of their images, in the picture of fits


# --- scenes, images, noise ---


def scenes(
    survey: Survey, class_name: str, n: int = 1, seed: int = SEED, **changes: float
) -> Scenes:
    """The first n scenes of a class, with some parameters set to one value."""
    drawn = draw_scenes(survey, np.zeros(n, np.int64), np.arange(n), seed, (class_name,))
    return dataclasses.replace(
        drawn, **{name: np.full(n, value) for name, value in changes.items()}
    )


def images(survey: Survey, drawn: Scenes, noise: str = "none") -> np.ndarray:
    """Their images, (B, H, W)."""
    return Simulator(survey, noise=noise, dtype=torch.float64).images(drawn).numpy()


def with_vortex(drawn: Scenes, log10_m: float) -> Scenes:
    """The same scenes with another mass of the axion, hence another length of the vortex; none at all if infinite."""
    return dataclasses.replace(
        drawn,
        log10_m_axion=np.full(len(drawn), log10_m),
        vortex_half_length=np.full(len(drawn), 0.03 * 10 ** (-22 - log10_m)),
    )


def with_subhalo(
    survey: Survey, drawn: Scenes, x: np.ndarray, y: np.ndarray, mass: float
) -> Scenes:
    """The same sources and smooth lenses with one subhalo each, at (x, y) (B,) in arcsec."""
    one = {"subhalo_x": x, "subhalo_y": y, "subhalo_mass": np.full(len(x), mass)}
    one["subhalo_theta_E"] = survey.theta_E(one["subhalo_mass"])
    return dataclasses.replace(
        drawn.without_substructure(), **{name: value[:, None] for name, value in one.items()}
    )


def perfect(survey: Survey, size: float) -> Survey:
    """The survey seen by a camera with small pixels and no blur, ``size`` arcsec wide."""
    camera = dataclasses.replace(
        survey.instrument, num_pix=round(size / 0.02), pixel_scale=0.02, psf_fwhm=0.0
    )
    return dataclasses.replace(survey, instrument=camera)


def variance(survey: Survey, image: np.ndarray, drawn: Scenes) -> np.ndarray:
    """Of each pixel, (B, H, W), in (counts/s)²: photons, twice where Poisson noise was added twice, and background."""
    seconds = drawn.exposure_time * survey.instrument.num_exposures
    photons = np.maximum(image, 0) / seconds[:, None, None]
    return background_rms(survey.instrument) ** 2 + (2 if survey.name == "model_i" else 1) * photons


def distance(survey: Survey, image: np.ndarray, other: np.ndarray, drawn: Scenes) -> np.ndarray:
    """χ between two noise-free images, (B,): in how many standard deviations of the noise they differ, all pixels together."""
    return np.sqrt(((image - other) ** 2 / variance(survey, other, drawn)).sum((1, 2)))


def free_lens(survey: Survey) -> Survey:
    """The survey as if its lens were not known: a fit then finds mass, ellipticity and shear, too."""
    deflector = dataclasses.replace(
        survey.deflector,
        mass=None,
        theta_E=Uniform(1.2, 1.5),
        e1=Uniform(0.0, 0.2),
        e2=Uniform(-0.1, 0.1),
        gamma1=Uniform(0.0, 0.1),
        gamma2=Uniform(-0.05, 0.05),
    )
    return dataclasses.replace(survey, name=f"{survey.name}_free", deflector=deflector)


def deflection(
    drawn: Scenes, x: np.ndarray, y: np.ndarray, scale: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """The smooth lens's deflection of the first scene at these places, in arcsec."""
    theta_E, e1, e2, x0, y0, gamma1, gamma2 = (
        torch.tensor(getattr(drawn, name)[0]) for name in LENS
    )
    x, y = torch.as_tensor(x), torch.as_tensor(y)
    lens, shear = (
        sie_deflection(x, y, theta_E, e1, e2, x0, y0),
        shear_deflection(x, y, gamma1, gamma2),
    )
    return tuple(scale * (a + b).numpy() for a, b in zip(lens, shear, strict=True))


def critical_curve(drawn: Scenes) -> tuple[np.ndarray, np.ndarray]:
    """Where images are magnified without bound, (n, 2), and the places of the source that lie behind it (the caustic)."""
    from contourpy import contour_generator

    axis = np.linspace(-2.2, 2.2, 441)
    x, y = np.meshgrid(axis, axis)
    beta_x, beta_y = (p - a for p, a in zip((x, y), deflection(drawn, x, y), strict=True))
    (xy, xx), (yy, yx) = np.gradient(beta_x, axis, axis), np.gradient(beta_y, axis, axis)
    outside = np.hypot(x, y) > 0.5  # the centre of a singular lens is no part of it
    lines = contour_generator(x, y, np.where(outside, xx * yy - xy * yx, -1.0)).lines(0.0)
    curve = max(lines, key=len)
    return curve, curve - np.stack(deflection(drawn, curve[:, 0], curve[:, 1]), axis=1)


# --- panels ---


def show(
    axes: Axes, image: np.ndarray, half: float, view: float, root: bool = True, **options: object
) -> object:
    """An image, half as wide as ``half`` says, of which ``view`` arcsec on each side of the centre are shown."""
    picture = np.sqrt(np.clip(image, 0, None)) if root else image
    drawn = axes.imshow(
        picture,
        origin="lower",
        extent=(-half, half, -half, half),
        interpolation="nearest",
        **{"cmap": "inferno", **options},
    )
    frame(axes, view)
    return drawn


def frame(axes: Axes, view: float) -> None:
    ticks = (-1, 0, 1) if view < 2 else (-2, 0, 2)
    axes.set(xlim=(-view, view), ylim=(-view, view), xticks=ticks, yticks=ticks, aspect="equal")
    axes.tick_params(labelsize=8)


def note(axes: Axes, text: str, class_color: str = "white") -> None:
    paper = (
        {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1}
        if class_color == "k"
        else None
    )
    axes.text(
        0.03,
        0.03,
        text,
        transform=axes.transAxes,
        color=class_color,
        fontsize=8,
        va="bottom",
        bbox=paper,
    )


def half_width(survey: Survey) -> float:
    return survey.instrument.num_pix * survey.instrument.pixel_scale / 2


def label_outside(grid: np.ndarray, rows: list[str] | None = None) -> None:
    """Axis labels at the left and below only."""
    for axes in grid[-1]:
        axes.set_xlabel("x [arcsec]", fontsize=9)
    for k, row in enumerate(grid):
        row[0].set_ylabel((f"{rows[k]}\n\n" if rows else "") + "y [arcsec]", fontsize=9)
        for axes in row[1:]:
            axes.tick_params(labelleft=False)
    for row in grid[:-1]:
        for axes in row:
            axes.tick_params(labelbottom=False)


# --- the pictures ---


def rays(n: int) -> Figure:
    """The lens equation from the side, and as a map of the image onto the source."""
    survey = get_survey("model_i")
    drawn = scenes(survey, "no_sub")
    figure = Figure(figsize=(11.5, 3.7), layout="constrained")
    side, image, source = figure.subplots(1, 3, width_ratios=(1.45, 1, 1))

    # Along comoving distances light goes straight, before and after the lens.
    lens, far = (survey.cosmology.comoving_distance(z) for z in (survey.z_lens, survey.z_source))
    kpc = 1e3 / 206265
    beta, theta_E = 0.35, drawn.lens_theta_E[0]
    for sign in (1, -1):
        theta = (
            beta + sign * theta_E
        )  # of a round isothermal lens, whose deflection is θ_E everywhere
        side.plot(
            [0, lens, far],
            np.array([0, theta * lens, beta * far]) * kpc,
            color=COLOURS["cdm"],
            lw=2,
        )
        side.plot(
            [lens, far], np.array([theta * lens, theta * far]) * kpc, color="0.55", ls="--", lw=1
        )
        side.plot(far, theta * far * kpc, "o", mfc="none", mec="0.4", ms=9)
        side.text(far * 1.03, theta * far * kpc, "image", va="center", fontsize=9, color="0.3")
    side.plot([0, far], [0, beta * far * kpc], color="0.55", ls=":", lw=1)
    side.axvline(lens, color="0.85", lw=6, zorder=0)
    side.plot(lens, 0, "o", color="k", ms=11)
    side.plot(far, beta * far * kpc, "*", color=COLOURS["cdm"], ms=15)
    side.plot(0, 0, ">", color="k", ms=9)
    side.text(far * 1.03, beta * far * kpc, "source\n(z = 1)", va="center", fontsize=9)
    side.text(lens, -21.5, "lens (z = 0.5)", ha="center", fontsize=9)
    side.text(0, 2.6, "we", ha="center", fontsize=9)
    top = beta + theta_E
    side.annotate(
        "",
        (far * 0.97, beta * far * kpc),
        (far * 0.97, top * far * kpc),
        arrowprops={"arrowstyle": "<->", "lw": 0.8},
    )
    side.text(
        far * 0.95, (beta + 0.5 * theta_E) * far * kpc, "α(θ)", ha="right", va="center", fontsize=11
    )
    side.text(far * 0.36, top * 0.36 * far * kpc * 1.3 + 0.8, "θ", fontsize=11)
    side.text(far * 0.83, beta * 0.83 * far * kpc + 0.6, "β", fontsize=11)
    side.set(
        xlim=(-200, far * 1.27),
        ylim=(-23, 30),
        xlabel="comoving distance [Mpc]",
        ylabel="across [comoving kpc]",
    )
    side.set_title(
        "β = θ − α(θ): one source, two images\n(the vertical is stretched some 60,000 times)",
        fontsize=10,
    )
    side.tick_params(labelsize=8)

    curve, caustic = critical_curve(drawn)
    angle = np.linspace(0, 2 * np.pi, 361)
    middle = source.inset_axes((0.73, 0.73, 0.25, 0.25))  # the small curves at the centre, enlarged
    for k, radius in enumerate((0.6, theta_E, 2.0)):
        x, y = radius * np.cos(angle), radius * np.sin(angle)
        alpha = deflection(drawn, x, y)
        image.plot(x, y, color=class_color(k), lw=1.5, label=f"{radius:.2g}″")
        for axes in (source, middle):
            axes.plot(x - alpha[0], y - alpha[1], color=class_color(k), lw=1.5)
        some = slice(0, -1, 30)
        image.quiver(
            x[some], y[some], -alpha[0][some], -alpha[1][some], color=class_color(k), angles="xy", scale_units="xy",
            scale=2.5, width=0.008,
        )  # fmt: skip
    for axes, name, line in ((image, "θ", curve), (source, "β", caustic)):
        axes.plot(*line.T, color="k", lw=1, ls="--")
        frame(axes, 2.4 if axes is image else 1.6)
        axes.set(xlabel=f"{name}_x [arcsec]", ylabel=f"{name}_y [arcsec]")
    middle.plot(*caustic.T, color="k", lw=1, ls="--")
    middle.set(
        xlim=(-0.07, 0.07),
        ylim=(-0.07, 0.07),
        xticks=(-0.05, 0.05),
        yticks=(-0.05, 0.05),
        aspect="equal",
    )
    middle.tick_params(labelsize=7)
    source.indicate_inset_zoom(middle, edgecolor="0.4")
    image.legend(title="|θ|", fontsize=8, title_fontsize=8, loc="upper right", framealpha=0.9)
    image.set_title(
        "The image: places on three circles,\narrows towards where they look", fontsize=10
    )
    source.set_title("The source's sky:\nwhat these places see", fontsize=10)
    return figure


def ring(n: int) -> Figure:
    """A source at several places behind the lens, and its images."""
    survey = perfect(get_survey("model_i"), 5.2)
    places = {
        "a round lens,\nsource right behind it": (0.0, 0.0, True),
        "Model I's lens,\nsource right behind it": (0.0, 0.0, False),
        "a little to the side": (0.22, 0.0, False),
        "as far off as the\nsurveys draw it": (0.35, 0.35, False),
        "farther off": (0.75, 0.25, False),
    }
    figure = Figure(figsize=(10.6, 6.7), layout="constrained")
    grid = figure.subplots(3, len(places))
    for column, (title, (x, y, is_round)) in zip(grid.T, places.items(), strict=True):
        drawn = scenes(survey, "no_sub", source_x=x, source_y=y)
        if is_round:
            zero = {name: np.zeros(1) for name in ("lens_e1", "lens_e2", "gamma1", "gamma2")}
            drawn = dataclasses.replace(drawn, **zero)
        unlensed = dataclasses.replace(
            drawn, lens_theta_E=np.array([1e-9]), gamma1=np.zeros(1), gamma2=np.zeros(1)
        )
        curve, caustic = critical_curve(drawn)
        small = dataclasses.replace(drawn, source_R_sersic=drawn.source_R_sersic / 5)
        show(column[0], images(survey, unlensed)[0], half_width(survey), 1.2)
        column[0].plot(*caustic.T, color=LINE, lw=1.2)
        for axes, seen in ((column[1], drawn), (column[2], small)):
            show(axes, images(survey, seen)[0], half_width(survey), 2.6)
            axes.plot(*curve.T, color=LINE, lw=0.8, ls="--")
        column[0].set_title(title, fontsize=10)
    for row, name, what in zip(
        grid,
        "βθθ",
        ("the source, unbent", "its image", "the image if it were\nfive times smaller"),
        strict=True,
    ):
        row[0].set_ylabel(f"{what}\n\n{name}_y [arcsec]", fontsize=9)
        for axes in row:
            axes.set_xlabel(f"{name}_x [arcsec]", fontsize=9)
        for axes in row[1:]:
            axes.tick_params(labelleft=False)
    return figure


def substructure(n: int) -> Figure:
    """The three classes, with the same source and the same smooth lens."""
    survey = get_survey("model_i")
    figure = Figure(figsize=(7.6, 8.2), layout="constrained")
    grid = figure.subplots(3, 3)
    half, view = half_width(survey), 2.2
    for (class_name, title), column in zip(CLASSES.items(), grid.T, strict=True):
        drawn = scenes(survey, class_name, **SOURCE)
        if class_name == "axion":
            drawn = with_vortex(dataclasses.replace(drawn, vortex_angle=np.array([0.1])), -23.5)
        image, smooth = images(survey, drawn)[0], images(survey, drawn.without_substructure())[0]
        frame(column[0], view)
        column[0].set_facecolor("#F7F7F7")
        draw_dark_matter(column[0], drawn)
        column[0].add_patch(circle(drawn.lens_theta_E[0]))
        show(column[1], image, half, view)
        change = 100 * (image - smooth) / image.max()
        shown = show(column[2], change, half, view, root=False, cmap="RdBu_r", vmin=-30, vmax=30)
        column[0].set_title(title, fontsize=11)
        if class_name == "no_sub":
            column[2].text(0, 0, "nothing", ha="center", va="center")
            column[0].text(0, 0, "nothing but the\nsmooth lens", ha="center", va="center")
        else:
            note(column[2], f"up to {np.abs(change).max():.0f} %", "k")
    label_outside(grid, ["what is added", "the image", "minus the smooth lens's"])
    figure.colorbar(
        shown, ax=grid[2], label="% of the peak", location="bottom", shrink=0.5, aspect=35
    )
    return figure


def circle(radius: float) -> object:
    from matplotlib.patches import Circle

    return Circle((0, 0), radius, fill=False, ec="0.6", ls="--", lw=1)


def draw_dark_matter(axes: Axes, drawn: Scenes, line: str = "k") -> None:
    """Subhalos as circles of their Einstein radius, a vortex as its line."""
    if np.isfinite(drawn.vortex_half_length[0]):
        reach, angle = drawn.vortex_half_length[0], drawn.vortex_angle[0]
        axes.plot(
            reach * np.cos(angle) * np.array([-1, 1]),
            reach * np.sin(angle) * np.array([-1, 1]),
            color=line,
        )
        axes.text(0.03, 0.03, f"2λ = {2 * reach:.2g}″", transform=axes.transAxes, fontsize=9)
    from matplotlib.patches import Circle

    for x, y, theta_E in zip(
        drawn.subhalo_x[0], drawn.subhalo_y[0], drawn.subhalo_theta_E[0], strict=True
    ):
        if theta_E > 0:
            axes.add_patch(Circle((x, y), theta_E, color=COLOURS["cdm"], alpha=0.35, lw=0))
            axes.plot(x, y, ".", color="k", ms=2)


def axion_mass(n: int) -> Figure:
    """The same lens with axions of five masses."""
    survey = get_survey("model_i")
    masses = (-24.0, -23.5, -23.0, -22.5, -22.0)
    half, view = half_width(survey), 2.0
    base = scenes(survey, "axion", vortex_angle=0.6, **SOURCE)
    smooth, point = (
        images(survey, base.without_substructure()),
        images(survey, with_vortex(base, 0.0)),
    )
    figure = Figure(figsize=(10.8, 6.6), layout="constrained")
    grid = figure.subplots(3, len(masses))
    shown: dict[int, object] = {}
    for mass, column in zip(masses, grid.T, strict=True):
        drawn = with_vortex(base, mass)
        image = images(survey, drawn)
        reach, angle = drawn.vortex_half_length[0], base.vortex_angle[0]
        show(column[0], image[0], half, view)
        ends = reach * np.array([-1, 1])
        column[0].plot(ends * np.cos(angle), ends * np.sin(angle), color=LINE, lw=1.5)
        column[0].set_title(
            f"log$_{{10}}$ m/eV = {mass:.1f}\nλ = {reach:.2g}″".replace("-", "−"), fontsize=10
        )
        for row, (axes, other, limit) in enumerate(
            ((column[1], smooth, 30), (column[2], point, 5))
        ):
            change = 100 * (image - other)[0] / smooth.max()
            shown[row] = show(
                axes, change, half, view, root=False, cmap="RdBu_r", vmin=-limit, vmax=limit
            )
            note(axes, f"χ = {distance(survey, image, other, base)[0]:.2g}", "k")
    label_outside(grid, ["the image", "minus the\nsmooth lens's", "minus that of\na point mass"])
    for row, drawing in shown.items():
        figure.colorbar(drawing, ax=grid[row + 1], label="% of the peak", shrink=0.9, pad=0.01)
    return figure


def instruments(n: int) -> Figure:
    """One lens through the three cameras."""
    rows = [
        "perfect camera\n(0.02″, no blur)",
        "PSF and pixels",
        'the camera\'s noise\nnoise="instrument"',
        'as released\nnoise="original"',
    ]
    figure = Figure(figsize=(7.4, 9.4), layout="constrained")
    grid = figure.subplots(len(rows), len(SURVEYS), squeeze=False)
    for (name, title), column in zip(SURVEYS.items(), grid.T, strict=True):
        survey = get_survey(name)
        drawn = same(survey)[1]
        camera, view = survey.instrument, 2.2
        fine = perfect(survey, 5.0)
        show(column[0], images(fine, drawn)[0], half_width(fine), view)
        clean = images(survey, drawn)
        show(column[1], clean[0], half_width(survey), view)
        for axes, noise in ((column[2], "instrument"), (column[3], "original")):
            simulator = Simulator(survey, noise=noise)
            image = simulator.images(drawn)[0].numpy()
            show(axes, image, half_width(survey), view)
            note(axes, f"peak {image.max():.3g} [{simulator.attributes['image_unit']}]")
        seconds = drawn.exposure_time[0] * camera.num_exposures
        peak = clean.max()
        snr = peak / np.sqrt(background_rms(camera) ** 2 + peak / seconds)
        note(column[1], f"PSF {camera.psf_fwhm}″, pixels {camera.pixel_scale}″")
        column[2].text(
            0.97,
            0.97,
            f"SNR {snr:.0f}",
            transform=column[2].transAxes,
            color="w",
            fontsize=8,
            ha="right",
            va="top",
        )
        column[0].set_title(f"{title}\n{seconds:,.0f} s", fontsize=10)
    label_outside(grid, rows)
    return figure


def same(survey: Survey) -> list[Scenes]:
    """One scene of each class, with the same source, and in all surveys with the same substructure."""
    halos = scenes(get_survey("model_i"), "cdm")
    smooth, cdm, axion = (
        scenes(survey, class_name, vortex_angle=0.1, **SOURCE) for class_name in CLASSES
    )
    cdm = dataclasses.replace(cdm, **{key: getattr(halos, key) for key in SUBHALOS})
    return [smooth.without_substructure(), cdm, with_vortex(axion, -23.5)]


def fit(n: int) -> Figure:
    """What the best smooth lens leaves, if the lens is known and if it is not."""
    figure = Figure(figsize=(10.6, 5.1), layout="constrained")
    grid = figure.subplots(3, 3 * len(FITTED))
    for block, (name, noise) in enumerate(FITTED.items()):
        survey = get_survey(name)
        half, view = half_width(survey), 2.1
        seen = torch.cat(
            [torch.as_tensor(images(survey, one, noise)).float()[:, None] for one in same(survey)]
        )
        held, free = (fit_smooth(seen, s, noise=noise) for s in (survey, free_lens(survey)))
        for k, row in enumerate(grid):
            axes = row[3 * block : 3 * block + 3]
            show(axes[0], seen[k, 0].numpy(), half, view)
            for panel, found in ((axes[1], held), (axes[2], free)):
                shown = show(
                    panel,
                    found.residual[k, 0].numpy(),
                    half,
                    view,
                    root=False,
                    cmap="RdBu_r",
                    vmin=-5,
                    vmax=5,
                )
                note(panel, f"χ² = {float(found.chi2[k]):.2f}", "k")
        for axes, title in zip(
            grid[0, 3 * block :],
            (f"{SURVEYS[name]}", "residual,\nlens known", "residual,\nlens fitted, too"),
            strict=False,
        ):
            axes.set_title(title, fontsize=10)
    label_outside(grid, list(CLASSES.values()))
    figure.colorbar(
        shown, ax=grid, label="(image − best smooth lens) / noise [σ]", shrink=0.7, pad=0.01
    )
    return figure


def moments(survey: Survey, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How far the light's centre is from the lens's, and its mean distance from there, (B,) each in arcsec."""
    axis = (np.arange(image.shape[-1]) - (image.shape[-1] - 1) / 2) * survey.instrument.pixel_scale
    total = image.sum((1, 2))
    x, y = (image * axis).sum((1, 2)) / total, (image * axis[:, None]).sum((1, 2)) / total
    return np.hypot(x, y), (image * np.hypot(axis, axis[:, None])).sum((1, 2)) / total


def shortcut(n: int) -> Figure:
    """Two numbers per image that give the class away, and do so no longer once masses are matched."""
    survey = get_survey("model_i")
    figure = Figure(figsize=(9, 3.7), layout="constrained")
    grid = figure.subplots(1, 2, sharex=True, sharey=True)
    markers = {"axion": "^", "cdm": "o", "no_sub": "s"}
    for axes, matched, title in (
        (grid[0], False, "as released: substructure adds mass"),
        (grid[1], True, "the lens gives up what substructure adds"),
    ):
        for class_name in reversed(CLASSES):
            drawn = scenes(survey, class_name, 3 * n)
            drawn = match_mass(drawn, survey) if matched else drawn
            centre, radius = moments(survey, images(survey, drawn))
            axes.scatter(
                centre, radius, s=7, marker=markers[class_name], color=COLOURS[class_name], lw=0, alpha=0.7,
                label=CLASSES[class_name],
            )  # fmt: skip
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("distance of the light's centre from the lens [arcsec]")
        axes.spines[["top", "right"]].set_visible(False)
    grid[0].set_ylabel("mean radius of the light [arcsec]")
    grid[1].legend(frameon=False, fontsize=9, markerscale=2, loc="upper left")
    return figure


def signal(n: int) -> Figure:
    """How far images with substructure are from smooth lenses, and masses of the axion from one another, in noise."""
    figure = Figure(figsize=(10.4, 3.9), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.1, 1))
    masses = np.linspace(-24, -21.5, 26)
    styles = {"model_i": "-", "model_ii": "--", "model_iii": ":"}
    names, place = [], 0
    for name, title in SURVEYS.items():
        survey = get_survey(name)
        for class_name in ("axion", "cdm"):
            drawn = scenes(survey, class_name, n)
            image = images(survey, drawn)
            smooth = images(survey, drawn.without_substructure())
            best = fit_smooth(
                torch.as_tensor(image).float()[:, None], free_lens(survey), noise="none"
            )
            added = distance(survey, image, smooth, drawn)
            kept = distance(survey, image, best.model[:, 0].double().numpy(), drawn)
            for values, offset, filled in ((added, -0.17, False), (kept, 0.17, True)):
                low, middle, high = np.quantile(values, (0.05, 0.5, 0.95))
                left.plot([place + offset] * 2, [low, high], color=COLOURS[class_name], lw=1.5)
                left.plot(
                    place + offset,
                    middle,
                    "o",
                    color=COLOURS[class_name],
                    mfc=None if filled else "white",
                    ms=7,
                )
            print(
                f"signal: {title}, {class_name}: median χ {np.median(added):.3g} to the same lens without, "
                f"{np.median(kept):.3g} to the best smooth lens"
            )
            names.append(f"{title}\n{class_name}")
            place += 1
        drawn = scenes(survey, "axion", n)
        point = images(survey, with_vortex(drawn, 0.0))
        chi = np.stack(
            [distance(survey, images(survey, with_vortex(drawn, m)), point, drawn) for m in masses]
        )
        low, middle, high = np.quantile(chi, (0.16, 0.5, 0.84), axis=1)
        tint = class_color(3 + list(SURVEYS).index(name))
        right.fill_between(masses, low, high, color=tint, alpha=0.2, lw=0)
        right.plot(masses, middle, styles[name], color=tint, lw=2, label=title)
        limit = np.interp(-np.log(2), -np.log(middle), masses)
        print(f"signal: {title}: χ to a point of the same mass is 2 at log10 m = {limit:.2f}")
        smooth = images(survey, drawn.without_substructure())
        row, column = np.unravel_index(smooth.reshape(n, -1).argmax(1), smooth.shape[1:])
        x, y = pixel_axis(survey.instrument)[column], pixel_axis(survey.instrument)[row]
        x, y = (
            x + 0.25 * survey.instrument.pixel_scale,
            y + 0.25 * survey.instrument.pixel_scale,
        )  # no pixel's centre
        halos = np.linspace(6, 10, 17)
        chi = [
            np.median(
                distance(
                    survey, images(survey, with_subhalo(survey, drawn, x, y, 10**m)), smooth, drawn
                )
            )
            for m in halos
        ]
        print(
            f"signal: {title}: χ of a subhalo on the brightest pixel is 2 at log10 M = {np.interp(2, chi, halos):.1f}"
        )
    for axes in (left, right):
        axes.set_yscale("log")
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_ylabel("χ [σ]")
    left.set_xticks(range(len(names)), names, fontsize=8)
    left.plot([], [], "o", color="0.3", mfc="white", label="to the same lens without it")
    left.plot([], [], "o", color="0.3", label="to the best smooth lens")
    left.legend(frameon=False, fontsize=9)
    left.set_title(f"Substructure against none\n(median, 5–95 % of {n} images)", fontsize=10)
    right.set(xlabel="log$_{10}$ of the axion's mass [eV]", ylim=(0.1, None))
    right.axvspan(-22, masses[-1], color="0.93", lw=0, zorder=0)
    right.text(-21.98, 0.13, "not in the\nsurveys", fontsize=8, color="0.4")
    right.axhline(2, color="0.5", lw=0.8)
    right.text(-23.98, 2.2, "χ = 2", fontsize=8, color="0.4")
    right.legend(frameon=False, fontsize=9)
    right.set_title(
        "A vortex against a point of the same mass,\nall else known (median, 16–84 %)", fontsize=10
    )
    return figure


PICTURES: dict[str, Callable[[int], Figure]] = {
    "rays": rays,
    "ring": ring,
    "substructure": substructure,
    "axion_mass": axion_mass,
    "instruments": instruments,
    "fit": fit,
    "shortcut": shortcut,
    "signal": signal,
}


def save(figure: Figure, path: Path) -> None:
    """Writes a figure; one with images in it with 256 colours of the maps used here, which takes a third of the room."""
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    canvas = FigureCanvasAgg(figure)
    figure.set_dpi(110)
    canvas.draw()
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])
    if any(axes.images for axes in figure.axes):
        colours = [colormaps[name](np.linspace(0, 1, 108))[:, :3] for name in ("inferno", "RdBu_r")]
        greys = np.linspace(0, 1, 24)[:, None].repeat(3, axis=1)
        ours = np.array([to_rgb(c) for c in (*COLOURS.values(), LINE, "#F7F7F7", "#A0C4DE")])
        palette = Image.new("P", (1, 1))
        palette.putpalette(
            (255 * np.concatenate([*colours, greys, ours])).round().astype(np.uint8).tobytes()
        )
        picture = picture.quantize(palette=palette, dither=Image.Dither.NONE)
    part = path.with_suffix(".part")
    picture.save(part, format="png", optimize=True)
    part.replace(path)


def main(
    folder: str = "docs/images", n: int = 100, names: tuple[str, ...] = tuple(PICTURES)
) -> None:
    """Draws the pictures.

    Args:
        folder: Where to write ``physics_NAME.png``.
        n: Images per class where many are measured.
        names: Which pictures.
    """
    for name in names:
        path = Path(folder) / f"physics_{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        save(PICTURES[name](n), path)
        print(f"drew {path}")


if __name__ == "__main__":
    main(*sys.argv[1:2], names=tuple(sys.argv[2:]) or tuple(PICTURES))
