"""The fit of a real lens from beginning to end: it finds the truth blind, writes it down, resumes, and doubts what is no lens."""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from astropy.table import Table

import haloformer
from haloformer._version import code_version
from haloformer.cli import main
from haloformer.devices import one_thread
from haloformer.errors import InputError
from haloformer.fitting.reallens import Prior, run
from haloformer.fitting.reallens.figures import _critical_lines, _stretch
from haloformer.fitting.reallens.files import LensFiles, read_observation
from haloformer.fitting.reallens.like import priors_like
from haloformer.fitting.reallens.optimise import fit_at
from haloformer.fitting.reallens.perturbers import best_places, scan
from haloformer.fitting.reallens.result import Other
from haloformer.fitting.reallens.searches import even_twin, stiff_twin
from haloformer.fitting.reallens.stages import Stages
from haloformer.readers.reading import Reading
from small_lens import NOISE, SCALE, TRUTH, lens

PERTURBED = {
    "lens_light": False,
    "perturber": "pseudo_jaffe",
    "r_trunc": 0.3,
    "z_lens": 0.3,
    "z_source": 1.0,
}
COARSE = {"supersampling": 1}
PERTURBER = (8e9, 0.3, -0.95, 0.4)  # mass, truncation radius, x, y


@pytest.fixture(scope="module")
def smooth():
    image, given = lens()
    return haloformer.fit(image, **given, radius=1.6, z_lens=0.3, z_source=1.0, **COARSE)


@pytest.fixture(scope="module")
def perturbed():
    image, given = lens(lens_light=False, perturber=PERTURBER)
    return haloformer.fit(image, **given, radius=1.6, **PERTURBED, **COARSE)


def test_a_simulated_lens_is_found_blind(smooth):
    assert smooth.flags == ()
    found = smooth.parameters
    for name in ("theta_E", "gamma", "e1", "e2", "gamma1", "gamma2"):
        off = found[name]["value"] - TRUTH[name]
        assert abs(off) < 5 * found[name]["error"], name
    assert abs(found["theta_E"]["value"] - TRUTH["theta_E"]) < 0.01
    assert 0.7 < smooth.chi2 / smooth.pixels < 1.1
    assert found["axis_ratio"]["value"] == pytest.approx(0.866, abs=0.03)
    assert 0.05 < found["source_radius"]["value"] < 0.25
    assert smooth.perturbers == []


@pytest.mark.parametrize("step", [0.0, -0.1, 2 * SCALE, float("nan")])
def test_a_source_coarser_than_the_image_is_refused(step):
    image, given = lens()
    with pytest.raises(InputError, match=r"at most 1\.5 pixels"):
        haloformer.fit(image, **given, source_step=step)


def test_a_perturber_is_found_blind_where_it_is(perturbed):
    (one,) = perturbed.perturbers
    assert np.hypot(one["x"] - PERTURBER[2], one["y"] - PERTURBER[3]) < 0.15
    assert one["mass"] == pytest.approx(PERTURBER[0], rel=0.4)
    assert one["mass_error"] < 0.4 * one["mass"]
    assert 0.1 * one["mass"] < one["mass_1kpc"] < one["mass"]
    assert one["mass_1kpc_error"] < 0.4 * one["mass_1kpc"]
    table = perturbed.to_table()
    assert table["perturber_mass_1kpc"].unit == "solMass"
    assert "perturber: within 1 kpc" in dict(perturbed.rows())
    assert one["profile"] == "pseudo_jaffe"
    assert one["delta_evidence_marginal"] < one["delta_evidence"]
    assert one["significance"] == pytest.approx(np.sqrt(one["delta_evidence_marginal"]))
    assert one["significance"] > 5
    assert one["delta_evidence_multipoles"] is not None
    places = best_places(perturbed.scan, TRUTH["theta_E"], 3)  # of ten; the smooth lens is far off
    assert min(np.hypot(x - PERTURBER[2], y - PERTURBER[3]) for x, y, _ in places) < 0.5


def test_places_are_looked_for_on_an_even_source_of_fewer_coefficients(perturbed):
    smooth, ready = perturbed.smooth, perturbed.ready
    twin = even_twin(smooth, ready)
    assert twin.smoothness.even
    assert not smooth.smoothness.even
    assert twin.source.fine.step == pytest.approx(SCALE, rel=0.2)
    assert twin.source.size < smooth.source.size
    assert twin.value("theta_E") == pytest.approx(smooth.value("theta_E"), abs=0.02)


