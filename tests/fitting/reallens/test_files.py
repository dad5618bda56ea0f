"""What is read beside an image: masks drawn in DS9, and extensions of the image's own file."""

import warnings

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from haloformer.errors import InputError, InputWarning
from haloformer.fitting.reallens import run
from haloformer.fitting.reallens.files import LensFiles, read_observation
from haloformer.fitting.reallens.given import taken
from haloformer.fitting.reallens.region_mask import region_mask
from haloformer.readers.reading import Reading

pytest.importorskip("regions")

SHAPE = (40, 50)


def drawn(tmp_path, text, wcs=None):
    path = tmp_path / "mask.reg"
    path.write_text(text)
    return region_mask(path, SHAPE, wcs)


def on_sky():
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = "RA---TAN", "DEC--TAN"
    wcs.wcs.crval, wcs.wcs.crpix = (150.0, 2.0), (25.5, 20.5)
    wcs.wcs.cdelt = -0.05 / 3600, 0.05 / 3600
    return wcs


def test_a_circle_leaves_out_the_pixels_within_it_counted_from_one_as_ds9_does(tmp_path):
    y, x = np.mgrid[1 : SHAPE[0] + 1, 1 : SHAPE[1] + 1]
    found = drawn(tmp_path, "image\ncircle(12,30,4.2) # color=red text={star}\n")
    np.testing.assert_array_equal(found, np.hypot(x - 12, y - 30) < 4.2)


def test_what_is_excluded_is_taken_out_of_what_is_drawn(tmp_path):
    whole, hole = (drawn(tmp_path, f"image\n{text}") for text in ("box(20,20,10,6,0)", "circle(20,20,2)"))  # fmt: skip
    both = drawn(tmp_path, "image\nbox(20,20,10,6,0)\n-circle(20,20,2)\n")
    np.testing.assert_array_equal(both, whole & ~hole)
    assert 0 < both.sum() < whole.sum()


def test_regions_without_an_area_are_told_and_the_others_count(tmp_path):
    path = tmp_path / "mask.reg"
    path.write_text("image\nbox(10.5,10.5,4,4,0)\npoint(30,30)\n")
    with pytest.warns(InputWarning, match=r"1 of 2 regions have no area \(point\)"):
        found = region_mask(path, (40, 40), None)
    assert found.sum() == 16
    path.write_text("physical\ncircle(10,10,3)\n")
    with pytest.raises(InputError, match="save them in DS9 as image or fk5"):
        region_mask(path, (40, 40), None)


@pytest.mark.parametrize("name", ["VAR", "wht", "IVAR,2"])
def test_an_extension_that_is_no_standard_deviation_by_its_name_is_refused(tmp_path, name):
    image = tmp_path / "lens.fits"
    fits.PrimaryHDU(np.ones((20, 20))).writeto(image)
    fits.PrimaryHDU(np.ones((5, 5))).writeto(tmp_path / "psf.fits")
    files = LensFiles(str(image), str(tmp_path / "psf.fits"), f"hdu:{name}")
    with pytest.raises(InputError, match="a standard deviation is needed"):
        read_observation(files, Reading(pixel_scale=0.05))


@pytest.mark.parametrize("name", ["WHT", "SCI_VAR"])
def test_a_file_that_is_no_standard_deviation_by_its_name_is_refused(tmp_path, name):
    image, psf, noise = (str(tmp_path / f"{each}.fits") for each in ("lens", "psf", "noise"))
    fits.PrimaryHDU(np.ones((20, 20))).writeto(image)
    fits.PrimaryHDU(np.ones((5, 5))).writeto(psf)
    hdu = fits.PrimaryHDU(np.full((20, 20), 2.0))
    hdu.header["EXTNAME"] = name
    hdu.writeto(noise)
    with pytest.raises(InputError, match=f"by its name, {name}: a standard deviation is needed"):
        read_observation(LensFiles(image, psf, noise), Reading(pixel_scale=0.05))


