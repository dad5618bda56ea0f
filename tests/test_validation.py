"""Descriptions that people write: what is wrong is told in one line, with the place and what would be right."""

from typing import Literal

import pytest
from pydantic import Field, StrictBool, StrictInt, ValidationError, field_validator

from haloformer.errors import InputError
from haloformer.validation import Strict, input_error, validated


class Inner(Strict):
    fwhm: float = Field(gt=0)
    kind: Literal["gaussian", "moffat"] = "gaussian"


class Outer(Strict):
    n: int = 3
    psf: Inner | None = None
    bands: tuple[float, ...] = ()
    seed: StrictBool | StrictInt | None = 0
    grid: tuple[int, ...] = Field((1,), min_length=1)
    start: int = Field(0, lt=2**32)
    name: str = "x"

    @field_validator("name")
    @classmethod
    def _short(cls, value: str) -> str:
        if len(value) > 5:
            raise ValueError("name has at most 5 letters")
        return value


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"nn": 3}, r"unknown key in x.yaml 'nn': did you mean 'n'\?"),
        ({"psf": {"fwmh": 1}}, r"unknown key in psf in x.yaml 'fwmh': did you mean 'fwhm'\?"),
        ({"psf": {}}, r"x.yaml: psf.fwhm is missing"),
        ({"psf": {"fwhm": -1}}, r"x.yaml: psf.fwhm must be above 0, not -1"),
        ({"psf": {"fwhm": float("nan")}}, r"x.yaml: psf.fwhm must be a finite number, not nan"),
        (
            {"psf": {"fwhm": 1, "kind": "airy"}},
            r"x.yaml: psf.kind must be one of 'gaussian' or 'moffat', not 'airy'",
        ),
        ({"n": "three"}, r"x.yaml: n must be a whole number, not 'three'"),
        ({"bands": [1, "a"]}, r"x.yaml: bands\[1\] must be a number, not 'a'"),
        ({"seed": "x"}, r"x.yaml: seed must be true or false or a whole number or null, not 'x'"),
        ({"grid": []}, r"x.yaml: grid must be of at least 1 item, not \[\]"),
        ({"start": 2**32}, r"x.yaml: start must be below 4294967296, not 4294967296"),
        ({"name": "too long"}, r"x.yaml: name has at most 5 letters"),
        ([1, 2], r"x.yaml: it must be a mapping, not \[1, 2\]"),
    ],
)
def test_a_fault_is_one_line_that_says_where_and_what_would_be_right(values, message):
    with pytest.raises(InputError, match=f"^{message}") as error:
        validated(Outer, values, "x.yaml")
    assert "\n" not in str(error.value)


def test_the_place_of_a_fault_can_be_spelled_otherwise():
    with pytest.raises(ValidationError) as raised:
        Outer.model_validate({"psf": {"fwhm": -1}})
    error = input_error(raised.value, "", Outer, spell=lambda loc: f"--{loc[-1]}")
    assert str(error) == "--fwhm must be above 0, not -1"


def test_what_is_right_is_returned_and_cannot_be_changed():
    found = validated(Outer, {"psf": {"fwhm": "0.1"}}, "x.yaml")
    assert found.psf.fwhm == 0.1
    with pytest.raises(ValueError, match="frozen"):
        found.n = 4
    assert validated(Outer, found, "x.yaml") is found
