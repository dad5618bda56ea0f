"""What FITS headers say of the sky, wherever and however they say it."""

import warnings

import numpy as np
import pytest

from haloformer.data.reader import PixelGrid, Reading, find_inputs, read_images
from haloformer.errors import InputError, InputWarning
from haloformer.readers.extensions import own_extension
from haloformer.readers.images import read_image

fits = pytest.importorskip("astropy.io.fits")

SIDE = 40
PIXELS = np.random.default_rng(1).uniform(1, 2, (SIDE, SIDE)).astype(np.float32)
GRID = PixelGrid((1, 20, 20), 0.1)
SKY = {
    "CTYPE1": "RA---TAN",
    "CTYPE2": "DEC--TAN",
    "CRVAL1": 150.0,
    "CRVAL2": 2.0,
    "CRPIX1": 20.5,
    "CRPIX2": 20.5,
}
MATRIX = {"CDELT1": -0.05 / 3600, "CDELT2": 0.05 / 3600}
BINNED = PIXELS.reshape(20, 2, 20, 2).sum((1, 3))  # 0.05 arcsec pixels on a grid of 0.1


def written(path, *hdus):
    fits.HDUList(list(hdus)).writeto(path)
    return path


def read(path, grid=GRID, **options):
    reading = Reading(**options)
    inputs = find_inputs([str(path)], True, channels=grid.shape[0], reading=reading)
    return [image for batch in read_images(inputs, grid, reading) for image in batch]


def primary(cards):
    return fits.PrimaryHDU(None, fits.Header(cards))


def extension(cards=(), pixels=PIXELS, name="SCI"):
    return fits.ImageHDU(pixels, fits.Header(cards), name=name)


@pytest.mark.parametrize("inherit", [{}, {"INHERIT": True}])
def test_the_primary_header_speaks_for_the_image_in_an_extension(tmp_path, inherit):
    cards = {**SKY, **MATRIX, "FILTER": "F444W", "BUNIT": "MJy/sr"}
    path = written(tmp_path / "x.fits", primary(cards), extension(inherit), extension(name="ERR"))
    (image,) = read(path, band="f444w")
    assert image.hdu == 1
    assert image.scales == pytest.approx((0.05, 0.05))
    assert (image.ra, image.dec) == pytest.approx((150, 2))
    np.testing.assert_allclose(image.pixels[0], BINNED / 4, rtol=1e-5)


def test_an_extension_keeps_what_is_its_own(tmp_path):
    wide = {**SKY, "CDELT1": -1 / 3600, "CDELT2": 1 / 3600, "BUNIT": "MJy/sr"}
    own = extension({**SKY, **MATRIX, "BUNIT": "counts"})
    (image,) = read(written(tmp_path / "own.fits", primary(wide), own))
    np.testing.assert_allclose(image.pixels[0], BINNED, rtol=1e-5)
    for name, hdu in (
        ("alone.fits", primary(wide)),
        ("other.fits", fits.PrimaryHDU(np.zeros((9, 9), np.float32), fits.Header(wide))),
    ):
        cards = {"INHERIT": False} if name == "alone.fits" else {}
        (image,) = read(written(tmp_path / name, hdu, extension(cards)), hdu=1)
        assert image.scales is None


