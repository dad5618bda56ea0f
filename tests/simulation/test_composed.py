"""Composed surveys: their images are lenstronomy's, belong to their number, and give away nothing but the detail of dark matter."""

import dataclasses
import json
from typing import ClassVar

import h5py
import numpy as np
import pytest
import torch
from scipy import stats

from haloformer.cli import main
from haloformer.data.dataset import LensDataset
from haloformer.data.dataset_writer import DatasetWriter
from haloformer.data.transforms import noise_model
from haloformer.errors import InputError
from haloformer.simulation import Simulator, describe_survey, get_any_survey, get_survey
from haloformer.simulation.components import EPL
from haloformer.simulation.composed import ComposedSurvey
from haloformer.simulation.composed.lenstronomy import lens_profiles
from haloformer.simulation.composed.matching import _circles
from haloformer.simulation.composed.planes import in_lens_plane, outside_lens_plane
from haloformer.simulation.composed.survey import component_parameters
from haloformer.simulation.instruments import background_rms
from haloformer.simulation.simulator import scaled_images
from haloformer.simulation.sources import sersic_b, sersic_flux
from small_survey import SMALL, small

COMPOSED = (
    "alexander_2020_a",
    "alexander_2020_b",
    "common_task",
    "model_i_fair",
    "ladder_1_camera",
    "ladder_2_halos",
    "ladder_3_multipoles",
    "ladder_4_clumpy",
    "hst",
    "euclid",
    "jwst",
    "rubin",
    "roman",
    "model_iv",
    "model_iv_fair",
)


def parameters_of(batch, rows):
    return {name: values[rows] for name, values in batch.parameters.items()}