def test_what_a_usual_lens_leaves_shows_the_perturber(perturbed):
    """The best smooth lens makes up for it; one that is hardly unlike any does not, on a source of few coefficients."""
    smooth, ready = perturbed.smooth, perturbed.ready
    stays = stiff_twin(smooth, ready)
    assert stays.source.fine.step == pytest.approx(3 * SCALE, rel=0.2)
    mean, sd = stays.problem.mass.expected()
    away = (stays.vector - mean)[1:] / (10 * sd[1:])  # in what is expected of any lens
    assert np.abs(away).max() < 2.0
    scanned = scan(stays, ready.seen, "pseudo_jaffe", 0.12)
    x, y, _ = best_places(scanned, TRUTH["theta_E"], 1)[0]
    assert np.hypot(x - PERTURBER[2], y - PERTURBER[3]) < 0.2
    assert len(scanned.x) < 0.6 * len(perturbed.scan.x)


@pytest.mark.parametrize("mirrored", [False, True])
def test_places_on_the_sky_units_and_what_made_it_go_along(perturbed, tmp_path, mirrored):
    """Tables had no RA and Dec, fit.json and fit.fits said not what made them, and the distortions of the WCS were left out of the latter."""
    from astropy.coordinates import SkyCoord
    from astropy.io import fits
    from astropy.wcs import WCS, Sip

    seen = perturbed.seen
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = "RA---TAN-SIP", "DEC--TAN-SIP"
    wcs.wcs.crval, wcs.wcs.crpix = (150.0, 60.0), (21.0, 21.0)
    turned = np.array([[np.cos(0.7), -np.sin(0.7)], [np.sin(0.7), np.cos(0.7)]])
    wcs.wcs.cd = turned @ np.diag([SCALE if mirrored else -SCALE, SCALE]) / 3600
    bend = np.zeros((3, 3))
    bend[2, 0] = 2e-3
    wcs.sip = Sip(bend, bend.T, None, None, wcs.wcs.crpix)
    there = dataclasses.replace(seen, wcs=wcs, unit="electron/s")
    fit = dataclasses.replace(perturbed, ready=dataclasses.replace(perturbed.ready, seen=there))
    folder = fit.save(tmp_path / "fit", format="lenstronomy")
    table, found = Table.read(folder / "fit.ecsv"), json.loads((folder / "fit.json").read_text())
    with fits.open(folder / "fit.fits") as hdus:
        assert hdus[0].header["CREATOR"] == f"haloformer {code_version()}"
        assert hdus[0].header["DATE"]
        units = {hdu.name: hdu.header.get("BUNIT") for hdu in hdus}
        read = WCS(hdus["IMAGE"].header)
    for name in ("IMAGE", "NOISE", "MODEL", "ARCS", "LENS_LIGHT", "SOURCE"):
        assert units[name] == "electron/s", name
    assert units["RESIDUAL"] is units["MASK"] is None
    assert found["provenance"]["CREATOR"] == f"haloformer {code_version()}"
    assert found["provenance"]["pixel_scale"] == SCALE
    assert (found["ra"], found["dec"]) == (table["ra"][0], table["dec"][0])
    one = found["perturbers"][0]
    assert table["perturber_ra"][0] == one["ra"]
    assert table["perturber_dec"].unit == "deg"
    assert "right ascension of the perturber" in table["perturber_ra"].description
    # The pixel of DS9, counted from 1, of the region that is drawn about it
    drawn = (folder / "fit.reg").read_text().splitlines()[-1]
    column, row, _ = map(float, drawn.split("(")[1].split(")")[0].split(","))
    ra, dec = read.all_pix2world(column, row, 1)
    at = SkyCoord(one["ra"], one["dec"], unit="deg")
    assert at.separation(SkyCoord(ra, dec, unit="deg")).arcsec < 2e-4
    plain = WCS({key: value for key, value in read.to_header().items()}).wcs_pix2world(column, row, 1)  # fmt: skip
    assert (
        at.separation(SkyCoord(*plain, unit="deg")).arcsec > 0.01
    )  # as if there were no distortion
    # East of North from one place to the other, by their RA and Dec
    lens_at = SkyCoord(found["ra"], found["dec"], unit="deg")
    off = np.array([one["x"], one["y"]]) - [found["parameters"][k]["value"] for k in "xy"]
    angle = lens_at.position_angle(at).deg % 180
    assert seen.east_of_north(0.0) is None
    assert there.east_of_north(np.arctan2(*off[::-1])) == pytest.approx(angle, abs=2)
    assert any(name == "perturber: RA, Dec" for name, _ in fit.rows())
    assert "ra" not in perturbed.to_dict()
    assert "ra" not in perturbed.to_table().colnames
    assert perturbed.to_table()["verdict"][0] == perturbed.verdict


