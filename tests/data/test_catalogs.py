"""Catalogs as surveys and their tools write them: formats, names and units of columns, hostile files."""

import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.table import QTable, Table

from haloformer.data.catalogs import COLUMNS, read_positions
from haloformer.errors import InputError

RA, DEC = np.array([150.11916667, 0.5, 359.99]), np.array([2.20583333, -0.25, -30.0])
SKY = SkyCoord(RA * u.deg, DEC * u.deg)
FORMATS = {"x.csv": "ascii.csv", "x.ecsv": "ascii.ecsv", "x.xml": "votable", "x.fits": "fits"}


def saved(path, columns, kind=None):
    QTable(columns).write(path, format=kind or FORMATS[path.name], overwrite=True)
    return path


def check(path, tolerance=1e-6):
    found = read_positions(path)
    assert found.on_sky
    np.testing.assert_allclose(found.first, RA, atol=tolerance)
    np.testing.assert_allclose(found.second, DEC, atol=tolerance)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("unit", [u.deg, u.rad, u.hourangle])
def test_every_format_and_unit_gives_the_same_positions(tmp_path, name, unit):
    if name == "x.csv":
        columns = {f"ra [{unit}]": SKY.ra.to_value(unit), f"dec ({u.deg})": DEC}
    elif unit is u.hourangle and name in ("x.xml", "x.fits"):
        columns = {"ra": SKY.ra.to_value(unit), "dec": DEC}
        table = Table(columns)
        table["ra"].unit, table["dec"].unit = "h", "deg"
        columns = table
    else:
        columns = {"id": [1, 2, 3], "ra": SKY.ra.to(unit), "dec": DEC * u.deg}
    check(saved(tmp_path / name, columns))


@pytest.mark.parametrize("pair", COLUMNS)
def test_names_of_columns_are_those_of_surveys_in_any_case(tmp_path, pair):
    first, second = pair
    check(saved(tmp_path / "x.csv", {first.upper(): RA, "mag": RA, second.title(): DEC}))


@pytest.mark.parametrize(("sep", "pad"), [(":", True), (" ", True), ("hms", False)])
@pytest.mark.parametrize("name", FORMATS)
def test_sexagesimal_positions_are_hours_and_degrees(tmp_path, sep, pad, name):
    ra = SKY.ra.to_string(u.hourangle, sep=sep, pad=pad, precision=5)
    dec = SKY.dec.to_string(u.deg, sep=sep.replace("h", "d"), pad=pad, alwayssign=True, precision=5)
    path = saved(tmp_path / name, {"RAJ2000": np.array(ra, str), "DEJ2000": np.array(dec, str)})
    check(path)
    if name == "x.csv":
        path = saved(
            path, {"ra [deg]": np.array(SKY.ra.to_string(u.deg, sep=":"), str), "dec": dec}
        )
        check(path)


def test_a_column_of_coordinates_is_two(tmp_path):
    check(saved(tmp_path / "x.ecsv", {"sky": SKY.fk5}), tolerance=1e-4)


def test_a_position_that_is_no_number_is_nan(tmp_path):
    (tmp_path / "x.csv").write_text("ra,dec\n1,2\n,3\nabc,4\n5\n10:00:00,-1:30:00\n1:2:3:4,inf\n")
    found = read_positions(tmp_path / "x.csv")
    np.testing.assert_allclose(found.first, [1, np.nan, np.nan, 5, 150, np.nan])
    np.testing.assert_allclose(found.second, [2, 3, 4, np.nan, -1.5, np.nan])
    table = Table({"ra": np.ma.array([1, 2], mask=[0, 1]), "dec": [3, 4]})
    table.write(tmp_path / "x.ecsv")
    assert np.isnan(read_positions(tmp_path / "x.ecsv").first).tolist() == [False, True]