@pytest.mark.parametrize("name", COMPOSED)
def test_every_composed_survey_makes_images_that_belong_to_their_number(name):
    simulator = Simulator(name, seed=4)
    assert isinstance(simulator.survey, ComposedSurvey)
    batch, alone = simulator.batch(range(5)), simulator.batch([4])
    assert torch.isfinite(batch.images).all()
    # To rounding: vector instructions end the last digit otherwise for other lengths of arrays.
    assert (batch.images[4] - alone.images[0]).abs().max() < 1e-5 * batch.images[4].abs().max()
    drawn = simulator.parameters(range(5))
    assert drawn.keys() == batch.parameters.keys() == simulator.units.keys()
    for name, values in batch.parameters.items():
        one = alone.parameters[name][0]
        np.testing.assert_allclose(values, drawn[name], rtol=1e-6, atol=1e-12, err_msg=name)
        np.testing.assert_allclose(values[4], one, rtol=1e-6, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("name", COMPOSED)
def test_a_composed_survey_is_built_again_from_its_description(name):
    survey = get_any_survey(name)
    described = json.loads(json.dumps(describe_survey(survey)))
    assert get_any_survey(described) == survey


@pytest.mark.parametrize("matching", ["none", "mass", "moments"])
@pytest.mark.parametrize(("dtype", "most"), [(torch.float64, 1e-10), (torch.float32, 1e-3)])
def test_images_are_those_of_lenstronomy(matching, dtype, most):
    pytest.importorskip("lenstronomy")
    given = {"seed": 2, "noise": "none"}
    survey = small(matching=matching)
    ours = Simulator(survey, dtype=dtype, **given).batch(range(6)).images
    theirs = Simulator(survey, dtype=torch.float64, backend="lenstronomy", **given).batch(range(6))
    peak = theirs.images.flatten(1).amax(1)
    assert ((ours - theirs.images).abs().flatten(1).amax(1) / peak).max() < most


@pytest.fixture(scope="module")
def halos_in_their_planes():
    """A survey with halos before and behind the lens and in its plane, its parameters, and where the sources of the rays lie."""
    survey = small(
        matching="none",
        substructure={
            "cdm": [
                {"kind": "line_of_sight", "mass_low": 2e9, "abundance": 4},
                {"kind": "tnfw", "Sigma_sub": 0.1, "mass_low": 2e9},
            ]
        },
    )
    simulator = Simulator(survey, seed=5, dtype=torch.float64)
    parameters = simulator.parameters(range(3))
    x, y = (torch.tensor(a)[None] for a in np.meshgrid(*[np.linspace(-1.9, 1.9, 30)] * 2))
    double = torch.float64, torch.device("cpu")
    plane = in_lens_plane(survey, parameters, *double)(*(z.expand(3, 30, 30) for z in (x, y)))
    outside = outside_lens_plane(survey, parameters, x, y, torch.float64)
    ours = [z - a - b for z, a, b in zip((x, y), plane, outside[1:])]
    return survey, parameters, (x, y), np.stack([z.numpy() for z in ours], axis=1), outside


def test_halos_outside_the_lens_plane_deflect_as_in_multi_plane_ray_tracing(halos_in_their_planes):
    lens_model = pytest.importorskip("lenstronomy.LensModel.lens_model")
    cosmology = pytest.importorskip("astropy.cosmology").FlatLambdaCDM(70, 0.3, Tcmb0=0)
    survey, parameters, grid, ours, outside = halos_in_their_planes
    in_plane = dataclasses.replace(
        survey, substructure={"cdm": tuple(part for part in survey.added if part.IN_LENS_PLANE)}
    )
    for i in range(3):
        profiles = lens_profiles(in_plane, parameters, i)
        names, keywords = [name for name, _ in profiles], [words for _, words in profiles]
        redshifts = [0.5] * len(names)
        for side in ("foreground", "background"):
            own = {k: parameters[f"line_of_sight_{side}_{k}"][i] for k in ("x", "y", "Rs", "alpha_Rs", "r_trunc", "z")}  # fmt: skip
            for k in np.flatnonzero(np.isfinite(own["Rs"])):
                names.append("TNFW")
                redshifts.append(own["z"][k])
                words = {name: own[name][k] for name in ("Rs", "alpha_Rs", "r_trunc")}
                keywords.append({**words, "center_x": own["x"][k], "center_y": own["y"][k]})
        assert len(names) > 8
        model = lens_model.LensModel(
            names, z_source=1.5, lens_redshift_list=redshifts, multi_plane=True, cosmo=cosmology
        )
        theirs = model.ray_shooting(*(z.numpy().ravel() for z in grid), keywords)
        error = ours[i] - np.reshape(theirs, (2, 30, 30))
        signal = np.stack([z[i].numpy() for z in outside[1:]])
        assert np.sqrt((signal**2).mean()) > 2e-3
        assert np.sqrt((error**2).mean()) < 1e-4


def test_what_halos_outside_the_lens_plane_pull_is_given_up_too():
    halos = [{"kind": "line_of_sight", "mass_low": 1e9, "abundance": 3}]
    parameters = Simulator(small(substructure={"cdm": halos}), seed=5).parameters(range(6))
    assert (np.abs(parameters["matched_x"]) > 1e-4).all()
    assert (parameters["matched_kappa"] > 1e-4).all()


def test_lenstronomys_backend_refuses_halos_outside_the_lens_plane():
    pytest.importorskip("lenstronomy")
    survey = small(substructure={"cdm": [{"kind": "line_of_sight", "abundance": 3}]})
    with pytest.raises(InputError, match="line_of_sight"):
        Simulator(survey, dtype=torch.float64, backend="lenstronomy").batch(range(1))


def test_images_of_one_number_are_one_lens_in_every_class_if_they_are_paired():
    images = Simulator(small(), seed=3, noise="none", paired=True).batch(range(6))
    for name, values in images.parameters.items():
        # What is drawn of substructure, and given up for it, is each class's own.
        if name.startswith(("vortex", "point_masses", "tnfw", "matched")):
            continue
        assert np.array_equal(values[0], values[1]), name
        assert np.array_equal(values[0], values[2]), name
    assert not torch.equal(images.images[0], images.images[2])
    alone = Simulator(small(), seed=3, noise="none").batch(range(6))
    assert alone.parameters["lens_theta_E"][0] != alone.parameters["lens_theta_E"][2]


def test_paired_images_have_the_same_noise():
    survey = small(substructure={"a": [], "b": []})
    noisy = Simulator(survey, seed=3, paired=True).batch(range(2)).images
    assert torch.equal(noisy[0], noisy[1])


def test_signal_to_noise_of_the_brightest_pixel_is_what_was_drawn():
    survey = small(substructure={"no_sub": []})
    batch = Simulator(survey, seed=5, noise="none").batch(range(8))
    peak = batch.images.flatten(1).amax(1).double().numpy()
    sigma = np.sqrt(background_rms(survey.instrument) ** 2 + peak / 1000)
    assert peak / sigma == pytest.approx(batch.parameters["snr"], rel=1e-5)


def test_brightness_does_not_depend_on_the_substructure():
    paired = Simulator(small(matching="none"), seed=1, paired=True).parameters(range(6))
    assert paired["source_flux"][0] == paired["source_flux"][1] == paired["source_flux"][2]


def mean_deflection(survey, parameters, row):
    """The mean convergence inside the ring, and the mean pull, of all that is beside the smooth lens."""
    one = {name: values[row : row + 1] for name, values in parameters.items()}
    lens = component_parameters(survey.lens[0], one)
    x, y = _circles(lens)
    alpha = torch.zeros_like(x), torch.zeros_like(y)
    parts = [part for part in survey.mass_components().values() if part not in survey.lens]
    for part in parts:
        own = {n: torch.from_numpy(v) for n, v in component_parameters(part, one).items()}
        if torch.stack([v.isfinite().any() for v in own.values()]).any():
            more = part.deflection(x, y, own)
            alpha = alpha[0] + more[0], alpha[1] + more[1]
    dx, dy = x - lens["x"][0], y - lens["y"][0]
    ring = x.shape[1] // 2
    inside = (alpha[0] * dx + alpha[1] * dy)[0, ring].mean() / lens["theta_E"][0] ** 2
    return inside.item(), alpha[0].mean().item(), alpha[1].mean().item()


def test_matched_moments_are_those_of_the_substructure():
    survey = small()
    parameters = Simulator(survey, seed=7).parameters(range(9))
    for row in range(9):
        _, pull_x, pull_y = mean_deflection(survey, parameters, row)
        assert parameters["matched_x"][row] == pytest.approx(pull_x, abs=2e-5)
        assert parameters["matched_y"][row] == pytest.approx(pull_y, abs=2e-5)
    assert (np.abs(parameters["matched_kappa"][:2]) > 1e-3).all()
    assert parameters["matched_kappa"][2] == 0  # no_sub gives up nothing


def test_a_lens_gives_up_the_slope_that_a_mass_in_its_middle_brings():
    """A central mass and a shallower lens together deflect along the radius as the lens did alone."""
    vortex = {"kind": "vortex", "mass": 5e10, "log10_m_axion": -22.5}
    given = small(substructure={"axion": [vortex], "no_sub": []}, lens=[{"kind": "epl", "theta_E": 1.2}, {"kind": "shear"}])  # fmt: skip
    parameters = Simulator(given, seed=7, paired=True).parameters(range(2))
    assert parameters["matched_slope"][0] > 0.05
    assert parameters["matched_slope"][1] == 0
    radii, angle = np.linspace(0.6, 1.4, 9)[:, None] * 1.2, np.linspace(0, 2 * np.pi, 64)[None, :-1]
    cos, sin = np.cos(angle) + 0 * radii, np.sin(angle) + 0 * radii
    x, y = (torch.tensor(np.stack([radii * way] * 2)) for way in (cos, sin))
    plane = in_lens_plane(given, parameters, torch.float64, torch.device("cpu"))(x, y)
    radial = [(p[0] * cos + p[1] * sin).mean(1).numpy() for p in zip(*plane)]
    kappa = parameters["matched_kappa"][0] * radii[:, 0]
    alone = EPL.deflection(x[:1], y[:1], {k: torch.tensor(v[:1]) for k, v in component_parameters(given.lens[0], parameters).items()})  # fmt: skip
    alone = (alone[0][0] * torch.tensor(cos) + alone[1][0] * torch.tensor(sin)).mean(1).numpy()
    assert np.abs(radial[1] - alone).max() < 1e-12  # of no_sub
    brought = parameters["vortex_theta_E"][0] ** 2 * 100 / radii[:, 0]
    assert np.abs(radial[0] - kappa - alone).max() < 0.04 * brought.max()


def test_a_lens_of_a_kind_without_a_slope_gives_up_a_sheet_instead():
    @dataclasses.dataclass(frozen=True)
    class Round(EPL):
        UNITS: ClassVar = {k: v for k, v in EPL.UNITS.items() if k != "gamma"}

        @staticmethod
        def deflection(x, y, parameters):
            return EPL.deflection(x, y, {**parameters, "gamma": 0 * parameters["theta_E"] + 2})

        def on_grid(self, axis, parameters):
            return super().on_grid(axis, {**parameters, "gamma": 0 * parameters["theta_E"] + 2})

    survey = dataclasses.replace(small(), lens=(Round(theta_E=1.2), small().lens[1]))
    parameters = Simulator(survey, seed=7).batch(range(3)).parameters
    assert (parameters["matched_slope"] == 0).all()
    assert parameters["matched_kappa"][0] > 1e-3


def test_matched_mass_leaves_the_same_mass_within_the_einstein_radius():
    survey = small(matching="mass")
    parameters = Simulator(survey, seed=7).parameters(range(6))
    lens = component_parameters(survey.lens[0], parameters)
    for row in range(6):
        inside, _, _ = mean_deflection(survey, parameters, row)
        one = {name: values[row : row + 1] for name, values in lens.items()}
        lighter = {**one, "theta_E": one["theta_E"] - parameters["matched_theta_E"][row]}
        radius = one["theta_E"]
        setting = Simulator(survey).survey.cosmology
        from haloformer.simulation.components import EPL, Setting

        there = Setting.of(setting, np.array([0.5]), np.array([1.5]))
        area = np.pi * radius**2 * there.sigma_crit
        before = EPL.mass_within(radius, one, there) / area
        after = EPL.mass_within(radius, lighter, there) / area + inside
        assert after == pytest.approx(before, rel=1e-4)


def test_components_of_one_class_have_one_axion():
    mass = {"uniform": [-23, -22]}
    both = [
        {"kind": "granules", "log10_m_axion": mass, "pixels": 32},
        {"kind": "tnfw", "log10_m_axion": mass},
    ]
    drawn = Simulator(small(substructure={"axion": both, "no_sub": []}), seed=1).parameters(
        range(8)
    )
    of_granules, of_halos = (drawn[f"{k}_log10_m_axion"][::2] for k in ("granules", "tnfw"))
    assert np.array_equal(of_granules, of_halos)
    assert np.ptp(of_halos) > 0.1
    both[1] = {"kind": "tnfw", "log10_m_axion": -22.5}
    with pytest.raises(InputError, match="different log10_m_axion, where there is one axion"):
        small(substructure={"axion": both})


@pytest.mark.parametrize("matching", ["mass", "moments"])
def test_a_lens_lighter_than_its_substructure_is_refused(matching):
    heavy = {"cdm": [{"kind": "point_masses", "mass": 1e12}], "no_sub": []}
    with pytest.raises(InputError, match=r"weighs more than (twice )?the lens"):
        Simulator(small(matching=matching, substructure=heavy)).batch(range(2))


def test_a_light_lens_in_much_substructure_is_one_image_of_many_and_no_error():
    """In tens of thousands of images of jwst there is such a lens: no run may end by it."""
    lens = [{"kind": "epl", "theta_E": 0.3}]
    heavy = {"cdm": [{"kind": "point_masses", "mass": 1.3e9, "number": 25, "radius": 0.2}]}
    survey = small(lens=lens, substructure={**heavy, "no_sub": []}, matching="moments")
    batch = Simulator(survey, seed=1, noise="none").batch(range(2))
    assert batch.images.isfinite().all()
    with pytest.raises(InputError, match="weighs more than the lens"):
        Simulator(dataclasses.replace(survey, matching="mass"), seed=1).batch(range(2))


@pytest.mark.parametrize("gamma", [1.1, 2.9])
def test_substructure_without_mass_leaves_lenses_of_any_slope_as_they_are(gamma):
    lens = [{"kind": "epl", "theta_E": 1.2, "gamma": gamma}]
    light = {"cdm": [{"kind": "point_masses", "mass": 1e-3}], "no_sub": []}
    survey = small(lens=lens, substructure=light)
    images = Simulator(survey, noise="none", paired=True).batch(range(2)).images
    assert (images[0] - images[1]).abs().max() < 1e-4 * images.max()


@pytest.mark.parametrize(
    "redshifts",
    [
        {"z_lens": {"uniform": [0.5, 1]}, "z_source": {"uniform": [0.2, 0.7]}},
        {"z_source": None, "z_beyond": 0.05},
    ],
)
def test_sources_that_mostly_lie_in_front_of_their_lenses_are_refused(redshifts):
    with pytest.raises(InputError, match="a source lies behind its lens") as caught:
        Simulator(small(**redshifts))
    assert "\n" not in str(caught.value)
    Simulator(small(z_lens=0.5, z_source=None, z_beyond=0.1))


@pytest.mark.parametrize("backend", ["numba", "torch"])
@pytest.mark.parametrize(
    ("name", "value"), [("matched_x", np.nan), ("matched_slope", np.nan), ("tnfw_x", np.inf)]
)
def test_substructure_that_is_no_number_is_no_black_image(backend, name, value):
    survey = small(substructure={"cdm": [{"kind": "tnfw", "Sigma_sub": 0.1}]})
    simulator = Simulator(survey, noise="none", backend=backend)
    parameters = simulator.parameters(range(2))
    bad = {**parameters, name: np.full_like(parameters[name], value)}
    with pytest.raises(InputError, match=f"{name.removeprefix('tnfw_')} is (no number|infinite)"):
        simulator._renderer.images(bad)


@pytest.mark.parametrize("mode", ["subtracted", "present"])
def test_lens_light_is_in_front_of_the_arcs_or_leaves_its_noise(mode):
    light = {"mode": mode, "mask_radius": 0.3}
    without = Simulator(small(), seed=1, noise="none").batch(range(3)).images
    images = Simulator(small(lens_light=light), seed=1, noise="none").batch(range(3)).images
    centre = images[:, 0, 19:21, 19:21]
    if mode == "present":
        assert (images > without).all()
        assert (centre > without[:, 0, 19:21, 19:21] + 0.01).all()
    else:
        assert (centre == 0).all()
        assert 0 < (images - without)[:, 0, :10].abs().max() < 0.1 * without.max()


def test_photons_of_subtracted_light_are_in_the_noise():
    light = {"mode": "subtracted", "mask_radius": 0.0, "contrast": 30.0, "residual": 0, "residual_centre": 0, "residual_moments": 0}  # fmt: skip
    survey = small(lens_light=light, substructure={"no_sub": []})
    given = {"seed": 1}
    noise = [Simulator(s, **given).batch(range(9)).images - Simulator(s, noise="none", **given).batch(range(9)).images for s in (survey, small(substructure={"no_sub": []}))]  # fmt: skip
    ratio = noise[0][:, 0, 15:25, 15:25].std() / noise[1][:, 0, 15:25, 15:25].std()
    assert ratio > 1.5


def test_all_parameters_travel_in_a_dataset_file_batch_by_batch(tmp_path):
    simulator = Simulator(small(), seed=1)
    with DatasetWriter(
        tmp_path / "x.h5",
        n=5,
        image_shape=simulator.image_shape,
        class_names=simulator.class_names,
        attributes=simulator.attributes,
    ) as writer:
        for numbers in ([0, 1, 2], [3, 4]):  # the second without the third class
            writer.write(simulator.batch(numbers))
    with LensDataset(tmp_path / "x.h5") as dataset:
        assert set(simulator.units) == set(dataset.parameter_names)
        mass = dataset.parameters("tnfw_mass")
        assert np.isfinite(mass[1]).any()
        assert np.isnan(mass[0]).all()
        assert json.loads(dataset.attributes["survey_definition"])["lens"][0]["kind"] == "epl"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lens": []}, "lens"),
        ({"lens": [{"kind": "shear"}]}, "first component must be a lens galaxy"),
        ({"lens": [{"kind": "epl"}, {"kind": "epl"}]}, "two components of one kind"),
        ({"lens": [{"kind": "eple"}]}, "kind"),
        ({"lens": [{"kind": "epl", "theta_e": 1}]}, "theta_E"),
        ({"lens": [{"kind": "epl", "theta_E": -1}]}, "theta_E must be positive"),
        ({"substructure": {}}, "names no class"),
        ({"substructure": {"cdm": [{"kind": "epl"}]}}, "epl is a component of the lens"),
        ({"z_source": 0.3}, "z_lens"),
        ({"z_source": None}, "one of z_source, z_beyond: none of them"),
        ({"source": {"light": [], "snr": 10}}, "at least one component"),
        ({"source": {"light": [{"kind": "sersic"}]}}, "one of snr, flux, magnitude and amp"),
        ({"source": {"light": [{"kind": "sersic"}], "snr": -3}}, "snr must be positive"),
        ({"source": {"light": [{"kind": "sersic"}], "amp": 0}}, "amp must be positive"),
        ({"source": {"light": [{"kind": "clumpy"}], "amp": 5}}, "one Sérsic profile: use flux"),
        ({"source": {"light": [{"kind": "sersic"}], "snr": 9, "radius": -1}}, "radius must not be"),
        (
            {"source": {"light": [{"kind": "sersic"}], "snr": 9, "x": 0, "y": 0, "radius": 1}},
            "x and y, or radius, not both",
        ),
        ({"instrument": {**SMALL["instrument"], "sky": -1}}, "sky"),
        ({"scaled": "log"}, "scaled"),
        ({"lens_light": {"mode": "subtracted"}, "scaled": "max"}, "needs scaled: none"),
        ({"source": {"light": [{"kind": "sersic"}], "magnitude": 20}}, "magnitude_zero_point"),
        ({"matching": "all"}, "matching"),
        ({"substructure": {"../no_sub": []}}, "class name"),
        ({"z_lens": {"uniform": [0.3, 1.6]}}, "needs z_lens"),
        ({"z_lens": 2000, "z_source": 3000}, "z_lens must be at most 20, not 2000"),
        ({"z_source": {"uniform": [1, 100]}}, "z_source must be at most 20, not 100"),
        ({"z_source": -1.0, "z_lens": 0.5}, "z_lens|z_source"),
        ({"lens": [{"kind": "epl", "theta_E": {"normal": [1, 0.3]}}]}, "truncated_normal"),
        ({"lens": [{"kind": "epl", "gamma": {"uniform": [0.5, 2]}}]}, "between 1 and 3"),
        ({"lens": [{"kind": "epl", "gamma": 3}]}, "between 1 and 3"),
        (
            {"lens_light": {"mode": "subtracted"}, "original_noise": "double_poisson"},
            "needs original_noise: instrument",
        ),
        ({"lens_light": {"mode": "subtracted", "mask_radius": 3}}, "leaves nothing of images"),
        ({"source": {"light": [{"kind": "sersic"}], "snr": 9, "shares": [0]}}, "all are 0"),
        *(
            (
                {
                    "instrument": {**SMALL["instrument"], **field},
                    "original_noise": "double_poisson",
                },
                "needs original_noise: instrument, not double_poisson",
            )
            for field in ({"noise_map": "noise.fits"}, {"noise_correlation": 0.1})
        ),
        (
            {"instrument": {**SMALL["instrument"], "noise_correlation": {"uniform": [0.1, 0.5]}}},
            r"must be below 0\.5",
        ),
        *(
            (
                {"substructure": {"axion": [{"kind": kind, "log10_m_axion": 1e-22}]}},
                "is a logarithm",
            )
            for kind in ("granules", "soliton", "tnfw", "vortex")
        ),
        ({"substructure": {"wdm": [{"kind": "tnfw", "log10_m_hm": 1e9}]}}, "is a logarithm"),
        (
            {"lens": [{"kind": "epl", "e1": 2.0, "e2": {"normal": [0, 0.1]}}]},
            r"an ellipticity of 2: at most 0\.429",
        ),
        ({"source": {"light": [{"kind": "sersic", "e1": 0.9, "e2": 0.9}], "snr": 9}}, r"of 1\.27"),
        *(
            (
                {"lens": [{"kind": "epl"}, {"kind": kind}], "substructure": {"no_sub": []}},
                f"lens: {kind} belongs to substructure",
            )
            for kind in ("tnfw", "line_of_sight")
        ),
        *(
            ({"substructure": {"cdm": [{"kind": "tnfw", "slope": slope}]}}, "slope must be below 0")
            for slope in (1.9, 60, 0, -6)
        ),
        *(
            (
                {"substructure": {"cdm": [{"kind": "point_masses", "mass": {"power_law": law}}]}},
                message,
            )
            for law, message in (
                ([1e6, 1e10, 60], "slope of power_law must be -20 to 20, not 60"),
                ([1e6, 1e10, -60], "slope of power_law must be -20 to 20, not -60"),
                ([1e6, 1e20, 20], "power_law of slope 20 between .* beyond what computers count"),
            )
        ),
        ({"substructure": {"axion": [{"kind": "granules", "pixels": 100000}]}}, "at most 2048"),
        (
            {"z_lens": {"uniform": [0.5, 1]}, "z_source": {"uniform": [0.2, 0.4]}},
            "z_source lies in front of z_lens",
        ),
        *(
            (
                {"instrument": {**SMALL["instrument"], "psf_fwhm": fwhm, "psf_truncation": cut}},
                "psf_truncation of .* cuts a point-spread function",
            )
            for fwhm, cut in ((0.1, 0.1), (0.3, 0.9), (0.1, 1.1))
        ),
    ],
)
def test_a_survey_that_cannot_be_is_refused_in_one_line(changes, message):
    with pytest.raises(InputError, match=message) as caught:
        small(**changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "part",
    [
        {"kind": "point_masses", "number": 10**8},
        {"kind": "nfw", "number": 10**8},
        {"kind": "soliton", "number": 10**8},
        {"kind": "tnfw", "mass_low": 1e3},
        {"kind": "line_of_sight", "mass_low": 1e3},
    ],
)
def test_more_halos_than_fit_into_memory_are_refused_before_it_is_taken(part):
    survey = small(substructure={"cdm": [part]})
    with pytest.raises(InputError, match=f"{part['kind']}: room for .* a smaller batch_size"):
        Simulator(survey).parameters(range(256))


