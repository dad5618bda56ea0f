"""The tab that fits a lens: its mass, the lens galaxy's light and the source, from an image."""

import base64
import html
from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr

from haloformer.app import parts
from haloformer.app.fit_worker import MOST_PIXELS
from haloformer.app.fits import DOWNLOADS, MOST_SECONDS, Cancelled, Fits, Fitted, Progress, Task
from haloformer.app.given import number
from haloformer.app.uploading import number_field, restrict
from haloformer.errors import InputError
from haloformer.fitting.reallens.files import LensFiles
from haloformer.fitting.reallens.run import Options
from haloformer.readers.images import FITS_SUFFIXES
from haloformer.trial.run import IMAGES, LENS, RADIUS

_FILES = {
    "image": "Image",
    "psf": "PSF",
    "noise_map": "Noise map",
    "mask": "Mask",
}
_SUFFIXES = [*FITS_SUFFIXES, ".npy"]
_TYPES = {"application/json": "fit.json", "application/fits": "fit.fits", "text/html": "fit.html"}
_PERTURBERS = {"no": None, "pseudo-Jaffe": "pseudo_jaffe", "truncated NFW": "tnfw", "point mass": "point"}  # fmt: skip
_ABOUT = (
    "FITS or .npy: an image, its point-spread function on pixels of the same size or up to ten times finer, and perhaps the noise's standard deviation in each pixel "
    "(otherwise measured in the corners) and a mask, which is 0 where a pixel counts. A number that is 0 is not given: pixel scales are "
    "then those of the files, and all of the image counts. What is fitted is a power-law ellipsoid with shear, the light of the lens "
    f"galaxy, and a pixelised source. At most {MOST_PIXELS:,} pixels may count "
    f"(200 × 200) and {MOST_SECONDS / 60:g} minutes be taken; one lens is fitted at a time. Files are kept for 16 minutes, so "
    "that you can fit them again."
)
_EMPTY = "Give an image and its point-spread function, or try an example: a simulated image of HST, which takes a minute or two."
Shown = tuple[str, str, Any, Any, Any]


def fit_tab(fits: Fits) -> None:
    """Puts the tab on the page.

    Args:
        fits: Runs them.
    """
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=300):
            files = {}
            for pair in (("image", "psf"), ("noise_map", "mask")):
                with gr.Row():
                    for name in pair:
                        files[name] = gr.File(
                            label=_FILES[name],
                            file_types=_SUFFIXES,
                            elem_id=f"hf-fit-{name}",
                            elem_classes="hf-file",
                            height=160,
                            min_width=130,
                        )
            for file in files.values():
                restrict(file)
            with gr.Row():
                scale = number_field("Pixel scale (″)")
                psf_scale = number_field("PSF's pixels (″)")
            radius = number_field("Radius (″)")
            with gr.Row():
                z_lens = number_field("Redshift, lens")
                z_source = number_field("Redshift, source")
            light = gr.Checkbox(True, label="The lens galaxy's light is in the image")
            perturber = gr.Dropdown(
                list(_PERTURBERS),
                value="no",
                label="Look for a dark perturber (takes minutes)",
                elem_id="hf-fit-perturber",
            )
            with gr.Row():
                start = gr.Button("Fit", variant="primary", elem_id="hf-fit-start", min_width=90)
                stop = gr.Button("Cancel", elem_id="hf-fit-stop", min_width=90, interactive=False)
            example = gr.Button("Try an example", elem_id="hf-fit-example")
        with gr.Column(scale=3, min_width=300):
            told = gr.HTML(parts.note(_EMPTY), elem_id="hf-fit-told")
            result = gr.HTML("", elem_id="hf-fit-result")
            gr.HTML(f"<p class='hf-quiet'>{html.escape(_ABOUT)}</p>")

    how = [scale, psf_scale, radius, z_lens, z_source, light, perturber]

    def fit(request: gr.Request, *values: Any) -> Iterator[Shown]:
        given = dict(zip(files, values, strict=False))
        yield from _fitted(fits, lambda: _task(given, *values[len(files):]), request.session_hash)  # fmt: skip

    def try_example(request: gr.Request, *values: Any) -> Iterator[Shown]:
        yield from _fitted(fits, lambda: _example(values[-1]), request.session_hash, _truth())

    def cancel(request: gr.Request) -> None:
        fits.cancel(str(request.session_hash))

    outputs = [told, result, start, example, stop]
    options: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    running: dict[str, Any] = {**options, "concurrency_id": "fit", "concurrency_limit": 4}
    start.click(fit, [*files.values(), *how], outputs, **running)
    example.click(try_example, how, outputs, **running)
    stop.click(cancel, None, None, concurrency_limit=4, concurrency_id="cancel", **options)


def _task(
    files: dict[str, str | None],
    scale: float | None,
    psf_scale: float | None,
    radius: float | None,
    z_lens: float | None,
    z_source: float | None,
    light: bool,
    perturber: str,
) -> Task:
    """Returns what a visitor asks for; raises InputError."""
    image, psf = files["image"], files["psf"]
    if image is None or psf is None:
        raise InputError(
            "an image and its point-spread function are needed: an image of a star at the image's pixel scale"
        )
    return Task(
        LensFiles(
            image,
            psf,
            files["noise_map"],
            files["mask"],
            _positive(radius, "the radius", 1e4),
            _positive(psf_scale, "the side of the PSF's pixels", 10),
        ),
        Options(
            lens_light=bool(light),
            perturber=_perturber(perturber),
            z_lens=_positive(z_lens, "the lens's redshift", 20),
            z_source=_positive(z_source, "the source's redshift", 20),
        ),
        _positive(scale, "the pixel scale", 10),
    )