def test_a_better_smooth_lens_that_a_search_comes_by_takes_the_place_of_the_first(
    perturbed, monkeypatch
):
    smooth = perturbed.smooth
    better = dataclasses.replace(smooth, prior=smooth.prior - 5.0)
    found = dataclasses.replace(perturbed.detection, smooth=better)
    scanned = []
    monkeypatch.setattr(run, "stiff_twin", lambda *_: smooth)
    monkeypatch.setattr(run, "detect", lambda *_: found)
    monkeypatch.setattr(run, "scan", lambda fit, *_: scanned.append(fit) or perturbed.scan)
    others = (Other({"gamma": 1.9}, 1.0), Other({"gamma": 2.3}, 9.0))
    before = dataclasses.replace(perturbed, smooth=smooth, others=others)
    options = run.Options(perturber="pseudo_jaffe")
    after = run._perturbed(before, smooth, options, Stages(), None, 1)
    assert after.smooth is better
    assert after.detection is found
    assert scanned[-1] is better  # of which the map is shown
    assert [one.delta_evidence for one in after.others] == [6.0]  # the other is not as probable now
    worse = dataclasses.replace(perturbed.detection, smooth=smooth)
    monkeypatch.setattr(run, "detect", lambda *_: worse)
    after = run._perturbed(before, smooth, options, Stages(), None, 1)
    assert after.smooth is smooth
    assert after.others == others


def test_all_that_was_found_is_in_the_folder(perturbed, tmp_path):
    from astropy.io import fits

    folder = perturbed.save(tmp_path / "fit")
    with pytest.raises(InputError, match="exists already"):
        perturbed.save(folder)
    found = json.loads((folder / "fit.json").read_text())
    assert set(found["parameters"]["theta_E"]) == {"value", "error", "unit"}
    assert found["parameters"]["theta_E"]["unit"] == "arcsec"
    wanted = {"x", "y", "mass", "mass_error", "profile", "delta_evidence", "significance"}
    assert wanted <= set(found["perturbers"][0])
    assert found["pixels"] == perturbed.pixels
    with fits.open(folder / "fit.fits") as hdus:
        names = {hdu.name for hdu in hdus[1:]}
        residual = (hdus["IMAGE"].data - hdus["MODEL"].data) / hdus["NOISE"].data
        counted = hdus["MASK"].data == 0
        np.testing.assert_allclose(residual[counted], hdus["RESIDUAL"].data[counted], atol=1e-2)
        assert np.nansum(hdus["RESIDUAL"].data ** 2) == pytest.approx(found["chi2"], rel=1e-4)
    assert names >= {"MODEL", "RESIDUAL", "SOURCE", "LENS_LIGHT", "MASK", "DELTA_CHI2", "ARCS"}
    parameters = Table.read(folder / "fit.ecsv")
    assert parameters.meta["code_version"] == code_version()
    assert parameters.meta["pixel_scale"] == perturbed.seen.pixel_scale
    page = (folder / "fit.html").read_text()
    assert "://" not in page.replace("http://www.w3.org", "")  # self-contained
    assert "perturber" in page


def test_a_noise_map_above_the_scatter_is_said_to_spoil_the_errors(smooth):
    assert smooth.cautions == ()
    seen = dataclasses.replace(smooth.seen, noise=smooth.seen.noise * 1.4)
    ready = dataclasses.replace(smooth.ready, seen=seen)
    problem = ready.problem(smooth.smooth.problem.mass)
    light = dataclasses.replace(problem, light=problem.light / 1.4)
    blur = dataclasses.replace(light.camera, blur=light.camera.blur / 1.4)
    own = smooth.smooth
    again = fit_at(dataclasses.replace(light, camera=blur), own.source, own.vector, own.smoothness)
    found = dataclasses.replace(smooth, ready=ready, smooth=again)
    (said,) = found.cautions
    assert "correlated" in said
    assert said in found.to_dict()["notes"]


