"""Classifies simulated lenses from Python and writes what was found: an ECSV table with units, and a figure.

python examples/tables.py tables
"""

import sys
from pathlib import Path

import numpy as np
from astropy.nddata import CCDData
from astropy.wcs import WCS

import haloformer


def as_ccddata(image: np.ndarray, pixel_scale: float) -> CCDData:
    """Returns an image (H, W) as observers have it: with a unit, and a WCS that tells its pixel scale."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval = ["RA---TAN", "DEC--TAN"], [150.0, 2.2]
    wcs.wcs.crpix = [(side + 1) / 2 for side in image.shape[::-1]]
    wcs.wcs.cdelt = [-pixel_scale / 3600, pixel_scale / 3600]
    return CCDData(image, unit="electron", wcs=wcs)


def main(out: str = "tables", n: int = 6, model: str = "model_ii") -> None:
    predictor = haloformer.load(model, device="cpu")
    lenses = haloformer.simulate("model_ii", n, seed=2000)
    found = predictor(lenses)  # as haloformer.predict(model, lenses), without loading it again
    print(found)

    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    table = found.to_table()
    table["log10_m_axion_true"] = lenses.to_table()["log10_m_axion"]
    table.write(folder / "predictions.ecsv", overwrite=True)
    found.plot().savefig(folder / "predictions.png", dpi=100)
    estimated, true = (
        table[name].quantity.physical for name in ("log10_m_axion", "log10_m_axion_true")
    )
    print(f"the first axion weighs {estimated[0]:.1e}; in truth {true[0]:.1e}")

    # Pixels of half the size with the same light: the WCS says so, and the answer stays.
    fine = np.kron(lenses.images[0, 0].numpy(), np.ones((2, 2))) / 4
    again = predictor(as_ccddata(fine, lenses.attributes["pixel_scale"] / 2))
    print(f"as a CCDData of finer pixels: {again.classes[0]} at RA {again['ra'][0]:.4f}")


if __name__ == "__main__":
    main(*sys.argv[1:2])
