"""A fit in other packages' words, read back as where a fit begins; and as regions of DS9."""

import json
import re

import numpy as np
import pytest

import haloformer
from haloformer.cli import main
from haloformer.errors import InputError
from haloformer.fitting.reallens import Prior
from haloformer.fitting.reallens.autolens import autolens_profile, to_autolens
from haloformer.fitting.reallens.lenstronomy import to_lenstronomy
from haloformer.fitting.reallens.masses import Mass, mass_profiles
from haloformer.fitting.reallens.start_file import read_start
from small_lens import SCALE, TRUTH, lens

COARSE = {"supersampling": 1}
X, Y = np.array([1.1, 0.4, -0.2, 0.05]), np.array([0.7, -1.0, 1.3, 0.02])
POWER_LAW = {
    "type": "instance",
    "class_path": "autogalaxy.profiles.mass.total.power_law.PowerLaw",
    "arguments": {
        "einstein_radius": 1.3,
        "slope": 2.1,
        "centre": {"type": "tuple", "values": [0.05, -0.02]},
        "ell_comps": {"type": "tuple", "values": [0.1, -0.05]},
    },
}
"""As ``al.output_to_json`` of PyAutoLens 2026.7.29.1 writes it."""
DEFLECTION = np.array(
    [[0.56220363, 1.12147033], [-1.17934713, 0.56206817], [1.2452227, -0.26853639], [-0.71545616, 1.58757424]]
)  # fmt: skip
"""(y, x) of PyAutoLens's ``deflections_yx_2d_from`` for it at X, Y (``python benchmarks/pyautolens.py masses``)."""


@pytest.fixture(scope="module")
def smooth():
    image, given = lens()
    return haloformer.fit(image, **given, radius=1.6, z_lens=0.3, z_source=1.0, **COARSE)


def written(folder, content):
    path = folder / "start.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


def deflection(start):
    mass = Mass(priors={name: Prior(0.0, 1.0) for name in start})
    return np.stack(mass.deflection(X, Y, np.array([start[name] for name in mass.names]))[::-1], 1)


def test_a_lens_of_pyautolens_deflects_as_there(tmp_path):
    found = read_start(written(tmp_path, POWER_LAW))
    assert deflection(found) == pytest.approx(DEFLECTION, abs=2e-8)


def test_lenses_are_written_with_pyautolenss_numbers(tmp_path):
    found = read_start(written(tmp_path, POWER_LAW))
    names = {"x": "center_x", "y": "center_y"}
    own = {
        names.get(name, name): value for name, value in found.items() if "gamma" not in name[:-1]
    }
    (mass,) = autolens_profile("EPL", own).values()
    for name, value in POWER_LAW["arguments"].items():
        if isinstance(value, dict):
            assert mass["arguments"][name]["values"] == pytest.approx(value["values"])
        else:
            assert mass["arguments"][name] == pytest.approx(value)
    assert mass["class_path"] == POWER_LAW["class_path"]


@pytest.mark.parametrize("write", [lambda f: f.to_dict(), to_lenstronomy, to_autolens])
def test_what_is_written_is_read_again(smooth, tmp_path, write):
    found = read_start(written(tmp_path, write(smooth)))
    for name, value in found.items():
        assert value == pytest.approx(smooth.parameters[name]["value"], abs=1e-12), name


def test_a_fit_goes_on_from_a_lens_that_is_given(smooth, tmp_path, monkeypatch):
    start = read_start(written(tmp_path, to_autolens(smooth)))

    def blind(*given):
        raise AssertionError("looked for a start")

    monkeypatch.setattr("haloformer.fitting.reallens.start.compact_lenses", blind)
    image, given = lens()
    again = haloformer.fit(image, **given, radius=1.6, z_lens=0.3, z_source=1.0, start=start, **COARSE)  # fmt: skip
    for name in ("theta_E", "gamma", "e1", "e2", "gamma1", "gamma2"):
        mine, theirs = again.parameters[name], smooth.parameters[name]
        assert abs(mine["value"] - theirs["value"]) < 0.5 * theirs["error"], name