def test_an_even_source_is_found_written_and_read_again(tmp_path):
    image, given = lens(lens_light=False)
    options = {"lens_light": False, "source_prior": "even", **COARSE}
    fit = haloformer.fit(image, **given, radius=1.6, **options)
    assert fit.parameters["theta_E"]["value"] == pytest.approx(TRUTH["theta_E"], abs=0.01)
    stages = Stages(tmp_path / "stages.json", "key")
    again = stages.fit("smooth", fit.smooth.problem, lambda: fit.smooth)
    kept = Stages(tmp_path / "stages.json", "key").fit("smooth", fit.smooth.problem, pytest.fail)
    assert kept.evidence == pytest.approx(again.evidence)
    folder = fit.save(tmp_path / "fit")
    content = json.loads((folder / "fit.json").read_text())
    assert content["source_smoothness"]["extent"] is None
    falling = haloformer.fit(image, **given, radius=1.6, **{**options, "source_prior": "falling"})
    assert falling.evidence < fit.evidence - 10  # its source is a galaxy


def test_a_tie_is_said_to_be_one(perturbed):
    gain = perturbed.detection.delta_marginal
    for other, words in ((0.9 * gain, "a tie"), (0.0, "more probable"), (3 * gain + 50, "better")):
        assert words in dataclasses.replace(perturbed, delta_multipoles=other).verdict


def test_little_more_evidence_is_no_perturber(perturbed):
    for gain, other in ((6.0, -15.0), (3.0, None), (19.0, 10.0)):
        detection = dataclasses.replace(perturbed.detection, delta_marginal=gain)
        changed = dataclasses.replace(perturbed, detection=detection, delta_multipoles=other)
        assert f"no perturber is needed: the best one gains {gain:.1f}" in changed.verdict
        assert changed.best is changed.smooth
        assert changed.perturbers == []
        assert changed.to_dict()["perturbers"] == []
        assert not any("perturber" in name for name in changed.parameters)
        assert "perturber_x" not in changed.to_table().colnames


def test_what_was_kept_of_another_fit_is_told_and_not_used(tmp_path, smooth, capsys):
    path = tmp_path / "stages.json"
    Stages(path, "one").fit("smooth", smooth.smooth.problem, lambda: smooth.smooth)
    other = Stages(path, "another")
    assert other.resumed == []
    assert "the fit begins anew" in capsys.readouterr().err


def test_small_rings_and_lenses_off_the_middle_are_told(smooth):
    names = smooth.best.problem.mass.names
    for name, value, words in (
        ("theta_E", 0.1, "no lens can look so"),
        ("x", 0.5, "off the middle"),
    ):
        vector = smooth.best.vector.copy()
        vector[names.index(name)] = value
        best = dataclasses.replace(smooth.best, vector=vector)
        assert not any(words in caution for caution in smooth.cautions)
        assert any(words in c for c in dataclasses.replace(smooth, smooth=best).cautions)


@dataclasses.dataclass(frozen=True)
class Scripted:
    """As much of a fit of one parameter as its steps look at: what evidence it has, and how much its slope promises."""

    evidence: float
    gradient: float
    problem: object
    vector: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(1))
    source: object = None
    smoothness: object = None
    converged: bool = False

    def slope(self):
        return SimpleNamespace(gradient=np.array([self.gradient]), curvature=np.eye(1))


def test_a_step_that_gains_much_less_than_it_promised_is_not_the_last(monkeypatch):
    from haloformer.fitting.reallens import optimise

    expected, bounds = (np.zeros(1), np.full(1, 1e9)), (np.full(1, -9.0), np.full(1, 9.0))
    problem = SimpleNamespace(mass=SimpleNamespace(expected=lambda: expected, bounds=lambda: bounds))  # fmt: skip
    # Evidence after each step, and the slope there: the first gains 0.5, and was to gain some 100.
    coming = iter([(999.5, 1e3), (960.0, 0.1), (959.9, 0.1)])
    monkeypatch.setattr(optimise, "fit_at", lambda problem, *rest: Scripted(*next(coming), problem))
    monkeypatch.setattr(optimise, "_LONGEST_STEP", 9.0)
    ended = optimise.improve(Scripted(1000.0, 1e3, problem), 9, 3.0)
    assert ended.converged
    assert ended.evidence == 959.9  # its step promised no more than it gained


