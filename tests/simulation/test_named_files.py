"""Files that a survey names, and what was stored of their images, when they are replaced."""

import os

import numpy as np
import pytest
from astropy.io import fits

from haloformer.data.prepared import kind_of
from haloformer.fitting.fitted import FittedSimulator
from haloformer.oracle.kept import Kept
from haloformer.simulation import Simulator, describe_survey, get_any_survey
from haloformer.simulation.named_files import file_digests

SURVEY = """
base: hst
instrument: {{base: hst_acs_f814w, psf_file: {folder}/psf.fits}}
source:
  light: [{{kind: galaxy, path: {folder}/galaxies, pixel_scale: 0.05, R: 0.2}}]
  snr: 20
"""


def _write(path, width):
    y, x = np.mgrid[-20:21, -20:21]
    bright = np.exp(-(x**2 + y**2) / (2 * width**2))
    fits.PrimaryHDU(bright / bright.sum()).writeto(path, overwrite=True)


@pytest.fixture
def survey(tmp_path):
    (tmp_path / "galaxies").mkdir()
    _write(tmp_path / "psf.fits", 1.0)
    for number in range(3):
        _write(tmp_path / "galaxies" / f"{number}.fits", 2.0 + number)
    path = tmp_path / "mine.yaml"
    path.write_text(SURVEY.format(folder=tmp_path))
    return get_any_survey(path)


def _digests(survey):
    return file_digests(describe_survey(survey))


def test_only_what_files_hold_counts(survey, tmp_path):
    before = _digests(survey)
    assert set(before) == {f"{tmp_path}/psf.fits", f"{tmp_path}/galaxies"}
    for path in (tmp_path / "psf.fits", tmp_path / "galaxies" / "1.fits"):
        os.utime(path, (1, 1))
    assert _digests(survey) == before
    _write(tmp_path / "galaxies" / "1.fits", 2.5)
    changed = _digests(survey)
    assert [name for name in before if changed[name] != before[name]] == [f"{tmp_path}/galaxies"]
    (tmp_path / "galaxies" / "2.fits").rename(tmp_path / "galaxies" / "3.fits")
    assert _digests(survey) != changed
    assert file_digests(describe_survey(get_any_survey("hst"))) == {}


def test_a_tilde_is_the_home_folder(survey, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    mine = tmp_path / "mine.yaml"
    mine.write_text(mine.read_text().replace(str(tmp_path), "~"))
    assert "~" in mine.read_text()
    assert describe_survey(get_any_survey(mine)) == describe_survey(survey)


def test_a_file_that_is_not_there_is_told_where_it_is_read(survey, tmp_path):
    (tmp_path / "psf.fits").unlink()
    assert set(_digests(survey)) == {f"{tmp_path}/psf.fits", f"{tmp_path}/galaxies"}


def test_what_was_stored_is_not_taken_for_that_of_another_file(survey, tmp_path):
    def kinds():
        maker = FittedSimulator(Simulator(survey, seed=1))
        return kind_of(maker), Kept(tmp_path, survey, 1, 20).folder

    before = kinds()
    assert kinds() == before
    _write(tmp_path / "psf.fits", 1.4)
    assert all(one != other for one, other in zip(before, kinds(), strict=True))
