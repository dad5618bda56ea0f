"""FITS cutouts of simulated lenses, in class folders: what the commands for users' own images take."""

import contextlib
import functools
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from haloformer.data.dataset_writer import Batch
from haloformer.data.deeplense import refuse_existing_folder, write_class_folders
from haloformer.data.own_table import PAIRED
from haloformer.io.astropy_tables import ascii_of
from haloformer.io.folders import whole_folder

_NAMED = {
    "index": ("NUMBER", "of the image of its class, of this seed"),
    "z_lens": ("Z_LENS", "redshift of the lens"),
    "z_source": ("Z_SOURCE", "redshift of the source"),
}
"""Parameters that have a short keyword, which others know; all others have a HIERARCH card of their own name."""

_RATE = "counts/s"  # of noise maps


def write_fits_folder(
    batches: Iterable[Batch],
    out: str | Path,
    *,
    class_names: Iterable[str],
    attributes: Mapping[str, Any],
    psf: np.ndarray | None = None,
    psf_scale: float | None = None,
    noise_map: np.ndarray | None = None,
    n: int | None = None,
    overwrite: bool = False,
) -> int:
    """Writes FITS files ``OUT/{class}/{class}_0000012.fits`` and, beside them, ``parameters.csv``.

    Each holds the image, as the primary one, and the camera's own: the point-spread function as the extension PSF, the noise map as NOISE. The header has survey, class, seed, pixel
    scale, unit, code version, and every parameter that is one number; the table has lists, too, joined by ``;``. The folder appears under its
    name when it is whole.

    Args:
        batches: `LensBatch` objects; only one is in memory at a time.
        out: The folder to make.
        class_names: What the labels index.
        attributes: Of the simulator.
        psf: (odd, odd) point-spread function; None: none is written.
        psf_scale: Side of its pixels in arcsec.
        noise_map: (H, W) in counts/s; None: the camera has none, and none is written. Nor is it beside images in another unit.
        n: How many images will come, if known: whether they fit on the disk is then checked before the second batch.
        overwrite: Replace a folder that haloformer wrote in this layout; any other is left alone.

    Returns:
        How many images were written.
    """
    out = Path(out)
    refuse_existing_folder(out, overwrite)
    save = functools.partial(_save, attributes, psf, psf_scale, noise_map)
    with whole_folder(out, lambda: refuse_existing_folder(out, overwrite)) as part:
        return write_class_folders(batches, part, tuple(class_names), n, save, ".fits")


def _save(
    attributes: Mapping[str, Any],
    psf: np.ndarray | None,
    psf_scale: float | None,
    noise_map: np.ndarray | None,
    path: Path,
    image: np.ndarray,
    name: str,
    parameters: Mapping[str, np.ndarray],
    row: int,
) -> None:
    from astropy.io import fits

    header = fits.Header()
    header["OBJECT"] = ("SIMULATED", "no observation: made by haloformer")
    header["SURVEY"] = (attributes["survey"], "recipe of the simulation")
    header["CLASS"] = (name, "truth: dark matter")
    header["SEED"] = attributes["seed"]
    header["NOISE"] = (attributes["noise"], "mode of the simulation")
    header["CODEVER"] = (attributes["code_version"], "haloformer that made it")
    if attributes.get(PAIRED):
        header["PAIRED"] = (True, "one lens in all classes: that of this NUMBER")
    header["PIXSCALE"] = (attributes["pixel_scale"], "arcsec per pixel")
    header["BUNIT"] = ascii_of(attributes["image_unit"])
    exposures = _exposures(attributes)
    if exposures is not None and "exposure_time" in parameters:
        seconds = float(parameters["exposure_time"][row])
        header["EXPTIME"] = (seconds * exposures, "s, of all exposures together")
        header["NCOMBINE"] = (exposures, "exposures")
    units = attributes.get("units", {})
    for key, values in parameters.items():
        value = values[row]
        if key == "seed" or np.ndim(value) or not math.isfinite(value):
            continue
        keyword, comment = _NAMED.get(key, (f"HIERARCH {key}", f"truth {units.get(key, '')}".strip()))  # fmt: skip
        with contextlib.suppress(ValueError):  # a name and unit that are too long for a card
            header[keyword] = (value.item(), comment)
    hdus: list[Any] = [fits.PrimaryHDU(image[0] if len(image) == 1 else image, header)]
    if psf is not None:
        about = fits.Header([("PIXSCALE", psf_scale, "arcsec per pixel")])
        hdus.append(fits.ImageHDU(np.asarray(psf, np.float32), about, name="PSF"))
    if noise_map is not None and attributes["image_unit"] == _RATE:
        about = fits.Header([("BUNIT", _RATE, "standard deviation of each pixel")])
        hdus.append(fits.ImageHDU(np.asarray(noise_map, np.float32), about, name="NOISE"))
    fits.HDUList(hdus).writeto(path)


def _exposures(attributes: Mapping[str, Any]) -> int | None:
    """Returns how many exposures the survey's camera takes; None if it is not said."""
    camera = json.loads(attributes.get("survey_definition", "{}")).get("instrument")
    found = camera.get("num_exposures") if isinstance(camera, dict) else None
    return int(found) if isinstance(found, int | float) else None