@pytest.mark.parametrize("log10_m_axion", [-28.9, -9.1])
@pytest.mark.parametrize("kind", ["granules", "soliton", "tnfw", "vortex"])
def test_axions_of_any_mass_that_is_allowed_make_images(kind, log10_m_axion):
    part = {"kind": kind, "log10_m_axion": log10_m_axion}
    survey = small(substructure={"axion": [part]}, matching="none")
    assert Simulator(survey, noise="none").batch(range(2)).images.isfinite().all()


@pytest.mark.parametrize("flux", [1e20, 1e300])
@pytest.mark.parametrize("noise", ["none", "instrument"])
@pytest.mark.parametrize("backend", ["numba", "torch"])
def test_images_that_are_no_numbers_are_refused_and_noise_does_not_hide_them(backend, noise, flux):
    survey = small(source={"light": [{"kind": "sersic"}], "flux": flux})
    with pytest.raises(InputError, match="3 of 3 images have pixels that are NaN, or above"):
        Simulator(survey, backend=backend, noise=noise).batch(range(3))


def test_what_knows_only_one_lens_and_source_says_so():
    with pytest.raises(InputError, match="hst is composed of components"):
        get_survey("hst")
    with pytest.raises(InputError, match="its lens never varies"):
        Simulator("model_i", paired=True)
    with pytest.raises(InputError, match="scenes are in"):
        Simulator("hst").scenes([0])


