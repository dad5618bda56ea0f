"""DeepLense's Model IV, faithful and fair; and what it needs of surveys: bands, magnitudes, a library's bands, lenses of one class."""

import dataclasses
import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import yaml

from haloformer.cli import main
from haloformer.data.dataset import LensDataset
from haloformer.data.dataset_writer import DatasetWriter
from haloformer.data.transforms import noise_model
from haloformer.errors import InputError
from haloformer.simulation import Simulator, describe_survey, get_any_survey
from haloformer.simulation.components.component import LightComponent
from haloformer.simulation.composed import ComposedRenderer
from haloformer.simulation.galaxies import read_library
from haloformer.simulation.simulator import scaled_images

ZERO_POINT = 24.0  # of Euclid VIS in lenstronomy 1.9.2
FIXED = {"axion": [], "cdm": [], "no_sub": []}
BANDS = {"g": {"source_magnitude": 22}, "r": {"source_magnitude": 19}, "i": {"source_magnitude": 18}}  # fmt: skip
DARK = {"lens_light": None, "bands": BANDS}  # without a lens galaxy's light


def changed(**changes):
    """Model IV with other fields."""
    return get_any_survey({"base": "model_iv", "name": "model_iv", **changes})


def lens_light(**changes):
    light = [{"kind": "sersic", "R_sersic": 0.4}, {"kind": "sersic", "R_sersic": 0.5}]
    return {"light": light, **changes}


@pytest.fixture
def galaxy10(tmp_path):
    """A file with the layout of Galaxy10_DECals.h5, whose channels differ."""
    rng = np.random.default_rng(3)
    axis = np.arange(256) - 127.5
    pixels = np.zeros((6, 256, 256, 3), np.uint8)
    for k in range(6):
        for band in range(3):
            x, y = axis - 10 * band, axis[:, None] + 5 * k
            spot = 120 * np.exp(-(x**2 / (2 * (15 + 5 * k) ** 2) + y**2 / (2 * (10 + 8 * band) ** 2)))  # fmt: skip
            pixels[k, :, :, band] = (20 + spot + 3 * rng.normal(size=spot.shape)).clip(0, 255)
    with h5py.File(tmp_path / "Galaxy10_DECals.h5", "w") as file:
        file["images"] = pixels
        file["ans"] = np.array([6, 1, 6, 6, 6, 6], np.uint8)
        file["redshift"] = np.array([0.01, 0.01, 0.02, 0.015, np.nan, 0.019])
        file["pxscale"] = np.full(6, 0.262)
    return str(tmp_path / "Galaxy10_DECals.h5")


def pictures(path, **changes):
    """The source as the original has it."""
    given = {"kind": "galaxy", "path": path, "whole": True, "band": "each", "R": 0.32, "galaxy_class": 6, "z_max": 0.02, "split": "all", "flip": False, "interpolation": "bilinear", "angle": {"uniform": [-np.pi, np.pi]}}  # fmt: skip
    light = [{**given, **changes}]
    return {"light": light, "x": {"uniform": [-0.3, 0.3]}, "y": {"uniform": [-0.3, 0.3]}}


# --- the surveys ------------------------------------------------------------------------------------------------------


def test_images_have_three_bands_scaled_together_to_a_maximum_of_1():
    simulator = Simulator("model_iv", seed=1)
    batch = simulator.batch(range(6))
    assert simulator.image_shape == (3, 64, 64)
    assert batch.images.shape == (6, 3, 64, 64)
    assert simulator.attributes["bands"] == ["g", "r", "i"]
    assert torch.equal(batch.images.amax((1, 2, 3)), torch.ones(6))
    assert batch.images.min() == 0
    assert (batch.images.amax((2, 3)).amin(1) < 0.5).all()  # one scale for all bands
    assert simulator.attributes["image_unit"] == "0 or more, 1 at the maximum"
    assert Simulator("model_iv", noise="instrument").attributes["image_unit"] == "counts/s"


