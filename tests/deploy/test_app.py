"""The local page: what it says of files, the lenses that it draws, its tables, and the page in a real browser."""

import shutil

import numpy as np
import pytest

from haloformer.app import answers
from haloformer.errors import InputError

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


@pytest.fixture(scope="module")
def predictor(original_run):
    from haloformer.deploy import load

    return load(original_run, "cpu")


def test_an_image_is_answered_as_the_predictor_does(predictor, lenses, folder):
    found = answers.classify(predictor, folder / "lens_03.npy")
    expected = predictor.probabilities(lenses.images[3:4])[0]
    assert list(found.probabilities) == ["axion", "cdm", "no_sub"]
    np.testing.assert_allclose(list(found.probabilities.values()), expected)
    np.testing.assert_array_equal(found.image, lenses.images[3, 0])
    assert found.warning is None  # this artefact has no statistics of its training's images
    assert len(found.layers) == 2
    assert found.attention.shape == (2, 64, 64)
    assert found.attention.max() == pytest.approx(1)


def test_any_image_of_a_dataset_can_be_chosen(predictor, lenses, dataset):
    found = answers.classify(predictor, dataset, number=7, attention=False)
    np.testing.assert_array_equal(found.image, lenses.images[7, 0])
    with pytest.raises(InputError, match="0 … 11; there is no number 12"):
        answers.classify(predictor, dataset, number=12)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.npy", np.zeros((20, 30), np.float32), "1 × 20 × 30"),
        ("a.npy", np.full((64, 64), np.nan, np.float32), "NaN"),
        ("a.npy", b"hello", "not a .npy file"),
        ("a.fits", b"hello", "not a FITS file"),
        ("a.png", b"", "empty"),
        ("a.h5", b"hello", "a.h5"),
        ("a.pkl", b"hello", "not an image file"),
    ],
)
@pytest.mark.parametrize("number", [0, 3])
def test_a_bad_file_gets_one_line_without_its_folder(predictor, tmp_path, name, content, message, number):
    path = tmp_path / name
    path.write_bytes(content) if isinstance(content, bytes) else np.save(path, content)
    with pytest.raises(InputError, match=message) as caught:
        answers.classify(predictor, path, number=number)
    assert str(tmp_path) not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_over_the_limit_is_refused_before_it_is_read(predictor, tmp_path):
    path = tmp_path / "big.npy"
    with path.open("wb") as stream:
        stream.truncate(answers.MAX_UPLOAD_BYTES + 1)  # a hole: takes no disk
    with pytest.raises(InputError, match="larger than the 64 MiB"):
        answers.classify(predictor, path)


def test_a_lens_follows_its_sliders():
    lens = answers.simulate("model_ii", "cdm", n_subhalos=25, noise="none")
    assert lens.image.shape == (64, 64)
    np.testing.assert_allclose(lens.image - lens.smooth, lens.difference, atol=1e-6)
    assert np.abs(lens.difference).max() > 0
    for changed in ({"source_x": 0.3}, {"n_subhalos": 5}, {"slope": -1.0}, {"draw": 1}):
        other = answers.simulate("model_ii", "cdm", **{"n_subhalos": 25, "noise": "none", **changed})
        assert not np.array_equal(other.image, lens.image), changed
    axion = answers.simulate("model_ii", "axion", noise="none", log10_m_axion=-24)
    for changed in ({"log10_m_axion": -23.0}, {"vortex_angle": 90.0}):
        other = answers.simulate("model_ii", "axion", **{"noise": "none", "log10_m_axion": -24, **changed})
        assert not np.array_equal(other.image, axion.image), changed


def test_without_substructure_nothing_differs():
    for settings in ({"class_name": "no_sub"}, {"class_name": "cdm", "n_subhalos": 0}):
        assert not answers.simulate("model_ii", **settings).difference.any()


def test_longer_exposures_have_less_noise():
    def noise(exposure: float) -> float:
        noisy, free = (
            answers.simulate("model_ii", "no_sub", exposure=exposure, noise=kind) for kind in ("instrument", "none")
        )
        return float(np.std(noisy.image - free.image))

    assert noise(10_000) < 0.5 * noise(500)