def test_where_the_lens_lies_in_the_image_does_not_matter():
    """Its slope was told five times too surely, and wrongly, where it lay off the middle."""
    image, given = lens(lens_light=False)
    whole = haloformer.fit(image, **given, lens_light=False, **COARSE)
    part = {**given, "noise": np.broadcast_to(given["noise"], image.shape)[:, 7:]}
    cut = haloformer.fit(image[:, 7:], **part, lens_light=False, **COARSE)
    for name in ("gamma", "gamma1", "gamma2", "theta_E"):
        one, two = (fit.parameters[name] for fit in (whole, cut))
        assert two["error"] == pytest.approx(one["error"], rel=0.5), name
        assert abs(two["value"] - one["value"]) < 2.5 * one["error"], name


def test_lenstronomy_renders_the_mass_the_lens_light_and_the_source_that_are_written(smooth):
    image_model = pytest.importorskip("lenstronomy.ImSim.image_model")
    from lenstronomy.Data.imaging_data import ImageData
    from lenstronomy.Data.psf import PSF
    from lenstronomy.LensModel.lens_model import LensModel
    from lenstronomy.LightModel.light_model import LightModel
    from scipy import ndimage

    from haloformer.fitting.reallens.lenstronomy import source_picture, to_lenstronomy

    found = json.loads(json.dumps(to_lenstronomy(smooth)))
    sizes = found["kwargs_data"]
    # lenstronomy has no light from beyond its frame, so that this is wider than the image
    beyond = len(found["kwargs_psf"]["kernel_point_source"]) // 2
    inner = (slice(beyond, -beyond),) * 2
    data = ImageData(
        image_data=np.zeros((sizes["ny"] + 2 * beyond, sizes["nx"] + 2 * beyond)),
        ra_at_xy_0=sizes["ra_at_xy_0"] - beyond * SCALE,
        dec_at_xy_0=sizes["dec_at_xy_0"] - beyond * SCALE,
        transform_pix2angle=np.array(sizes["transform_pix2angle"]),
    )
    psf = PSF(
        "PIXEL",
        kernel_point_source=np.array(found["kwargs_psf"]["kernel_point_source"]),
        kernel_point_source_normalisation=False,
    )
    for source in found["kwargs_source"]:
        source["image"] = np.array(source["image"])
    model = image_model.ImageModel(
        data,
        psf,
        LensModel(found["lens_model_list"]),
        LightModel(found["source_light_model_list"]),
        LightModel(found["lens_light_model_list"]),
        kwargs_numerics=found["kwargs_numerics"],
    )
    lights = {"kwargs_lens": found["kwargs_lens"], "kwargs_source": found["kwargs_source"]}
    lights["kwargs_lens_light"] = found["kwargs_lens_light"]
    galaxy = model.image(**lights, source_add=False)[inner]
    mask, top = smooth.seen.mask, np.nanmax(smooth.lens_light)
    np.testing.assert_allclose(galaxy[mask], smooth.lens_light[mask], atol=1e-6 * top)
    # Between the pixels of the source's picture lenstronomy interpolates linearly: so rendered here, the arcs are the same.
    camera, fit = smooth.ready.camera, smooth.best
    x, y = fit.problem.mass.source_positions(camera.x, camera.y, fit.vector)
    bright = np.zeros(len(x))
    for grid, part in zip(fit.source.grids, fit.source.parts()):
        picture, scale = source_picture(grid, fit.solution.source[part])
        middle = (len(picture) - 1) / 2
        at = [(y - grid.y) / scale + middle, (x - grid.x) / scale + middle]
        bright += ndimage.map_coordinates(picture, at, order=1, mode="constant")
    expected = camera.observe(bright) * smooth.seen.noise[mask]
    arcs = model.image(**lights, lens_light_add=False)[inner][mask]
    np.testing.assert_allclose(arcs, expected, atol=1e-6 * expected.max())
    assert np.abs(arcs - smooth.arcs[mask]).max() < 2e-3 * expected.max()


