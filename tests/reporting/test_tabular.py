"""A result shows itself: as a table of astropy with units, a data frame, text, and HTML that nothing can break out of."""

import numpy as np
import pyarrow.parquet
import pytest
from astropy import units as u
from astropy.table import Table

from haloformer.errors import InputError
from haloformer.io.astropy_tables import astropy_unit
from haloformer.reporting.tabular import Column, Tabular, masked, texts
from haloformer.simulation import get_any_survey, list_surveys, simulate
from haloformer.simulation.composed import ComposedSurvey, parameter_units
from haloformer.simulation.scenes import UNITS


class Result(Tabular):
    def __init__(self, *columns):
        self._columns = list(columns)

    def columns(self):
        return self._columns

    def provenance(self):
        return {"model": "model_i", "survey": None, "seed": 3}

    def summary(self):
        return "<b>a summary</b>"


@pytest.fixture
def result():
    return Result(
        Column("class", texts(["axion", None, "<script>"]), "", "the class"),
        Column("theta_E", np.array([1.0, np.nan, 1.5]), "arcsec"),
        Column("log10_m_axion", np.array([-22.0, -23.0, np.nan]), "log10(eV)"),
        Column("index", masked([0, None, 2], int)),
        Column("ood", masked([True, None, False], bool)),
        Column("mass", np.array([[1e7, 1e8], [1e9, np.nan], [np.nan, np.nan]]), "M_sun"),
    )


def test_every_unit_of_the_package_is_one_of_astropys():
    known = set(UNITS.values()) | {"dex", "deg", "counts/s", "pixel^2", "arcsec^2"}
    for name in list_surveys(composed=True):
        survey = get_any_survey(name)
        assert isinstance(survey, ComposedSurvey)
        known |= set(parameter_units(survey).values())
    assert len(known) > 8
    for text in known - {""}:
        assert isinstance(astropy_unit(text), u.UnitBase | u.function.FunctionUnitBase), text
    assert astropy_unit("") is None
    assert astropy_unit("counts/s/arcsec^2") == u.ct / u.s / u.arcsec**2


def test_a_table_of_astropy_has_units_descriptions_masks_and_provenance(result, tmp_path):
    table = result.to_table()
    assert table.meta == {"model": "model_i", "seed": 3}
    assert table["theta_E"].quantity.to_value("arcmin")[0] == pytest.approx(1 / 60)
    assert table["log10_m_axion"].quantity.physical[0].to_value(u.eV) == pytest.approx(1e-22)
    assert table["class"].description == "the class"
    assert table["class"].mask.tolist() == [False, True, False]
    assert table["index"].mask.tolist() == [False, True, False]
    assert table["ood"].tolist() == [True, None, False]
    assert table["mass"].unit == u.M_sun
    table.write(tmp_path / "a.ecsv")
    again = Table.read(tmp_path / "a.ecsv")
    assert again["log10_m_axion"].unit == u.dex(u.eV)
    assert again.meta == table.meta


@pytest.mark.parametrize("suffix", [".fits", ".ecsv", ".vot", ".xml"])
def test_what_is_written_comes_back(result, tmp_path, suffix):
    found = Table.read(result.write(tmp_path / f"x{suffix}"))
    wanted = result.to_table()
    assert found.colnames == wanted.colnames
    for name in wanted.colnames:
        want = wanted[name].tolist()
        if (name, suffix) == ("ood", ".fits"):  # where readers know no missing truth values
            want = [bool(value) for value in want]
        assert _flat(found[name].tolist()) == _flat(want), name
    assert found["theta_E"].unit == u.arcsec
    assert found["mass"].unit == u.Unit("M_sun")
    if suffix == ".ecsv":
        assert (found.meta["model"], found.meta["seed"]) == ("model_i", 3)
    with pytest.raises(InputError, match="exists"):
        result.write(tmp_path / f"x{suffix}")


def test_parquet_keeps_units_and_provenance_beside_its_columns(result, tmp_path):
    found = pyarrow.parquet.read_table(result.write(tmp_path / "x.parquet"))
    assert found["class"].to_pylist() == ["axion", None, "<script>"]
    assert found["index"].to_pylist() == [0, None, 2]
    assert found.schema.field("theta_E").metadata[b"unit"] == b"arcsec"
    assert found.schema.metadata[b"model"] == b"model_i"


def _flat(values):
    """Values in one list; NaN, masked ones and empty texts as None."""
    if isinstance(values, list):
        return [each for value in values for each in _flat(value)]
    value = values.decode() if isinstance(values, bytes) else values
    return [None if value == "" or value != value else value]


def test_csv_holds_one_number_in_a_place(result, tmp_path):
    with pytest.raises(InputError, match=r"rows of mass have several numbers.*\.ecsv"):
        result.write(tmp_path / "x.csv")
    plain = Result(*result.columns()[:5])
    lines = plain.write(tmp_path / "x.csv").read_text().splitlines()
    assert lines[:3] == [
        "class,theta_E,log10_m_axion,index,ood",
        "axion,1.0,-22.0,0,True",
        ",,-23.0,,",
    ]


def test_a_data_frame_keeps_types_and_provenance(result):
    pytest.importorskip("pandas")
    frame = result.to_pandas()
    assert frame["index"].sum() == 2
    assert frame["index"].isna().tolist() == [False, True, False]
    assert frame["ood"].dropna().tolist() == [True, False]
    assert [len(each) for each in frame["mass"]] == [2, 1, 0]
    assert frame.attrs["units"]["theta_E"] == "arcsec"
    assert frame.attrs["model"] == "model_i"


def test_what_a_notebook_shows_escapes_what_comes_from_outside(result):
    shown = result._repr_html_()
    assert "<script>" not in shown
    assert "&lt;script&gt;" in shown
    assert "<b>a summary" not in shown
    assert "theta_E [arcsec]" in shown
    assert shown.count("<tr>") == 4


def test_a_long_table_is_cut_and_says_so():
    columns = [Column(f"quantity_{k}", np.arange(500.0)) for k in range(30)]
    lines = repr(Result(*columns)).splitlines()
    assert max(map(len, lines)) <= 100
    assert lines[-1].startswith("… and 492 more rows, ")
    assert "and 480 more rows" in Result(*columns)._repr_html_()
    assert repr(Result()) == "Result: <b>a summary</b>"


@pytest.mark.parametrize("survey", ["model_i", "hst", "model_iv"])
def test_simulated_lenses_are_a_table_of_their_parameters(survey):
    lenses = simulate(survey, 3, seed=1)
    table = lenses.to_table()
    assert table["class"].tolist() == [lenses.class_names[k] for k in lenses.labels]
    assert table.meta["survey"] == survey
    assert table.meta["seed"] == 1
    assert "code_version" in table.meta
    np.testing.assert_array_equal(table["source_x"], lenses.parameters["source_x"])
    assert table["source_x"].unit == u.arcsec
    assert "<img" in lenses._repr_html_()
    assert repr(lenses).startswith(f"LensBatch: 3 images of {survey} ")
    extent = lenses.plot(2).axes[0].images[0].get_extent()
    half = lenses.images.shape[-1] * lenses.attributes["pixel_scale"] / 2
    assert extent == pytest.approx((-half, half, -half, half))


def test_a_parameter_that_no_image_has_is_no_column():
    table = simulate("model_i", 2, classes=["no_sub"], seed=1).to_table()
    assert "log10_m_axion" not in table.colnames
    assert "source_x" in table.colnames
