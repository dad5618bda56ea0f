"""Reproducibility, provenance and errors of the simulator; surveys in YAML."""

import dataclasses
import json
import pickle

import numpy as np
import pytest
import torch

from haloformer.errors import InputError
from haloformer.simulation import (
    Simulator,
    describe_survey,
    get_part,
    get_survey,
    list_surveys,
    simulate,
)
from haloformer.simulation.distributions import Normal, Uniform
from haloformer.simulation.substructure import PointSubhalos, Vortex
from haloformer.simulation.surveys import Survey, get_any_survey


@pytest.mark.parametrize("survey", ["model_i", "model_ii"])
@pytest.mark.parametrize("backend", ["numba", "torch"])
def test_an_image_is_the_same_in_every_batch_shard_and_number_of_threads(survey, backend):
    whole = Simulator(survey, seed=5, backend=backend, threads=2).batch(range(9))
    apart = Simulator(survey, seed=5, backend=backend, threads=1)
    for number in (0, 4, 8):
        alone = apart.batch([number])
        for name, values in whole.parameters.items():
            assert np.array_equal(alone.parameters[name][0], values[number], equal_nan=True), name
        assert torch.equal(alone.images[0], whole.images[number])
    shards = torch.cat([apart.batch(range(s, 9, 3)).labels for s in range(3)])
    assert sorted(shards.tolist()) == sorted(whole.labels.tolist())


def test_leaving_out_a_class_or_changing_the_noise_does_not_change_the_parameters():
    all_classes = Simulator("model_ii", seed=5).batch(range(12))
    cdm = Simulator("model_ii", seed=5, classes=["sphere"], noise="instrument").batch(range(4))
    rows = (all_classes.labels == 1).numpy()
    assert np.array_equal(
        all_classes.parameters["subhalo_mass"][rows], cdm.parameters["subhalo_mass"]
    )


def test_seeds_classes_and_surveys_draw_differently():
    x = [
        simulate(survey, 3, seed=seed).parameters["source_x"]
        for survey, seed in (
            ("model_ii", 1),
            ("model_ii", 2),
            ("model_iii", 1),
            ("model_ii", 2**40 + 1),
        )
    ]
    assert len(np.unique(np.concatenate(x))) == 12


def test_every_image_carries_class_parameters_and_provenance():
    batch = simulate("model_i", 7, seed=3, start=2)
    assert batch.labels.tolist() == [2, 0, 1, 2, 0, 1, 2]
    assert batch.parameters["index"].tolist() == [0, 1, 1, 1, 2, 2, 2]
    assert (batch.parameters["seed"] == 3).all()
    json.dumps(batch.attributes)
    assert batch.attributes["survey"] == "model_i"
    assert set(batch.attributes["units"]) == set(batch.parameters)
    assert get_survey(json.loads(batch.attributes["survey_definition"])) == get_survey("model_i")
    assert batch.images.shape == (7, 1, 150, 150)
    assert batch.images.dtype == torch.float32


def test_the_simulator_travels_to_worker_processes():
    simulator = Simulator("model_ii", seed=5, threads=2)
    images = simulator.batch(range(40)).images
    assert torch.equal(pickle.loads(pickle.dumps(simulator)).batch(range(40)).images, images)


def test_without_substructure_the_parts_recombine_into_another_survey(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "base: model_ii\n"
        "instrument: {base: hst_wfc3_f160w, num_pix: 40}\n"
        "source: {base: disc_mag20, magnitude: {uniform: [19, 21]}, R_sersic: 2e-1}\n"
        "substructure: {cdm: [{base: point_subhalos, number: 3}], no_sub: []}\n"
    )
    survey = get_survey(path)
    assert survey.name == "mine"
    assert survey.class_names == ("cdm", "no_sub")
    batch = simulate(survey, 10, noise="instrument")
    assert batch.images.shape == (10, 1, 40, 40)
    assert batch.parameters["subhalo_mass"].shape == (10, 3)
    assert get_survey(describe_survey(survey)) == survey
    assert get_part("instruments", "hst_wfc3_f160w").pixel_scale == 0.08


