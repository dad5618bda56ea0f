"""Fits of real lenses of other cameras than HST, without any start value: the COSMOS-Web ring of JWST in four bands, a lens of Euclid.

    python benchmarks/other_lenses.py ring FOLDER     # FOLDER/F115W … F444W with data.fits, noise_map.fits and psf.fits; some minutes
    python benchmarks/other_lenses.py euclid FILE     # a cutout of Euclid's Q1 release with VIS_FLUX, VIS_PSF and VIS_RMS; a minute

The ring (Mercier et al. 2024, A&A 687, A61): z = 2.02 and 5.48, (3.66 ± 0.36)e11 M_sun within it, which is an Einstein radius of 0.78″
in a flat universe with H0 = 70, Om0 = 0.3. A galaxy beside it, which is not lensed, is masked. Times are the processor's, of one thread.
"""

import argparse
import datetime
import warnings
from pathlib import Path

import numpy as np
import torch
from astropy.io import fits

from haloformer._version import code_version
from haloformer.fitting.reallens import RealLensFit, checked_observation, fit_observation
from haloformer.fitting.reallens.observation import Observation
from haloformer.fitting.reallens.run import Options
from simulation import hardware, table

BANDS = {"F115W": 0.03, "F150W": 0.03, "F277W": 0.06, "F444W": 0.06}
RADIUS = 1.6  # arcsec, of the pixels that count
NEIGHBOUR, NEIGHBOUR_RADIUS = (0.48, -1.18), 0.3  # arcsec from the middle
EUCLID = 0.1, 3.0  # pixel scale, radius


def ring(folder: Path) -> list[tuple[str, Observation]]:
    """Returns the ring in each band that is there."""
    found = []
    for band, scale in BANDS.items():
        if not (folder / band / "data.fits").is_file():
            continue
        image, noise, psf = (
            fits.getdata(folder / band / f"{name}.fits").astype(float)
            for name in ("data", "noise_map", "psf")
        )
        y, x = ((np.arange(n) - (n - 1) / 2) * scale for n in image.shape)
        mask = np.hypot(x[None, :] - NEIGHBOUR[0], y[:, None] - NEIGHBOUR[1]) < NEIGHBOUR_RADIUS
        seen = checked_observation(
            image, psf=psf, noise=noise, mask=mask, pixel_scale=scale, radius=RADIUS, name=band
        )
        found.append((band, seen))
    return found


def euclid(path: Path) -> list[tuple[str, Observation]]:
    """Returns the lens of a file with all extensions."""
    scale, radius = EUCLID
    with fits.open(path) as hdus:
        image, noise, psf = (hdus[f"VIS_{name}"].data.astype(float) for name in ("FLUX", "RMS", "PSF"))  # fmt: skip
    seen = checked_observation(
        image, psf=psf, noise=noise, pixel_scale=scale, radius=radius, name=path.name
    )
    return [("VIS", seen)]


def row(band: str, fit: RealLensFit) -> list[str]:
    """Returns the cells of a fit."""
    found = fit.parameters

    def cell(name: str, digits: int) -> str:
        value, error = found[name]["value"], found[name]["error"]
        told = "" if error is None else f" ± {error:.{digits}f}"
        return f"{value:.{digits}f}{told}"

    return [
        band, cell("theta_E", 4), cell("gamma", 3), cell("axis_ratio", 3), cell("shear", 3),
        f"{fit.chi2:.0f} ({fit.pixels})", "; ".join((*fit.flags, *(u.split(":")[0] for u in fit.cautions))), f"{fit.seconds:.0f}",
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("ring", "euclid"))
    parser.add_argument("path", type=Path)
    parser.add_argument("--out", type=Path, help="folder for a figure of each")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    rows = [["band", "θ_E [″]", "γ", "axis ratio", "shear", "χ² (pixels)", "to be known", "CPU s"]]
    for band, seen in (ring if arguments.what == "ring" else euclid)(arguments.path):
        fit = fit_observation(seen, Options())
        rows.append(row(band, fit))
        print(" | ".join(rows[-1]), flush=True)
        if arguments.out is not None:
            arguments.out.mkdir(parents=True, exist_ok=True)
            fit.plot().savefig(arguments.out / f"{band}.png")
    print(f"{datetime.date.today()}, {hardware()}, {code_version()}")
    print(table(rows))


if __name__ == "__main__":
    main()