def test_a_survey_of_ones_own_is_simulated_from_the_command_line(tmp_path, capsys):
    (tmp_path / "mine.yaml").write_text(
        "base: hst\nname: mine\nsubstructure: {cdm: [{kind: tnfw, Sigma_sub: 0.1}], no_sub: []}\n"
    )
    out = tmp_path / "mine.h5"
    assert main(["simulate", str(tmp_path / "mine.yaml"), "--n", "4", "--out", str(out)]) == 0
    with LensDataset(out) as dataset:
        assert dataset.class_names == ("cdm", "no_sub")
        assert dataset.attributes["survey"] == "mine"
    triplets = tmp_path / "pairs.h5"
    again = ["simulate", str(tmp_path / "mine.yaml"), "--n", "4", "--out", str(triplets)]
    assert main([*again, "--paired"]) == 0
    with LensDataset(triplets) as dataset:
        assert dataset.attributes["paired"] is True
        radius = dataset.parameters("lens_theta_E")
        assert (radius[0], radius[2]) == (radius[1], radius[3])
        assert radius[0] != radius[2]
    refused = ["simulate", "model_ii", "--n", "3", "--paired", "--out", str(tmp_path / "x.h5")]
    assert main(refused) == 2
    assert "its lens never varies" in capsys.readouterr().err
    (tmp_path / "wrong.yaml").write_text("base: hst\nlens: [{kind: epl, theta_E: 0}]\n")
    refused = [
        "simulate",
        str(tmp_path / "wrong.yaml"),
        "--n",
        "4",
        "--out",
        str(tmp_path / "x.h5"),
    ]
    assert main(refused) == 2
    assert "theta_E must be positive" in capsys.readouterr().err
    assert not (tmp_path / "x.h5").exists()


