"""The parameters of the smooth lens of a composed survey, in the order in which kernel and tensors take them."""

MULTIPOLES = tuple(f"multipoles_a{m}_{part}" for m in (1, 3, 4) for part in ("cos", "sin"))

NAMES = (
    "lens_theta_E", "lens_gamma", "lens_e1", "lens_e2", "lens_x", "lens_y", "gamma1", "gamma2",
    *MULTIPOLES,
    "source_x", "source_y", "source_R_sersic", "source_n_sersic", "source_e1", "source_e2", "source_flux",
    "exposure_time",
)  # fmt: skip
"""All of them: arcsec, counts/s and seconds; the source is an elliptical Sérsic profile whatever the survey's is."""

LOGARITHMIC = (
    "lens_theta_E",
    "source_R_sersic",
    "source_n_sersic",
    "source_flux",
    "exposure_time",
)
"""Those that are positive: what is fitted is their natural logarithm."""

THETA_E, GAMMA, E1, E2, X, Y, SHEAR1, SHEAR2 = range(8)
A1C = NAMES.index(MULTIPOLES[0])
SOURCE_X = NAMES.index("source_x")
SOURCE_Y, SOURCE_R, SOURCE_N, SOURCE_E1, SOURCE_E2, FLUX, SECONDS = range(SOURCE_X + 1, len(NAMES))

LENS = tuple(range(SOURCE_X))
"""Numbers of what belongs to the lens as a whole: the macro freedoms, which the detail takes out."""

MOST_LENS, MOST_SOURCE = 0.5, 0.85
"""Ellipticities of lens and source are kept below."""

LEAST_ELLIPTICITY = 1e-4
"""A rounder lens is computed as if it were so elliptical: an angle needs an axis."""