def test_regions_on_the_sky_lie_where_the_wcs_says(tmp_path):
    found = drawn(tmp_path, 'icrs\ncircle(150.0,2.0,0.49")\n', on_sky())
    y, x = np.mgrid[1 : SHAPE[0] + 1, 1 : SHAPE[1] + 1]
    np.testing.assert_array_equal(found, np.hypot(x - 25.5, y - 20.5) < 9.8)


def test_regions_beside_the_image_leave_out_nothing(tmp_path):
    assert not drawn(tmp_path, "image\ncircle(900,900,3)\n").any()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds no region"),
        ("hello\n", "is no file of DS9 regions"),
        ("image\ncircle(10,10,3)\nhello(1,2)\n", "is no file of DS9 regions"),
        ("image\npoint(3,3)\n", "a point has no area"),
        ("image\nline(1,1,4,4)\n", "a line has no area"),
        ('fk5\ncircle(150,2,1")\n', "the image has no WCS"),
    ],
)
def test_what_is_no_mask_is_refused_in_one_line(tmp_path, text, words):
    with pytest.raises(InputError, match=words) as error:
        drawn(tmp_path, text)
    assert len(str(error.value).splitlines()) == 1


def test_binary_files_and_missing_ones_are_refused(tmp_path):
    path = tmp_path / "mask.reg"
    with pytest.raises(InputError, match="cannot be read"):
        region_mask(path, SHAPE, None)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="is no file of DS9 regions"):
        region_mask(path, SHAPE, None)


def test_all_that_belongs_to_a_lens_may_be_in_one_file(tmp_path):
    rng = np.random.default_rng(0)
    parts = {
        "VIS_FLUX": rng.normal(size=SHAPE),
        "VIS_PSF": np.pad([[1.0]], 2),
        "VIS_RMS": rng.uniform(1, 2, SHAPE),
        "BAD": rng.random(SHAPE) < 0.1,
    }
    hdus = [fits.ImageHDU(np.asarray(v, float), on_sky().to_header(), name=k) for k, v in parts.items()]  # fmt: skip
    hdus[1].header = fits.ImageHDU(parts["VIS_PSF"], name="VIS_PSF").header
    path = str(tmp_path / "lens.fits")
    fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(path)
    seen = read_observation(LensFiles(path, "hdu:VIS_PSF", "hdu:vis_rms", "hdu:BAD"), Reading())
    np.testing.assert_allclose(seen.image, parts["VIS_FLUX"], rtol=1e-6)
    np.testing.assert_allclose(seen.noise[seen.mask], parts["VIS_RMS"][seen.mask], rtol=1e-6)
    np.testing.assert_array_equal(~seen.mask, parts["BAD"])
    with pytest.raises(InputError, match="has no extension 'PSF'; its names are PRIMARY, VIS_FLUX"):
        read_observation(LensFiles(path, "hdu:PSF"), Reading())


def test_a_lens_is_read_with_its_regions(tmp_path):
    rng = np.random.default_rng(0)
    header = on_sky().to_header()
    fits.PrimaryHDU(rng.normal(size=SHAPE), header).writeto(tmp_path / "lens.fits")
    fits.PrimaryHDU(np.pad([[1.0]], 2)).writeto(tmp_path / "psf.fits")
    fits.PrimaryHDU(np.ones(SHAPE)).writeto(tmp_path / "noise.fits")
    (tmp_path / "mask.reg").write_text('icrs\ncircle(150.0,2.0,0.5")\n')
    names = ("lens.fits", "psf.fits", "noise.fits", "mask.reg")
    seen = read_observation(LensFiles(*(str(tmp_path / name) for name in names)), Reading())
    np.testing.assert_array_equal(~seen.mask, drawn(tmp_path, 'icrs\ncircle(150.0,2.0,0.5")\n', on_sky()))  # fmt: skip