def test_the_tracer_has_lens_light_redshifts_and_no_source_light(smooth):
    lens_galaxy, source = to_autolens(smooth)["arguments"]["galaxies"]["values"]
    assert (lens_galaxy["arguments"]["redshift"], source["arguments"]) == (0.3, {"redshift": 1.0})
    assert set(lens_galaxy["arguments"]) == {"redshift", "mass", "shear", "bulge"}
    gaussians = lens_galaxy["arguments"]["bulge"]["arguments"]["profile_list"]["values"]
    y, x = (np.arange(n) - (n - 1) / 2 for n in smooth.seen.image.shape)
    X, Y = np.meshgrid(x * SCALE, y * SCALE)
    total = np.zeros(X.shape)
    for one in gaussians:  # as PyAutoLens defines them
        given = one["arguments"]
        (y0, x0), (e2, e1) = given["centre"]["values"], given["ell_comps"]["values"]
        size, angle = np.hypot(e1, e2), np.arctan2(e2, e1) / 2
        q = (1 - size) / (1 + size)
        u = (X - x0) * np.cos(angle) + (Y - y0) * np.sin(angle)
        v = (Y - y0) * np.cos(angle) - (X - x0) * np.sin(angle)
        total += given["intensity"] * np.exp(-0.5 * (q * u**2 + v**2 / q) / given["sigma"] ** 2)
    seen = smooth.seen.mask & (
        np.hypot(X, Y) > 0.6
    )  # where the point-spread function matters little
    light = smooth.lens_light - smooth.best.solution.light[-1] * smooth.ready.basis.scale[-1]
    assert np.median(np.abs(total - light)[seen]) < 0.02 * np.median(np.abs(light[seen]))


def multipole_of_pyautolens(given, x, y):
    """As its PowerLawMultipole says: deflection (2, N) in x and y."""
    m, s, radius = given["m"], given["slope"], given["einstein_radius"]
    sine, cosine = given["multipole_comps"]["values"]
    k, angle = np.hypot(sine, cosine), np.arctan2(sine, cosine) / m
    y0, x0 = given["centre"]["values"]
    r, phi = np.hypot(x - x0, y - y0), np.arctan2(y - y0, x - x0)
    unit = k * radius ** (s - 1) * r ** (2 - s) / (m**2 - (3 - s) ** 2)
    out = -(3 - s) * unit * np.cos(m * (phi - angle))
    across = m * unit * np.sin(m * (phi - angle))
    return np.stack([out * np.cos(phi) - across * np.sin(phi), out * np.sin(phi) + across * np.cos(phi)])  # fmt: skip


def test_multipoles_are_pyautolenss_to_1e_9():
    mass = Mass(multipoles=True)
    strength = {"a1_cos": 0.01, "a1_sin": -0.004, "a3_cos": 0.006, "a3_sin": 0.003, "a4_cos": -0.012, "a4_sin": 0.002}  # fmt: skip
    lens = {"theta_E": 1.3, "gamma": 2.2, "e1": 0.1, "e2": -0.05, "x": 0.03, "y": -0.02}
    both = {**dict.fromkeys(mass.names, 0.0), **lens, **strength}
    alpha = mass.deflection(X, Y, np.array([both[name] for name in mass.names]))
    smooth = Mass().deflection(X, Y, np.array([both[name] for name in Mass().names]))
    written = [
        profile["arguments"]
        for name, given in mass_profiles(mass, np.array([both[name] for name in mass.names]))
        if name == "MULTIPOLE"
        for profile in autolens_profile(name, given).values()
    ]
    assert [one["m"] for one in written] == [1, 1, 3, 4]
    theirs = sum(multipole_of_pyautolens(one, X, Y) for one in written)
    np.testing.assert_allclose(np.stack(alpha) - np.stack(smooth), theirs, atol=1e-9)


