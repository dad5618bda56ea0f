"""`haloformer.predict` and a predictor that is called: images of any kind in, a table out, as safe as the command."""

import csv

import numpy as np
import pytest
import torch
from astropy import units as u
from astropy.io import fits
from astropy.nddata import CCDData, NDData
from astropy.table import Table
from astropy.wcs import WCS
from torch.utils.data import DataLoader

import haloformer
from haloformer.data import LensDataset, write_dataset
from haloformer.errors import InputError
from haloformer.fitting import fit_smooth
from haloformer.prediction.export import export_model

SCALE = 0.101


@pytest.fixture(scope="module")
def predictor():
    return haloformer.load("model_ii", "cpu")


@pytest.fixture(scope="module")
def lenses():
    return haloformer.simulate("model_ii", 3, seed=2000)


@pytest.fixture(scope="module")
def expected(predictor, lenses):
    return predictor.answers(lenses.images)


def wcs(scale: float, side: int) -> WCS:
    found = WCS(naxis=2)
    found.wcs.ctype, found.wcs.crval = ["RA---TAN", "DEC--TAN"], [150.0, 2.0]
    found.wcs.crpix, found.wcs.cdelt = [side / 2 + 0.5] * 2, [-scale / 3600, scale / 3600]
    return found


def column_of_arrays(stack):
    found = np.empty(len(stack), dtype=object)
    found[:] = list(stack)
    return found


MANY = {
    "(N, C, H, W)": lambda a: a[:, None],
    "(N, H, W)": lambda a: a,
    "(N, H, W, C)": lambda a: a[..., None],
    "tensor": lambda a: torch.tensor(a),
    "list": list,
    "list of files' images": lambda a: [fits.PrimaryHDU(each) for each in a],
    "quantity": lambda a: a * u.electron,
    "NDData": NDData,
    "CCDData each": lambda a: [CCDData(each, unit="electron", wcs=wcs(SCALE, 64)) for each in a],
    "column": lambda a: Table({"image": a})["image"],
    "masked column": lambda a: Table({"image": a}, masked=True)["image"],
    "column of arrays": column_of_arrays,
}
ONE = {
    "(H, W)": lambda a: a,
    "(C, H, W)": lambda a: a[None],
    "(H, W, C)": lambda a: a[..., None],
    "masked array": np.ma.masked_array,
    "CCDData": lambda a: CCDData(a, unit="adu", wcs=wcs(SCALE, 64)),
    "HDU": lambda a: fits.ImageHDU(a),
    "HDU list": lambda a: fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(a, name="SCI")]),
}


@pytest.mark.parametrize("kind", MANY)
def test_several_images_of_any_kind_have_the_same_answers(predictor, lenses, expected, kind):
    found = predictor(MANY[kind](lenses.images[:, 0].numpy()))
    assert found.classes == expected.classes
    np.testing.assert_allclose(found.probabilities, expected.probabilities, rtol=1e-5)


@pytest.mark.parametrize("kind", ONE)
def test_one_image_of_any_kind_has_the_same_answer(predictor, lenses, expected, kind):
    found = haloformer.predict(predictor, ONE[kind](lenses.images[1, 0].numpy()))
    assert len(found) == 1
    assert found.classes == expected.classes[1:2]
    np.testing.assert_allclose(found.probabilities[0], expected.probabilities[1], rtol=1e-5)
    numbers = predictor.probabilities(lenses.images[1, 0])  # tensors need no axes, either
    np.testing.assert_allclose(numbers[0], expected.probabilities[1], rtol=1e-5)


def test_a_dataset_and_a_column_of_pandas_are_read(predictor, lenses, expected, tmp_path):
    pandas = pytest.importorskip("pandas")
    batch = (lenses.images, lenses.labels, lenses.parameters, lenses.class_names)
    write_dataset(tmp_path / "x.h5", *batch, lenses.attributes)
    with LensDataset(tmp_path / "x.h5") as dataset:
        found = predictor(dataset)
    assert found.classes == expected.classes
    assert list(found["label"]) == ["axion", "cdm", "no_sub"]
    np.save(tmp_path / "a.npy", lenses.images[0, 0].numpy())
    names = pandas.Series([str(tmp_path / "a.npy")])
    assert haloformer.predict(predictor, names).classes == expected.classes[:1]
    images = pandas.Series(list(lenses.images[:, 0].numpy()))
    assert haloformer.predict(predictor, images).classes == expected.classes


def test_part_of_an_answer_is_an_answer(predictor, lenses):
    found = predictor(lenses.images)
    part = found[1:]
    assert len(part) == 2
    assert part.classes == found.classes[1:]
    assert np.array_equal(part.images[0], found.images[1])
    assert part.to_table()["class"][-1] == found[-1]["class"]
    assert part.plot() is not None


