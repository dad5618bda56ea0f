"""SLACS J0946+1006, where its files are: `HALOFORMER_J0946` names their folder. `benchmarks/real_lenses.py j0946` also looks for the subhalo."""

import os
import warnings
from pathlib import Path

import pytest

from haloformer.fitting.reallens import fit_observation
from haloformer.fitting.reallens.files import LensFiles, read_observation
from haloformer.fitting.reallens.run import Options
from haloformer.readers.reading import Reading

BESIDE = Path(__file__).resolve().parents[4] / "shared" / "lenses" / "hst_slacs_j0946+1006"
FOLDER = Path(os.environ.get("HALOFORMER_J0946", BESIDE))


@pytest.mark.skipif(not (FOLDER / "data.fits").is_file(), reason="the files are not there")
def test_the_einstein_radius_of_j0946_is_found_blind():
    names = ("data.fits", "psf.fits", "noise_map.fits")
    files = LensFiles(*(str(FOLDER / name) for name in names), radius=1.85)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its PSF adds up to 0.956
        seen = read_observation(files, Reading(pixel_scale=0.05))
    fit = fit_observation(seen, Options(supersampling=1, source_step=0.06))
    assert fit.flags == ()
    assert fit.best.value("theta_E") == pytest.approx(1.40, abs=0.02)
    assert fit.parameters["theta_E"]["error"] < 0.01