def in_file(path, *images, **cards):
    header = fits.Header(cards)
    hdus = [fits.PrimaryHDU(images[0], header)]
    hdus += [fits.ImageHDU(image, name=name) for name, image in images[1:]]
    fits.HDUList(hdus).writeto(path, overwrite=True)
    return str(path)


@pytest.fixture
def paths(tmp_path):
    rng = np.random.default_rng(1)
    psf = np.exp(-np.add.outer(np.arange(-3, 4) ** 2, np.arange(-3, 4) ** 2) / 2.0)
    image = rng.normal(0, 0.1, (30, 30)) + np.exp(-np.add.outer(*[(np.arange(30) - 15) ** 2] * 2) / 20)  # fmt: skip
    return {"image": image, "psf": psf, "folder": tmp_path}


def test_pixels_that_are_no_squares_are_refused(paths):
    psf = in_file(paths["folder"] / "psf.fits", paths["psf"])
    steps = {"CDELT1": -0.08 / 3600, "CDELT2": 0.10 / 3600, "CTYPE1": "RA---TAN"}
    steps |= {"CTYPE2": "DEC--TAN", "CRVAL1": 10.0, "CRVAL2": 0.0, "CRPIX1": 1.0, "CRPIX2": 1.0}
    image = in_file(paths["folder"] / "lens.fits", paths["image"], **steps)
    with pytest.raises(InputError, match=r"pixels of 0\.1″ by 0\.08″: square ones are needed"):
        read_observation(LensFiles(image, psf), Reading())
    with pytest.warns(InputWarning, match="the header says 0.1″ by 0.08″"):
        seen = read_observation(LensFiles(image, psf), Reading(pixel_scale=0.09))
    assert seen.pixel_scale == 0.09
    star = in_file(paths["folder"] / "star.fits", paths["psf"], **steps)
    with pytest.raises(InputError, match=r"star\.fits has pixels of .* give --psf_scale"):
        read_observation(LensFiles(image, star), Reading(pixel_scale=0.09))


def test_the_image_that_is_named_psf_is_taken(paths):
    image = in_file(paths["folder"] / "lens.fits", paths["image"])
    both = in_file(paths["folder"] / "both.fits", paths["image"], ("F814W_PSF", paths["psf"]))
    seen = read_observation(LensFiles(image, both), Reading(pixel_scale=0.05))
    assert seen.psf.shape == (7, 7)
    with pytest.raises(InputError, match="is the image itself"):
        read_observation(LensFiles(image, image), Reading(pixel_scale=0.05))


@pytest.mark.parametrize(
    ("cards", "scale"),
    [
        ({"OVERSAMP": 2, "DET_SAMP": 2}, 0.025),
        ({"DET_SAMP": 2}, 0.025),
        ({"OVERSAMP": 4, "PIXELSCL": 0.02}, 0.02),
        ({"OVERSAMP": 1, "DET_SAMP": 4}, 0.05),
        ({"DET_SAMP": 4, "EXTNAME": "DET_DIST"}, 0.05),
        ({}, 0.05),
    ],
)
def test_an_oversampled_psf_is_known_by_its_header(paths, cards, scale):
    """STPSF and WebbPSF say PIXELSCL in most of their files, and OVERSAMP in all."""
    folder = paths["folder"]
    image = in_file(folder / "lens.fits", paths["image"])
    psf = in_file(folder / "psf.fits", paths["psf"], **cards)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        seen = read_observation(LensFiles(image, psf), Reading(pixel_scale=0.05))
        hdu = fits.open(psf)[0]
        given = taken(paths["image"], {"psf": hdu, "noise": None, "mask": None, "wcs": None})
        assert (given.psf_scale(0.05) or 0.05) == pytest.approx(scale)
    assert (seen.sharp_psf is not None) == (scale < 0.05)
    assert seen.sharp_scale == pytest.approx(scale)
    guessed = [
        str(each.message) for each in told if "oversampled by its header" in str(each.message)
    ]
    assert len(guessed) == (2 if scale == 0.025 else 0)
    chosen = read_observation(LensFiles(image, psf, psf_scale=0.05), Reading(pixel_scale=0.05))
    assert chosen.sharp_psf is None


