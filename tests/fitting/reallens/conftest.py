"""Coarser grids than in real fits: the small lens of these tests needs no more."""

import pytest

from haloformer.fitting.reallens import start


@pytest.fixture(scope="session", autouse=True)
def coarse():
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(start, "_COARSE_SIDE", 12)
        patched.setattr(start, "_BROAD_SIDE", 9)
        yield