def test_the_table_is_that_of_the_command(predictor, lenses, tmp_path):
    np.save(tmp_path / "a.npy", lenses.images[0, 0].numpy())
    path = str(tmp_path / "a.npy")
    summary = haloformer.predict("model_ii", [path], str(tmp_path / "a.csv"), device="cpu")
    assert summary.n_rows == 1
    found = haloformer.predict(predictor, path)
    assert summary[0] == found[0]
    assert summary.provenance() == found.provenance()
    assert summary.plot() is not None
    assert found.write(tmp_path / "b.csv").read_text() == (tmp_path / "a.csv").read_text()
    with (tmp_path / "b.csv").open(newline="") as stream:
        (row,) = csv.DictReader(stream)
    assert [name for name in row if name in found.names] == found.names
    with pytest.raises(InputError, match="exists"):
        found.write(tmp_path / "b.csv")
    written = haloformer.predict(predictor, lenses.images, tmp_path / "c.fits")
    assert written.class_counts == {"axion": 1, "cdm": 1, "no_sub": 1}
    assert written.classes == ["axion", "cdm", "no_sub"]
    assert written.out == tmp_path / "c.fits"
    assert fits.getheader(tmp_path / "c.fits", 1)["MODEL"] == "model_ii"


@pytest.mark.parametrize("skip_bad", [False, True])
def test_what_is_written_by_shards_is_returned_too_unless_it_is_too_much(
    predictor, lenses, tmp_path, monkeypatch, skip_bad
):
    for k in range(3):
        np.save(tmp_path / f"{k}.npy", lenses.images[k, 0].numpy())
    (tmp_path / "1.npy").write_bytes(b"nothing")
    options = {"shard_size": 1, "batch_size": 1, "device": "cpu", "skip_bad": skip_bad}
    written = haloformer.predict("model_ii", tmp_path, tmp_path / "a.csv", **options)
    assert written.classes == (["axion", "no_sub"] if skip_bad else ["axion", None, "no_sub"])
    assert (written.n_errors, bool(written.notes)) == ((0, True) if skip_bad else (1, False))
    expected = predictor.probabilities(lenses.images[:3])[[0, 2]]
    np.testing.assert_allclose(written.probabilities[[0, -1]], expected, rtol=1e-4)
    assert written.to_table().colnames == (tmp_path / "a.csv").read_text().split()[0].split(",")
    monkeypatch.setattr("haloformer.prediction.interface.MOST_KEPT", 1)
    alone = haloformer.predict("model_ii", tmp_path, tmp_path / "b.csv", **options)
    assert type(alone) is haloformer.prediction.PredictionSummary
    assert alone.n_rows == len(written)


def test_a_table_has_units_and_says_what_made_it(predictor, lenses):
    found = predictor(lenses)  # simulated lenses bring their labels along
    assert found["label"].tolist() == ["axion", "cdm", "no_sub"]
    table = found.to_table()
    assert table["log10_m_axion"].unit == u.dex(u.eV)
    assert table["log10_m_axion_sigma"].unit == u.dex
    assert np.isfinite(table["log10_m_axion"]).tolist() == [True, False, False]
    assert table["p_cdm"].description == "probability of class cdm"
    known = {"model": "model_ii", "survey": "model_ii", "network": "haloformer_nano"}
    assert known.items() <= table.meta.items()
    assert {"training_seed", "model_code_version", "code_version"} <= table.meta.keys()
    assert repr(found).startswith("Predictions: 3 images by model_ii: 1 axion, 1 cdm, 1 no_sub\n")
    assert "<img" in found._repr_html_()
    titles = [axes.get_title() for axes in found.plot().axes if axes.get_title()]
    assert [title.partition(" ")[0] for title in titles] == ["axion", "cdm", r"no_sub"]
    assert found[1]["class"] == "cdm"
    assert [row["index"] for row in found] == [0, 1, 2]
    with pytest.raises(KeyError, match="no column 'klass'"):
        found["klass"]


def test_strange_images_have_no_class_and_no_estimate(predictor, lenses):
    strange = lenses.images * 50
    found = predictor(strange)
    assert found.classes == ["unknown"] * 3
    assert np.isnan(found["log10_m_axion"]).all()
    assert all(found["ood"])
    assert all(found["ood_reason"])
    assert set(predictor(strange, raw=True).classes) <= set(predictor.class_names)


