"""Reading ``.npy`` files from anywhere, pickled ones included, without running anything that is inside them.

NumPy stores an array of Python objects as a pickle, and DeepLense's axion files are such arrays: ``[image, mass_eV]``.
Unpickling a stranger's file runs whatever it says. Here the pickle is *read* instead: its opcodes, as the standard
library's `pickletools` lists them, are carried out by a small interpreter that can build tuples, lists, numbers, byte
strings and a description of a numpy array, calls nothing, imports nothing, and refuses every other opcode and name.
Only then are arrays made, by `numpy.frombuffer`, from bytes whose length fits the described shape. The memory needed
is thereby bound by the size of the file.
"""

import io
import math
import pickletools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from haloformer.errors import InputError
from haloformer.files import check_regular

MAX_FILE_BYTES = 256 * 2**20
"""Size that one image file may have unless the caller says otherwise."""

MAX_OPCODES = 1_000_000
"""Steps that a pickle may take; an image written number by number needs one or a few per pixel."""

HEADER_BYTES = 2**14
"""Of a ``.npy`` file, in which its header ends: numpy reads no longer ones."""

_MAGIC = b"\x93NUMPY"
_PICKLE_MAGIC = re.compile(rb"\x80[\x02-\x05]")  # ndarray.dump() of protocol 2 and later
_NUMBER = re.compile(r"[<>|=]?[biuf](1|2|4|8|16)")
_NUMBER_NAMES = {"?": "b1"}


def read_npy(
    data: bytes, name: str, *, max_bytes: int = MAX_FILE_BYTES, kinds: str = "biuf"
) -> tuple[np.ndarray, float]:
    """Reads one image and, where the file has one, the axion mass beside it.

    Args:
        data: The file's contents.
        name: The file's name, for error messages.
        max_bytes: Larger contents are refused.
        kinds: numpy's letters of the dtypes that are read; with ``US``, of texts too.

    Returns:
        The image as it is stored (any shape, any real dtype) and the mass in eV, NaN where there is none.

    Raises:
        InputError: The contents are not an array of real numbers, alone or as a pickled ``[image, mass]``.
    """
    if len(data) > max_bytes:
        raise InputError(
            f"{name} has {len(data)} bytes, more than the {max_bytes} that one image may have"
        )
    if not data:
        raise InputError(f"{name} is empty")
    if _PICKLE_MAGIC.match(data):
        return _image_and_mass(_read_pickle(data, name), name)
    if not data.startswith(_MAGIC):
        raise InputError(f"{name} is not a .npy file: it does not begin as one")
    shape, fortran, dtype, start = _read_header(data, name)
    if dtype.hasobject:
        value = _read_pickle(data[start:], name)
        if dtype != np.dtype(object) or not isinstance(value, _Array) or value.shape != shape:
            raise InputError(
                f"{name} is corrupt: its header and its pickle describe different arrays"
            )
        return _image_and_mass(value, name)
    if dtype.kind not in kinds or dtype.subdtype is not None:
        raise InputError(f"{name} holds {dtype}, not real numbers")
    return _from_bytes(data, start, shape, fortran, dtype, name), math.nan


def array_shape(data: bytes, name: str) -> tuple[int, ...] | None:
    """Returns the shape of the array of real numbers that the beginning of a ``.npy`` file describes.

    Args:
        data: The first `HEADER_BYTES` of the file, or all of it.
        name: The file's name, for error messages.

    Returns:
        The shape; ``()`` for an array of something else; None for one of objects, whose pickle tells.
    """
    if _PICKLE_MAGIC.match(data):
        return None
    if not data.startswith(_MAGIC):
        raise InputError(f"{name} is not a .npy file: it does not begin as one")
    shape, _, dtype, _ = _read_header(data, name)
    if dtype.hasobject:
        return None
    return shape if dtype.kind in "biuf" and dtype.subdtype is None else ()


