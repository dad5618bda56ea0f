"""What `inspect` tells of one image file."""

import json
import zipfile

import numpy as np
import pytest
from astropy.io import fits
from PIL import Image

from haloformer.cli import main
from haloformer.data.inspect_image import describe_image
from haloformer.errors import InputError

RNG = np.random.default_rng(4)
PIXELS = RNG.normal(0.1, 1, (30, 40)).astype(np.float32)


@pytest.fixture
def cutout(tmp_path):
    """A file of an image with a WCS, its PSF, and a cube."""
    header = fits.Header(
        {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 10.0, "CRVAL2": 2.0}
    )
    header.update({"CDELT1": -0.05 / 3600, "CDELT2": 0.05 / 3600, "BUNIT": "electron/s"})
    header["FILTER"] = "F814W"
    hdus = [
        fits.PrimaryHDU(),
        fits.ImageHDU(np.ones((5, 5), np.float32), name="PSF"),
        fits.ImageHDU(PIXELS, header, name="SCI"),
        fits.ImageHDU(np.zeros((2, 30, 40), np.float32), name="CUBE"),
    ]
    path = tmp_path / "x.fits"
    fits.HDUList(hdus).writeto(path)
    return path


def test_extensions_are_listed_with_what_is_read_by_default(cutout):
    found = describe_image(cutout)
    psf, image, cube = found["images"]
    assert (psf["name"], psf["read"], psf["sky"]) == ("PSF", False, False)
    assert (image["name"], image["read"], image["shape"]) == ("SCI", True, [30, 40])
    assert image["pixel_scale"] == pytest.approx(0.05, rel=1e-4)
    assert (image["unit"], found["header"]["FILTER"]) == ("electron/s", "F814W")
    assert image["median"] == pytest.approx(np.median(PIXELS))
    assert image["negative"] == pytest.approx((PIXELS < 0).mean())
    assert cube["shape"] == [2, 30, 40]
    assert found["notes"] == []


def test_versions_of_a_name_and_pixels_that_are_no_squares_are_told(tmp_path, capsys):
    """Two SCI looked alike, and pixels of 0.08″ by 0.1″ were said to be of 0.09″."""
    cards = {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 10.0, "CRVAL2": 0.0}
    header = fits.Header({**cards, "CDELT1": -0.08 / 3600, "CDELT2": 0.1 / 3600})
    parts = [fits.ImageHDU(PIXELS, header, name="SCI", ver=k) for k in (1, 2)]
    path = tmp_path / "x.fits"
    fits.HDUList([fits.PrimaryHDU(), *parts]).writeto(path)
    found = describe_image(path)
    assert [row["version"] for row in found["images"]] == [1, 2]
    assert found["images"][0]["pixel_sides"] == pytest.approx([0.08, 0.1])
    assert len(found["notes"]) == 1
    assert found["notes"][0].startswith("Pixels are 0.08″ by 0.1″ (x, y), no squares")
    assert main(["inspect", str(path)]) == 0
    assert "SCI,2" in capsys.readouterr().out