def of_two_bands(paths, names, version=1):
    """A file of two images, each with a noise map (the second's twice as large), a PSF (as large as its number) and a mask; its path."""
    hdus = [fits.PrimaryHDU()]
    for k, (image, noise, psf, mask) in enumerate(names, 1):
        kernel = np.pad(paths["psf"], k)
        hidden = np.zeros((30, 30), np.uint8)
        hidden[:k] = 1
        parts = ((image, paths["image"] * k), (noise, np.full((30, 30), 0.1 * k)), (psf, kernel), (mask, hidden))  # fmt: skip
        hdus += [fits.ImageHDU(v, name=n, ver=1 if version == 1 else k) for n, v in parts]
    path = str(paths["folder"] / "bands.fits")
    fits.HDUList(hdus).writeto(path)
    return path


@pytest.mark.parametrize(
    ("names", "version", "second"),
    [
        ([("VIS_FLUX", "VIS_RMS", "VIS_PSF", "VIS_MASK"), ("NIR_H_FLUX", "NIR_H_RMS", "NIR_H_PSF", "NIR_H_DQ")], 1, "NIR_H_FLUX"),
        ([("SCI", "ERR", "PSF", "DQ")] * 2, 2, "SCI,2"),
        ([("F814W", "ERR_F814W", "PSF_F814W", "MASK_F814W"), ("F475W", "ERR_F475W", "PSF_F475W", "MASK_F475W")], 1, "F475W"),
    ],
)  # fmt: skip
def test_what_belongs_to_a_band_is_that_of_the_band(paths, names, version, second):
    """The file as a whole was given for each: the first PSF was taken whatever the image, and the image itself as noise map and as mask."""
    path = of_two_bands(paths, names, version)
    for k, hdu in ((1, None), (2, second)):
        reading = Reading(hdu=hdu, pixel_scale=0.05)
        seen = read_observation(LensFiles(path, path, path, path, neighbour_correlation=0), reading)
        np.testing.assert_allclose(seen.image, k * paths["image"], rtol=1e-5)
        np.testing.assert_allclose(seen.noise[seen.mask], 0.1 * k, rtol=1e-5)
        assert seen.psf.shape == (7 + 2 * k, 7 + 2 * k)
        assert int((~seen.mask).sum()) == 30 * k
        if version == 2:  # by name, with the version of the image
            own = LensFiles(path, "hdu:PSF", "hdu:err", "hdu:DQ", neighbour_correlation=0)
            same = read_observation(own, reading)
            np.testing.assert_array_equal(same.noise, seen.noise)
            assert same.psf.shape == seen.psf.shape


def test_what_no_name_tells_is_refused_and_of_another_file_told(paths):
    names = [("SUM", "VIS_RMS", "VIS_PSF", "VIS_MASK"), ("Y_FLUX", "Y_RMS", "Y_PSF", "Y_MASK")]
    path = of_two_bands(paths, names)
    psf = in_file(paths["folder"] / "psf.fits", paths["psf"])
    lone = in_file(paths["folder"] / "lens.fits", paths["image"])
    scale = Reading(pixel_scale=0.05)
    with pytest.warns(InputWarning, match="holds VIS_PSF, Y_PSF: VIS_PSF is taken"):
        read_observation(LensFiles(lone, path), scale)
    with pytest.raises(InputError, match="holds VIS_PSF, Y_PSF: hdu:NAME says which"):
        read_observation(LensFiles(path, path), scale)
    both = in_file(paths["folder"] / "both.fits", paths["image"], ("OTHER", paths["image"] + 1))
    with pytest.raises(InputError, match=r"none of its extensions .* is a noise map by its name"):
        read_observation(LensFiles(both, psf, both), scale)
    with pytest.raises(InputError, match=r"noise_map .* is the image itself"):
        read_observation(LensFiles(lone, psf, lone), scale)
    with pytest.raises(InputError, match="psf is empty: a file is needed"):
        read_observation(LensFiles(lone, ""), scale)


