"""A simulated lens of known mass with few pixels, for tests of the fit of real lenses."""

import dataclasses

import numpy as np

from haloformer.simulation import Simulator, get_any_survey
from haloformer.simulation.components.pseudo_jaffe import PseudoJaffe
from haloformer.simulation.psf import psf_kernel

SCALE, NOISE = 0.08, 0.004
TRUTH = {"theta_E": 1.1, "gamma": 2.05, "e1": 0.06, "e2": -0.04, "gamma1": 0.03, "gamma2": -0.02}
SMALL_LENS = {
    "name": "small_lens",
    "base": "ladder_1_camera",
    "instrument": {"num_pix": 41, "pixel_scale": SCALE, "psf_fwhm": 0.16, "supersampling": 1, "background_rms": NOISE, "exposure_time": 1e6},
    "lens": [
        {"kind": "epl", **{name: TRUTH[name] for name in ("theta_E", "gamma", "e1", "e2")}},
        {"kind": "shear", "gamma1": TRUTH["gamma1"], "gamma2": TRUTH["gamma2"]},
    ],
    "source": {"x": 0.09, "y": -0.05, "snr": 60, "light": [{"kind": "sersic", "R_sersic": 0.16, "n_sersic": 1.0, "e1": 0.2, "e2": 0.1}]},
    "substructure": {"no_sub": []},
    "lens_light": {"mode": "present", "disc": 0, "contrast": 1.0, "R": 1.0, "n_sersic": 2.0, "x": 0, "y": 0},
    "z_lens": 0.3,
    "z_source": 1.0,
}  # fmt: skip


def survey(lens_light=True, perturber=None):
    """The recipe; `perturber` is (mass, r_trunc, x, y)."""
    found = get_any_survey(SMALL_LENS)
    if not lens_light:
        light = dataclasses.replace(found.lens_light, mode="none")
        found = dataclasses.replace(found, lens_light=light)
    if perturber is not None:
        mass, r_trunc, x, y = perturber
        part = PseudoJaffe(mass=mass, r_trunc=r_trunc, x=x, y=y)
        found = dataclasses.replace(found, substructure={"no_sub": (part,)})
    return found


def lens(lens_light=True, perturber=None, seed=3):
    """Image (41, 41), noise, PSF: keywords of `fit`, with the first."""
    recipe = survey(lens_light, perturber)
    clean = Simulator(recipe, seed=seed, noise="none").batch([0]).images[0, 0].double().numpy()
    noise = np.random.default_rng(seed).normal(scale=NOISE, size=clean.shape)
    kernel = np.array(psf_kernel(recipe.instrument))
    return clean + noise, {"psf": kernel, "noise": NOISE, "pixel_scale": SCALE}
