"""Surveys that no lens can be of are refused, and those that wide priors make are not."""

import pytest

from haloformer.errors import InputError
from haloformer.simulation import Simulator, get_any_survey, list_surveys


def _hst(**fields):
    return {"base": "hst", "name": "mine", **fields}


def _one(**fields):
    return {"base": "model_ii", "name": "mine", **fields}


REFUSED = [
    (_hst(lens=[{"kind": "epl"}, {"kind": "shear", "gamma1": 5}]), "gamma1 is an external shear"),
    (_hst(lens=[{"kind": "epl"}, {"kind": "shear", "gamma": 1.5, "angle": 0}]), "gamma is an ext"),
    (
        _hst(lens=[{"kind": "epl"}, {"kind": "shear", "gamma1": 0.9, "gamma2": -0.9}]),
        "gamma1 and gamma2 together",
    ),
    (_one(deflector={"theta_E": 1, "gamma2": -5}), "gamma2 is an external shear"),
    (_hst(lens=[{"kind": "epl", "theta_E": 0.001}]), "less than half a pixel"),
    (_hst(lens=[{"kind": "epl", "theta_E": 100}]), "shows none"),
    (_hst(lens=[{"kind": "epl", "theta_E": {"uniform": [1, 100]}}]), "1.* to .* arcsec"),
    (_hst(lens=[{"kind": "epl", "x": 40}]), "shows none"),
    (_one(deflector={"theta_E": 0.001}), "less than half a pixel"),
    (_one(deflector={"theta_E": 100}), "shows none"),
    (_one(deflector={"mass": 1e17}), "shows none"),
    (_one(source={"base": "disc_mag20", "x": 50}), "source lies 50 arcsec"),
    (_hst(source={"light": [{"kind": "clumpy"}], "snr": 9, "radius": 50}), "source lies 50 arcsec"),
    (_hst(source={"light": [{"kind": "sersic", "n_sersic": 40}], "snr": 9}), "n_sersic must be"),
    (_one(source={"base": "disc_mag20", "magnitude": 90}), "magnitude must be below 40"),
    (_hst(source={"light": [{"kind": "clumpy"}], "magnitude": 90}), "magnitude must be below 40"),
    (_hst(instrument={"base": "hst_acs_f814w", "pixel_scale": 10}), "less than half a pixel"),
]


@pytest.mark.parametrize(("fields", "message"), REFUSED)
def test_surveys_that_leave_no_image_are_refused_with_what_would_be_right(fields, message):
    with pytest.raises(InputError, match=message):
        Simulator(get_any_survey(fields))


KEPT = [
    _hst(lens=[{"kind": "epl", "theta_E": {"uniform": [0.1, 3]}}, {"kind": "shear"}]),
    _hst(lens=[{"kind": "epl", "theta_E": 8, "x": 8}]),  # one arc of a group of galaxies
    _hst(lens=[{"kind": "epl"}, {"kind": "shear", "gamma1": {"normal": [0, 0.15]}}]),
    _one(deflector={"theta_E": 0}),  # no lens
    _one(source={"base": "disc_mag20", "x": 2}),
]


@pytest.mark.parametrize("fields", KEPT)
def test_wide_and_unusual_surveys_are_not_refused(fields):
    Simulator(get_any_survey(fields))


@pytest.mark.parametrize("name", sorted(list_surveys()))
def test_no_shipped_survey_is_refused(name):
    Simulator(name)


@pytest.mark.parametrize("classes", [["cdm", "cdm"], ["axion", "vort"]])
def test_a_class_that_is_named_twice_is_refused(classes):
    with pytest.raises(InputError, match=r"classes names .* twice"):
        Simulator("model_ii", classes=classes)