def test_unit_and_exposure_of_a_header_tell_the_photon_noise(paths):
    image = paths["image"] + 30 * (np.hypot(*(np.mgrid[:30, :30] - 15)) < 5)
    psf = in_file(paths["folder"] / "psf.fits", paths["psf"])
    file = paths["folder"] / "lens.fits"
    primary = fits.PrimaryHDU(header=fits.Header({"EXPTIME": 200.0}))
    fits.HDUList([primary, fits.ImageHDU(image, fits.Header({"BUNIT": "ELECTRONS/S"}), "SCI")]).writeto(file)  # fmt: skip
    files = LensFiles(str(file), psf, neighbour_correlation=0.0)
    with pytest.warns(InputWarning, match="200 electrons per unit of the image, as its header"):
        seen = read_observation(files, Reading(pixel_scale=0.05))
    assert seen.noise[15, 15] == pytest.approx(np.sqrt(seen.noise[0, 0] ** 2 + 30 / 200), rel=0.1)
    file.write_bytes(file.read_bytes().replace(b"200.0", b"2:0.0"))  # no number
    with pytest.warns(InputWarning, match="photon noise of bright pixels is not known"):
        assert np.ptp(read_observation(files, Reading(pixel_scale=0.05)).noise) == 0


def test_a_cube_is_told_how_its_plane_is_chosen(paths):
    psf = in_file(paths["folder"] / "psf.fits", paths["psf"])
    cube = in_file(paths["folder"] / "cube.fits", np.stack([paths["image"], 2 * paths["image"]]))
    with pytest.raises(InputError, match="a cube of 2 planes: --band says which"):
        read_observation(LensFiles(cube, psf), Reading(pixel_scale=0.05))
    seen = read_observation(LensFiles(cube, psf), Reading(pixel_scale=0.05, band=1))
    np.testing.assert_allclose(seen.image, 2 * paths["image"], rtol=1e-5)


def test_a_keyword_against_the_wcs_is_told(paths, monkeypatch):
    psf = in_file(paths["folder"] / "psf.fits", paths["psf"])
    cards = {
        "CTYPE1": "RA---TAN",
        "CTYPE2": "DEC--TAN",
        "CDELT1": -0.05 / 3600,
        "CDELT2": 0.05 / 3600,
    }
    image = in_file(paths["folder"] / "two.fits", paths["image"], PIXSCALE=0.1, **cards)
    said = "of 0.05″, as the WCS says, though a header has PIXSCALE = 0.1"
    with pytest.warns(InputWarning, match=said):
        seen = read_observation(LensFiles(image, psf), Reading())
    assert any(said in note for note in seen.notes)
    monkeypatch.setattr(run, "fit_observation", lambda seen, *_, **__: seen)
    with fits.open(image) as hdus, pytest.warns(InputWarning, match=said):
        assert any(said in note for note in run.fit(hdus[0], psf=paths["psf"]).notes)


def test_a_pixel_scale_against_the_header_is_told(paths, monkeypatch):
    """The Einstein radius goes with it, and nothing was said."""
    psf = in_file(paths["folder"] / "psf.fits", paths["psf"])
    image = in_file(
        paths["folder"] / "lens.fits", paths["image"], PIXSCALE=0.08, BUNIT="electron/s"
    )
    said = "pixels are taken to be of 0.05″, as was given, though the header says 0.08″"
    with pytest.warns(InputWarning, match=said):
        seen = read_observation(LensFiles(image, psf), Reading(pixel_scale=0.05))
    assert seen.pixel_scale == 0.05
    assert any(said in note for note in seen.notes)
    same = read_observation(LensFiles(image, psf), Reading(pixel_scale=0.0801))
    assert not any("as was given" in note for note in same.notes)
    # In Python an HDU's header counts, too: its scale was not read, and 0.05″ taken.
    monkeypatch.setattr(run, "fit_observation", lambda seen, *_, **__: seen)
    with fits.open(image) as hdus:
        read = run.fit(hdus[0], psf=paths["psf"])
        assert read.pixel_scale == 0.08
        assert read.unit == "electron/s"
        assert not any("pixels are taken" in note for note in read.notes)
        with pytest.warns(InputWarning, match=said):
            run.fit(hdus[0], psf=paths["psf"], pixel_scale=0.05)