def test_a_users_noise_map_is_the_noise_with_and_without_correlation(tmp_path):
    fits = pytest.importorskip("astropy.io.fits")
    sigma = np.full((40, 40), 0.02, np.float32)
    sigma[:, 20:] = 0.1
    fits.writeto(tmp_path / "noise.fits", sigma)
    for further in ({}, {"noise_correlation": 0.15}):
        camera = {**SMALL["instrument"], "noise_map": str(tmp_path / "noise.fits"), **further}
        survey = small(instrument=camera, substructure={"no_sub": []})
        noisy = Simulator(survey, seed=1).batch(range(20)).images
        noise = noisy - Simulator(survey, seed=1, noise="none").batch(range(20)).images
        assert noise[..., :20].std().item() == pytest.approx(0.02, rel=0.05)
        assert noise[..., 20:].std().item() == pytest.approx(0.1, rel=0.05)


def test_signal_to_noise_is_that_of_a_users_noise_map(tmp_path):
    fits = pytest.importorskip("astropy.io.fits")
    fits.writeto(tmp_path / "noise.fits", np.full((40, 40), 0.02, np.float32))
    camera = {**SMALL["instrument"], "noise_map": str(tmp_path / "noise.fits")}
    survey = small(instrument=camera, substructure={"no_sub": []})
    batch = Simulator(survey, seed=5, noise="none").batch(range(8))
    peak = batch.images.flatten(1).amax(1).double().numpy()
    assert peak / 0.02 == pytest.approx(batch.parameters["snr"], rel=1e-5)  # no photons beside it