def test_the_ring_of_model_iv_tells_its_class():
    drawn = Simulator("model_iv", seed=2).parameters(range(900))
    label = np.arange(900) % 3
    for k in (0, 1):
        assert drawn["lens_theta_E"][label == k] == pytest.approx(0.951, abs=1e-3)
        assert drawn["gamma1"][label == k] == pytest.approx(0.0317, abs=1e-4)
    smooth = drawn["lens_theta_E"][label == 2]
    assert np.median(smooth) == pytest.approx(0.835, abs=0.02)
    assert smooth.std() / smooth.mean() == pytest.approx(2 * 20 / 260, rel=0.12)
    assert (drawn["gamma1"][label == 2] == 0).all()
    assert (drawn["matched_kappa"] == 0).all()


def test_deflections_are_those_of_the_original_ray_tracing_to_another_redshift():
    """Both lenses through lenstronomy's multi-plane, with the redshifts and cosmologies of the original scripts."""
    cosmology = pytest.importorskip("astropy.cosmology")
    from lenstronomy.Cosmo.lens_cosmo import LensCosmo
    from lenstronomy.LensModel.lens_model import LensModel

    def traced(names, keywords, cosmo):
        model = LensModel(
            names, z_source=1.0, lens_redshift_list=[0.5] * len(names), multi_plane=True, z_source_convention=2.5, cosmo=cosmo
        )  # fmt: skip
        return model.alpha(np.array([0.9, -0.4, 1.4]), np.array([0.3, 1.1, -0.8]), keywords)

    halo = cosmology.FlatLambdaCDM(69.7, 0.2814)
    flat = cosmology.FlatLambdaCDM(70, 0.3)
    # Names of lenstronomy's coordinates: positions, and shears about the origin.
    place = {"e1": 0, "e2": 0, "center_x": 0, "center_y": 0}
    shear = {"gamma1": 0.05, "gamma2": 0}
    theirs = {
        "cdm": traced(["SIE", "SHEAR"], [{"theta_E": 1.5, **place}, shear], halo),
        "no_sub": traced(["SIE"], [{"theta_E": LensCosmo(0.5, 2.5, flat).sis_sigma_v2theta_E(260.0), **place}], flat),
    }  # fmt: skip
    no_sub = [{"kind": "epl", "sigma_v": 260}, {"kind": "shear"}]
    drawn = Simulator(changed(lens_of_class={"no_sub": no_sub})).parameters(range(3))
    survey = changed()
    x, y = (torch.tensor(v)[None, None].double() for v in ([0.9, -0.4, 1.4], [0.3, 1.1, -0.8]))
    for name, row in (("cdm", 1), ("no_sub", 2)):
        own = {k: torch.tensor(v[row : row + 1]).double() for k, v in drawn.items()}
        alpha_x, alpha_y = torch.zeros(1, 1, 3), torch.zeros(1, 1, 3)
        for part, before in ((survey.lens[0], "lens_"), (survey.lens[1], "")):
            more = part.deflection(x, y, {k: own[before + k] for k in part.UNITS})
            alpha_x, alpha_y = alpha_x + more[0], alpha_y + more[1]
        found = torch.stack([alpha_x, alpha_y]).reshape(2, 3).numpy()
        assert found == pytest.approx(np.array(theirs[name]), rel=5e-4, abs=1e-4)


def test_rings_in_images_have_these_radii():
    source = {"light": [{"kind": "sersic", "R_sersic": 0.02}], "x": 0, "y": 0}
    lens = [{"kind": "epl", "sigma_v": 280}, {"kind": "shear"}]
    survey = changed(source=source, substructure=FIXED, lens_of_class={"no_sub": lens}, **DARK)
    image = Simulator(survey, noise="none").batch(range(3)).images[:, 2].double().numpy()
    axis = (np.arange(64) - 31.5) * 0.101
    x, y = np.meshgrid(axis, axis)
    angle = np.arctan2(y, x)

    def radius(image, where):
        return (np.hypot(x, y) * image)[where].sum() / image[where].sum()

    across, along = np.abs(np.cos(angle)) > 0.9, np.abs(np.sin(angle)) > 0.9
    assert radius(image[2], across | along) == pytest.approx(0.835 * (280 / 260) ** 2, rel=0.02)
    assert radius(image[0], across | along) == pytest.approx(0.951, rel=0.02)
    # A shear stretches the ring along one axis; the lens of no_sub has none.
    assert radius(image[0], across) - radius(image[0], along) > 0.03
    assert abs(radius(image[2], across) - radius(image[2], along)) < 0.002