def read_npy_file(path: str | Path, *, max_bytes: int = MAX_FILE_BYTES) -> tuple[np.ndarray, float]:
    """Reads a file as `read_npy` does its contents."""
    return read_npy(read_bytes(path, max_bytes=max_bytes), str(path), max_bytes=max_bytes)


def read_bytes(path: str | Path, *, max_bytes: int = MAX_FILE_BYTES) -> bytes:
    """Reads a regular file whole, if it is not larger than ``max_bytes``; all that can fail is an `InputError`."""
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path} does not exist")
    check_regular(path)
    try:
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    if len(data) > max_bytes:
        raise InputError(
            f"{path} is larger than the {max_bytes / 2**20:.0f} MiB that one image file may have"
        )
    return data


def _read_header(data: bytes, name: str) -> tuple[tuple[int, ...], bool, np.dtype, int]:
    """Returns shape, Fortran order, dtype and where the data begin."""
    file = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
        read = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, fortran, dtype = read(file)  # literal_eval of at most 10,000 characters
        if not all(type(side) is int for side in shape):  # True passes for 1 in numpy's own check
            raise ValueError(f"the shape {shape}")
    except Exception as error:  # a hostile header can make Python's parser raise nearly anything
        raise InputError(
            f"{name} is corrupt or truncated: its .npy header cannot be read"
        ) from error
    return shape, fortran, dtype, file.tell()


def _from_bytes(
    data: bytes | bytearray,
    start: int,
    shape: tuple[int, ...],
    fortran: bool,
    dtype: np.dtype,
    name: str,
) -> np.ndarray:
    have = len(data) - start
    need = math.prod(shape) * dtype.itemsize
    if min(shape, default=1) < 0 or len(shape) > 8:
        raise InputError(f"{name} is corrupt: an array cannot have the shape {shape}")
    if need != have:
        what = "truncated" if have < need else "corrupt"
        raise InputError(
            f"{name} is {what}: shape {shape} of {dtype} needs {need} bytes, and there are {have}"
        )
    return np.frombuffer(data, dtype=dtype, offset=start).reshape(
        shape, order="F" if fortran else "C"
    )


def _image_and_mass(value: Any, name: str) -> tuple[np.ndarray, float]:
    """Takes apart what an object array held: ``[image, mass]``, an image alone, or pixels as Python numbers."""
    if not isinstance(value, _Array):
        raise InputError(f"{name} is refused: its pickle is not one of an array")
    if value.items is not None and len(value.shape) == 1 and len(value.items) == 2:
        first, second = value.items
        if isinstance(first, _Array | list | tuple):
            image, mass = _as_array(first, name), _as_array(second, name)
            if mass.size != 1:
                raise InputError(
                    f"{name} holds two arrays; an image and one number (the axion mass) are expected"
                )
            return image, float(mass.reshape(()))
    return _as_array(value, name), math.nan


def _as_array(value: Any, name: str) -> np.ndarray:
    """Makes a numeric array of an array description, a number, or nested lists of numbers."""
    if isinstance(value, _Array):
        if value.items is None:
            return _from_bytes(
                value.data, 0, value.shape, value.fortran, np.dtype(value.dtype), name
            )
        flat = _as_array(value.items, name)
        if flat.ndim + len(value.shape) > 4:
            raise InputError(
                f"{name} holds an array of arrays, which is neither an image nor [image, mass]"
            )
        # objects are listed in C order, whatever the array's own
        return flat.reshape(value.shape + flat.shape[1:])
    if isinstance(value, list | tuple) and value and all(_is_row(item) for item in value):
        return _stacked_rows(value, name)
    return _array_of_rows(value, name)


def _is_row(item: Any) -> bool:
    """Tells whether an item is an array of more than one number, such as a row of an image."""
    return isinstance(item, _Array) and len(item.shape) > 0