def test_shipped_surveys_are_listed_with_a_description():
    surveys = list_surveys()
    assert {"model_i", "model_ii", "model_iii"} <= set(surveys)
    assert all(surveys.values())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"instrument": "euclid_viss"}, "euclid_vis"),
        ({"instrument": {"num_pix": 64}}, "pixel_scale"),
        ({"instrument": {"base": "euclid_vis", "num_pix": 1e9}}, "4096"),
        (
            {"source": {"base": "disc_mag20", "amp": 3}},
            "one of amp, magnitude: amp and magnitude are given",
        ),
        ({"source": {"base": "disc_mag20", "x": {"unifrom": [0, 1]}}}, "uniform"),
        ({"source": {"base": "disc_mag20", "x": {"uniform": [1, 0]}}}, "lies above"),
        ({"source": {"base": "disc_mag20", "x": "left"}}, "source.x"),
        ({"source": {"base": "disc_mag20", "radius": 3}}, "radius"),
        ({"substructure": {"cdm": ["strings"]}}, "strings"),
        ({"substructure": {"cdm": ["vortex", "vortex"]}}, "two parts"),
        ({"z_lens": 2}, "z_lens"),
        ({"z_source": 100}, "z_source must be at most 20"),
        *(
            ({"instrument": {"base": "euclid_vis", name: value}}, f"{name} is for composed surveys")
            for name, value in (
                ("sky", 0.1),
                ("noise_map", "noise.fits"),
                ("noise_correlation", 0.1),
                ("psf_file", "psf.fits"),
                ("psf_beta", 2),
                ("supersampling", 2),
            )
        ),
        (
            {"substructure": {"axion": [{"base": "vortex", "log10_m_axion": 1e-22}]}},
            "is a logarithm",
        ),
        ({"distances": "comoving"}, "angular_diameter"),
        ({"cosmology": {"H0": -1}}, "H0"),
        ({"cosmology": {"H0": 0.7}}, "H0"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_wrong_field_in_a_survey_is_named(change, message):
    with pytest.raises(InputError, match=message):
        get_survey({"base": "model_ii", **change})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "- 1\n",
        "a: [\n",
        "\x00\x01",
        "base: model_x\n",
        "!!python/object/apply:os.system ['true']\n",
    ],
)
def test_a_file_that_is_no_survey_is_refused(tmp_path, text):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(InputError):
        get_survey(path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"survey": "model_2"}, "did you mean 'model_i"),
        ({"survey": "missing.yaml"}, "does not exist"),
        ({"classes": ["wimp"]}, "wimp"),
        ({"classes": []}, "empty"),
        ({"noise": "loud"}, "noise mode"),
        ({"seed": -1}, "seed"),
        ({"seed": 1.5}, "seed"),
        ({"backend": "jax"}, "backend"),
        ({"device": "gpu"}, "device"),
        ({"dtype": torch.float16}, "dtype"),
    ],
)
def test_a_wrong_argument_is_named(arguments, message):
    with pytest.raises(InputError, match=message):
        Simulator(**{"survey": "model_ii", **arguments})


def test_more_point_masses_than_fit_into_memory_are_refused_before_it_is_taken():
    many = {"cdm": [{"base": "point_subhalos", "number": 10**7}]}
    with pytest.raises(InputError, match="point_subhalos: room for 10,000,000 in each of 6"):
        Simulator({"base": "model_ii", "substructure": many}).batch(range(6))


@pytest.mark.parametrize("numbers", [[-1], [2**40], [2**63], ["one"], [[1, 2]]])
def test_numbers_that_no_image_has_are_refused(numbers):
    with pytest.raises(InputError, match="whole numbers from 0 to"):
        Simulator("model_ii").batch(numbers)


def test_no_images_is_an_error():
    with pytest.raises(InputError, match="n must be"):
        simulate("model_ii", 0)