def test_model_iv_fair_draws_one_lens_for_all_classes():
    drawn = Simulator("model_iv_fair", seed=3, paired=True).parameters(range(9))
    own = ("granules", "tnfw", "matched", "index", "seed")
    for name, values in drawn.items():
        if not name.startswith(own):
            assert np.array_equal(values[0::3], values[1::3], equal_nan=True), name
            assert np.array_equal(values[0::3], values[2::3], equal_nan=True), name
    assert np.ptp(drawn["lens_theta_E"]) > 0.02
    assert (np.abs(drawn["matched_kappa"][1::3]) > 1e-5).all()
    survey = get_any_survey("model_iv_fair")
    assert not survey.lens_of_class
    assert survey.matching == "moments"
    assert survey.substructure == get_any_survey("model_iv").substructure


def test_lenses_of_no_class_are_told_by_their_size_in_model_iv_fair():
    survey = dataclasses.replace(get_any_survey("model_iv_fair"), substructure={"axion": (), "cdm": (), "no_sub": ()})  # fmt: skip
    drawn = Simulator(survey, seed=3).parameters(range(600))["lens_theta_E"]
    means = [drawn[k::3].mean() for k in range(3)]
    assert np.ptp(means) < 4 * drawn.std() * np.sqrt(2 / 200)


def test_halos_are_as_many_as_the_mass_function_has_with_and_without_suppression():
    drawn = Simulator("model_iv", seed=5).parameters(range(30))
    many = np.isfinite(drawn["tnfw_mass"]).sum(1)
    kpc = 6.10  # per arcsec at z = 0.5
    # Σ_sub, and half of what lies along the line of sight, times the number per Σ between 10⁷ and 10¹⁰.
    subhalos = 0.0365 * (0.1**-0.9 - 100**-0.9) / 0.9 * np.pi * (5 * kpc) ** 2
    assert subhalos < many[1::3].mean() < 1.6 * subhalos
    assert 2 < many[0::3].mean() < 0.05 * subhalos
    assert (many[2::3] == 0).all()
    assert (drawn["granules_log10_m_axion"][0::3] == -21).all()
    assert drawn["tnfw_mass"].shape[1] == 1400  # whatever is in a batch


@pytest.mark.parametrize("name", ["model_iv", "model_iv_fair"])
def test_an_image_is_the_same_in_every_batch(name):
    simulator = Simulator(name, seed=4)
    together, alone = simulator.batch(range(7)), simulator.batch([5])
    assert (together.images[5] - alone.images[0]).abs().max() < 1e-5
    centre = simulator.batch([5], side=20).images[0]
    assert (centre - together.images[5, :, 22:42, 22:42]).abs().max() < 1e-5
    for name, values in alone.parameters.items():
        np.testing.assert_allclose(values[0], together.parameters[name][5], rtol=1e-9)


# --- bands and magnitudes ---------------------------------------------------------------------------------------------


def test_fluxes_of_bands_are_those_of_their_magnitudes(monkeypatch):
    # A lens that lenses nothing is no survey.
    monkeypatch.setattr("haloformer.simulation.simulator.check_visible", lambda survey: None)
    source = {"light": [{"kind": "sersic", "R_sersic": 0.4}], "x": 0, "y": 0}
    nothing = [{"kind": "epl", "theta_E": 1e-6}]  # a lens that lenses nothing
    given = {"source": source, "lens": nothing, "lens_of_class": {}, "substructure": FIXED}
    each = {"source_magnitude": 19, "lens_light_magnitudes": [40, 40]}
    bands = {"a": {**each, "source_magnitude": 22}, "b": each, "c": {**each, "lens_light_magnitudes": [21, 20]}}  # fmt: skip
    survey = changed(lens_light=lens_light(), bands=bands, **given)
    image = Simulator(survey, noise="none", dtype=torch.float64).batch([2]).images[0]

    def counts(magnitude):
        return 10 ** (-0.4 * (magnitude - ZERO_POINT))

    assert image[0].sum().item() == pytest.approx(counts(22), rel=0.01)
    assert image[1].sum().item() == pytest.approx(counts(19), rel=0.01)
    assert (image[2] - image[1]).sum().item() == pytest.approx(counts(21) + counts(20), rel=0.01)
    assert (image[1] / image[0]).mean().item() == pytest.approx(10**1.2, rel=1e-6)


