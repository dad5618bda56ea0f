"""JSON that any program reads, and files of others that are refused in one line."""

import json

import numpy as np
import pytest

from haloformer.errors import InputError
from haloformer.io.strict_json import MAX_JSON_BYTES, parse_json, read_json, to_json, to_json_line


def _no_constant(name):
    raise ValueError(name)


@pytest.mark.parametrize("write", [to_json, to_json_line])
def test_numbers_that_json_does_not_know_are_null(write):
    value = {"a": [1.5, float("nan"), (float("inf"),)], "b": {"c": np.float64("nan")}, 3: "×"}
    found = json.loads(write(value), parse_constant=_no_constant)
    assert found == {"a": [1.5, None, [None]], "b": {"c": None}, "3": "×"}
    assert write is to_json or "\n" not in write(value)


def test_nan_of_another_program_is_read_as_null():
    assert parse_json('{"a": NaN, "b": -Infinity}', "x") == {"a": None, "b": None}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": {"b": 1, "b": 2}}', "'b' is there twice"),
        ("[1]", "must be a JSON object"),
        ("{", "is not valid JSON"),
        ("[" * 100_000, "is not valid JSON"),
        (b"\xff", "is not valid JSON"),
        ('{"a": "' + "b" * MAX_JSON_BYTES + '"}', "larger than 1 MiB"),
        (None, "cannot be read"),
    ],
)
def test_what_is_no_object_is_refused_in_one_line(tmp_path, text, message):
    path = tmp_path / "x.json"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=message) as caught:
        read_json(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