@pytest.mark.parametrize(
    "cards",
    [
        {**SKY, "CDELT1": -0.05, "CDELT2": 0.05, "CUNIT1": "arcsec", "CUNIT2": "arcsec"},
        {**SKY, "CDELT1": -0.05, "CDELT2": 0.05},
        {**SKY, "CD1_1": -0.03, "CD1_2": 0.04, "CD2_1": 0.04, "CD2_2": 0.03},
        {**SKY, "CTYPE1": "RA---XYZ", **MATRIX},
        MATRIX,
        {"CDELT1": 0.05, "CDELT2": 0.05},
        {"CDELT1": 0.05, "CDELT2": 0.05, "CUNIT1": "arcsec", "CUNIT2": "arcsec"},
        {"PIXSCALE": 0.05},
        {"PIXSCALE": "0.05 arcsec/pixel"},
        {"PIXSCAL1": -0.05, "PIXSCAL2": 0.05},
        {"SECPIX": 0.05},
        {"SECPIX1": -0.05, "SECPIX2": 0.05},
        {"PLATESCL": 0.05},
        {"PIXAR_A2": 0.0025},
        {**SKY, "PIXSCALE": 0.05},
        {"PIXSCALE": "N/A", "SECPIX": 0.05},
        {"PIXSCALE": "", **MATRIX},
        {"HIERARCH ESO INS PIXSCALE": 0.05},
        {"HIERARCH pixel scale": "50 mas, drizzled"},
        {"HIERARCH HSC PIXEL_SCALE": "0.05 arcsec"},
    ],
)
def test_the_pixel_scale_is_found_however_it_is_written(tmp_path, cards):
    path = written(tmp_path / "x.fits", fits.PrimaryHDU(PIXELS, fits.Header(cards)))
    (image,) = read(path)
    assert image.error is None
    assert image.scales == pytest.approx((0.05, 0.05))
    np.testing.assert_allclose(image.pixels[0], BINNED, rtol=1e-5)


@pytest.mark.parametrize("key", ["CDELT1", "BUNIT", "PIXSCALE"])
def test_a_header_that_says_two_things_is_an_error_until_the_scale_is_given(tmp_path, key):
    header = fits.Header({**SKY, **MATRIX, "BUNIT": "counts", "PIXSCALE": 0.05})
    header.append((key, header[key]))
    (image,) = read(written(tmp_path / "same.fits", fits.PrimaryHDU(PIXELS, header)))
    np.testing.assert_allclose(image.pixels[0], BINNED, rtol=1e-5)
    header.append((key, 7))
    path = written(tmp_path / "other.fits", fits.PrimaryHDU(PIXELS, header))
    (image,) = read(path)
    assert f"its header gives {key} more than once" in image.error
    (image,) = read(path, pixel_scale=0.05)
    np.testing.assert_allclose(image.pixels[0], BINNED, rtol=1e-5)


@pytest.mark.parametrize("unit", ["mag", "mag/arcsec2", "AB mag", "ABmag", "mag(AB)", "dex(Jy)"])
def test_magnitudes_are_no_light(tmp_path, unit):
    hdu = fits.PrimaryHDU(PIXELS, fits.Header({**SKY, **MATRIX, "BUNIT": unit}))
    (image,) = read(written(tmp_path / "x.fits", hdu), pixel_scale=0.05)
    assert "which are logarithms" in image.error
    hdu = fits.PrimaryHDU(PIXELS, fits.Header({**SKY, **MATRIX, "BUNIT": "nanomaggies"}))
    (image,) = read(written(tmp_path / "y.fits", hdu))
    assert image.error is None


@pytest.mark.parametrize(
    "cards",
    [
        {**SKY, "CDELT1": 500.0, "CDELT2": 500.0},
        {**SKY, "CD1_1": "nonsense", "CD2_2": 1e-5},
        {"PIXSCALE": "unknown"},
        {"SECPIX": 1e-5},
    ],
)
def test_a_pixel_scale_that_cannot_be_one_is_an_error_until_it_is_given(tmp_path, cards):
    path = written(tmp_path / "x.fits", fits.PrimaryHDU(PIXELS, fits.Header(cards)))
    (image,) = read(path)
    assert "--pixel_scale" in image.error
    (image,) = read(path, pixel_scale=0.05)
    np.testing.assert_allclose(image.pixels[0], BINNED, rtol=1e-5)


@pytest.mark.parametrize(
    "cards",
    [
        {},
        SKY,
        {**SKY, "CDELT1": 1.0, "CDELT2": 1.0},
        {"CTYPE1": "FREQ", "CDELT1": 1e6},
        {"CDELT1": 2.0, "CDELT2": 2.0},
        {"PLTSCALE": 67.2},
        {"PIXSCALE": ""},
    ],
)
def test_a_header_that_gives_no_pixel_scale_leaves_it_unknown(tmp_path, cards):
    path = written(tmp_path / "x.fits", fits.PrimaryHDU(PIXELS, fits.Header(cards)))
    (image,) = read(path, PixelGrid((1, SIDE, SIDE), 0.1))
    assert image.scales is None
    assert np.array_equal(image.pixels[0], PIXELS)