def _stacked_rows(rows: "Sequence[_Array]", name: str) -> np.ndarray:
    """Makes an image of its rows, or of its planes: an object array may hold them one by one."""
    if len({id(row) for row in rows}) < len(rows):
        raise InputError(f"{name} holds the same row over and over, which is no image")
    if len({row.shape for row in rows}) > 1:
        raise InputError(f"{name} holds rows of differing lengths, not an image")
    if any(row.items is not None for row in rows) or len(rows[0].shape) > 2:
        raise InputError(f"{name} holds arrays of arrays of objects, which are not an image")
    return np.stack([_as_array(row, name) for row in rows])


def _array_of_rows(value: Any, name: str) -> np.ndarray:
    """Makes an array of a number, or of nested lists of numbers."""
    shape: list[int] = []
    row = value
    while isinstance(row, list | tuple):
        if len(shape) == 3 or not row:
            raise InputError(f"{name} holds nested lists that are not an image")
        shape.append(len(row))
        row = row[0]
    if (
        math.prod(shape) > MAX_OPCODES
    ):  # each number takes a step to write; more means the same list over and over
        raise InputError(
            f"{name} holds nested lists that repeat themselves into {math.prod(shape)} numbers"
        )
    numbers = [value]
    for size in shape:
        if not all(isinstance(item, list | tuple) and len(item) == size for item in numbers):
            raise InputError(f"{name} holds lists of differing lengths, not an image")
        numbers = [item for row in numbers for item in row]
    if not all(isinstance(item, int | float | _Array) for item in numbers):
        raise InputError(f"{name} holds something else than numbers")
    try:
        flat = np.array([_scalar(item, name) for item in numbers], dtype=np.float64)
    except OverflowError as error:
        raise InputError(f"{name} holds a number that is too large for a pixel") from error
    return flat.reshape(shape)


def _scalar(item: Any, name: str) -> float:
    if isinstance(item, _Array):
        if item.items is not None or math.prod(item.shape) != 1:
            raise InputError(f"{name} holds arrays within lists, which are not an image")
        return float(_as_array(item, name).reshape(()))
    return float(item)


# The interpreter. Everything on its stack is one of: None, bool, int, float, str, bytes, list, tuple, _Name, _DType,
# _Array, _MARK. `_Name` stands for an allowed global and is never called: `_reduce` knows what each one means.


@dataclass(frozen=True)
class _Name:
    what: str


@dataclass
class _DType:
    code: str
    """numpy's code with byte order, such as ``<f8``; ``O`` for objects."""


@dataclass
class _Array:
    """A numpy array as a pickle describes it; ``items`` instead of ``data`` where its elements are objects."""

    shape: tuple[int, ...] = (0,)
    dtype: str = "|u1"
    fortran: bool = False
    data: bytes | bytearray = b""
    items: list[Any] | None = None


_MARK = object()

_NAMES = {
    ("numpy", "ndarray"): "ndarray",
    ("numpy", "dtype"): "dtype",
    ("_codecs", "encode"): "encode",  # how Python 3 writes bytes in protocols 0 to 2
    **{
        (module, name): name.lstrip("_")
        for module in (
            "numpy.core.multiarray",
            "numpy._core.multiarray",
            "numpy.core.numeric",
            "numpy._core.numeric",
        )
        for name in ("_reconstruct", "scalar", "_frombuffer")
    },
}


class _Refused(Exception):
    """Why a pickle is not one of an array of numbers."""


def _read_pickle(data: bytes, name: str) -> Any:
    try:
        return _interpret(data)
    except _Refused as refusal:
        raise InputError(
            f"{name} is refused: its pickle {refusal}; only arrays of numbers are read"
        ) from refusal
    except (
        Exception
    ) as error:  # a corrupt pickle fails in pickletools or in the interpreter in any of many ways
        raise InputError(f"{name} is corrupt or truncated: its pickle cannot be read") from error