def test_the_pixel_scale_of_a_wcs_counts(predictor, lenses):
    fine = np.kron(lenses.images[0, 0].numpy(), np.ones((2, 2))) / 4  # the same light
    found = predictor(CCDData(fine, unit="electron", wcs=wcs(SCALE / 2, 128)))
    assert found.classes == ["axion"]
    assert found["ra"][0] == pytest.approx(150, abs=1e-6)
    np.testing.assert_allclose(
        found.probabilities, predictor.probabilities(lenses.images[:1]), atol=1e-4
    )
    np.testing.assert_allclose(
        predictor(fine, pixel_scale=SCALE / 2).probabilities, found.probabilities, rtol=1e-5
    )
    # The numbers behind the table come from the same pixels.
    ccd = CCDData(fine, unit="electron", wcs=wcs(SCALE / 2, 128))
    torch.testing.assert_close(predictor.probabilities(ccd), torch.tensor(found.probabilities))
    coarse = CCDData(lenses.images[0, 0].numpy(), unit="electron", wcs=wcs(2 * SCALE, 64))
    assert predictor.answers(coarse).classes == predictor(coarse).classes == ["unknown"]
    per_area = predictor(CCDData(4 * fine, unit=u.MJy / u.sr, wcs=wcs(SCALE / 2, 128)))
    np.testing.assert_allclose(per_area.probabilities, found.probabilities, atol=1e-4)


def test_a_cutout_of_a_larger_image_is_where_its_wcs_says(predictor, lenses):
    from astropy.nddata import Cutout2D, NDDataRef

    field = np.zeros((100, 120), np.float32)
    field[10:74, 40:104] = lenses.images[0, 0].numpy()
    sky = wcs(SCALE, 100)
    rows, columns = slice(10, 74), slice(40, 104)
    expected = sky.all_pix2world([[71.5, 41.5]], 0)[0]
    for cutout in (
        CCDData(field, unit="electron", wcs=sky)[rows, columns],
        NDDataRef(field, wcs=sky)[rows, columns],  # its WCS is a slice, which FITS does not know
        Cutout2D(field, (71.5, 41.5), 64, wcs=sky),
    ):
        found = predictor(cutout)
        assert found.classes == ["axion"]
        np.testing.assert_allclose([found["ra"][0], found["dec"][0]], expected, atol=1e-7)
    fine = NDDataRef(np.kron(field, np.ones((2, 2))) / 4, wcs=wcs(SCALE / 2, 200))[20:148, 80:208]
    np.testing.assert_allclose(
        predictor(fine).probabilities, predictor.probabilities(lenses.images[:1]), atol=1e-4
    )


def test_lenses_of_another_scale_are_resampled(predictor):
    other = haloformer.simulate("model_i", 2, seed=3)
    found = predictor(other)
    assert found.classes == ["unknown"] * 2
    assert found.images[0].shape == (1, 64, 64)


