"""Damaged files of every kind are read or refused in one line, never more."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from haloformer.errors import InputError


def benchmark(name):
    path = Path(__file__).parents[2] / "benchmarks" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


hostile, mutations = benchmark("hostile"), benchmark("mutations")
FEW = {"HDF5": 4, "survey, YAML": 12, "model, safetensors": 6}  # that take longest to read


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", mutations.KINDS)
def test_a_damaged_file_is_read_or_refused_in_one_line(kind, tmp_path):
    name, make = mutations.KINDS[kind]
    path, valid, read = mutations.prepare(tmp_path, name), make(), hostile.reader_of(name)
    path.write_bytes(valid)
    assert read(path) >= 1
    if "catalog" not in kind:  # of which the first rows are whole
        path.write_bytes(valid[: len(valid) // 4])
        with pytest.raises(InputError):
            read(path)

    @settings(
        max_examples=FEW.get(kind, 20),
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(seed=st.integers(0, 2**32))
    def check(seed):
        path.write_bytes(mutations.mutated(valid, np.random.default_rng(seed)))
        said = ""
        try:
            read(path)
        except InputError as error:
            said = str(error)
        assert "\n" not in said

    check()