def _example(perturber: str) -> Task:
    """Returns the task of the lens that comes with the package."""
    from astropy.io import fits

    image, psf, noise_map = (str(IMAGES / name) for name in LENS)
    header = fits.getheader(image)
    options = Options(
        perturber=_perturber(perturber), z_lens=header["Z_LENS"], z_source=header["Z_SOURCE"]
    )
    return Task(LensFiles(image, psf, noise_map, radius=RADIUS), options)


def _truth() -> str:
    """Returns what the example really is, in words."""
    from astropy.io import fits

    header = fits.getheader(IMAGES / LENS[0])
    x, y = (f"{header[key]:.2f}″".replace("-", "−") for key in ("SUB_X", "SUB_Y"))
    return (
        f"The example is simulated, as HST would see it. Its truth: Einstein radius {header['THETA_E']:.3f}″, slope {header['SLOPE']:.2f}, and a "
        f"subhalo of {header['SUB_MASS'] / 1e9:g}·10⁹ M☉ at x = {x}, y = {y}, of which a smooth lens knows nothing. Pixels within {RADIUS:g}″ "
        "of the middle counted."
    )


def _perturber(name: object) -> str | None:
    if not isinstance(name, str) or name not in _PERTURBERS:
        raise InputError("there is no such perturber")
    return _PERTURBERS[name]


def _positive(value: object, name: str, most: float) -> float | None:
    """Returns a number that was given, None for 0."""
    return number(value or 0, name, 0, most) or None


def _fitted(
    fits: Fits, make: Callable[[], Task], owner: str | None, truth: str = ""
) -> Iterator[Shown]:
    """Yields text, result, and updates of the buttons, while a lens is fitted; ``truth`` is told with the result."""
    busy = (gr.update(interactive=False), gr.update(interactive=False), gr.update(interactive=True))
    free = (gr.update(interactive=True), gr.update(interactive=True), gr.update(interactive=False))
    found: list[Fitted] = []
    cancelled = False
    steps: Iterator[Progress | Fitted] = iter(())

    def begin() -> str:
        nonlocal steps
        steps = fits.run(make(), str(owner))
        return _next()

    def _next() -> str:
        nonlocal cancelled
        try:
            return _told()
        except Cancelled:
            cancelled = True
            return parts.note("The fit was cancelled.")

    def _told() -> str:
        for each in steps:
            if isinstance(each, Fitted):
                found.append(each)
                return parts.note(
                    f"{each.headline} Fitted in {each.seconds:.0f} s. {truth}".rstrip()
                )
            return _in_words(each)
        return ""

    failed = "This lens could not be fitted."
    try:
        text, work = parts.guarded(begin, failed), _next
        while not found and not cancelled and "hf-alert" not in text:
            yield text, "", *busy
            text = parts.guarded(work, failed)
        shown = parts.guarded(lambda: _result(found[0]), failed) if found else ""
        yield text, shown, *free
    finally:
        if hasattr(steps, "close"):
            steps.close()


def _in_words(progress: Progress) -> str:
    """Returns how far a fit has come."""
    seconds = f"{progress.seconds:.0f} s"
    if not progress.pixels:
        return parts.note(f"Reading and checking the files, {seconds}.")
    what = f"{progress.pixels:,} pixels, {seconds}"
    if not progress.steps:
        return parts.note(f"Looking for arcs: {what}.")
    name, evidence = progress.steps[-1]
    return parts.note(
        f"Fitting ({name}), step {len(progress.steps)}: −2 ln evidence {evidence:.1f}; {what}."
    )


def _result(found: Fitted) -> str:
    """Returns warnings, figure, table and downloads; all within the page, so that no file is served."""
    e = html.escape
    flags = "".join(f"<div class='hf-alert' role='alert'><b>Warning.</b> {e(flag)}.</div>" for flag in found.flags)  # fmt: skip
    links = "".join(
        f"<a class='hf-download' download='{name}' href='data:{kind};base64,{base64.b64encode(found.files[name]).decode()}'>{name}</a>"
        for kind, name in _TYPES.items()
        if name in DOWNLOADS
    )
    picture = base64.b64encode(found.files["fit.png"]).decode()
    rows = "".join(
        f"<tr><th scope='row'>{e(name)}</th><td>{e(value)}</td></tr>" for name, value in found.rows
    )
    notes = "".join(f"<p class='hf-quiet'>{e(note)}.</p>" for note in found.notes)
    return (
        f"{flags}<div class='hf-figure' tabindex='0'><img alt='The six panels of the fit of {e(found.name)}: image, lens light subtracted, "
        f"model, residual, source, perturbers' src='data:image/png;base64,{picture}'></div>"
        f"<p class='hf-downloads'>{links}</p>"
        f"<section class='hf-card'><h2>Parameters</h2><table class='hf-table hf-pairs'><tbody>{rows}</tbody></table></section>{notes}"
    )
