"""The worst files that we could think of are refused in one line, unread; each is made here by code."""

import importlib.util
import re
import resource
import time
from pathlib import Path

import pytest

from haloformer.errors import InputError

_SPEC = importlib.util.spec_from_file_location(
    "hostile", Path(__file__).parents[2] / "benchmarks" / "hostile.py"
)
hostile = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(hostile)


@pytest.mark.parametrize("name", hostile.FILES)
@pytest.mark.filterwarnings("ignore")
def test_a_hostile_file_is_refused_in_one_line(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path, expected = hostile.make(tmp_path, name), hostile.FILES[name][1]
    read = hostile.reader_of(path.name)
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    if expected:
        with pytest.raises(InputError) as error:
            read(path)
        said = str(error.value)
        assert re.search(expected, said), said
        assert "\n" not in said
        assert len(said) < 600
    else:
        assert read(path) >= 1
    assert time.process_time() - began < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 600 * 2**10
    assert not (tmp_path / "unpickled").exists()