def with_sky(sky, **changes):
    return small(instrument={**SMALL["instrument"], "sky": sky}, **changes)


def test_a_sky_that_is_kept_lifts_images_and_its_photons_are_in_the_noise():
    given = {"seed": 1, "noise": "none"}
    classes = {"substructure": {"no_sub": []}}
    dark = small(source={"flux": 20.0, "light": [{"kind": "sersic"}]}, **classes)
    light = dataclasses.replace(dark, instrument=with_sky(0.5).instrument)
    lifted = Simulator(light, **given).batch(range(20)).images
    assert lifted - 0.5 == pytest.approx(Simulator(dark, **given).batch(range(20)).images, abs=1e-6)
    noise = Simulator(light, seed=1).batch(range(20)).images - lifted
    expected = torch.sqrt(0.01**2 + lifted / 1000)
    assert (noise / expected).std().item() == pytest.approx(1, rel=0.02)
    assert (noise / expected).mean().item() == pytest.approx(0, abs=0.02)
    theirs = Simulator(light, seed=1, noise="none", backend="lenstronomy").batch(range(2)).images
    assert theirs == pytest.approx(lifted[:2], rel=1e-4)


@pytest.mark.parametrize("original_noise", ["instrument", "double_poisson"])
def test_signal_to_noise_counts_the_photons_of_a_sky_that_is_kept(original_noise):
    survey = with_sky(0.5, substructure={"no_sub": []}, original_noise=original_noise)
    batch = Simulator(survey, seed=5, noise="none").batch(range(8))
    peak = batch.images.flatten(1).amax(1).double().numpy() - 0.5
    times = 2 if original_noise == "double_poisson" else 1
    sigma = np.sqrt(background_rms(survey.instrument) ** 2 + times * (peak + 0.5) / 1000)
    assert peak / sigma == pytest.approx(batch.parameters["snr"], rel=1e-5)


