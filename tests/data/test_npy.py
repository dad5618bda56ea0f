"""Hostile and odd ``.npy`` files: whatever is in them, the answer is an array or an InputError, and nothing is run."""

import io
import math
import os
import pickle
import pickletools
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from haloformer.errors import InputError
from haloformer.readers.npy import read_npy, read_npy_file

RECONSTRUCT = np.zeros(1).__reduce__()[0]  # numpy's own, which has moved between its versions
IMAGE = np.arange(56.0).reshape(8, 7) / 3


def npy(array, pickled=None):
    """The bytes of a .npy file; ``pickled`` replaces the pickle of an object array."""
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    if pickled is None:
        return file.getvalue()
    length = struct.unpack("<H", file.getvalue()[8:10])[0]
    return file.getvalue()[: 10 + length] + pickled


def pair(image=IMAGE, mass=3e-23):
    array = np.empty(2, dtype=object)
    array[0], array[1] = image, mass
    return array


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("old_numpy", [True, False])
@pytest.mark.parametrize("dtype", ["f8", ">f4", "i8", "u1", "?"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_axion_files_of_every_protocol_and_numpy_are_read(protocol, old_numpy, dtype, order):
    image = np.asarray((IMAGE % 2).astype(dtype), order=order)
    for mass in (3e-23, np.float64(3e-23), np.array(3e-23), np.array([3e-23])):
        data = pickle.dumps(pair(image, mass), protocol=protocol)
        if old_numpy:
            data = in_old_spelling(data)
        read, read_mass = read_npy(npy(pair(), data), "x.npy")
        assert read.dtype == image.dtype
        assert np.array_equal(read, image)
        assert read_mass == 3e-23


def in_old_spelling(data):
    """Names numpy's modules as numpy 1 did, in text and in length-prefixed names."""
    data = data.replace(b"cnumpy._core.", b"cnumpy.core.")
    for module in (b"multiarray", b"numeric"):
        new, old = b"numpy._core." + module, b"numpy.core." + module
        data = data.replace(b"\x8c" + bytes([len(new)]) + new, b"\x8c" + bytes([len(old)]) + old)
    # Frames tell lengths that no longer hold; they are optional.
    position = data.find(b"\x95", 2, 4)
    return data[:position] + data[position + 9 :] if position == 2 else data


def test_python_2_pickles_are_read():
    raw = np.array([1.0, 2.0]).tobytes()
    data = (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01K\x02K\x01\x86"
        b"cnumpy\ndtype\nU\x02f8K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x10"
        + raw
        + b"tb."
    )
    assert np.array_equal(
        pickle.loads(data, encoding="latin1"), [[1.0], [2.0]]
    )  # the bytes above are what they claim
    assert np.array_equal(read_npy(data, "x.npy")[0], [[1.0], [2.0]])


@pytest.mark.parametrize(
    "image", [IMAGE.tolist(), IMAGE.astype(object), np.asfortranarray(IMAGE).astype(object)]
)
def test_pixels_as_python_numbers_are_read(image):
    read, mass = read_npy(npy(pair(image)), "x.npy")
    assert np.array_equal(read, IMAGE)
    assert mass == 3e-23


def test_plain_files_are_read_and_have_no_mass():
    read, mass = read_npy(npy(np.asfortranarray(IMAGE)), "x.npy")
    assert np.array_equal(read, IMAGE)
    assert math.isnan(mass)


class Runs:
    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def hostile_pickles(marker):
    touch = f"touch {marker}"
    for protocol in range(6):
        yield pickle.dumps(Runs(os.system, touch), protocol)
        yield pickle.dumps(pair(IMAGE, Runs(os.system, touch)), protocol)
        yield pickle.dumps(Runs(eval, f"open({str(marker)!r}, 'w')"), protocol)
        yield pickle.dumps(pair(Runs(exec, f"open({str(marker)!r}, 'w')")), protocol)
    yield pickle.dumps(Runs(getattr, Runs(__import__, "os"), "system"))
    yield pickle.dumps(Runs(np.fromfile, "/etc/passwd"))
    yield pickle.dumps(Runs(np.load, "/etc/passwd"))
    yield pickle.dumps(Runs(np.memmap, str(marker), "u1", "w+"))
    yield b"cos\nsystem\n(S'" + touch.encode() + b"'\ntR."
    yield b"(S'" + touch.encode() + b"'\nios\nsystem\n."  # INST
    yield b"(cos\nsystem\nS'" + touch.encode() + b"'\no."  # OBJ
    yield b"\x80\x04\x8c\x05numpy\x8c\x10ndarray.__class__\x93."  # dotted names
    yield b"\x80\x02\x82\x01."  # extension registry
    yield b"\x80\x02Ppersistent\n."


def test_no_pickle_runs_anything(tmp_path):
    marker = tmp_path / "ran"
    for data in hostile_pickles(marker):
        for content in (data, npy(pair(), data)):
            with pytest.raises(InputError, match=r"x\.npy"):
                read_npy(content, "x.npy")
    assert not marker.exists()


def nested_lists(depth):
    value = [0.0] * 10
    for _ in range(depth):
        value = [value] * 10
    return value


def array_pickle(shape, dtype="f8", data=b"\0" * 8, state=(3, "<", None, None, None, -1, -1, 0)):
    """A pickle of an array that says of itself what it likes."""

    class Array:
        def __reduce__(self):
            return (
                RECONSTRUCT,
                (np.ndarray, (0,), b"b"),
                (1, shape, DType(), False, data),
            )

    class DType:
        def __reduce__(self):
            return np.dtype, (dtype, False, True), state

    return pickle.dumps(Array())


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(pickle.dumps(pair(nested_lists(6))), id="billion laughs"),
        pytest.param(pickle.dumps(pair([[0.0] * 2000] * 2000)), id="one row two thousand times"),
        pytest.param(b"\x80\x04" + b"]" * 100_000 + b"a" * 99_999 + b".", id="deep lists"),
        pytest.param(b"\x80\x04)" + b"\x85" * 100_000 + b".", id="deep tuples"),
        pytest.param(array_pickle((2**30, 2**30)), id="huge shape"),
        pytest.param(array_pickle((-1,)), id="negative shape"),
        pytest.param(array_pickle((0, 2**62), data=b""), id="empty but huge"),
        pytest.param(array_pickle((1,) * 40), id="forty dimensions"),
        pytest.param(array_pickle((1,), dtype="O"), id="objects out of bytes"),
        pytest.param(array_pickle((1,), dtype="S8"), id="text"),
        pytest.param(array_pickle((1,), dtype="f8,O"), id="record with objects"),
        pytest.param(array_pickle((1,), dtype="(1000,1000)f8"), id="sub-array dtype"),
        pytest.param(array_pickle((1,), dtype="V8"), id="void"),
        pytest.param(array_pickle((1,), dtype="c8"), id="complex"),
        pytest.param(
            array_pickle((1,), state=(3, "|", ("O", (1,)), None, None, -1, -1, 0)),
            id="sub-array in state",
        ),
        pytest.param(
            array_pickle((1,), state=(3, "|", None, ("a",), {"a": 1}, -1, -1, 0)),
            id="fields in state",
        ),
        pytest.param(b"\x80\x04K\x01r\xff\xff\xff\xff.", id="memo index of four billion"),
        pytest.param(b"\x80\x04\x8e" + struct.pack("<Q", 2**60) + b"x.", id="bytes of an exabyte"),
        pytest.param(
            b"\x80\x04\x8b" + struct.pack("<I", 2**31 - 1) + b"x.", id="integer of two gigabytes"
        ),
        pytest.param(b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b"K\x01", id="frame of exabytes"),
        pytest.param(
            b"\x80\x02c_codecs\nencode\nX\x01\0\0\0aX\x05\0\0\0utf-7\x86R.", id="another codec"
        ),
        pytest.param(b"I" + b"9" * 10_000 + b"\n.", id="ten thousand digits"),
        pytest.param(b"\x80\x04.", id="empty stack"),
        pytest.param(b"\x80\x04h\x05.", id="unknown memo"),
        pytest.param(b"\x80\x04e.", id="no mark"),
        pytest.param(b"\x80\x04]\x94h\x00a.", id="a list within itself"),
        pytest.param(pickle.dumps({"a": IMAGE}), id="dictionary"),
        pytest.param(pickle.dumps("text"), id="text alone"),
        pytest.param(pickle.dumps(pair(IMAGE, IMAGE)), id="two images"),
        pytest.param(pickle.dumps(pair(["a", "b"])), id="list of text"),
        pytest.param(pickle.dumps(pair(IMAGE, 10**400)), id="mass too large"),
        pytest.param(pickle.dumps(pair(IMAGE, None)), id="no mass"),
    ],
)
def test_bombs_and_nonsense_are_refused(data):
    for content in (data, npy(pair(), data)):
        with pytest.raises(InputError, match=r"x\.npy"):
            read_npy(content, "x.npy")