WRONG = {
    "another size": (np.zeros((50, 50)), "50 × 50 .* takes 1 × 64 × 64; pixel_scale"),
    "colours": (np.zeros((64, 64, 3)), r"takes \(64, 64\) for one image, \(N, 64, 64\) or"),
    "five axes": (np.zeros((1, 1, 1, 64, 64)), r"\(N, 1, 64, 64\) for several"),
    "one axis": (np.zeros(64), r"\(64, 64\) for one image"),
    "three channels": (np.zeros((2, 3, 64, 64)), "3 × 64 × 64 .* takes 1 × 64 × 64"),
    "no image": (np.zeros((0, 64, 64)), "there are no images"),
    "nothing": (None, "not real numbers: an array, a tensor"),
    "batches": (DataLoader(np.zeros((2, 64, 64))), "DataLoader .* not real numbers: an array"),
    "magnitudes": (np.ones((64, 64)) * u.mag, "logarithms"),
    "a table": (Table({"a": np.zeros((2, 64, 64))}), "give one of its columns, a"),
    "NaN": (np.full((64, 64), np.nan), "NaN or infinite"),
    "a mask": (NDData(np.ones((64, 64)), mask=np.eye(64, dtype=bool)), "64 of 4096 pixels are NaN"),
    "sizes that differ": ([np.zeros((64, 64)), np.zeros((50, 50))], "image 1: .* 50 × 50"),
    "paths and arrays": (["a.fits", np.zeros((64, 64))], "give them apart"),
    "no such file": ("nowhere.fits", "nowhere.fits does not exist"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_cannot_be_used_is_refused_in_a_line_that_says_what_would_be_right(predictor, kind):
    images, message = WRONG[kind]
    with pytest.raises(InputError, match=message) as caught:
        predictor(images)
    assert "\n" not in str(caught.value)


OPTIONS = {
    "overwrite": ({"overwrite": True}, "give out"),
    "a misspelt one": ({"pixelscale": 0.1}, "did you mean 'pixel_scale'"),
    "hdu": ({"hdu": 1}, "hdu is for files"),
    "on_error": ({"on_error": "skip"}, "known are row, stop"),
    "another device": ({"device": "meta"}, "the model is on cpu"),
    "a PSF for a model that sees none": ({"psf": np.ones((3, 3))}, "psf|camera"),
}


@pytest.mark.parametrize("kind", OPTIONS)
def test_options_that_have_no_use_are_refused(predictor, lenses, kind):
    options, message = OPTIONS[kind]
    with pytest.raises(InputError, match=message):
        haloformer.predict(predictor, lenses.images, **options)


def test_an_image_that_cannot_be_used_can_have_a_row(predictor, lenses):
    images = lenses.images.clone()
    images[1, 0, 0, 0] = float("inf")
    found = predictor(images, on_error="row")
    assert found.classes == ["axion", None, "no_sub"]
    assert "image 1: 1 of 4096 pixels" in found["error"][1]
    assert np.isnan(found.probabilities[1]).all()
    table = found.to_table()
    assert table["class"].mask.tolist() == [False, True, False]
    assert "1 without an answer" in found.summary()
    assert len([axes for axes in found.plot().axes if axes.get_title()]) == 2
    assert predictor(images, nan="mask").classes[1] in ("cdm", "unknown")


def test_an_image_with_values_too_large_for_32_bits_is_the_only_one_without_an_answer(
    predictor, lenses
):
    images = lenses.images.double().numpy().copy()
    images[1, 0, 0, 0] = 1e300
    found = predictor(images, on_error="row")
    assert found.classes == ["axion", None, "no_sub"]
    assert "image 1: 1 of 4096 values are too large for 32-bit" in found["error"][1]
    with pytest.raises(InputError, match="image 1: 1 of 4096 values are too large"):
        predictor(images)


def test_files_without_an_answer_say_why_and_a_list_of_names_is_a_list_of_files(
    predictor, lenses, tmp_path
):
    np.save(tmp_path / "small.npy", np.zeros((5, 5)))
    np.save(tmp_path / "good.npy", lenses.images[2, 0].numpy())
    names = [str(tmp_path / name) for name in ("good.npy", "small.npy")]
    for images in (names, np.array(names), [tmp_path / "good.npy", tmp_path / "small.npy"]):
        found = haloformer.predict(predictor, images)
        assert found.classes == ["no_sub", None]
        assert found["file"].tolist() == names
        assert "5 × 5" in found["error"][1]


def test_batches_do_not_change_the_answers(predictor, lenses, expected):
    found = predictor(lenses.images, batch_size=2)
    np.testing.assert_allclose(found.probabilities, expected.probabilities, rtol=1e-5)


@pytest.mark.parametrize(
    "call",
    [
        lambda: haloformer.load(3),
        lambda: haloformer.predict(3, np.zeros((64, 64))),
        lambda: haloformer.predict(3, "a.npy", "x.csv"),
        lambda: haloformer.explain(3, np.zeros((64, 64))),
        lambda: haloformer.explain(3, "a.npy", out="why"),
        lambda: haloformer.evaluate(3, "model_ii"),
        lambda: export_model(3, "x.pt2", format="torch_export"),
    ],
)
def test_what_is_no_model_is_refused_with_what_would_be_right(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="model is a int: name a shipped model"):
        call()


def test_a_pixel_scale_may_have_a_unit(predictor, lenses):
    plain, angle = (
        haloformer.predict(predictor, lenses.images, pixel_scale=scale).probabilities
        for scale in (0.09, 90 * u.mas)
    )
    np.testing.assert_allclose(angle, plain)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pixel_scale": "0.1"}, "pixel_scale is '0.1': a number of arcsec is needed"),
        ({"pixel_scale": True}, "a number of arcsec is needed"),
        ({"pixel_scale": [0.1, 0.1]}, "a number of arcsec is needed"),
        ({"pixel_scale": 1 * u.kg}, "an angle is needed"),
        ({"batch_size": 2.5}, "batch size 2.5: must be a whole number"),
        ({"batch_size": "8"}, "batch size '8': must be a whole number"),
    ],
)
def test_options_of_the_wrong_kind_are_refused_in_words(predictor, lenses, options, message):
    with pytest.raises(InputError, match=message):
        haloformer.predict(predictor, lenses.images, **options)
    if "pixel_scale" in options:
        with pytest.raises(InputError, match=message):
            haloformer.explain(predictor, lenses.images, **options)


@pytest.mark.parametrize("n", [0, -1, 1.5, True, "3"])
def test_only_a_number_of_images_is_drawn(predictor, lenses, n):
    fit = fit_smooth(lenses.images[:1], "model_ii")
    for each in (predictor(lenses.images), lenses, fit):
        with pytest.raises(InputError, match="n must be a whole number of at least 1, not"):
            each.plot(n)


def test_no_more_than_twelve_images_are_drawn(predictor, lenses):
    found = predictor(lenses.images.repeat(5, 1, 1, 1))
    assert len([axes for axes in found.plot(100).axes if axes.get_title()]) == 12