def test_magnitudes_of_bands_may_be_drawn_and_those_of_all_bands_stand_in():
    bands = {"a": {"source_magnitude": {"uniform": [20, 22]}}, "b": {}}
    source = {"light": [{"kind": "sersic"}], "magnitude": 21}
    survey = changed(bands=bands, source=source, lens_light=lens_light(magnitudes=[17, {"uniform": [18, 20]}]))  # fmt: skip
    drawn = Simulator(survey, seed=1).parameters(range(60))
    flux = drawn["source_flux"]
    assert flux.shape == (60, 2)
    assert flux[:, 1] == pytest.approx(10 ** (0.4 * 3))
    assert flux[:, 0].min() > 10 ** (0.4 * 2)
    assert flux[:, 0].max() < 10 ** (0.4 * 4)
    assert len(np.unique(flux[:, 0])) == 60
    light = drawn["lens_light_1_sersic_flux"]
    assert (light[:, 0] != light[:, 1]).all()  # drawn for each band
    assert drawn["lens_light_sersic_flux"] == pytest.approx(10 ** (0.4 * 7))


def test_noise_of_bands_is_independent_and_that_of_the_camera():
    survey = changed(substructure=FIXED, **DARK)
    given = {"seed": 6}
    noisy = Simulator(survey, noise="instrument", **given).batch(range(30)).images
    noise = noisy - Simulator(survey, noise="none", **given).batch(range(30)).images
    sky = noise[:, :, :8].double().transpose(0, 1).flatten(1)
    assert sky.std(1).numpy() == pytest.approx(np.full(3, 0.005869), rel=0.03)
    correlation = np.corrcoef(sky.numpy())
    assert np.abs(correlation[np.triu_indices(3, 1)]).max() < 0.05


def test_the_first_band_has_the_noise_of_a_survey_without_bands():
    source = {"light": [{"kind": "sersic"}], "magnitude": 19}
    one = changed(source=source, bands={}, lens_light=None)
    three = changed(source=source, bands={"g": {}, "r": {}}, lens_light=None)
    images = [Simulator(each, noise="instrument").batch(range(3)).images for each in (one, three)]
    assert images[0].shape == (3, 1, 64, 64)
    assert torch.equal(images[0][:, 0], images[1][:, 0])
    assert not torch.equal(images[0][:, 0], images[1][:, 1])


@pytest.mark.parametrize("mode", ["subtracted", "present"])
def test_light_of_a_lens_that_follows_the_arcs_does_so_in_each_band(mode):
    survey = changed(bands=BANDS, lens_light={"mode": mode}, substructure=FIXED, scaled="none")
    image = Simulator(survey, noise="none", dtype=torch.float64).batch([0]).images[0]
    assert (image[1] / image[0])[image[0] != 0].numpy() == pytest.approx(10**1.2, rel=1e-6)
    assert ((image == 0).sum() > 0) == (mode == "subtracted")


# --- against lenstronomy ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["model_iv", "model_iv_fair"])
def test_images_are_those_of_lenstronomy(name, galaxy10):
    pytest.importorskip("lenstronomy")
    halos = [{"kind": "tnfw", "Sigma_sub": 0.02, "mean_sheet": True}]
    survey = get_any_survey({"base": name, "source": pictures(galaxy10), "substructure": {"cdm": halos, "no_sub": []}})  # fmt: skip
    given = {"seed": 2, "noise": "none", "dtype": torch.float64}
    ours = Simulator(survey, **given).batch(range(4))
    theirs = Simulator(survey, backend="lenstronomy", **given).batch(range(4))
    assert theirs.images.shape == (4, 3, 64, 64)
    peak = theirs.images.amax((2, 3))
    assert ((ours.images - theirs.images).abs().amax((2, 3)) / peak).max() < 1e-6
    assert np.isfinite(ours.parameters["tnfw_mass"][0]).any()