def test_one_text_encoded_a_thousand_times_does_not_fill_the_memory():
    text = b"X" + struct.pack("<I", 10**6) + b"a" * 10**6 + b"q\x00"
    once = b"c_codecs\nencode\nh\x00X\x06\0\0\0latin1\x86R"
    with pytest.raises(InputError, match="over and over"):
        read_npy(b"\x80\x02" + text + once * 1000 + b".", "x.npy")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x93NUMPY",
        b"\x93NUMPY\x01\x00",
        b"\x93NUMPY\x09\x00" + b"x" * 100,
        npy(IMAGE)[:-1],
        npy(IMAGE) + b"x",
        npy(pair())[:-5],
        npy(IMAGE).replace(b"(8, 7)", b"(8,-7)"),
        npy(IMAGE).replace(b"(8, 7), ", b"(2**9,),"),
        npy(IMAGE).replace(b"'<f8'", b"'<U2'"),
        npy(IMAGE).replace(b"'<f8'", b"'<c8'"),
        npy(np.zeros(3, dtype=[("a", "f8"), ("b", "O")])),
        npy(np.array(["a", "b"], dtype=object)),
        b"PK\x03\x04" + b"\0" * 50,
        b"\xff\xd8\xff\xe0" + b"\0" * 50,
    ],
)
def test_what_is_no_array_of_numbers_is_refused(content):
    with pytest.raises(InputError, match=r"x\.npy"):
        read_npy(content, "x.npy")