def test_one_image_is_fitted(paths):
    psf = in_file(paths["folder"] / "psf.fits", paths["psf"])
    image = in_file(paths["folder"] / "lens.fits", paths["image"], ("B", paths["image"]))
    with pytest.raises(InputError, match="names 2 images"):
        read_observation(LensFiles(image, psf), Reading(hdu="all", pixel_scale=0.05))


@pytest.mark.parametrize("line", ["polygon(1,1,10,1)", "circle(nan,10,3)"])
def test_regions_that_cannot_be_are_refused(tmp_path, line):
    with pytest.raises(InputError, match=r"mask\.reg"):
        drawn(tmp_path, f"image\n{line}\n")


@pytest.fixture
def noise_of_unit(tmp_path):
    """Reads the noise of a lens whose headers name these units."""
    rng = np.random.default_rng(0)
    fits.PrimaryHDU(np.pad([[1.0]], 2)).writeto(tmp_path / "psf.fits")

    def read(noise_unit, image_unit, noise_map="noise.fits", value=2.0):
        header = on_sky().to_header()
        noise = fits.ImageHDU(np.full(SHAPE, value), name="ERR")
        for each, unit in ((header, image_unit), (noise.header, noise_unit)):
            if unit is not None:
                each["BUNIT"] = unit
        image = fits.ImageHDU(rng.normal(0, 2, SHAPE), header, name="SCI")
        path = tmp_path / "lens.fits"
        fits.HDUList([fits.PrimaryHDU(), image, noise]).writeto(path, overwrite=True)
        fits.HDUList([fits.PrimaryHDU(), noise]).writeto(tmp_path / "noise.fits", overwrite=True)
        given = noise_map if noise_map.startswith("hdu:") else str(tmp_path / noise_map)
        files = LensFiles(str(path), str(tmp_path / "psf.fits"), given)
        return read_observation(files, Reading()).noise[0, 0]

    return read


@pytest.mark.parametrize("noise_map", ["noise.fits", "hdu:ERR"])
def test_a_noise_map_is_brought_to_the_unit_of_the_image(noise_of_unit, noise_map):
    assert noise_of_unit("electron/s", "ELECTRONS/S", noise_map) == 2
    assert noise_of_unit(None, "electron/s", noise_map) == 2
    assert noise_of_unit("Jy", None, noise_map) == 2
    assert noise_of_unit("mJy", "Jy", noise_map, value=2000.0) == pytest.approx(2)


@pytest.mark.parametrize(
    ("noise_unit", "image_unit", "words"),
    [
        ("counts", "electrons/s", r"in ct, the image in electron / s: it must be in the image's"),
        ("electron", "electron/s", "noise_map .* is in electron, the image in electron / s"),
        ("electron2 / s2", "electron/s", "its square: is it a map of variances"),
        ("s2 / electron2", "electron/s", "its inverse square: is it a map of weights"),
    ],
)
def test_a_noise_map_in_a_unit_of_something_else_is_refused(
    noise_of_unit, noise_unit, image_unit, words
):
    with pytest.raises(InputError, match=words):
        noise_of_unit(noise_unit, image_unit)


def test_units_that_are_not_known_are_told_where_they_differ(noise_of_unit):
    with pytest.warns(InputWarning, match="in 'furlongs', the image in 'nanomaggy'"):
        assert noise_of_unit("furlongs", "nanomaggy") == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert noise_of_unit("Nanomaggy", "nanomaggy") == 2