def test_a_sky_that_is_kept_is_refused_where_fits_would_not_know_of_it():
    camera = {"base": "deeplense_150", "sky": 0.1}
    with pytest.raises(InputError, match=r"instrument\.sky is for composed surveys"):
        get_any_survey({"base": "model_i", "instrument": camera})


@pytest.mark.parametrize(("scaled", "low"), [("max", None), ("min_max", 0.0)])
def test_images_are_scaled_as_released_after_the_noise_and_by_the_whole_image(scaled, low):
    plain, survey = with_sky(0.5), with_sky(0.5, scaled=scaled)
    counts = Simulator(plain, seed=1).batch(range(6)).images
    simulator = Simulator(survey, seed=1)
    images = simulator.batch(range(6)).images
    least = counts.amin((2, 3), keepdim=True) if low is not None else torch.zeros(6, 1, 1, 1)
    wanted = (counts - least) / (counts - least).amax((2, 3), keepdim=True)
    assert torch.equal(images, wanted)
    assert (images.amax((2, 3)) == 1).all()
    assert torch.equal(simulator.batch(range(6), side=20).images, images[..., 10:30, 10:30])
    assert "1 at the maximum" in simulator.attributes["image_unit"]
    for noise in ("instrument", "none"):  # in counts/s as ever
        other = Simulator(survey, seed=1, noise=noise)
        same = Simulator(plain, seed=1, noise=noise)
        assert torch.equal(other.batch(range(3)).images, same.batch(range(3)).images)
        assert other.attributes["image_unit"] == "counts/s"


def test_an_image_without_light_is_not_scaled():
    nothing = torch.zeros(2, 1, 4, 4)
    for scaled in ("max", "min_max", "clipped_max"):
        assert torch.equal(scaled_images(nothing, scaled), nothing)


def test_fresh_noise_of_scaled_images_is_refused_unless_it_is_the_cameras():
    survey = with_sky(0.5, scaled="max")
    with pytest.raises(InputError, match="scaled after the noise"):
        noise_model(survey, "original")
    assert noise_model(survey, "instrument") == noise_model(with_sky(0.5), "original")


