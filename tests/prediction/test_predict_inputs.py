"""What astronomers have in their folders: cubes, several extensions, bands, other pixel scales, positions in a mosaic, masks."""

import csv
import gzip
import os
import tracemalloc

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from haloformer.cli import main
from haloformer.data import write_dataset
from haloformer.data.reader import PixelGrid, Reading, find_inputs, read_images
from haloformer.errors import InputError, InputWarning
from haloformer.prediction import load, predict, rows

SCALE = 0.101  # arcsec, of the model in these tests


def rows_of(path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def probabilities(rows):
    return np.array(
        [[float(row[f"p_{name}"]) for name in ("axion", "cdm", "no_sub")] for row in rows]
    )


def sky(scale=SCALE, crpix=(32.5, 32.5)) -> fits.Header:
    header = fits.Header(
        {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 150.0, "CRVAL2": 2.0}
    )
    header.update(CRPIX1=crpix[0], CRPIX2=crpix[1], CD1_1=-scale / 3600, CD2_2=scale / 3600)
    return header


@pytest.fixture
def pixels(lenses):
    return lenses.images[:, 0].numpy()


@pytest.fixture
def expected(original_run, lenses):
    return load(original_run, "cpu").probabilities(lenses.images).numpy()


@pytest.fixture
def ask(original_run, tmp_path):
    """A function that predicts and returns the rows."""

    def call(*images, out="out.csv", **options):
        predict(
            str(original_run),
            list(map(str, images)),
            str(tmp_path / out),
            device="cpu",
            overwrite=True,
            **options,
        )
        return rows_of(tmp_path / out)

    return call


def test_a_cube_is_as_many_images(ask, pixels, expected, tmp_path):
    fits.PrimaryHDU(pixels[:7], sky()).writeto(tmp_path / "cube.fits")
    packed = fits.CompImageHDU(pixels[:7], sky(), compression_type="GZIP_2", quantize_level=0)
    fits.HDUList([fits.PrimaryHDU(), packed]).writeto(tmp_path / "packed.fits")
    os.rename(tmp_path / "packed.fits", tmp_path / "packed.fz")
    (tmp_path / "cube.fits.gz").write_bytes(gzip.compress((tmp_path / "cube.fits").read_bytes()))
    for name, hdu in (("cube.fits", "0"), ("packed.fz", "1"), ("cube.fits.gz", "0")):
        rows = ask(tmp_path / name, batch_size=3)
        assert [row["index"] for row in rows] == list("0123456")
        assert {row["hdu"] for row in rows} == {hdu}
        np.testing.assert_allclose(probabilities(rows), expected[:7], rtol=1e-5)
        assert float(rows[3]["ra"]) == pytest.approx(150, abs=1e-6)
        assert float(rows[3]["dec"]) == pytest.approx(2, abs=1e-6)


def test_one_plane_of_a_cube_is_chosen_by_its_number_or_its_name(ask, pixels, expected, tmp_path):
    header = fits.Header({f"FILTER{k}": name for k, name in ((1, "g"), (2, "r"), (3, "i"))})
    fits.PrimaryHDU(pixels[:3], header).writeto(tmp_path / "cube.fits")
    np.save(tmp_path / "cube.npy", pixels[:3])
    for file, band in (("cube.fits", 1), ("cube.fits", "R"), ("cube.npy", 1)):
        (row,) = ask(tmp_path / file, band=band)
        np.testing.assert_allclose(probabilities([row])[0], expected[1], rtol=1e-5)
    for band, message in (
        (3, r"no band 3; there are 0 to 2"),
        ("z", r"no band 'z'; there are G, R, I"),
    ):
        with pytest.raises(InputError, match=message):
            ask(tmp_path / "cube.fits", band=band, on_error="stop")


@pytest.fixture
def extensions(pixels, tmp_path):
    hdus = [fits.PrimaryHDU()]
    for k, name in enumerate(("VIS_FLUX", "VIS_PSF", "NIR_Y_FLUX", "NIR_J_FLUX")):
        hdus.append(
            fits.ImageHDU(pixels[k] if name != "VIS_PSF" else pixels[k, :21, :21], sky(), name=name)
        )
    hdus[3].header["FILTER"] = "Y"
    fits.HDUList(hdus).writeto(tmp_path / "many.fits")
    return tmp_path / "many.fits"


@pytest.mark.parametrize(
    ("options", "numbers"),
    [
        ({}, "1"),
        ({"hdu": 3}, "3"),
        ({"hdu": "nir_j_flux"}, "4"),
        ({"hdu": "NIR_*_FLUX"}, "34"),
        ({"hdu": "4,VIS_FLUX"}, "41"),
        ({"hdu": "all"}, "134"),
        ({"hdu": "VIS_PSF,1"}, "21"),
        ({"band": "y"}, "3"),
        ({"band": "VIS_FLUX"}, "1"),
    ],
)
def test_extensions_are_chosen_by_number_name_list_or_pattern(
    options, numbers, ask, extensions, expected
):
    rows = ask(extensions, **options)
    assert "".join(row["hdu"] for row in rows) == numbers
    for row in rows:
        if row["hdu"] == "2":
            assert "21 × 21" not in row["error"]  # its pixel scale is known: it is framed
        else:
            np.testing.assert_allclose(
                probabilities([row])[0], expected[int(row["hdu"]) - 1], rtol=1e-5
            )


def test_another_pixel_scale_is_brought_to_the_models(ask, pixels, expected, tmp_path):
    # Every pixel cut into four of a quarter of the light: resampling puts them together again.
    fine = np.repeat(np.repeat(pixels[4], 2, 0), 2, 1) / 4
    fits.PrimaryHDU(fine, sky(SCALE / 2, (64.5, 64.5))).writeto(tmp_path / "fine.fits")
    np.save(tmp_path / "fine.npy", np.pad(fine, 10))
    bright = fits.PrimaryHDU(4 * fine, sky(SCALE / 2, (64.5, 64.5)))
    bright.header["BUNIT"] = "MJy/sr"  # does not grow with the pixel
    bright.writeto(tmp_path / "bright.fits")
    rows = [
        *ask(tmp_path / "fine.fits"),
        *ask(tmp_path / "bright.fits"),
        *ask(tmp_path / "fine.npy", pixel_scale=SCALE / 2),
    ]
    np.testing.assert_allclose(probabilities(rows), np.tile(expected[4], (3, 1)), rtol=1e-4)
    (row,) = ask(tmp_path / "fine.npy")
    assert "148 × 148" in row["error"]
    assert "--pixel_scale" in row["error"]


@pytest.fixture
def mosaic(pixels, tmp_path):
    """A large image with lenses 0, 1, 2 at known places, and their positions."""
    image = np.zeros((200, 300), np.float32)
    corners = [(10, 20), (100, 30), (120, 200)]
    for k, (y, x) in enumerate(corners):
        image[y : y + 64, x : x + 64] = pixels[k]
    fits.PrimaryHDU(image, sky(crpix=(150.5, 100.5))).writeto(tmp_path / "mosaic.fits")
    return tmp_path / "mosaic.fits", [(x + 31.5, y + 31.5) for y, x in corners]


def catalog(path, columns, positions):
    path.write_text("\n".join([columns, *(f"{i},{a},{b}" for i, (a, b) in enumerate(positions))]))
    return str(path)


def test_positions_in_a_mosaic_give_the_same_as_their_cutouts(ask, mosaic, expected, tmp_path):
    from astropy.wcs import WCS

    path, places = mosaic
    by_pixel = catalog(tmp_path / "xy.csv", "id,X,y", [*places, (5, 5), (1e9, 7), ("", "abc")])
    rows = ask(path, catalog=by_pixel)
    np.testing.assert_allclose(probabilities(rows[:3]), expected[:3], rtol=1e-5)
    assert [row["index"] for row in rows] == list("012345")
    assert ["wholly within" in row["error"] for row in rows] == [False] * 3 + [True, True, False]
    assert "no number" in rows[5]["error"]
    on_sky = WCS(fits.getheader(path)).pixel_to_world_values(*np.array(places).T)
    by_sky = catalog(
        tmp_path / "sky.csv", "id,ra,dec", [*zip(*on_sky), (10, 2), (190, -80), (3, 95)]
    )
    rows = ask(path, catalog=by_sky, size=64 * SCALE)
    np.testing.assert_allclose(probabilities(rows[:3]), expected[:3], rtol=1e-5)
    assert [bool(row["error"]) for row in rows] == [False] * 3 + [True] * 3
    assert float(rows[1]["ra"]) == pytest.approx(on_sky[0][1])


def test_cutouts_of_another_scale_are_centred_between_pixels(mosaic, tmp_path):
    """A source in a mosaic of half the scale comes to the middle of the frame, wherever between pixels it was."""
    axis = np.arange(400)
    places = [(150.3, 160.8), (250.0, 199.5)]
    image = sum(
        np.exp(-0.5 * (((axis[:, None] - y) / 5) ** 2 + ((axis - x) / 5) ** 2)) for x, y in places
    )
    fits.PrimaryHDU(image.astype(np.float32), sky(SCALE / 2)).writeto(tmp_path / "fine.fits")
    reading = Reading(catalog=catalog(tmp_path / "xy.csv", "id,x,y", places))
    sources = find_inputs([str(tmp_path / "fine.fits")], False, reading=reading)
    ((first, second),) = read_images(sources, PixelGrid((1, 20, 20), SCALE), reading, batch_size=8)
    for item in (first, second):
        middle = np.arange(20) - 9.5
        cutout = item.image[0]
        assert np.array(
            [cutout.sum(1) @ middle, cutout.sum(0) @ middle]
        ) / cutout.sum() == pytest.approx(0, abs=0.02)


@pytest.mark.parametrize(
    ("columns", "image", "options", "message"),
    [
        ("id,a,b", "mosaic.fits", {}, r"ra and dec, or x and y, are needed"),
        ("id,ra,dec", "bare.fits", {}, "no WCS"),
        ("id,x,y", "bare.fits", {"size": 3}, "needs --pixel_scale"),
        ("id,x,y", ".", {}, "one FITS image"),
        ("id,x,y", "absent.fits", {}, "does not exist"),
        ("id,x,y", "mosaic.fits", {"size": -3}, "number of arcsec"),
    ],
)
def test_a_catalog_that_cannot_be_used_is_refused_at_once(
    columns, image, options, message, ask, mosaic, tmp_path
):
    fits.PrimaryHDU(np.zeros((90, 90), np.float32)).writeto(tmp_path / "bare.fits")
    with pytest.raises(InputError, match=message):
        ask(tmp_path / image, catalog=catalog(tmp_path / "c.csv", columns, [(1, 2)]), **options)


def test_hostile_fits_files_get_a_row_each_and_little_memory(ask, pixels, folder, tmp_path):
    good = tmp_path / "good.fits"
    fits.PrimaryHDU(pixels[0], sky()).writeto(good)
    whole = good.read_bytes()

    def header(*sizes):
        cards = ["SIMPLE  =                    T", "BITPIX  =                  -32"]
        cards += [
            f"NAXIS   = {len(sizes):20d}",
            *(f"NAXIS{k + 1}  = {n:20d}" for k, n in enumerate(sizes)),
            "END",
        ]
        return "".join(card.ljust(80) for card in cards).ljust(2880).encode()

    folder = tmp_path / "bad"
    folder.mkdir()
    for name, content in {
        "cut.fits": whole[:6000],
        "empty.fits": b"",
        "huge.fits": header(10**6, 10**6),
        "planes.fits": header(64, 64, 10**9),
        "picture.fits": b"\x89PNG" + bytes(3000),
        "half.fits": whole[:1000],
        "odd.fits.gz": b"\x1f\x8b" + bytes(99),
    }.items():
        (folder / name).write_bytes(content)
    rows = ask(folder, good)
    assert [bool(row["error"]) for row in rows] == [True] * 7 + [False]
    assert all(os.path.basename(row["file"]) in row["error"] for row in rows[:7])


def test_masked_pixels_are_left_out_of_the_fit(tmp_path):
    from haloformer.fitting.command import fit
    from haloformer.simulation import simulate

    image = simulate("model_ii", 3, seed=8, noise="instrument").images[2, 0].numpy().copy()
    np.save(tmp_path / "whole.npy", image)
    image[20:44, 36:40] = np.nan  # across the ring
    np.save(tmp_path / "masked.npy", image)
    chi2 = {}
    for nan in ("mask", "zero"):
        fit(
            [str(tmp_path / "*.npy")],
            survey="model_ii",
            noise="instrument",
            out=str(tmp_path / f"{nan}.csv"),
            nan=nan,
        )
        masked, whole = rows_of(tmp_path / f"{nan}.csv")
        chi2[nan] = float(masked["chi2"]), float(whole["chi2"])
    assert chi2["mask"][0] == pytest.approx(chi2["mask"][1], abs=0.2)
    assert chi2["zero"][0] > 2 * chi2["mask"][0]


def test_the_network_sees_zeros_where_a_mask_is(ask, pixels, tmp_path):
    pixels = pixels.copy()
    pixels[0, 5:9] = np.nan
    np.save(tmp_path / "x.npy", pixels[0])
    zero, mask = ask(tmp_path / "x.npy", nan="zero"), ask(tmp_path / "x.npy", nan="mask")
    np.testing.assert_allclose(probabilities(mask), probabilities(zero), rtol=1e-6)
    assert "4 × 64" not in zero[0]["error"]
    assert "256 of 4096 pixels are NaN" in ask(tmp_path / "x.npy")[0]["error"]


def test_a_killed_run_goes_on_where_it_was(original_run, pixels, expected, tmp_path, monkeypatch):
    fits.PrimaryHDU(pixels, sky()).writeto(tmp_path / "cube.fits")
    answer, asked = rows._answer, []

    def dies(*arguments):
        asked.append(1)
        if len(asked) == 4:
            raise KeyboardInterrupt
        return answer(*arguments)

    monkeypatch.setattr(rows, "_answer", dies)
    options = {"batch_size": 2, "shard_size": 4, "device": "cpu"}
    call = (str(original_run), [str(tmp_path / "cube.fits")], str(tmp_path / "out.csv"))
    with pytest.raises(KeyboardInterrupt):
        predict(*call, **options)
    assert not (tmp_path / "out.csv").exists()
    with pytest.raises(InputError, match="another configuration"):
        predict(*call, **options, nan="zero")
    summary = predict(*call, **options)
    assert len(asked) == 4 + 4  # the first shard's two batches are not asked again
    assert (summary.n_rows, summary.n_errors) == (12, 0)
    assert not (tmp_path / "out.csv.shards").exists()
    np.testing.assert_allclose(probabilities(rows_of(tmp_path / "out.csv")), expected, rtol=1e-5)


def test_a_fits_table_holds_what_a_csv_does(original_run, pixels, tmp_path, capsys):
    fits.PrimaryHDU(pixels[:3], sky()).writeto(tmp_path / "ä.fits")
    np.save(tmp_path / "b.npy", np.zeros((9, 9), np.float32))
    call = [
        "predict",
        str(original_run),
        str(tmp_path / "*.fits"),
        str(tmp_path / "b.npy"),
        "--device",
        "cpu",
    ]
    for name in ("out.csv", "out.fits", "out.parquet"):
        assert main([*call, "--out", str(tmp_path / "tables" / name)]) == 1  # one row is an error
    found, rows = (
        Table.read(tmp_path / "tables" / "out.fits"),
        rows_of(tmp_path / "tables" / "out.csv"),
    )
    assert found.colnames == list(rows[0])
    np.testing.assert_allclose(found["p_cdm"][:3], [float(row["p_cdm"]) for row in rows[:3]])
    assert list(found["index"][:3]) == [0, 1, 2]
    assert found["index"].mask[3]
    assert np.isnan(found["p_cdm"].filled(np.nan)[3])
    assert "9 x 9" in found["error"][3]
    assert [str(name) for name in found["class"][:3]] == [row["class"] for row in rows[:3]]
    assert "xe4.fits" in found["file"][0]


def test_many_files_are_found_without_opening_those_that_are_plain(pixels, tmp_path, monkeypatch):
    from haloformer.data import finding

    for k in range(3):
        fits.PrimaryHDU(pixels[k], sky()).writeto(tmp_path / f"{k}.fits")
    monkeypatch.setattr(finding, "fits_hdus", None)
    assert [source.n for source in find_inputs([str(tmp_path)], True)] == [1, 1, 1]


# --- what a stranger may have sent ------------------------------------------------------------------------------------


def test_a_tile_or_chunk_that_unpacks_to_too_much_is_a_row_that_says_so(
    ask, bombs, folder, monkeypatch
):
    for module in ("inflation", "unpacked"):
        monkeypatch.setattr(f"haloformer.readers.{module}.MAX_UNPACKED_BYTES", 64 * 2**20)
    parts = {
        "c.fits": "a tile",
        "d.fits.gz": "a tile",
        "e.h5": "a chunk of /images",
        "f.h5": "a chunk of /labels",
    }
    for name, part in parts.items():
        good, bad = ask(folder / "lens_00.npy", bombs / name)
        assert good["error"] == ""
        said = f"{bombs / name} unpacks to more than the 64 MiB that are allowed: {part}, of "
        assert bad["error"].startswith(said)
        assert bad["error"].endswith("MiB as it is stored")


@pytest.mark.parametrize("name", ["c.fits", "e.h5", "f.h5"])
def test_what_unpacks_to_too_much_is_refused_before_it_does(bombs, monkeypatch, name):
    for module in ("inflation", "unpacked"):
        monkeypatch.setattr(f"haloformer.readers.{module}.MAX_UNPACKED_BYTES", 64 * 2**20)
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match="unpacks to more than the 64 MiB"):
            find_inputs([str(bombs / name)], keep_errors=False)
        assert tracemalloc.get_traced_memory()[1] < 40 * 2**20
    finally:
        tracemalloc.stop()