@pytest.mark.parametrize(
    "wrong",
    [{"survey": "/etc/passwd"}, {"class_name": "x"}, {"n_subhalos": 10**9}, {"source_x": float("nan")}, {"draw": None}],
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(InputError):
        answers.simulate(**wrong)


def test_the_model_is_asked_about_its_own_survey_and_noise_only(predictor):
    assert answers.why_no_answer(predictor, answers.simulate("model_ii", "cdm")) is None
    assert "model_iii" in answers.why_no_answer(predictor, answers.simulate("model_iii", "cdm"))
    assert "noise" in answers.why_no_answer(predictor, answers.simulate("model_ii", "cdm", noise="none"))


def test_pictures_have_the_size_of_the_image_and_show_signs():
    image = np.arange(64.0).reshape(8, 8)
    assert answers.light(image).shape == answers.overlay(image, image / 63).shape == (8, 8, 3)
    assert answers.light(np.zeros((8, 8))).max() == 0 or answers.light(np.zeros((8, 8))).std() < 3
    red, _, blue = answers.signed(np.array([[1.0, 0.0, -1.0]]))[0].T
    assert red[0] > blue[0]
    assert red[1] == blue[1] == 0
    assert blue[2] > red[2]


def test_the_shipped_model_stands_with_its_measured_auc():
    header, rows = answers.shipped_table()
    row = dict(zip(header, rows[0], strict=True))
    assert row["model"] == "model_i"
    assert row["macro AUC (95 %)"].startswith("0.99")
    header, rows = answers.published_table()
    assert any("Srivastava" in cell for row in rows for cell in row)
    assert all(len(row) == len(header) for row in rows)


def test_a_leaderboard_is_read_and_another_table_refused(tmp_path):
    path = tmp_path / "leaderboard.csv"
    path.write_text(f"{','.join(answers._BOARD)}\nmodel_i,1,vit_nano,ViT,0.91,0.9,0.92,,0.8,680000\n")
    assert answers.leaderboard_table(path)[1] == [
        ["model_i", "1", "vit_nano", "ViT", "0.9100 (0.9000–0.9200)", "–", "0.800", "0.68 M"]
    ]
    path.write_text(f"{','.join(answers._BOARD)}\nmodel_i,1,vit_nano,ViT,x,0.9,0.92,,0.8,680000\n")
    with pytest.raises(InputError, match=r"not the leaderboard\.csv"):
        answers.leaderboard_table(path)
    path.write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="no column 'survey'"):
        answers.leaderboard_table(path)
    with pytest.raises(InputError, match="cannot be read"):
        answers.leaderboard_table(tmp_path / "none.csv")


def test_the_page_in_a_browser(original_run, folder, tmp_path):
    pytest.importorskip("gradio")
    playwright = pytest.importorskip("playwright.sync_api")
    browser_path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser_path is None:
        pytest.skip("no browser on this machine")
    from pathlib import Path

    from haloformer.app import serving

    bad = tmp_path / "bad.npy"
    bad.write_bytes(b"<b>no image</b>")
    with serving(str(original_run)) as url, playwright.sync_playwright() as driver:
        import os

        uploads = Path(os.environ["GRADIO_TEMP_DIR"])
        browser = driver.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 390, "height": 844})  # a telephone
        page.set_default_timeout(120_000)
        foreign: list[str] = []
        page.on("request", lambda r: None if r.url.startswith((url, "data:", "blob:")) else foreign.append(r.url))
        page.goto(url)
        page.set_input_files("#hf-file input[type=file]", str(folder / "lens_00.npy"))
        page.wait_for_selector("#hf-answer .hf-bars")
        assert "%" in page.inner_text("#hf-answer")
        first = page.get_attribute("#hf-pictures img", "src")
        page.get_by_label("linear").check()
        page.wait_for_function("old => document.querySelector('#hf-pictures img').src !== old", arg=first)
        assert not [path for path in uploads.rglob("*") if path.is_file() and path.stat().st_size]  # kept nowhere
        page.get_by_role("tab", name="Simulate").click()
        page.wait_for_selector("#hf-lens img")
        before = page.get_attribute("#hf-lens img", "src")
        page.locator("#hf-x input[type=range]").press("ArrowRight")
        page.wait_for_function("old => document.querySelector('#hf-lens img').src !== old", arg=before)
        page.wait_for_selector("#hf-lens-answer .hf-bars")
        page.get_by_role("tab", name="Models").click()
        page.wait_for_selector("text=Trained models of this package")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        page.goto(url)
        page.set_input_files("#hf-file input[type=file]", str(bad))
        page.wait_for_selector("#hf-answer [role=alert]")
        assert "bad.npy is not a .npy file" in page.inner_text("#hf-answer")
        assert foreign == []
        browser.close()
    assert not uploads.exists()