def test_a_header_that_claims_a_terabyte_allocates_nothing():
    content = npy(IMAGE).replace(b"(8, 7), }" + b" " * 12, b"(1099511627776, 8), }")
    with pytest.raises(InputError, match="truncated"):
        read_npy(content, "x.npy")


def test_large_files_are_refused_before_they_are_read(tmp_path):
    path = tmp_path / "x.npy"
    with path.open("wb") as file:
        file.truncate(2**40)  # sparse: takes no space
    with pytest.raises(InputError, match="larger than"):
        read_npy_file(path, max_bytes=10**6)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "x.npy")
    with pytest.raises(InputError, match="not a regular file"):
        read_npy_file(tmp_path / "x.npy")


def reads_or_refuses(content):
    array, mass, message = np.zeros(1), 0.0, "x.npy"
    try:
        array, mass = read_npy(content, "x.npy")
    except InputError as error:
        message = str(error)
    assert array.dtype.kind in "biuf"
    assert isinstance(mass, float)
    assert "x.npy" in message
    assert "\n" not in message


@given(st.binary(max_size=300))
@settings(max_examples=300, deadline=None)
def test_random_bytes_are_refused(content):
    reads_or_refuses(content)
    reads_or_refuses(b"\x80\x02" + content)
    reads_or_refuses(npy(pair(), content))


@given(
    st.lists(
        st.sampled_from(
            [opcode.code.encode("latin-1") for opcode in pickletools.opcodes] + [b"\0", b"\n", b"1"]
        )
    )
)
@settings(max_examples=300, deadline=None)
def test_random_opcodes_are_refused(codes):
    reads_or_refuses(b"\x80\x04" + b"".join(codes) + b".")


@given(
    protocol=st.integers(0, 5),
    changes=st.lists(
        st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=4
    ),
)
@settings(max_examples=300, deadline=None)
def test_damaged_files_are_read_or_refused(protocol, changes):
    content = bytearray(npy(pair(), pickle.dumps(pair(IMAGE[:2, :2]), protocol)))
    for position, value in changes:
        content[position % len(content)] = value
    reads_or_refuses(bytes(content))