def _interpret(data: bytes) -> Any:
    machine = _Machine(len(data))
    for number, (opcode, argument, _) in enumerate(pickletools.genops(data)):
        if number >= MAX_OPCODES:
            raise _Refused(f"takes more than {MAX_OPCODES} steps")
        if opcode.name == "STOP":
            (result,) = machine.stack
            return result
        machine.step(opcode.name, argument)
    raise _Refused("has no end")


class _Machine:
    """The stack and the memo of a pickle; knows only the opcodes that arrays and numbers need."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.encoded = 0

    def step(self, code: str, argument: Any) -> None:
        """Carries out one opcode; raises _Refused for one that is not known."""
        families = (self._push, self._remember, self._collect, self._construct)
        if not any(family(code, argument) for family in families):
            raise _Refused(f"uses the opcode {code}")

    def _push(self, code: str, argument: Any) -> bool:
        """Constants and literal values."""
        if code in _CONSTANTS:
            self.stack.append(_CONSTANTS[code])
        elif code in _PUSHES:
            self.stack.append(argument)
        elif code in _STRINGS:  # Python 2 strings, which pickletools hands over as latin-1 text
            self.stack.append(argument.encode("latin-1"))
        elif code == "MARK":
            self.stack.append(_MARK)
        elif code == "EMPTY_LIST":
            self.stack.append([])
        elif code == "EMPTY_DICT":
            self.stack.append(())  # only ever an empty metadata dictionary
        else:
            return code in ("PROTO", "FRAME")
        return True

    def _remember(self, code: str, argument: Any) -> bool:
        """The memo, by which a pickle names what it holds twice."""
        if code in ("GET", "BINGET", "LONG_BINGET"):
            self.stack.append(self.memo[int(argument)])
        elif code in ("PUT", "BINPUT", "LONG_BINPUT"):
            self.memo[int(argument)] = self.stack[-1]
        elif code == "MEMOIZE":
            self.memo[len(self.memo)] = self.stack[-1]
        else:
            return False
        return True

    def _collect(self, code: str, argument: Any) -> bool:
        """Tuples and lists of what lies on the stack."""
        if code in ("TUPLE1", "TUPLE2", "TUPLE3"):
            count = int(code[-1])
            self.stack[-count:] = [tuple(self.stack[-count:])]
        elif code == "TUPLE":
            self.stack.append(tuple(_pop_to_mark(self.stack)))
        elif code == "LIST":
            self.stack.append(_pop_to_mark(self.stack))
        elif code == "APPENDS":
            items = _pop_to_mark(self.stack)
            _list(self.stack[-1]).extend(items)
        elif code == "APPEND":
            item = self.stack.pop()
            _list(self.stack[-1]).append(item)
        else:
            return False
        return True

    def _construct(self, code: str, argument: Any) -> bool:
        """Names of the few allowed functions, their calls, and the state of arrays."""
        if code == "GLOBAL":
            module, _, attribute = argument.partition(" ")
            self.stack.append(_name(module, attribute))
        elif code == "STACK_GLOBAL":
            attribute, module = self.stack.pop(), self.stack.pop()
            self.stack.append(_name(module, attribute))
        elif code == "REDUCE":
            arguments, function = self.stack.pop(), self.stack.pop()
            self.stack.append(_reduce(function, arguments))
            self.encoded += len(self.stack[-1]) if isinstance(self.stack[-1], bytes) else 0
            if self.encoded > 2 * self.size:
                raise _Refused("encodes the same text over and over")
        elif code == "BUILD":
            state = self.stack.pop()
            _build(self.stack[-1], state)
        else:
            return False
        return True


_CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_PUSHES = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
}
_STRINGS = {"STRING", "BINSTRING", "SHORT_BINSTRING"}


def _pop_to_mark(stack: list[Any]) -> list[Any]:
    position = len(stack) - 1
    while stack[position] is not _MARK:  # no mark at all ends in an IndexError: corrupt
        position -= 1
        if position < 0:
            raise IndexError("no mark")
    items = stack[position + 1 :]
    del stack[position:]
    return items


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise _Refused("appends to something that is not a list")
    return value


def _name(module: Any, attribute: Any) -> _Name:
    if (module, attribute) not in _NAMES:
        raise _Refused(f"asks for {str(module)[:40]}.{str(attribute)[:40]}")
    return _Name(_NAMES[module, attribute])


def _reduce(function: Any, arguments: Any) -> Any:
    """Stands for calling one of the allowed names: builds the description of what it would return."""
    known = _REDUCE.get(function.what) if isinstance(function, _Name) else None
    if known is None or not isinstance(arguments, tuple):
        raise _Refused("calls something that cannot be called")
    return known(*arguments)


def _encode(text: str, encoding: Any) -> bytes:
    if encoding != "latin1":
        raise _Refused("encodes text otherwise than as latin1")
    return text.encode("latin-1")


def _dtype(code: Any, align: Any = False, copy: Any = True) -> _DType:
    code = code.decode("ascii") if isinstance(code, bytes) else code
    if not isinstance(code, str):
        raise _Refused("describes a dtype that is not a plain number")
    code = _NUMBER_NAMES.get(code, code)
    if code in ("O", "O4", "O8", "|O"):
        return _DType("O")
    if not _NUMBER.fullmatch(code):
        raise _Refused(f"describes a dtype {code[:20]!r} that is not a plain number")
    return _DType(np.dtype(code).str)


def _reconstruct(kind: Any, shape: Any, code: Any) -> _Array:
    if kind != _Name("ndarray"):
        raise _Refused("builds an array of an unknown kind")
    return _Array()


def _number(dtype: Any, data: Any = None) -> _Array:
    array = _Array()
    _build(array, (1, (), dtype, False, data))
    return array


def _buffer(data: Any, dtype: Any, shape: Any, order: Any) -> _Array:
    """An array of protocol 5, whose bytes come before it."""
    array = _Array()
    _build(array, (1, shape, dtype, order == "F", data))
    return array


_REDUCE: dict[str, Callable[..., Any]] = {
    "encode": _encode,
    "dtype": _dtype,
    "reconstruct": _reconstruct,
    "scalar": _number,
    "frombuffer": _buffer,
}


def _build(target: Any, state: Any) -> None:
    """Stands for ``target.__setstate__(state)``."""
    if isinstance(target, _DType):
        _build_dtype(target, state)
    elif isinstance(target, _Array):
        _build_array(target, state)
    else:
        raise _Refused("sets the state of something that has none")


def _build_dtype(target: _DType, state: Any) -> None:
    # (version, byte order, subarray, names, fields, itemsize, alignment, flags, ...)
    order: Any = state[1].decode("ascii") if isinstance(state[1], bytes) else state[1]
    if order not in ("<", ">", "|", "=") or any(part is not None for part in state[2:5]):
        raise _Refused("describes a dtype that is not a plain number")
    if target.code != "O" and order != "|":
        target.code = np.dtype(target.code).newbyteorder(order).str


def _build_array(target: _Array, state: Any) -> None:
    _, shape, dtype, fortran, data = state
    sizes_ok = (
        isinstance(shape, tuple)
        and len(shape) <= 8
        and all(type(n) is int and 0 <= n < 2**40 for n in shape)
    )
    if not sizes_ok or not isinstance(dtype, _DType):
        raise _Refused("describes an array that cannot exist")
    items: list[Any] | None = None
    if dtype.code == "O":
        items = [data] if shape == () and not isinstance(data, list) else data
        if not isinstance(items, list) or len(items) != math.prod(shape):
            raise _Refused("describes an object array whose length does not fit its shape")
        data = b""
    elif (
        not isinstance(data, bytes | bytearray)
        or len(data) != math.prod(shape) * np.dtype(dtype.code).itemsize
    ):
        raise _Refused("describes an array whose bytes do not fit its shape")
    target.shape, target.dtype, target.fortran = shape, dtype.code, bool(fortran)
    target.items, target.data = items, data