def test_a_star_beside_is_told_and_a_mask_helps():
    image, given = lens(lens_light=False)
    rows, columns = np.indices(image.shape)
    star = np.hypot(rows - 33, columns - 20) < 2.5
    image[star] = 2000 * NOISE
    options = {"lens_light": False, **COARSE}
    fit = haloformer.fit(image, **given, radius=1.6, **options)
    assert "or give a noise map that knows the photon noise" in " ".join(fit.flags)
    uneven = fit.seen.noise * np.linspace(1, 1.01, image.shape[1])
    ready = dataclasses.replace(fit.ready, seen=dataclasses.replace(fit.seen, noise=uneven))
    assert "or check the noise map" in " ".join(dataclasses.replace(fit, ready=ready).flags)
    own = dataclasses.replace(ready, seen=dataclasses.replace(ready.seen, noise_measured=True))
    assert "or give a noise map" in " ".join(dataclasses.replace(fit, ready=own).flags)
    assert all(item["error"] is None for item in fit.parameters.values())
    shown = fit._repr_html_()
    assert "<img" in shown
    assert "no error" in shown
    masked = haloformer.fit(image, **given, radius=1.6, mask=star, **options)
    assert masked.flags == ()
    assert masked.parameters["theta_E"]["value"] == pytest.approx(TRUTH["theta_E"], abs=0.01)


def write(folder, **images):
    from astropy.io import fits

    for name, image in images.items():
        header = fits.Header()
        header["CTYPE1"], header["CTYPE2"] = "RA---TAN", "DEC--TAN"
        header["CRVAL1"], header["CRVAL2"] = 150.0, 20.0
        header["CRPIX1"] = header["CRPIX2"] = 21.0
        header["CDELT1"], header["CDELT2"] = -SCALE / 3600, SCALE / 3600
        fits.writeto(folder / f"{name}.fits", image, header)
    return [str(folder / f"{name}.fits") for name in images]


def test_the_command_fits_a_file_and_goes_on_where_it_was_ended(tmp_path, capsys, monkeypatch):
    image, given = lens(lens_light=False)
    path, psf = write(tmp_path, lens=image, psf=given["psf"])
    noise = str(tmp_path / "noise.npy")
    np.save(noise, np.full(image.shape, NOISE, np.float32))
    out = tmp_path / "fit"
    arguments = [
        "fit",
        path,
        "--psf",
        psf,
        "--noise-map",
        noise,
        "--radius",
        "1.6",
        "--lens_light",
        "false",
    ]
    arguments += [
        "--supersampling",
        "1",
        "--multipoles",
        "--format",
        "lenstronomy",
        "--out",
        str(out),
    ]

    def ended(*anything, **more):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:  # when the smooth fit is done
        patched.setattr("haloformer.fitting.reallens.run.with_multipoles", ended)
        assert main(arguments) == 130
    assert not out.exists()
    with monkeypatch.context() as patched:  # when all is done but not written
        patched.setattr("haloformer.fitting.reallens.files.save", ended)
        assert main(arguments) == 130
    with monkeypatch.context() as patched:
        for name in ("fit_smooth_lens", "with_multipoles"):  # not again
            patched.setattr(f"haloformer.fitting.reallens.run.{name}", ended)
        assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert "went on with an earlier call" in shown
    assert "theta_E" in shown
    found = json.loads((out / "fit.json").read_text())
    assert abs(found["parameters"]["theta_E"]["value"] - TRUTH["theta_E"]) < 0.02
    # x grows towards the West here and y towards the North: 90° from x is North, 180° East
    angle, east = (found["parameters"][name]["value"] for name in ("angle", "position_angle"))
    assert (angle - 90) % 180 == pytest.approx(east, abs=0.1)
    assert (out / "lenstronomy.json").is_file()
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith(".")) == []
    assert main(arguments) == 2
    assert "exists already" in capsys.readouterr().err


