"""Tables of FITS say their units and where they come from."""

import sys
import warnings

from astropy.io import fits
from astropy.table import Table

from haloformer._version import code_version
from haloformer.io.tables import table

COLUMNS = ["file", "class", "log10_m_axion", "log10_m_axion_sigma", "theta_E", "e1", "index", "ra"]
ROW = {
    "file": "ü×.fits",
    "class": "axion",
    "log10_m_axion": -22.5,
    "log10_m_axion_sigma": 0.1,
    "theta_E": 1.2,
    "e1": 0.1,
    "index": None,
    "ra": 10.0,
}


def test_a_fits_table_has_units_and_says_what_made_it(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/usr/bin/haloformer", "predict", "a b", *["x.fits"] * 900])
    provenance = {"MODEL": "runs/é", "SEED": 7, "SURVEY": None}
    with table(tmp_path / "x.fits", COLUMNS, False, provenance) as write:
        write([ROW, {**ROW, "index": 3}])
    header = fits.getheader(tmp_path / "x.fits", 1)
    units = [header.get(f"TUNIT{k + 1}", "") for k in range(len(COLUMNS))]
    assert units == ["", "", "", "", "arcsec", "", "", "deg"]
    assert (header["TCOMM3"], header["TCOMM4"]) == ("log10 of eV", "dex")
    assert header["CREATOR"] == f"haloformer {code_version()}"
    assert (header["MODEL"], header["SEED"]) == ("runs/\\xe9", 7)
    assert "SURVEY" not in header
    assert header["COMMAND"].startswith("haloformer predict 'a b' x.fits x.fits")
    assert len(header["COMMAND"]) == 2000
    assert header["DATE"][:2] == "20"
    with warnings.catch_warnings(action="error"):  # every unit is one that readers know
        rows = Table.read(tmp_path / "x.fits")
    assert rows["log10_m_axion"].tolist() == [-22.5, -22.5]
    assert rows["index"].tolist() == [None, 3]
    assert rows["file"][0] == "\\xfcx.fits"


def test_outside_the_command_line_no_command_is_made_up(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/usr/bin/pytest"])
    with table(tmp_path / "x.fits", COLUMNS, False) as write:
        write([ROW])
    assert "COMMAND" not in fits.getheader(tmp_path / "x.fits", 1)