def test_light_of_the_lens_is_that_of_the_original_in_lenstronomy():
    light_model = pytest.importorskip("lenstronomy.LightModel.light_model")
    from haloformer.simulation.psf import observe

    faint = {k: {"source_magnitude": 45, "lens_light_magnitudes": m} for k, m in zip("gri", ([17, 28], [18, 28], [19, 28]))}  # fmt: skip
    survey = changed(bands=faint, substructure=FIXED)
    ours = Simulator(survey, noise="none", dtype=torch.float64).batch([0]).images[0]
    model = light_model.LightModel(["SERSIC_ELLIPSE"] * 2)
    shapes = [
        {"R_sersic": 0.4, "n_sersic": 2.3, "e1": 0, "e2": 0.05, "center_x": 0, "center_y": 0},
        {"R_sersic": 1.5, "n_sersic": 1.2, "e1": 0, "e2": 0.3, "center_x": 0, "center_y": 0},
    ]
    unit = model.total_flux([{"amp": 1, **shape} for shape in shapes], norm=True)
    axis = (np.arange(64) - 31.5) * 0.101
    x, y = (each.ravel() for each in np.meshgrid(axis, axis))
    for band, magnitudes in enumerate(((17, 28), (18, 28), (19, 28))):
        amplitudes = 10 ** (-0.4 * (np.array(magnitudes) - ZERO_POINT)) / np.array(unit)
        keywords = [{"amp": amp, **shape} for amp, shape in zip(amplitudes, shapes)]
        brightness = torch.from_numpy(model.surface_brightness(x, y, keywords).reshape(1, 64, 64))
        theirs = observe(brightness, survey.instrument)[0]
        assert ((ours[band] - theirs).abs().max() / theirs.max()).item() < 1e-6


# --- Galaxy10 ---------------------------------------------------------------------------------------------------------


def test_the_published_file_is_read_as_the_original_reads_it(galaxy10):
    library = read_library(galaxy10, galaxy_class=6, z_max=0.02, band=1, whole=True)
    # The class, and redshifts that are known and below 0.02: not 0.02 itself.
    assert [name.rpartition("[")[2] for name in library.names] == ["0]", "3]", "5]"]
    with h5py.File(galaxy10) as file:
        pixels = file["images"][3, :, :, 1].astype(float)
    light = pixels - np.median(pixels[:50, :50])
    assert library.images[1] == pytest.approx(light / light.sum(), rel=1e-5, abs=1e-10)
    assert (library.images[1] < 0).any()
    some = read_library(galaxy10, galaxy_class=6, z_max=0.02, band=1, which=(0, 2), whole=True)
    assert some.names == (library.names[0], library.names[2])
    with pytest.raises(InputError, match="holds 3 galaxies that are wanted; which has 54"):
        read_library(galaxy10, galaxy_class=6, z_max=0.02, which=(2, 54))


def test_each_band_shows_its_own_channel_of_the_picture(galaxy10):
    """Brightness of an unlensed source against lenstronomy's INTERPOL of the file's pixels, 0.0025″ each."""
    pytest.importorskip("lenstronomy")
    from lenstronomy.LightModel.Profiles.interpolation import Interpol

    survey = changed(source=pictures(galaxy10))
    (part,) = survey.source.light
    drawn = Simulator(survey, seed=8).parameters(range(4))
    own = {k: torch.tensor(drawn[f"source_galaxy_{k}"][:1]) for k in part.UNITS}
    x, y = (torch.tensor(v).double()[None, None] for v in ([0.05, -0.11, 0.2], [0.02, 0.13, -0.1]))
    row = (0, 3, 5)[int(drawn["source_galaxy_galaxy"][0])]
    with h5py.File(galaxy10) as file:
        stamp = file["images"][row].astype(float)
    answers = []
    for band in range(3):
        found = part.in_band(band).brightness(x, y, own).reshape(3).double().numpy()
        image = stamp[:, :, band] - np.median(stamp[:50, :50, band])
        amp = 1 / (image.sum() * 0.0025**2)
        theirs = Interpol().function(
            x.numpy().ravel(), y.numpy().ravel(), image=image, amp=amp, center_x=0, center_y=0, phi_G=drawn["source_galaxy_angle"][0], scale=0.0025
        )  # fmt: skip
        assert found == pytest.approx(theirs, rel=1e-5, abs=1e-5 * np.abs(theirs).max())
        answers.append(found)
    assert np.abs(answers[0] - answers[2]).max() > 0.05 * answers[0].max()