def test_it_prints_a_table_or_json(cutout, capsys):
    assert main(["inspect", str(cutout)]) == 0
    assert "2*" in capsys.readouterr().out
    assert main(["inspect", str(cutout), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["images"][1]["read"]


@pytest.mark.parametrize(
    ("pixels", "note"),
    [
        ((PIXELS - PIXELS.min()) / np.ptp(PIXELS), "looks scaled"),
        (np.abs(PIXELS + 9) / np.abs(PIXELS + 9).max(), "divided by its brightest pixel"),
        (np.full((30, 40), 3.0, np.float32), "All pixels have the same value"),
        (np.where(PIXELS > 2, np.nan, PIXELS), "are NaN or infinite"),
    ],
    ids=["scaled", "divided", "empty", "nan"],
)
def test_what_is_unusual_is_noted(tmp_path, pixels, note):
    np.save(tmp_path / "x.npy", pixels.astype(np.float32))
    notes = describe_image(tmp_path / "x.npy")["notes"]
    assert any(note in each for each in notes)
    assert any("pixel scale is not known" in each for each in notes)


def test_pictures_are_said_to_be_pictures(tmp_path):
    Image.fromarray(RNG.integers(0, 255, (20, 30), dtype=np.uint8)).save(tmp_path / "x.png")
    found = describe_image(tmp_path / "x.png")
    assert found["images"][0]["shape"] == [1, 20, 30]
    assert any("8-bit" in note for note in found["notes"])
    np.save(tmp_path / "counts.npy", np.arange(240, dtype=np.float32).reshape(12, 20))
    assert not any("8-bit" in note for note in describe_image(tmp_path / "counts.npy")["notes"])


def test_of_very_large_images_the_middle_is_looked_at(tmp_path, monkeypatch):
    monkeypatch.setattr("haloformer.data.inspect_image._LARGEST", 10)
    fits.writeto(tmp_path / "x.fits", PIXELS)
    found = describe_image(tmp_path / "x.fits")
    assert found["images"][0]["shape"] == [30, 40]
    assert found["images"][0]["median"] == pytest.approx(np.median(PIXELS[10:20, 15:25]))
    assert any("10×10 pixels in the middle" in note for note in found["notes"])


def test_a_file_without_an_image_of_the_sky_says_which_extensions_there_are(tmp_path):
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(PIXELS, name="WHT")]).writeto(
        tmp_path / "x.fits"
    )
    found = describe_image(tmp_path / "x.fits")
    assert [row["read"] for row in found["images"]] == [False]
    assert "--hdu" in found["notes"][0]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.fits", b"SIMPLE  =  nonsense", "corrupt or truncated|is not a FITS"),
        ("x.fits", b"", "is empty"),
        ("x.png", b"\x89PNG nonsense", "x.png"),
        ("gone.fits", None, "there is no such file"),
    ],
)
def test_damaged_files_are_one_clear_error(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        describe_image(tmp_path / name)


def test_a_folder_of_images_is_listed_and_drawn(cutout, tmp_path, capsys):
    np.save(tmp_path / "y.npy", PIXELS)
    fits.PrimaryHDU(np.ones((5, 5), np.float32)).writeto(tmp_path / "x_psf.fits")
    (tmp_path / "z.fits").write_bytes(b"no image")
    assert main(["inspect", str(tmp_path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in found["images"]] == ["x.fits", "y.npy", "z.fits"]
    assert found["images"][0]["pixel_scale"] == pytest.approx(0.05)
    assert "z.fits" in found["images"][2]["error"]
    figure = tmp_path / "drawn" / "images.png"
    assert main(["inspect", str(tmp_path), "--figure", str(figure)]) == 0
    said = capsys.readouterr()
    assert "3 image files" in said.out
    assert "z.fits" in said.err
    assert "passed over x_psf.fits" in said.err
    with Image.open(figure) as drawn:
        assert drawn.width > 2 * drawn.height / 2  # two panels beside each other


def test_arrays_of_many_images_are_listed_and_drawn_as_predict_takes_them(tmp_path, capsys):
    many = RNG.normal(0.1, 1, (20, 30, 40)).astype(np.float32)
    np.save(tmp_path / "many.npy", many)
    np.savez(tmp_path / "x.npz", images=many, redshifts=np.ones(20), psf=np.ones((5, 5)))
    np.savez(tmp_path / "y.npz", one=many[0], other=many[0, :20])
    (row,) = describe_image(tmp_path / "many.npy")["images"]
    assert (row["shape"], row["read"]) == ([20, 30, 40], True)
    assert row["max"] == many.max()
    shown = {name: describe_image(tmp_path / name)["images"] for name in ("x.npz", "y.npz")}
    assert [(row["name"], row["read"]) for row in shown["x.npz"]] == [
        ("images", True),
        ("psf", False),
    ]
    assert [(row["name"], row["read"]) for row in shown["y.npz"]] == [
        ("one", False),
        ("other", False),
    ]
    figure = tmp_path / "x.png"
    assert main(["inspect", str(tmp_path / "x.npz"), "--figure", str(figure)]) == 0
    assert "20×30×40" in capsys.readouterr().out
    assert figure.is_file()
    np.savez(tmp_path / "z.npz", images=many, labels=np.repeat(["cdm", "no_sub"], 10))
    assert main(["inspect", str(tmp_path / "z.npz"), "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)["classes"]) == {"cdm", "no_sub"}


def test_folders_that_are_no_classes_are_listed_and_those_of_classes_are_a_dataset(
    tmp_path, capsys
):
    for name in ("field_1/a.npy", "field_2/deep/a.npy"):
        (tmp_path / "x" / name).parent.mkdir(parents=True)
        np.save(tmp_path / "x" / name, PIXELS)
    assert main(["inspect", str(tmp_path / "x"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in found["images"]] == ["field_1/a.npy", "field_2/deep/a.npy"]
    (tmp_path / "x" / "field_1").rename(tmp_path / "x" / "cdm")
    assert main(["inspect", str(tmp_path / "x")]) == 2
    assert "unknown class folder 'deep'" in capsys.readouterr().err


def test_an_image_is_drawn_so_that_what_is_faint_shows(cutout, tmp_path):
    out = tmp_path / "x.png"
    assert main(["inspect", str(cutout), "--figure", str(out)]) == 0
    assert out.read_bytes().startswith(b"\x89PNG")
    assert main(["inspect", str(cutout), "--figure", str(out)]) == 2
    np.save(tmp_path / "blank.npy", np.full((8, 8), np.nan))
    assert main(["inspect", str(tmp_path / "blank.npy"), "--figure", str(tmp_path / "b.png")]) == 0
    faint = np.random.default_rng(3).normal(size=(20, 20))
    faint[0, 0] = 3e5  # beside which a linear scale would show nothing else
    np.save(tmp_path / "bright.npy", faint)
    assert main(["inspect", str(tmp_path / "bright.npy"), "--figure", str(tmp_path / "c.png")]) == 0
    with Image.open(tmp_path / "c.png") as drawn:
        colours = drawn.convert("RGB").getcolors(2**24)
    assert len([colour for n, colour in colours if n > 50]) > 20


def test_what_is_neither_image_nor_dataset_is_named(tmp_path, capsys):
    (tmp_path / "list.csv").write_text("a.fits")
    assert main(["inspect", str(tmp_path / "list.csv")]) == 2
    said = capsys.readouterr().err
    assert "neither an image" in said
    assert ".fits" in said


def test_a_folder_of_archives_is_a_dataset_as_before(tmp_path, capsys):
    for name in ("cdm", "no_sub"):
        np.save(tmp_path / "x.npy", PIXELS)
        with zipfile.ZipFile(tmp_path / f"{name}.zip", "w") as archive:
            archive.write(tmp_path / "x.npy", f"{name}/x.npy")
        (tmp_path / "x.npy").unlink()
    assert main(["inspect", str(tmp_path), "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)["classes"]) == {"cdm", "no_sub"}