def test_a_source_lies_at_its_radius_and_is_as_bright_as_its_amp():
    light = {"kind": "sersic", "R_sersic": 0.3, "n_sersic": 1.5}
    survey = small(source={"light": [light], "radius": {"uniform": [0.1, 0.4]}, "amp": 50.0})
    drawn = Simulator(survey, seed=1).parameters(range(300))
    radius = np.hypot(drawn["source_x"], drawn["source_y"])
    assert stats.kstest(radius, stats.uniform(0.1, 0.3).cdf).pvalue > 1e-3
    angle = np.arctan2(drawn["source_y"], drawn["source_x"]) % (2 * np.pi)
    assert stats.kstest(angle, stats.uniform(0, 2 * np.pi).cdf).pvalue > 1e-3
    assert drawn["source_flux"] == pytest.approx(np.full(300, 50 * sersic_flux(0.3, 1.5)))
    brightest = Simulator(survey, seed=1, noise="none").batch(range(3)).images.max().item()
    assert 0.1**2 * 50 < brightest < 0.1**2 * 50 * np.exp(sersic_b(1.5))


def test_a_changed_camera_is_that_of_the_survey():
    survey = small().with_camera(num_pix=30)
    assert dataclasses.replace(survey) == survey
    assert Simulator(survey).batch([0]).images.shape == (1, 1, 30, 30)


def test_point_spread_function_and_noise_map_travel_with_the_images(tmp_path):
    fits = pytest.importorskip("astropy.io.fits")
    noise = np.full((40, 40), 0.02, np.float32)
    noise[3, 4] = 0.5
    fits.writeto(tmp_path / "noise.fits", noise)
    kernel = np.outer([1, 2, 1], [1, 2, 1]) / 16
    fits.writeto(tmp_path / "psf.fits", kernel)
    camera = {
        **SMALL["instrument"],
        "noise_map": str(tmp_path / "noise.fits"),
        "psf_file": str(tmp_path / "psf.fits"),
        "psf_pixel_scale": 0.1,
    }
    described = {**SMALL, "instrument": camera, "substructure": {"no_sub": []}}
    (tmp_path / "mine.yaml").write_text(json.dumps(described))
    for workers in ([], ["--workers", "1", "--shard_size", "2"]):
        out = tmp_path / f"{len(workers)}.h5"
        command = ["simulate", str(tmp_path / "mine.yaml"), "--n", "3", "--out", str(out), *workers]
        assert main(command) == 0
        with LensDataset(out) as dataset:
            assert dataset.calibration.keys() == {"psf", "noise_map"}
            assert dataset.calibration["psf"] == pytest.approx(kernel)
            assert np.array_equal(dataset.calibration["noise_map"], noise)


def test_the_cameras_own_kernel_travels_too():
    simulator = Simulator("hst")
    psf = simulator.calibration["psf"]
    assert psf.sum() == pytest.approx(1, abs=1e-6)
    assert np.unravel_index(psf.argmax(), psf.shape) == (29, 29)  # three rays a pixel, to 0.5″
    assert simulator.calibration.keys() == {"psf"}
    assert Simulator("model_i").calibration["psf"].shape == (7, 7)


@pytest.mark.parametrize("kind", ["number", "cube", "text", "elsewhere"])
def test_a_calibration_that_is_none_is_refused_in_one_line(tmp_path, kind):
    path = tmp_path / "x.h5"
    batch = Simulator(small(), seed=1).batch(range(3))
    with DatasetWriter(path, n=3, image_shape=(1, 40, 40), class_names=batch.class_names) as writer:
        writer.write(batch)
    with LensDataset(path) as dataset:
        assert dataset.calibration == {}
    with h5py.File(path, "r+") as file:
        if kind == "number":
            file["calibration"] = 3.0
        elif kind == "cube":
            file["calibration/psf"] = np.zeros((2, 3, 3), np.float32)
        elif kind == "text":
            file["calibration/psf"] = "abc"
        else:
            file["calibration"] = h5py.ExternalLink("/etc/passwd", "/")
    with LensDataset(path) as dataset, pytest.raises(InputError, match="calibration") as caught:
        dataset.calibration  # noqa: B018 - it reads
    assert "\n" not in str(caught.value)


def test_a_lens_that_is_no_number_is_refused_and_no_kernel_reads_beyond_its_tables():
    survey = small(substructure={"cdm": [{"kind": "tnfw", "Sigma_sub": 0.1}]})
    simulator = Simulator(survey, seed=1, noise="none")
    parameters = dict(simulator.parameters(range(3)))
    for name in ("lens_theta_E", "source_x"):
        bad = {**parameters, name: np.array([1.0, np.nan, 1.0])}
        with pytest.raises(InputError, match="no number in some image"):
            simulator._renderer.images(bad)
    # What comes out is no number, too, but memory is not read that is not there.
    for name in ("tnfw_x", "tnfw_alpha_Rs", "source_sersic_R_sersic"):
        values = parameters[name].copy()
        values[...] = np.where(np.isfinite(values), np.nan, values)
        if name.startswith("tnfw"):
            values = np.where(np.isfinite(parameters["tnfw_Rs"]), np.nan, values)
        images = simulator._renderer.images({**parameters, name: values}).images
        assert images.shape == (3, 40, 40)
