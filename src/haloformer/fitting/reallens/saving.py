"""A fit as files in a folder."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from haloformer.fitting.reallens.autolens import to_autolens
from haloformer.fitting.reallens.figures import draw_samples
from haloformer.fitting.reallens.lenstronomy import to_lenstronomy
from haloformer.fitting.reallens.masses import UNITS
from haloformer.fitting.reallens.page import to_html
from haloformer.fitting.reallens.regions import to_regions
from haloformer.fitting.reallens.sampling import Samples
from haloformer.io.astropy_tables import ascii_of
from haloformer.io.folders import new_folder
from haloformer.io.strict_json import to_json
from haloformer.io.tables import made_by
from haloformer.reporting.style import STYLE, png_uri

if TYPE_CHECKING:
    from haloformer.fitting.reallens.result import RealLensFit

FILES = ("fit.json", "fit.fits", "fit.png", "fit.html", "fit.reg", "fit.ecsv")
SAMPLES_FIGURE = "samples.png"
_OF_UNIT = ("IMAGE", "NOISE", "MODEL", "ARCS", "LENS_LIGHT", "SOURCE")
"""Extensions of fit.fits whose values are in the image's unit; of the source per pixel of the image."""
Format = Literal["lenstronomy", "autolens"]
"""Other packages whose words a model can be written in."""


def save(
    fit: "RealLensFit", folder: Path, overwrite: bool = False, format: Format | None = None
) -> Path:
    """Writes a fit into a folder that takes its name when it is whole.

    Args:
        fit: The fit.
        folder: Its name.
        overwrite: Whether an earlier fit there may go.
        format: Of the model in another package's words, written too: lenstronomy.json or autolens.json.
    """
    import matplotlib

    with new_folder(folder, overwrite, ("fit.json",), "fit") as part:
        (part / "fit.json").write_text(to_json(fit.to_dict()), encoding="utf-8")
        _write_fits(fit, part / "fit.fits")
        with matplotlib.rc_context(STYLE):
            fit.plot().savefig(part / "fit.png", dpi=150)
            if fit.samples is not None:
                draw_samples(fit, fit.samples).savefig(part / SAMPLES_FIGURE, dpi=110)
        picture = png_uri((part / "fit.png").read_bytes())
        (part / "fit.html").write_text(to_html(fit, picture), encoding="utf-8")
        fit.write(part / "fit.ecsv")
        (part / "fit.reg").write_text(to_regions(fit), encoding="utf-8")
        if format == "lenstronomy":
            (part / "lenstronomy.json").write_text(to_json(to_lenstronomy(fit)), encoding="utf-8")
        elif format == "autolens":
            (part / "autolens.json").write_text(to_json(to_autolens(fit)), encoding="utf-8")
    return folder


def _write_fits(fit: "RealLensFit", path: Path) -> None:
    from astropy.io import fits

    seen = fit.seen
    # With relax its distortions, too (SIP), without which places are elsewhere
    header = fits.Header() if seen.wcs is None else seen.wcs.to_header(relax=True)
    header["PIXSCALE"] = (seen.pixel_scale, "arcsec per pixel")
    source, scale = fit.source
    grid = fit.best.source.fine
    about_source = fits.Header()
    about_source["PIXSCALE"] = (scale, "arcsec per pixel")
    for key, place in zip(("XCENTRE", "YCENTRE"), fit.best.middle(grid)):
        about_source[key] = (place, "arcsec, middle of the picture")
    pictures: dict[str, np.ndarray] = {
        "IMAGE": seen.image,
        "NOISE": seen.noise,
        "MODEL": fit.arcs + fit.lens_light,
        "RESIDUAL": fit.residual,
        "ARCS": fit.arcs,
        "LENS_LIGHT": fit.lens_light,
        "MASK": (~seen.mask).astype(np.uint8),
    }
    about = header.copy()
    for key, value in made_by().items():
        about[key] = ascii_of(value)
    extensions: list[Any] = [fits.PrimaryHDU(header=about)]
    extensions += [
        fits.ImageHDU(_narrow(values), header=header, name=name)
        for name, values in pictures.items()
    ]
    extensions.append(fits.ImageHDU(_narrow(source), header=about_source, name="SOURCE"))
    if fit.scan is not None:
        about_scan = fits.Header()
        about_scan["PIXSCALE"] = (fit.scan.step, "arcsec per pixel, centred on the image")
        scan = _narrow(fit.scan.picture())
        extensions.append(fits.ImageHDU(scan, header=about_scan, name="DELTA_CHI2"))
    if fit.samples is not None:
        extensions.append(_table_of(fit.samples))
    for each in extensions:
        if seen.unit and each.name in _OF_UNIT:
            each.header["BUNIT"] = ascii_of(seen.unit)
    fits.HDUList(extensions).writeto(path)


def _table_of(samples: Samples) -> Any:
    """Returns draws of equal weight as a table extension."""
    from astropy.io import fits

    units = {"source_length": "arcsec", **UNITS}
    columns = [
        fits.Column(name=name, format="D", unit=units.get(name, ""), array=samples.values[:, k])
        for k, name in enumerate(samples.names)
    ]
    found = fits.BinTableHDU.from_columns(columns, name="SAMPLES")
    found.header["LNZ"] = (-0.5 * samples.evidence, "ln evidence")
    found.header["LNZERR"] = (0.5 * samples.evidence_error, "its standard deviation")
    found.header["NEFF"] = (samples.effective, "independent draws that these are worth")
    return found


def _narrow(values: np.ndarray) -> np.ndarray:
    return values if values.dtype == np.uint8 else values.astype(np.float32)