def test_a_pixel_scale_against_the_header_is_told_and_one_that_agrees_is_not(tmp_path):
    cards = fits.Header({"PIXSCALE": 0.05})
    path = written(tmp_path / "x.fits", fits.PrimaryHDU(PIXELS, cards))
    with pytest.warns(InputWarning, match="of 0.1″, as was given, though a header says 0.05″"):
        read(path, pixel_scale=0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("error", InputWarning)
        read(path, pixel_scale=0.0501)


def test_pixels_that_are_no_squares_are_not_said_to_be_given(tmp_path):
    cards = fits.Header({"PIXSCAL1": 0.065, "PIXSCAL2": 0.05})
    path = written(tmp_path / "x.fits", fits.PrimaryHDU(PIXELS, cards))
    with warnings.catch_warnings():
        warnings.simplefilter("error", InputWarning)
        (image,) = read(path)
    assert image.scales == (0.05, 0.065)
    with pytest.warns(InputWarning, match="of 0.065″, as was given, .* 0.065″ by 0.05″"):
        read(path, pixel_scale=0.065)


@pytest.mark.parametrize("scale", [{"PIXSCALE": 0.2}, {"PIXSCAL1": 0.05, "PIXSCAL2": 0.2}])
def test_a_keyword_against_the_wcs_is_told_and_one_that_agrees_is_not(tmp_path, scale):
    """The WCS counted, and nothing was said: the scale of one of the two is wrong by a factor."""
    cards = fits.Header({**SKY, **MATRIX, **scale})
    path = written(tmp_path / "x.fits", fits.PrimaryHDU(PIXELS, cards))
    said = f"as the WCS says, though a header has {next(iter(scale))} = "
    with pytest.warns(InputWarning, match=said):
        (image,) = read(path)
    ours = image.scales[1]
    silent = [
        {**SKY, **MATRIX, **dict.fromkeys(scale, round(ours, 3))},
        {**SKY, **MATRIX, "CCDSCALE": 0.2},  # stays that of the camera where an image is resampled
        {**SKY, **MATRIX, "PIXSCALE": "unknown"},
        {**SKY, **MATRIX, "PIXSCAL1": 0.2},  # that of y is missing
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error", InputWarning)
        for k, each in enumerate(silent):
            read(written(tmp_path / f"{k}.fits", fits.PrimaryHDU(PIXELS, fits.Header(each))))
    with pytest.warns(InputWarning, match="as was given"):
        read(path, pixel_scale=3 * ours)


@pytest.mark.parametrize("terms", [{"A_ORDER": 2, "B_ORDER": 2}, {}])
def test_sip_terms_that_may_not_apply_are_no_ground_for_positions(tmp_path, terms, caplog, capfd):
    cards = {**SKY, **MATRIX, **terms, "A_1_1": 1e-4, "B_1_1": 1e-4}
    path = written(tmp_path / "x.fits", fits.PrimaryHDU(PIXELS, fits.Header(cards)))
    (image,) = read(path)
    np.testing.assert_allclose(image.pixels[0], BINNED, rtol=1e-5)
    assert not caplog.records
    assert capfd.readouterr() == ("", "")
    (tmp_path / "sky.csv").write_text("ra,dec\n150,2\n")
    (tmp_path / "xy.csv").write_text("x,y\n19.5,19.5\n")
    with pytest.raises(InputError, match="does not end in -SIP"):
        read(path, catalog=str(tmp_path / "sky.csv"))
    (image,) = read(path, catalog=str(tmp_path / "xy.csv"))
    np.testing.assert_allclose(image.pixels[0], BINNED, rtol=1e-5)


@pytest.mark.parametrize(
    "name", ["PSF", "RMS", "WHT", "MASK", "ERR", "DQ", "VAR", "VIS_PSF", "VAR_POISSON", "err_f160w"]
)
def test_extensions_that_describe_an_image_are_none_of_a_lens(tmp_path, name):
    other = extension(name=name, pixels=np.zeros_like(PIXELS))
    path = written(tmp_path / "x.fits", primary({}), other, extension(MATRIX))
    for options in ({}, {"hdu": "all"}, {"hdu": "*"}):
        (image,) = read(path, **options)
        assert image.hdu == 2
    (image,) = read(path, hdu=name, pixel_scale=0.05)
    assert image.hdu == 1
    (image,) = read(written(tmp_path / "alone.fits", primary({}), other.copy()))
    assert "--hdu" in image.error


@pytest.mark.parametrize("name", ["SCI", "VIS_FLUX", "PSF_MATCHED_SCI", "F814W", "ERRAI", ""])
def test_other_names_are_those_of_images(tmp_path, name):
    (image,) = read(written(tmp_path / "x.fits", primary({}), extension(MATRIX, name=name)))
    np.testing.assert_allclose(image.pixels[0], BINNED, rtol=1e-5)


def test_a_cube_with_its_bands_last_is_a_cube(tmp_path):
    planes = np.stack([PIXELS, 2 * PIXELS, 3 * PIXELS])
    header = fits.Header({**SKY, **MATRIX, "FILTER1": "g", "FILTER2": "r", "FILTER3": "i"})
    path = written(tmp_path / "last.fits", fits.PrimaryHDU(np.moveaxis(planes, 0, -1), header))
    images = read(path)
    assert [image.index for image in images] == [0, 1, 2]
    for k, image in enumerate(images):
        np.testing.assert_allclose(image.pixels[0], (k + 1) * BINNED, rtol=1e-5)
    for band in (1, "r"):
        (image,) = read(path, band=band)
        np.testing.assert_allclose(image.pixels[0], 2 * BINNED, rtol=1e-5)
    (image,) = read(path, PixelGrid((3, 20, 20), 0.1))
    np.testing.assert_allclose(image.pixels[1], 2 * BINNED, rtol=1e-5)
    (tmp_path / "xy.csv").write_text("x,y\n19.5,19.5\n")
    (image,) = read(path, catalog=str(tmp_path / "xy.csv"), band=2)
    np.testing.assert_allclose(image.pixels[0], 3 * BINNED, rtol=1e-5)


def test_a_folder_of_nothing_but_dangling_links_is_an_error(tmp_path):
    for name in ("a.npy", "b.npy"):
        (tmp_path / name).symlink_to(tmp_path / "unmounted" / name)
    with pytest.raises(InputError, match=r"none of 2 images is there: .*a\.npy is a link"):
        find_inputs([str(tmp_path)], True)
    np.save(tmp_path / "c.npy", PIXELS)
    images = read(tmp_path, PixelGrid((1, SIDE, SIDE)))
    assert ["does not exist" in (image.error or "") for image in images] == [True, True, False]


def test_a_number_behind_a_name_is_its_version(tmp_path):
    versions = [fits.ImageHDU(np.full((8, 8), k + 1.0), name="SCI", ver=k + 1) for k in range(3)]
    others = [fits.ImageHDU(np.full((8, 8), 9.0), name="ERR", ver=2)]
    path = tmp_path / "flc.fits"
    fits.HDUList([fits.PrimaryHDU(), *versions, *others]).writeto(path)

    def values(hdu):
        found = read(path, PixelGrid((1, 8, 8), 0.05), hdu=hdu, pixel_scale=0.05)
        return [float(image.pixels.mean()) for image in found]

    assert [values(hdu) for hdu in ("SCI", "sci,2", "SCI, 3")] == [[1.0], [2.0], [3.0]]
    assert values("SCI,3,SCI,1") == [3.0, 1.0]
    assert values("SCI,2,1") == [2.0, 1.0]  # and extension 1
    assert values("SCI,ERR,2") == [1.0, 9.0]
    assert values("1,4") == [1.0, 9.0]
    assert values("2,SCI") == [2.0, 1.0]
    assert values("ERR,2") == [9.0]
    assert values("SC*,4") == [1.0, 2.0, 3.0, 9.0]
    with pytest.raises(InputError, match=r"'SCI' of version 4; there are .* 2 SCI,2, 3 SCI,3, 4 E"):
        read_image(path, hdu="SCI,4")
    assert own_extension("psf", "hdu:ERR,2", path) == "ERR,2"
    with pytest.raises(InputError, match="no extension 'ERR,1'"):
        own_extension("psf", "hdu:ERR,1", path)
