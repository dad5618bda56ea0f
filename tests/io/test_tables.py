"""Tables of FITS, ECSV and VOTable say their units and where they come from."""

import sys
import warnings

import numpy as np
import pyarrow.parquet
import pytest
from astropy import units
from astropy.io import fits, votable
from astropy.table import Table

from haloformer._version import code_version
from haloformer.errors import InputError
from haloformer.io.tables import TABLE_SUFFIXES, save_table, table

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
    written = [header.get(f"TUNIT{k + 1}", "") for k in range(len(COLUMNS))]
    assert written == ["", "", "", "", "arcsec", "", "", "deg"]
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


WHERE = {"units": {"e1": "counts/s"}, "descriptions": {"theta_E": "Einstein radius × 1"}}


def _read(path):
    with warnings.catch_warnings(action="error"):  # every unit is one that readers know
        return Table.read(path)


def _written(path, **options):
    columns = [*COLUMNS, "ood", "error"]
    rows = [
        {**ROW, "ood": True, "error": None},
        {**ROW, "index": 3, "theta_E": None, "error": "\x1b[1m"},
    ]
    with table(path, columns, False, {"MODEL": "runs/é", "SEED": 7}, **options) as write:
        write(rows[:1])
        write(rows[1:])
    return _read(path)


def test_ecsv_comes_back_with_units_descriptions_gaps_and_provenance(tmp_path):
    found = _written(tmp_path / "x.ecsv", **WHERE)
    assert found["log10_m_axion"].unit == units.dex(units.eV)
    assert found["log10_m_axion"].quantity.physical.to_value("eV") == pytest.approx(10**-22.5)
    assert found["log10_m_axion_sigma"].unit == units.dex
    assert (found["ra"].unit, found["theta_E"].unit) == (units.deg, units.arcsec)
    assert found["e1"].unit == units.ct / units.s
    assert found["theta_E"].description == "Einstein radius × 1"
    assert found["file"].tolist() == ["ü×.fits"] * 2
    assert found["index"].tolist() == [None, 3]
    assert found["ood"].tolist() == [True, None]
    assert np.isnan(found["theta_E"][1])
    assert (found.meta["MODEL"], found.meta["SEED"]) == ("runs/é", 7)
    assert found.meta["CREATOR"] == f"haloformer {code_version()}"


@pytest.mark.parametrize("name", ["x.vot", "x.xml", "x.VOT"])
def test_a_votable_is_valid_and_says_units_and_provenance(tmp_path, name):
    found = _written(tmp_path / name, **WHERE)
    assert found["theta_E"].unit == units.arcsec
    assert found["theta_E"].description == "Einstein radius × 1"
    assert (found["log10_m_axion"].unit, found["log10_m_axion"].description) == (
        None,
        "log10 of eV",
    )
    assert found["file"].tolist() == ["ü×.fits"] * 2
    assert found["index"].tolist() == [None, 3]
    assert found["error"].tolist() == ["", "?[1m"]  # XML has no escape sequences
    with warnings.catch_warnings(action="error"):
        document = votable.parse(tmp_path / name, verify="exception")
    infos = {info.name: info.value for info in document.resources[0].infos}
    assert (infos["MODEL"], infos["SEED"]) == ("runs/é", "7")
    assert infos["CREATOR"] == f"haloformer {code_version()}"


@pytest.mark.parametrize("suffix", TABLE_SUFFIXES)
def test_a_table_without_rows_can_be_read(tmp_path, suffix):
    with table(tmp_path / f"x{suffix}", COLUMNS, False):
        pass
    if suffix == ".parquet":  # astropy's reader takes a maximum over rows
        found = pyarrow.parquet.read_table(tmp_path / "x.parquet").column_names
    else:
        options = {"format": "ascii.csv"} if suffix == ".csv" else {}
        found = Table.read(tmp_path / f"x{suffix}", **options).colnames
    assert found == COLUMNS


def test_another_ending_says_which_there_are(tmp_path):
    with pytest.raises(
        InputError, match=r"\.csv, \.parquet, \.fits, \.ecsv, \.vot or \.xml, not '\.xlsx'"
    ):
        save_table(Table({"a": [1]}), tmp_path / "x.xlsx")
    assert not list(tmp_path.iterdir())


def test_what_a_header_of_fits_has_no_room_for_is_its_history(tmp_path):
    found = Table({"a": [1.0]}, meta={"code_version": "1", "verdict": "long " * 60, "gap": None})
    found.meta |= {"sizes": [1, 2], "value": float("nan")}
    header = fits.getheader(save_table(found, tmp_path / "x.fits"), 1)
    assert header["code_version"] == "1"
    assert header["verdict"].startswith("long long")
    assert (header["sizes"], header["value"]) == ("[1, 2]", "nan")
    assert "gap" not in header
    found.meta = {"a_long_keyword": "é" * 80}
    header = fits.getheader(save_table(found, tmp_path / "y.fits"), 1)
    assert "a_long_keyword: " in "".join(header["HISTORY"])


def test_names_of_columns_that_fits_has_no_letters_for_are_as_in_pythons_source(tmp_path):
    found = Table.read(save_table(Table({"p_日本": [0.5], "p_é": ["a"]}), tmp_path / "x.fits"))
    assert found.colnames == ["p_\\u65e5\\u672c", "p_\\xe9"]
    assert found["p_\\u65e5\\u672c"][0] == 0.5


@pytest.mark.parametrize("suffix", [".vot", ".xml", ".ecsv", ".fits", ".parquet", ".csv"])
def test_tables_of_any_names_are_written_without_a_warning(tmp_path, suffix):
    """Classes and facts may be called anything; in XML not every name is an ID, and no ID comes twice."""
    columns = ["file", "p_no sub", "p_no.sub", "p_\u03a3", "3.5_kpc", "MODEL", "p_\u00d7"]
    rows = [dict.fromkeys(columns, 0.5) | {"file": "a.npy"}]
    path = tmp_path / f"a{suffix}"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        facts = {"MODEL": "a", "code version": "1", "a.b": 2, "a_long_fact_of_a_model": "x" * 90}
        with table(
            path, columns, False, facts, {"p_no sub": "probability of class no sub"}
        ) as write:
            write(rows)
    if suffix in (".vot", ".xml"):
        document = votable.parse(path, verify="exception")
        fields = document.get_first_table().fields
        assert [field.name for field in fields] == columns
        infos = {info.name: info.value for info in document.resources[0].infos}
        assert infos.items() >= {"MODEL": "a", "code version": "1", "a.b": "2"}.items()
        ids = [each.ID for each in (*fields, *document.resources[0].infos)]
        assert len(set(ids)) == len(ids)


def test_a_whole_table_is_not_lost_where_somebody_wrote_one_meanwhile(tmp_path):
    path = tmp_path / "a.csv"

    def write():
        with table(path, ["file"], False) as rows:
            rows([{"file": "x.npy"}])
            path.write_text("another's")

    with pytest.raises(InputError, match=r"a\.csv exists already.*the new one is .*a-2\.csv$"):
        write()
    assert path.read_text() == "another's"
    assert (tmp_path / "a-2.csv").read_text() == "file\nx.npy\n"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a-2.csv", "a.csv"]
