"""What a stream unpacks to is counted to the byte, however it is put together, and never kept."""

import gzip
import tracemalloc
import zlib

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from haloformer.readers.inflation import inflates_within


@given(
    sizes=st.lists(st.integers(0, 40_000), min_size=1, max_size=5),
    padding=st.lists(st.sampled_from([0, 1, 700, 9000]), min_size=5, max_size=5),
    noisy=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_gzip_streams_in_a_row_are_counted_together(sizes, padding, noisy):
    rng = np.random.default_rng(0)
    parts = [rng.bytes(size) if noisy else bytes(size) for size in sizes]
    packed = b"".join(
        gzip.compress(part) + bytes(n) for part, n in zip(parts, padding, strict=False)
    )
    assert gzip.decompress(packed) == b"".join(parts)
    assert inflates_within(packed, 31, sum(sizes))
    assert sum(sizes) == 0 or not inflates_within(packed, 31, sum(sizes) - 1)


def test_a_zlib_stream_ends_where_it_ends_and_little_of_it_is_held():
    packed = zlib.compress(bytes(50 * 2**20))
    tracemalloc.start()
    try:
        assert inflates_within(packed + packed, 15, 50 * 2**20)
        assert not inflates_within(packed, 15, 50 * 2**20 - 1)
        assert tracemalloc.get_traced_memory()[1] < 30 * 2**20
    finally:
        tracemalloc.stop()
    assert inflates_within(packed[:1000] + b"damaged" * 9, 15, 50 * 2**20)
