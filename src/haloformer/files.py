"""Files from outside: only regular ones are opened, and YAML is text and numbers, nothing else.

What is said here holds for every kind of file. `haloformer.data` has the checks of images and datasets.
"""

import contextlib
import logging
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from haloformer.errors import InputError

_log = logging.getLogger(__name__)

MAX_YAML_BYTES = 1 << 20
"""Of a YAML file that is read."""

_MAX_NODES = 100_000  # values of a YAML file, those counted again that it refers to again
_MAX_DIGITS = 100  # of a number
_SHOWN = 60  # characters of a key

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def check_regular(path: str | Path) -> None:
    """Refuses what exists and is no regular file: a pipe or a device would never end, or never begin.

    Raises:
        InputError: Names the path and what it is.
    """
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):  # what opens it says so
        return
    for is_kind, what in _KINDS:
        if is_kind(mode):
            raise InputError(f"{path} is not a regular file: it is {what}")


def not_there(what: str, path: str | Path) -> InputError:
    """Returns the error for a file that a survey names and that is not there.

    Args:
        what: What names it, such as ``psf_file``.
        path: As it is written there.
    """
    about = (
        "" if Path(path).is_absolute() else f": there is none in {Path.cwd()}, from where it counts"
    )
    return InputError(f"{what} {path} does not exist{about}")


def with_home(name: str) -> str:
    """Returns a name with the user's own folder in place of a ``~`` that it begins with."""
    return os.path.expanduser(name) if name == "~" or name.startswith("~/") else name


def as_name(value: object, what: str, instead: str) -> str:
    """Returns a name or path as text, with the user's own folder in place of ``~``.

    Args:
        value: What was given.
        what: The argument, for messages.
        instead: What is to be given, or done, with anything else, such as images in memory.

    Raises:
        InputError: It is no text and no path.
    """
    if isinstance(value, str | os.PathLike):
        if not (name := os.fsdecode(value)).strip():
            raise InputError(f"{what} is empty: give a name")
        return with_home(name)
    raise InputError(f"{what} is a {type(value).__name__}: {instead}")


def printable(name: str | Path) -> str:
    """Returns a name that any table can hold and any terminal show.

    Names may be bytes that are not UTF-8, and hold control characters.
    """
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    return _CONTROL.sub(lambda found: ascii(found[0])[1:-1], text)


def read_yaml(path: str | Path) -> object:
    """Returns what a YAML file holds; raises InputError, in one line, for whatever is wrong with it."""
    check_regular(path)
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_YAML_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    _log.info("settings %s", path)
    return parse_yaml(data, str(path))


def parse_yaml(data: bytes, where: str) -> object:
    """Returns what YAML says: mappings, lists, texts, numbers, true, false and null; dates are texts.

    Args:
        data: UTF-8.
        where: What it was read from, for messages.

    Raises:
        InputError: It is larger than `MAX_YAML_BYTES`, no YAML, has a key twice, refers to itself,
            or repeats itself into more than a hundred thousand values.
    """
    with _yaml_errors(where):
        loader = _Loader(_text(data, where))
        node = _checked_node(loader, where)
        return None if node is None else loader.construct_document(node)


def check_yaml(data: bytes, where: str) -> None:
    """Refuses YAML as `parse_yaml` does, for what is read by another library; its tags are left to that."""
    with _yaml_errors(where):
        _checked_node(_Loader(_text(data, where)), where)


def _text(data: bytes, where: str) -> str:
    if len(data) > MAX_YAML_BYTES:
        raise InputError(f"{where}: is too large for YAML: more than {MAX_YAML_BYTES >> 20} MiB")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: is not valid YAML: it is not UTF-8") from error


def _checked_node(loader: "_Loader", where: str) -> yaml.Node | None:
    node: yaml.Node | None = loader.get_single_node()
    if node is not None and _count(node, {}) > _MAX_NODES:
        raise InputError(f"{where}: repeats itself into more than {_MAX_NODES} values")
    return node


@contextlib.contextmanager
def _yaml_errors(where: str) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except RecursionError as error:
        raise InputError(f"{where}: is not valid YAML: it is nested too deeply") from error
    except Exception as error:  # values that are none, such as a set of lists, fail in many ways
        said = " ".join(str(error).split())[:200]
        raise InputError(f"{where}: is not valid YAML: {said}") from error


def _count(node: yaml.Node, known: dict[int, int]) -> int:
    """Returns how many values a node stands for, with every reference written out."""
    if id(node) in known:
        if known[id(node)] < 0:
            raise yaml.YAMLError("it refers to itself")
        return known[id(node)]
    known[id(node)] = -1  # while it is being counted
    total = 1
    if isinstance(node, yaml.SequenceNode):
        total += sum(_count(item, known) for item in node.value)
    elif isinstance(node, yaml.MappingNode):
        _check_unique(node)
        total += sum(_count(part, known) for pair in node.value for part in pair)
    known[id(node)] = total
    return total


def _check_unique(node: yaml.MappingNode) -> None:
    """Refuses a mapping with the same key twice, of which YAML's readers take one or the other."""
    seen: set[tuple[str, str]] = set()
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode):
            if (key.tag, key.value) in seen:
                raise yaml.YAMLError(
                    f"the key '{key.value[:_SHOWN]}' is there twice, line {key.start_mark.line + 1}"
                )
            seen.add((key.tag, key.value))


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader without dates, and with numbers of bounded length."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - as PyYAML has it
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:  # as PyYAML has it
        is_number = node.tag in ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
        if is_number and len(str(node.value)) > _MAX_DIGITS:
            raise yaml.YAMLError(f"a number of {len(str(node.value))} digits")
        return super().construct_object(node, deep)