@pytest.mark.parametrize(("survey", "noise"), [("model_i", "original"), ("model_ii", "instrument"), ("model_ii", "none")])  # fmt: skip
@pytest.mark.parametrize("backend", ["numba", "torch"])
@pytest.mark.parametrize("side", [31, 48])
def test_a_central_part_has_the_pixels_of_the_whole_image(survey, noise, backend, side):
    simulator = Simulator(survey, seed=3, noise=noise, backend=backend)
    whole = simulator.batch(range(6)).images
    part = simulator.batch(range(6), side=side).images
    first = -((side - whole.shape[-1]) // 2)
    rows = slice(first, first + side)
    assert torch.equal(part, whole[..., rows, rows])


def test_a_central_part_larger_than_the_image_is_refused():
    with pytest.raises(InputError, match="crop 65"):
        Simulator("model_ii").batch(range(3), side=65)


@pytest.mark.parametrize(
    ("part", "field", "value", "message"),
    [
        ("instrument", "read_noise", -1.0, "read_noise"),
        ("instrument", "background_rms", -0.1, "background_rms"),
        ("instrument", "exposure_time", 0.0, "exposure_time must be positive"),
        ("instrument", "exposure_time", Uniform(-1.0, 2.0), "exposure_time must be positive"),
        ("deflector", "theta_E", -1.0, "theta_E must not be negative"),
        ("deflector", "mass", Uniform(-1e12, 1e12), "mass must not be negative"),
        ("source", "amp", -3.0, "amp must not be negative"),
        ("source", "R_sersic", 0.0, "R_sersic must be positive"),
        ("source", "n_sersic", Normal(-1.0, 0.1), "n_sersic must be positive"),
    ],
)
def test_what_is_negative_in_no_camera_and_no_galaxy_is_refused(part, field, value, message):
    given = getattr(get_survey("model_ii"), part)
    with pytest.raises(InputError, match=message):
        dataclasses.replace(given, **{field: value})


@pytest.mark.parametrize("kind", [PointSubhalos, Vortex])
def test_no_dark_matter_weighs_less_than_nothing(kind):
    with pytest.raises(InputError, match="mass must not be negative"):
        kind(mass=-1e8)


@pytest.mark.parametrize("n", [2.5, "3", True])
def test_a_number_of_images_is_a_whole_number(n):
    with pytest.raises(InputError, match="n must be a whole number"):
        simulate("model_ii", n)


def test_precision_may_be_said_in_words():
    assert simulate("model_ii", 3, dtype="float64").images.dtype == torch.float64
    with pytest.raises(InputError, match=r"torch\.float32 or torch\.float64, not 'half'"):
        simulate("model_ii", 3, dtype="half")


@pytest.mark.parametrize("scale", [0, -1.0])
def test_lenses_do_not_repel(scale):
    with pytest.raises(InputError, match="deflection_scale must be positive"):
        get_any_survey({"base": "model_ii", "deflection_scale": scale})


@pytest.mark.parametrize("name", ["model_i", "hst", "mine.yaml"])
def test_a_survey_by_its_name_alone_is_told_how_to_be_had(name):
    with pytest.raises(InputError, match=rf"simulation\.get_any_survey\('{name}'\) returns"):
        Survey(name)


@pytest.mark.parametrize(
    "numbers", [[0.5, 1.7], [True, False], np.array([0, 1], bool), ["1"], [[0, 1]], [2**64], 3]
)
def test_what_are_no_image_numbers_are_no_other_image(numbers):
    for ask in (Simulator("model_ii").batch, Simulator("model_ii").parameters):
        with pytest.raises(InputError, match="image numbers must be a list of whole numbers"):
            ask(numbers)


@pytest.mark.parametrize("side", [0, -1, 10.5, "5", True])
def test_a_side_is_a_number_of_pixels(side):
    with pytest.raises(InputError, match=r"^side must be "):
        Simulator("model_ii").batch([0], side=side)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"noise": None}, "unknown noise mode 'None'"),
        ({"noise": 3}, "unknown noise mode '3'"),
        ({"backend": 1}, "unknown backend '1'"),
        ({"classes": [1]}, "unknown class of survey model_ii '1'"),
        ({"classes": 3}, "classes must be names of classes, not 3"),
        ({"threads": -1}, "threads must be at least 1, not -1"),
        ({"threads": "2"}, "threads must be a whole number, not '2'"),
        ({"threads": 1.5}, "threads must be a whole number, not 1.5"),
    ],
)
def test_options_of_another_type_are_told(options, said):
    with pytest.raises(InputError) as error:
        Simulator("model_ii", **options)
    assert str(error.value).startswith(said)
