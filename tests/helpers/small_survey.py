"""A composed survey with few pixels, for tests."""

from haloformer.simulation import get_any_survey

SMALL = {
    "name": "small",
    "instrument": {"num_pix": 40, "pixel_scale": 0.1, "psf_fwhm": 0.1, "background_rms": 0.01, "exposure_time": 1000.0},
    "lens": [
        {"kind": "epl", "theta_E": {"uniform": [1.0, 1.4]}, "e1": {"normal": [0, 0.1]}, "gamma": {"uniform": [1.8, 2.2]}},
        {"kind": "shear", "gamma1": 0.03},
    ],
    "source": {"snr": {"uniform": [10, 30]}, "light": [{"kind": "sersic", "R_sersic": 0.2}]},
    "substructure": {
        "axion": [{"kind": "vortex"}],
        "cdm": [{"kind": "point_masses", "mass": 3e8}, {"kind": "tnfw", "Sigma_sub": 0.1}],
        "no_sub": [],
    },
    "z_source": 1.5,
}  # fmt: skip


def small(**changes):
    return get_any_survey({**SMALL, **changes})