def test_the_command_says_what_is_missing(tmp_path, capsys):
    image, given = lens(lens_light=False)
    path, psf = write(tmp_path, lens=image, psf=given["psf"])
    out = ["--out", str(tmp_path / "fit")]
    for arguments, message in (
        ([path], "give --psf FILE.fits"),
        ([path, path, "--psf", psf], "2 images: give --survey NAME"),
        ([path, "--psf", str(tmp_path / "none.fits")], "does not exist"),
        ([path, "--psf", psf, "--survey", "model_ii"], "psf is for a real lens"),
        ([path, "--survey", "model_ii", "--r_trunc", "0.1"], "r_trunc is for a real lens"),
        ([path, "--survey", "model_ii", "--multipoles"], "multipoles is for a real lens"),
        ([path, "--psf", psf, "--figure", "lens.png"], "figure is for images of a survey"),
        ([path, "--psf", psf, "--noise", "none"], "noise is for images of a survey"),
        ([path, "--psf", psf, "--catalog", "x.csv"], "catalog is for images of a survey"),
        ([path, "--psf", psf, "--nan", "zero"], "nan is for images of a survey"),
        ([path, "--psf", psf, "--r_trunc", "0.3"], "r_trunc is that of a perturber"),
        ([path, "--psf", psf, "--live", "500"], "live is of nested sampling"),
        ([path, "--psf", psf, "--perturber", "tnfw"], "z_lens and z_source"),
        ([path, "--psf", psf, "--like", "model_i"], "not one of components"),
    ):
        assert main(["fit", *arguments, *out]) == 2
        errors = capsys.readouterr().err.strip().splitlines()
        assert message in errors[-1], errors
    assert not (tmp_path / "fit").exists()


def test_priors_like_those_of_a_survey():
    priors = priors_like("hst")
    assert priors["gamma"].mean == pytest.approx(2.08, abs=0.02)
    assert priors["gamma1"].sd == pytest.approx(0.05, rel=0.02)
    assert priors["theta_E"].mean == pytest.approx(1.2, abs=0.05)
    assert priors["a4_cos"].sd == pytest.approx(0.01, rel=0.02)


def test_a_prior_pulls_a_fit_and_costs_evidence(smooth):
    from haloformer.fitting.reallens.optimise import fit_at, improve

    problem = smooth.best.problem
    priors = {**problem.mass.priors, "gamma": Prior(1.8, 1e-3)}
    mass = dataclasses.replace(problem.mass, priors=priors)
    fit = smooth.best
    begun = fit_at(problem.with_mass(mass), fit.source, fit.vector, fit.smoothness)
    pulled = improve(begun, 8)
    assert pulled.value("gamma") == pytest.approx(1.8, abs=0.01)
    assert pulled.evidence > smooth.evidence + 1


def test_a_fit_is_a_row_with_units_and_errors(smooth, perturbed):
    from astropy import units as u
    from astropy.table import vstack

    table = smooth.to_table()
    assert len(table) == 1
    assert table["theta_E"].quantity[0] == smooth.parameters["theta_E"]["value"] * u.arcsec
    assert table["theta_E_error"][0] == smooth.parameters["theta_E"]["error"]
    assert table["angle"].unit == u.deg
    assert table["angle"].description == "from x"
    assert table["good_fit"][0]
    both = vstack([table, perturbed.to_table()], metadata_conflicts="silent")
    assert both["perturber_mass"].unit == u.M_sun
    assert both["perturber_mass"][1] == perturbed.perturbers[0]["mass"]
    assert both["perturber_mass"].mask.tolist() == [True, False]
    assert repr(smooth).startswith("RealLensFit: lens: Einstein radius 1.")


def _ccd(image, given, scale=SCALE):
    from astropy.nddata import CCDData, StdDevUncertainty
    from astropy.wcs import WCS

    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval = ["RA---TAN", "DEC--TAN"], [150.0, 2.0]
    wcs.wcs.crpix, wcs.wcs.cdelt = [21.0, 21.0], [-scale / 3600, SCALE / 3600]
    noise = StdDevUncertainty(np.full(image.shape, given["noise"]))
    return CCDData(image, unit="electron", wcs=wcs, psf=given["psf"], uncertainty=noise)


def test_image_noise_psf_and_scale_of_a_ccddata_are_taken(monkeypatch):
    from haloformer.fitting.reallens import run

    image, given = lens()
    seen = []
    monkeypatch.setattr(
        run, "fit_observation", lambda observation, *_, **__: seen.append(observation)
    )
    haloformer.fit(_ccd(image, given), radius=1.6)
    haloformer.fit(image, **given, radius=1.6)
    theirs, ours = seen
    assert theirs.pixel_scale == pytest.approx(ours.pixel_scale)
    for name in ("image", "noise", "psf", "mask"):
        np.testing.assert_allclose(getattr(theirs, name), getattr(ours, name))
    assert theirs.wcs is not None
    with pytest.raises(InputError, match="square ones are needed"):
        haloformer.fit(_ccd(image, given, scale=2 * SCALE))