def test_the_documented_yaml_is_the_originals_selection():
    page = (Path(__file__).parents[2] / "docs" / "deeplense.md").read_text(encoding="utf-8")
    block = page.partition("# mine.yaml\n")[2].partition("```")[0]
    survey = get_any_survey(yaml.safe_load(block))
    (part,) = survey.source.light
    chosen = (2, 3, *range(5, 18), *range(19, 32), *range(35, 52), 54, 55)
    assert len(chosen) == 47
    assert part.which == chosen
    given = pictures("Galaxy10_DECals.h5", which=chosen)["light"][0]
    assert part == type(part)(**given)
    assert survey.source.x == get_any_survey("model_iv").source.x


def test_model_iv_with_the_users_galaxies_is_simulated_from_the_command_line(galaxy10, tmp_path):
    (tmp_path / "mine.yaml").write_text(
        f"""base: model_iv
source:
  light:
    - kind: galaxy
      path: {galaxy10}
      galaxy_class: 6
      z_max: 0.02
      which: [0, 1, 2]
      whole: true
      band: each
      R: 0.32
      angle: {{uniform: [-3.14159265, 3.14159265]}}
      flip: false
      split: all
      interpolation: bilinear
  x: {{uniform: [-0.3, 0.3]}}
  y: {{uniform: [-0.3, 0.3]}}
"""
    )
    out = tmp_path / "mine.h5"
    assert main(["simulate", str(tmp_path / "mine.yaml"), "--n", "3", "--out", str(out)]) == 0
    with LensDataset(out) as dataset:
        assert dataset.image_shape == (3, 64, 64)
        assert list(dataset.attributes["bands"]) == ["g", "r", "i"]


# --- files, training, descriptions ------------------------------------------------------------------------------------


def test_a_dataset_has_the_bands_of_its_survey(tmp_path):
    simulator = Simulator("model_iv", seed=1)
    batch = simulator.batch(range(3))
    with DatasetWriter(
        tmp_path / "x.h5",
        n=3,
        image_shape=simulator.image_shape,
        class_names=simulator.class_names,
        attributes=simulator.attributes,
    ) as writer:
        writer.write(batch)
    with LensDataset(tmp_path / "x.h5") as dataset:
        assert dataset.image_shape == (3, 64, 64)
        assert list(dataset.attributes["bands"]) == ["g", "r", "i"]
        assert torch.equal(dataset[1][0], batch.images[1])
        assert set(simulator.units) == set(dataset.parameter_names)
        assert dataset.parameters("source_flux").shape == (3, 3)
        definition = json.loads(dataset.attributes["survey_definition"])
    assert get_any_survey(definition) == simulator.survey
    assert list(definition["bands"]) == ["g", "r", "i"]


def test_surveys_of_before_are_described_as_before():
    described = describe_survey(get_any_survey("hst"))
    assert not {"bands", "lens_of_class", "scaled"} & set(described)
    assert "bands" not in Simulator("hst").attributes


def test_training_on_bands_works_and_what_cannot_says_so(tmp_path, capsys):
    small = ["--model", "resnet_nano", "--epochs", "1", "--epoch_size", "12", "--val_size", "6", "--batch_size", "6", "--device", "cpu"]  # fmt: skip
    (tmp_path / "few.yaml").write_text(
        "base: model_iv_fair\nsubstructure: {cdm: [{kind: tnfw}], no_sub: []}\n"
    )
    train = ["train", "--data", str(tmp_path / "few.yaml"), *small]
    assert main([*train, "--out", str(tmp_path / "run")]) == 0
    capsys.readouterr()
    for refused in (["--physics", "residual"], ["--physics", "detail"], ["--fresh_noise", "original"]):  # fmt: skip
        assert main([*train, *refused, "--out", str(tmp_path / "no")]) == 2
        said = capsys.readouterr().err.strip().splitlines()
        assert len([line for line in said if "haloformer train:" in line]) == 1
    assert noise_model("model_iv", "instrument").kind == "instrument"