def test_what_is_large_in_all_but_not_in_one_piece_is_read(
    ask, pixels, expected, tmp_path, monkeypatch
):
    for module in ("inflation", "unpacked"):
        monkeypatch.setattr(
            f"haloformer.readers.{module}.MAX_UNPACKED_BYTES", 2**17
        )  # less than the twelve images
    packed = fits.CompImageHDU(pixels, compression_type="GZIP_1", quantize_level=0)
    fits.HDUList([fits.PrimaryHDU(), packed]).writeto(tmp_path / "cube.fits")
    n = len(pixels)
    write_dataset(
        tmp_path / "d.h5", pixels[:, None], np.zeros(n, int), {}, ["a"], compression="gzip"
    )
    for name in ("cube.fits", "d.h5"):
        np.testing.assert_allclose(probabilities(ask(tmp_path / name)), expected, rtol=1e-5)


def test_what_only_goes_with_images_is_passed_over_in_folders_and_read_if_named(tmp_path):
    for name in ("a.fits", "a_psf.fits", "noise_map.fits", "b_mask.fits"):
        fits.PrimaryHDU(np.ones((4, 4), np.float32)).writeto(tmp_path / name)
    with pytest.warns(InputWarning, match=r"passed over a_psf\.fits and 2 more"):
        found = find_inputs([str(tmp_path)], keep_errors=False)
    assert [each.path.name for each in found] == ["a.fits"]
    named = find_inputs([str(tmp_path / "noise_map.fits")], keep_errors=False)
    assert [each.path.name for each in named] == ["noise_map.fits"]
    (tmp_path / "a.fits").unlink()
    assert len(find_inputs([str(tmp_path)], keep_errors=False)) == 3  # they are all there is


def test_a_list_of_files_is_no_image_and_what_would_be_right_is_told(tmp_path):
    (tmp_path / "list.txt").write_text("a.fits")
    with pytest.raises(InputError, match=r"cat list\.txt.*--catalog"):
        find_inputs([str(tmp_path / "list.txt")], keep_errors=False)