def test_linear_algebra_has_one_thread_for_a_while():
    from threadpoolctl import threadpool_info, threadpool_limits

    def threads():
        return {each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"}

    with threadpool_limits(2, user_api="blas"):
        before, tensors = threads(), torch.get_num_threads()
        with one_thread() as had:
            assert had == tensors
            assert threads() == {1}
            assert torch.get_num_threads() == 1
        assert threads() == before
        assert torch.get_num_threads() == tensors


@pytest.mark.parametrize("hidden", [0.2, 0.35, 0.5])
def test_a_mask_over_the_middle_of_the_lens_leaves_its_centre_where_it_is(hidden):
    from haloformer.fitting.reallens import checked_observation
    from haloformer.fitting.reallens.smooth import prepare

    image, given = lens()
    y, x = (np.mgrid[:41, :41] - 20) * SCALE
    seen = checked_observation(image, **given, mask=np.hypot(x, y) < hidden, radius=1.6)
    light = prepare(seen, True, 1, SCALE).light
    assert np.hypot(light.x, light.y) < 0.02
    assert light.components[0].q > 0.85  # it is round


def test_a_missing_file_is_told_before_what_the_image_lacks(tmp_path):
    np.save(tmp_path / "lens.npy", np.ones((50, 50)))
    for files, message in (
        (LensFiles(str(tmp_path / "lens.npy"), str(tmp_path / "psf.npy")), "psf .*psf.npy does not exist"),
        (LensFiles(str(tmp_path), "hdu:PSF"), "image .* is a folder"),
        (LensFiles(str(tmp_path / "lens.npy"), str(tmp_path / "lens.npy")), "pixel scale"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=message):
            read_observation(files, Reading())


@pytest.mark.parametrize("kept", [False, True])
def test_an_end_by_the_user_says_whether_a_second_call_goes_on(tmp_path, monkeypatch, capsys, kept):
    from haloformer.fitting.reallens import files as module

    image, given = lens()
    paths = {name: tmp_path / f"{name}.npy" for name in ("image", "psf")}
    np.save(paths["image"], image)
    np.save(paths["psf"], given["psf"])

    def ended(seen, options, priors, *, stages, report):
        if kept:
            stages.write_text("{}")
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "fit_observation", ended)
    words = ["fit", str(paths["image"]), "--psf", str(paths["psf"]), "--pixel_scale", str(SCALE)]
    assert main([*words, "--out", str(tmp_path / "fit")]) == 130
    said = capsys.readouterr().err
    assert ("goes on from there" in said) == kept
    assert ("begins anew" in said) == (not kept)


def test_critical_curves_are_where_the_magnification_is_infinite(smooth):
    ((curve, caustic), *_) = sorted(_critical_lines(smooth, 1.6), key=lambda pair: -len(pair[0]))
    far = np.hypot(*(curve - [smooth.best.value("x"), smooth.best.value("y")]).T)
    assert far.mean() == pytest.approx(smooth.best.value("theta_E"), rel=0.03)
    assert np.hypot(*caustic.T).max() < 0.3  # the diamond about the middle
    x, y = curve[:: len(curve) // 7].T.copy()
    step = 1e-4

    def source(x, y):
        alpha = smooth.best.problem.mass.deflection(x, y, smooth.best.vector)
        return x - alpha[0], y - alpha[1]

    (ax, ay), (bx, by) = source(x + step, y), source(x - step, y)
    (cx, cy), (dx, dy) = source(x, y + step), source(x, y - step)
    det = ((ax - bx) * (cy - dy) - (ay - by) * (cx - dx)) / (2 * step) ** 2
    np.testing.assert_allclose(det, 0, atol=0.02)


def test_arcs_show_beside_a_bright_lens_in_the_first_panel():
    y, x = np.mgrid[-20:21, -20:21]
    radius = np.hypot(x, y)
    arcs = np.where((abs(radius - 13) < 1.5) & (x > 0), 0.15, 0.0)
    image = 0.1 + 60 * np.exp(-radius) + arcs
    norm = _stretch(image, arcs, 0.005)
    on, beside = (float(norm(image[20, 20 + 13 * side])) for side in (1, -1))
    assert on - beside > 0.2  # of the colours
