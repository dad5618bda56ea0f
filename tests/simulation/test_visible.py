"""Surveys that no lens can be of are refused, and those that wide priors make are not."""

import pytest

from haloformer.cli import main
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


CAMERA = "hst_acs_f814w"
IMPOSSIBLE = [
    (
        _hst(instrument={"base": CAMERA, "exposure_time": 1e-12}),
        r"survey mine: instrument\.exposure_time must be 0\.001 to 1e\+09 s, not 1e-12",
    ),
    (_one(instrument={"base": "euclid_vis", "exposure_time": 1e-12}), "exposure_time must be"),
    (
        _hst(instrument={"base": CAMERA, "exposure_time": {"log_uniform": [1e-9, 10]}}),
        "exposure_time must be",
    ),
    (_hst(instrument={"base": CAMERA, "num_exposures": 10**9}), "num_exposures must be 1 to"),
    (_hst(instrument={"base": CAMERA, "magnitude_zero_point": 500}), "magnitude_zero_point must"),
    (_one(source={"base": "disc_mag20", "R_sersic": 1e-6}), "R_sersic must be 0.001 to 100 arcsec"),
    (_one(source={"base": "disc_mag20", "R_sersic": 1e5}), r"source\.R_sersic must be"),
    (_hst(source={"light": [{"kind": "sersic", "R_sersic": 1e-6}], "snr": 9}), "R_sersic must be"),
    (_hst(source={"light": [{"kind": "clumpy", "R": 1e-6}], "snr": 9}), r"light\.R must be"),
    (
        _hst(substructure={"cdm": [{"kind": "tnfw", "Sigma_sub": 1000}], "no_sub": []}),
        r"substructure\.cdm\.Sigma_sub must be 0 to 10 1/kpc², not 1000",
    ),
    (
        _hst(substructure={"cdm": [{"kind": "tnfw", "mass_high": 1e20}], "no_sub": []}),
        "mass_high must be",
    ),
    (
        _hst(substructure={"cdm": [{"kind": "pseudo_jaffe", "mass": 1e18}], "no_sub": []}),
        "mass must be 0 to 1e",
    ),
    (_one(substructure={"axion": [{"kind": "vortex", "mass": 1e18}]}), "mass must be 0 to 1e"),
]


@pytest.mark.parametrize(("fields", "message"), IMPOSSIBLE)
def test_numbers_that_nothing_has_are_refused_with_their_place_and_the_usual_ones(fields, message):
    with pytest.raises(InputError, match=message):
        Simulator(get_any_survey(fields))


def test_the_list_of_surveys_judges_a_survey_as_simulations_do(tmp_path, capsys):
    file = tmp_path / "mine.yaml"
    file.write_text("base: model_ii\nname: mine\ndeflector: {theta_E: 0.001}\n")
    assert main(["surveys", str(file)]) == 2
    assert "less than half a pixel" in capsys.readouterr().err


@pytest.mark.parametrize("name", sorted(list_surveys()))
def test_no_shipped_survey_is_refused(name):
    Simulator(name)


@pytest.mark.parametrize("classes", [["cdm", "cdm"], ["axion", "vort"]])
def test_a_class_that_is_named_twice_is_refused(classes):
    with pytest.raises(InputError, match=r"classes names .* twice"):
        Simulator("model_ii", classes=classes)
