"""All kinds of light: what each of them promises, and how people write them."""

import numpy as np
import pytest
from pydantic import TypeAdapter

from haloformer.simulation.components import LIGHT_COMPONENTS, Clumpy, LightPart, RealGalaxy


@pytest.fixture
def written(tmp_path):
    """Each kind of light as a mapping of YAML."""
    axis = np.arange(40) - 19.5
    spot = np.exp(-(axis**2 + axis[:, None] ** 2) / 40)
    np.savez(tmp_path / "galaxies.npz", images=np.stack([spot, spot.T + 0.1 * spot**2]))
    library = {"path": str(tmp_path / "galaxies.npz"), "split": "all"}
    return {kind.kind: library if kind is RealGalaxy else {} for kind in LIGHT_COMPONENTS}


def test_each_kind_is_read_by_its_name(written):
    for kind, fields in written.items():
        part = TypeAdapter(LightPart).validate_python({"kind": kind, **fields})
        assert part.kind == kind
    narrow = {"kind": "clumpy", "R": {"uniform": [0.1, 0.2]}, "clumps": 3}
    assert TypeAdapter(LightPart).validate_python(narrow).clumps == 3


def test_what_travels_is_what_brightness_needs_with_a_unit_each(light, written):
    for kind, fields in written.items():
        part = TypeAdapter(LightPart).validate_python({"kind": kind, **fields})
        drawn = light.drawn(part, 5)
        assert set(drawn) == set(part.UNITS)
        assert all(len(values) == 5 for values in drawn.values())
        found = light.brightness(part, drawn)
        assert np.isfinite(found).all()
        assert found.min() >= 0


def test_a_parameter_is_drawn_for_an_image_whatever_is_beside_it(light, written):
    for kind, fields in written.items():
        part = TypeAdapter(LightPart).validate_python({"kind": kind, **fields})
        whole = part.draw(light.PlainDraws(np.arange(9)), light.setting(9))
        some = part.draw(light.PlainDraws(np.array([7, 2])), light.setting(2))
        for name, values in some.items():
            assert np.array_equal(values, whole[name][[7, 2]], equal_nan=True)


def test_words_are_whole_numbers_that_float32_holds(light):
    drawn = light.drawn(Clumpy(), 500)
    for name in ("word_1", "word_2"):
        assert np.array_equal(drawn[name].astype(np.float32), drawn[name])
        assert len(np.unique(drawn[name])) > 495