def test_pixels_of_source_extractor_are_counted_from_1(tmp_path):
    found = read_positions(saved(tmp_path / "x.csv", {"X_IMAGE": [1.0, 5], "Y_IMAGE": [2.0, 6]}))
    assert not found.on_sky
    assert found.first.tolist() == [0, 4]
    found = read_positions(saved(tmp_path / "x.ecsv", {"x": [1.0, 5], "y": [2.0, 6]}))
    assert found.first.tolist() == [1, 5]


def test_two_pairs_of_columns_are_one_if_they_agree_and_an_error_if_not(tmp_path):
    columns = {
        "_RAJ2000": RA,
        "_DEJ2000": DEC,
        "RAJ2000": np.array(SKY.ra.to_string(u.hourangle, sep=" ", pad=True), str),
        "DEJ2000": np.array(SKY.dec.to_string(u.deg, sep=" ", pad=True, alwayssign=True), str),
    }
    check(saved(tmp_path / "x.csv", columns), tolerance=1e-5)
    columns["_DEJ2000"] = DEC + 0.001
    path = saved(tmp_path / "y.csv", columns, "ascii.csv")
    with pytest.raises(
        InputError, match="raj2000, dej2000 and _raj2000, _dej2000, which differ: keep one pair"
    ):
        read_positions(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("ra,dec\n", "holds no position"),
        ("a,b\n1,2\n", "has the columns a, b: ra and dec, or x and y, are needed"),
        ("ra,RA,dec\n1,2,3\n", "has the column ra 2 times"),
        ("ra [m],dec\n1,2\n", "the column ra \\[m\\] is in 'm', which is no angle"),
        ("# %ECSV 1.0\n# ---\n# a: &a [1]\n# b: [*a, *a\nra dec\n1 2\n", "not valid YAML"),
    ],
)
def test_what_is_no_catalog_is_refused_in_one_line(tmp_path, text, message):
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        read_positions(tmp_path / "x.csv")


VOTABLE = """<VOTABLE version="1.3"><RESOURCE><TABLE{table}>
<FIELD name="ra" datatype="double" unit="deg"{field}/><FIELD name="dec" datatype="double" unit="deg"/>
<DATA>{data}</DATA></TABLE></RESOURCE></VOTABLE>"""
ROWS = "<TABLEDATA><TR><TD>1</TD><TD>2</TD></TR></TABLEDATA>"


def votable(data=ROWS, table="", field="", before=""):
    return (before + VOTABLE.format(table=table, field=field, data=data)).encode()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (votable('<BINARY><STREAM href="http://x.invalid/a"/></BINARY>'), "rows elsewhere"),
        (votable('<BINARY><STREAM encoding="gzip">AAAA</STREAM></BINARY>'), "rows elsewhere"),
        (votable('<FITS><STREAM encoding="base64">AA</STREAM></FITS>'), "in a FITS file"),
        (votable(before='<!DOCTYPE a [<!ENTITY b "c">]>'), "document type or entities"),
        (votable(table=' nrows="99999999999"'), "claims 99999999999 rows"),
        (votable(field=' arraysize="999999999"'), "too many values per row"),
        (b"<a>" * 200, "nested too deeply"),
        (b"<a><b></a>", "no catalog that can be read"),
        (votable()[:-40], "no catalog that can be read"),
        (b"<html><body>404</body></html>", "no catalog that can be read"),
    ],
)
def test_a_votable_opens_nothing_else_and_claims_no_more_than_it_holds(tmp_path, content, message):
    (tmp_path / "x.xml").write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_positions(tmp_path / "x.xml")


def test_a_fits_file_of_images_or_a_truncated_table_is_no_catalog(tmp_path):
    fits.PrimaryHDU(np.eye(4)).writeto(tmp_path / "image.fits")
    with pytest.raises(InputError, match="holds no table"):
        read_positions(tmp_path / "image.fits")
    whole = saved(tmp_path / "x.fits", {"ra": np.zeros(2000), "dec": np.ones(2000)}).read_bytes()
    (tmp_path / "x.fits").write_bytes(whole[:9000])
    with pytest.raises(InputError, match="is corrupt or truncated"):
        read_positions(tmp_path / "x.fits")