def test_images_are_scaled_as_they_are_said_to_be():
    images = torch.tensor([[[[-2.0, 1.0]], [[0.0, 4.0]]], [[[0.0, 0.0]], [[0.0, 0.0]]]])
    first = {how: scaled_images(images, how)[0].flatten().tolist() for how in ("none", "max", "min_max", "clipped_max")}  # fmt: skip
    assert first["none"] == [-2, 1, 0, 4]
    assert first["max"] == [-0.5, 0.25, 0, 1]
    assert first["min_max"] == pytest.approx([0, 0.5, 1 / 3, 1])
    assert first["clipped_max"] == [0, 0.25, 0, 1]
    assert torch.isfinite(scaled_images(images, "max")).all()
    unscaled = dataclasses.replace(get_any_survey("model_iv"), scaled="none")
    noisy = [Simulator(unscaled, noise=noise).batch([0]).images for noise in ("original", "instrument")]  # fmt: skip
    assert torch.equal(*noisy)
    assert noisy[0].max() > 1.5


def test_a_band_may_only_show_what_a_component_says_it_looks_like(galaxy10):
    alike, each = (changed(source=pictures(galaxy10, band=band)) for band in (1, "each"))
    assert len(alike.band_looks(alike.source.light)) == 1
    assert len(each.band_looks(each.source.light)) == 3
    assert len(ComposedRenderer(get_any_survey("model_iv"), torch.float32).looks) == 1
    assert LightComponent.in_band(alike.source.light[0], 2) is alike.source.light[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bands": {"g": {"source_magnitudes": 20}}}, "source_magnitude"),
        ({"bands": {"g r": {"source_magnitude": 20}}}, "band name 'g r'"),
        ({"bands": {"g": {}}}, "band g: a source needs one of snr, flux, magnitude and amp"),
        ({"bands": {"g": {"source_magnitude": "bright"}}}, "source_magnitude"),
        ({"bands": {"g": {"source_magnitude": 20, "lens_light_magnitudes": [20]}}}, "has 1 numbers for 2 components"),
        ({"bands": {"g": {"source_magnitude": 20}}}, "light needs magnitudes"),
        ({"lens_light": None}, "band g: lens_light_magnitudes, but lens_light has no components"),
        ({"lens_light": {"light": []}}, "at least one component in light"),
        ({"lens_light": {"light": [{"kind": "sersic"}], "magnitudes": [1, 2]}}, "has 2 numbers for 1 components"),
        ({"lens_light": {"light": [{"kind": "sersic"}], "mode": "subtracted"}}, "lens_light"),
        ({"lens_light": "bright"}, "lens_light: must be a mapping"),
        ({"instrument": {"num_pix": 32, "pixel_scale": 0.1, "background_rms": 0.1}}, "needs instrument.magnitude_zero_point"),
        ({"source": {"light": [{"kind": "spiral"}], "snr": 10}}, "source_magnitude, where the source has snr"),
        ({"source": {"light": [{"kind": "spiral"}], "snr": 10}, "bands": {"g": {"lens_light_magnitudes": [1, 2]}}}, "snr is that of one band"),
        ({"lens_of_class": {"wdm": [{"kind": "epl"}]}}, "lens_of_class: class"),
        ({"lens_of_class": {"cdm": [{"kind": "multipoles"}]}}, "cdm has multipoles, which lens has not"),
        ({"lens_of_class": {"cdm": [{"kind": "epl"}, {"kind": "epl"}]}}, "two components of one kind"),
        ({"lens": [{"kind": "epl", "sigma_v": -1}]}, "sigma_v must be positive"),
        ({"scaled": "peak"}, "scaled"),
    ],
)  # fmt: skip
def test_a_survey_that_cannot_be_is_refused_in_one_line(changes, message):
    with pytest.raises(InputError, match=message) as caught:
        changed(**changes)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_missing_is_told_in_one_line(tmp_path, capsys):
    (tmp_path / "mine.yaml").write_text(
        "base: model_iv\nsource: {light: [{kind: galaxy, path: Galaxy10_DECals.h5, whole: true}]}\n"
    )
    refused = ["simulate", str(tmp_path / "mine.yaml"), "--n", "3", "--out", str(tmp_path / "x.h5")]
    assert main(refused) == 2
    said = capsys.readouterr().err.strip()
    assert f"Galaxy10_DECals.h5 does not exist: there is none in {Path.cwd()}" in said
    assert "\n" not in said


def test_the_survey_is_printed_as_yaml_that_makes_it_again(tmp_path, capsys):
    assert main(["surveys", "model_iv"]) == 0
    (tmp_path / "model_iv.yaml").write_text(capsys.readouterr().out)
    assert get_any_survey(tmp_path / "model_iv.yaml") == get_any_survey("model_iv")