@pytest.mark.parametrize("profile", ["tnfw", "point", "pseudo_jaffe"])
def test_lenstronomy_and_pyautolens_get_every_perturber(profile):
    from lenstronomy.LensModel.lens_model import LensModel

    mass = Mass(perturber=profile, multipoles=True, z_lens=0.3, z_source=1.0)
    values = dict.fromkeys(mass.names, 0.004) | {"theta_E": 1.2, "gamma": 2.1}
    values |= {"perturber_m": 5e-3, "perturber_x": 0.9, "perturber_y": 0.4}
    vector = np.array([values[name] for name in mass.names])
    profiles = mass_profiles(mass, vector)
    theirs = LensModel([name for name, _ in profiles]).alpha(X, Y, [given for _, given in profiles])
    np.testing.assert_allclose(mass.deflection(X, Y, vector), theirs, atol=1e-7)
    (one,) = autolens_profile(*profiles[-1]).values()
    if profile == "tnfw":  # its κ_s is ρ_s R_s / Σ_crit
        given = profiles[-1][1]
        rho = given["alpha_Rs"] / (4 * given["Rs"] ** 2 * (1 + np.log(0.5)))
        assert one["arguments"]["kappa_s"] == pytest.approx(rho * given["Rs"])
    assert one["arguments"]["centre"]["values"] == [0.4, 0.9]


def test_regions_are_where_the_lens_is(smooth, tmp_path):
    folder = smooth.save(tmp_path / "fit", format="autolens")
    assert json.loads((folder / "autolens.json").read_text())["class_path"].endswith("Tracer")
    text = (folder / "fit.reg").read_text()
    assert text.startswith("# Region file format: DS9")
    x, y, radius = map(float, re.search(r"circle\(([\d.]+),([\d.]+),([\d.]+)\)", text).groups())
    height, width = smooth.seen.image.shape
    values = {name: item["value"] for name, item in smooth.parameters.items()}
    assert (x - (width + 1) / 2) * SCALE == pytest.approx(values["x"], abs=1e-4)
    assert (y - (height + 1) / 2) * SCALE == pytest.approx(values["y"], abs=1e-4)
    assert radius * SCALE == pytest.approx(TRUTH["theta_E"], abs=0.01)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{}", "none of their keys"),
        ("[1]", "JSON object"),
        ("{not json", "JSON"),
        ('{"lens_model_list": ["SHEAR"], "kwargs_lens": [{"gamma1": 0, "gamma2": 0}]}', "0 power laws"),
        ('{"lens_model_list": ["EPL"], "kwargs_lens": []}', "shorter"),
        ('{"lens_model_list": ["EPL"], "kwargs_lens": [{"theta_E": 1}]}', "is missing"),
        ('{"lens_model_list": ["SIS"], "kwargs_lens": [{"theta_E": -1}]}', "above 0"),
        ('{"lens_model_list": ["SIS"], "kwargs_lens": [{"theta_E": NaN}]}', "nan"),
        ('{"lens_model_list": ["SIS", "SIE"], "kwargs_lens": [{}, {}]}', "2 power laws"),
        (json.dumps({**POWER_LAW, "arguments": {**POWER_LAW["arguments"], "slope": 3.5}}), "no power law"),
        (json.dumps({**POWER_LAW, "class_path": "x.NFW"}), "0 power laws"),
    ],
)  # fmt: skip
def test_what_is_no_lens_is_refused(tmp_path, content, said):
    with pytest.raises(InputError, match=said) as caught:
        read_start(written(tmp_path, content))
    assert "\n" not in str(caught.value)


def test_a_start_that_is_not_there_is_said_before_the_fit(tmp_path, capsys):
    from astropy.io import fits

    image, given = lens()
    for name, pixels in (("lens", image), ("psf", given["psf"])):
        fits.writeto(tmp_path / f"{name}.fits", pixels.astype("f4"))
    base = ["fit", str(tmp_path / "lens.fits"), "--psf", str(tmp_path / "psf.fits"), "--pixel_scale", "0.05"]  # fmt: skip
    base += ["--out", str(tmp_path / "fit")]
    assert main([*base, "--start", str(tmp_path / "none.json")]) == 2
    assert "does not exist" in capsys.readouterr().err
    assert not (tmp_path / "fit").exists()
