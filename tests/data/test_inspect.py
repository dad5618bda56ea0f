import json

import numpy as np
import pytest

from haloformer.data import figure, summarise, write_dataset
from haloformer.errors import InputError


def test_the_summary_agrees_with_the_arrays(dataset_file, lenses):
    summary = summarise(dataset_file, batch_size=5)
    assert json.loads(json.dumps(summary)) == summary
    assert (summary["n"], summary["image_shape"]) == (12, [1, 8, 8])
    assert summary["attributes"]["survey"] == "model_ii"
    for label, name in enumerate(lenses["class_names"]):
        images = lenses["images"][lenses["labels"] == label].astype(np.float64)
        found = summary["classes"][name]
        expected = {
            "count": 4,
            "mean": images.mean(),
            "std": images.std(),
            "min": images.min(),
            "max": images.max(),
        }
        assert {key: found[key] for key in expected} == pytest.approx(expected)
    rows = {row["name"]: row for row in summary["parameters"]}
    mass = lenses["parameters"]["log10_m_axion"]
    assert rows["log10_m_axion"]["applicable"] == pytest.approx(1 / 3)
    assert rows["log10_m_axion"]["median"] == np.nanmedian(mass)
    assert rows["log10_m_axion"]["unit"] == "log10(eV)"
    assert rows["subhalo_mass"]["shape"] == [5]
    assert rows["subhalo_mass"]["applicable"] == pytest.approx(1 / 3)


def test_images_with_nan_are_counted_and_left_out(tmp_path, lenses):
    lenses["images"][3] = np.nan
    lenses["images"][6, 0, 0] = 0
    lenses["labels"][:] = 0
    write_dataset(tmp_path / "x.h5", **lenses)
    classes = summarise(tmp_path / "x.h5")["classes"]
    assert classes["axion"]["not_finite"] == 1
    assert classes["axion"]["zero_fraction"] == pytest.approx(8 / (11 * 64))
    assert classes["cdm"]["count"] == 0
    assert classes["cdm"]["mean"] is None


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_the_panel_is_written_whole(tmp_path, dataset_file, suffix):
    out = figure(dataset_file, tmp_path / "figures" / f"panel.{suffix}", per_class=5)
    start = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[suffix]
    assert out.read_bytes().startswith(start)
    assert [path.name for path in out.parent.iterdir()] == [out.name]


def test_blank_images_nan_and_a_missing_class_can_be_drawn(tmp_path, lenses):
    lenses["images"][:] = 0
    lenses["images"][0] = np.nan
    lenses["labels"] %= 2
    del lenses["attributes"]["pixel_scale"]
    write_dataset(tmp_path / "x.h5", **lenses)
    assert figure(tmp_path / "x.h5", tmp_path / "x.png").stat().st_size > 1000


def test_an_unknown_figure_format_is_refused(tmp_path, dataset_file):
    with pytest.raises(InputError, match=r"\.png, \.pdf or \.svg"):
        figure(dataset_file, tmp_path / "x.exe")
