"""Archives: zip, ``.npz`` and (compressed) tar, read member by member under one guard; nothing is unpacked to disk.

`read_archive` streams the files of an archive in their order, `list_archive` names them, and
`ArchiveCursor` fetches single ones. An archive is refused as a whole, in one line, if a member leads
out of it, is a link, a device or encrypted, comes twice, is itself an archive, or if there is more in
it than an archive of its size may hold.
"""

import bz2
import contextlib
import gzip
import lzma
import os
import re
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from haloformer.errors import InputError
from haloformer.files import check_regular, printable
from haloformer.readers.npy import MAX_FILE_BYTES

ARCHIVE_SUFFIXES = (
    ".zip",
    *(".tgz", ".tar.gz", ".tar", ".tbz2", ".tar.bz2", ".txz", ".tar.xz"),
)
"""Endings of archives whose members are files, in lower case."""

_NESTED = (*ARCHIVE_SUFFIXES, ".7z", ".rar", ".tar.zst", ".tar.lz4", ".tar.z")
_MAX_MEMBERS = 1_000_000
_MAX_DIRECTORY = 2**27  # bytes of a zip file's list of members, which is read as a whole
_MAX_TAR_HEADER = 2**20  # a file name of a mebibyte is an attack
_MAX_UNPACKED = 2**30  # bytes that an archive may unpack to, or
_MAX_INFLATION = 100  # times its own size, if that is more

_ZIP = b"PK\x03\x04", b"PK\x05\x06"
_ZIP_END = b"PK\x05\x06"
_ZIP_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2)
_DRIVE = re.compile(r"[A-Za-z]:")

Accept = Callable[[str], bool]
"""Told the name of a file in an archive, says whether it is wanted."""


def is_archive(path: str | Path) -> bool:
    """Tells from its name whether a file is an archive that can be read."""
    return str(path).lower().endswith(ARCHIVE_SUFFIXES)


def read_archive(
    path: str | Path,
    *,
    accept: Accept = lambda name: True,
    max_bytes: int = MAX_FILE_BYTES,
    folders: list[str] | None = None,
) -> Iterator[tuple[str, bytes]]:
    """Streams the files of a zip or tar archive, plain or compressed, in their order; nothing is written to disk.

    Args:
        path: The archive.
        accept: Called with each file's name; what it refuses is not read.
        max_bytes: Limit for one file.
        folders: Gets the names of the folders that are listed as such, as they come.

    Yields:
        (name, contents).

    Raises:
        InputError: It is no whole archive, or one that is refused (see the module).
    """
    path = Path(path)
    check_regular(path)
    with _archive_errors(str(path)), path.open("rb") as raw:
        size = os.fstat(raw.fileno()).st_size
        if raw.read(4) in _ZIP:
            options = {"accept": accept, "max_bytes": max_bytes, "folders": folders}
            yield from read_zip(raw, size, str(path), **options)  # type: ignore[arg-type]
            return
        raw.seek(0)
        with _decompressed(raw) as plain:
            yield from _read_tar(plain, str(path), size, accept, max_bytes, folders)


def list_archive(path: str | Path) -> list[str]:
    """Returns the names of the files of an archive; raises InputError as `read_archive` does."""
    names: list[str] = []

    def note(name: str) -> bool:
        names.append(name)
        return False

    for _ in read_archive(path, accept=note):
        pass  # nothing is wanted, so nothing is read
    return names


class ArchiveCursor:
    """Fetches members of archives; those of one archive in its own order are read in one go."""

    def __init__(self) -> None:
        """Opens nothing yet."""
        self._path: Path | None = None
        self._wanted = ""
        self._members: Iterator[tuple[str, bytes]] = iter(())

    def read(self, path: Path, member: str) -> bytes:
        """Returns the contents of a member; raises InputError if there is none (any more)."""
        self._wanted = member
        for fresh in (path != self._path, True):
            if fresh:
                self._path = path
                self._members = read_archive(path, accept=lambda name: name == self._wanted)
            for _, data in self._members:
                return data
            if fresh:
                break
        self._path = None
        raise InputError(f"{path} no longer holds {printable(member)}")


@contextlib.contextmanager
def _archive_errors(name: str) -> Iterator[None]:
    """Turns what fails in a damaged archive, nearly anything, into one line that names it."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        said = " ".join(str(error).split())[:120] or type(error).__name__
        raise InputError(f"{name} is not a whole archive: {said}") from error


# --- what is refused --------------------------------------------------------------------------------------------------


class _Guard:
    """Looks at the name of each member of an archive before anything of it is read."""

    def __init__(self, archive: str) -> None:
        self.archive = archive
        self.seen: set[str] = set()

    def check(self, name: str, problem: str = "") -> None:
        """Refuses an archive by one of its members.

        Args:
            name: Of the member, with forward slashes.
            problem: What else is wrong with it.
        """
        if len(self.seen) == _MAX_MEMBERS:
            raise InputError(f"{self.archive} holds more than {_MAX_MEMBERS:,} files")
        parts = PurePosixPath(name).parts
        if ".." in parts or name.startswith("/") or _DRIVE.match(name) or "\0" in name:
            problem = "leads out of the archive"
        elif name in self.seen:
            problem = "comes twice"
        elif name.lower().endswith(_NESTED) and not parts[-1].startswith("."):
            problem = "is itself an archive: unpack that one first"
        if problem:
            raise InputError(f"{self.archive} is refused: its member {printable(name)} {problem}")
        self.seen.add(name)


def _most(size: int) -> int:
    return max(_MAX_UNPACKED, _MAX_INFLATION * size)


def _too_much(archive: str, most: int) -> InputError:
    return InputError(
        f"{archive} unpacks to more than {most / 2**20:.0f} MiB, which an archive of its size may not"
    )


def _too_large(archive: str, name: str, max_bytes: int) -> InputError:
    limit = f"{max_bytes / 2**20:.0f} MiB allowed"
    return InputError(f"{archive}: {printable(name)} is larger than the {limit}")


# --- zip --------------------------------------------------------------------------------------------------------------


def read_zip(
    raw: BinaryIO,
    size: int,
    archive: str,
    *,
    accept: Accept = lambda name: True,
    max_bytes: int = MAX_FILE_BYTES,
    head: int | None = None,
    folders: list[str] | None = None,
) -> Iterator[tuple[str, bytes]]:
    """Yields the files of a zip file, or of a ``.npz`` file, as `read_archive` does.

    Args:
        raw: The zip file.
        size: Its size in bytes.
        archive: Its name, for error messages.
        accept: Called with each file's name.
        max_bytes: Limit for one file.
        head: Only so many bytes of each file are read; None reads all.
        folders: Gets the names of the folders.
    """
    _check_directory(raw, archive, size)
    guard = _Guard(archive)
    with _archive_errors(archive), zipfile.ZipFile(raw) as opened:
        members = [(info, info.filename.replace("\\", "/")) for info in opened.infolist()]
        for info, name in members:
            if not info.is_dir():
                guard.check(name, _problem_of(info))
        if sum(info.file_size for info, _ in members) > _most(size):
            raise _too_much(archive, _most(size))
        for info, name in members:
            if info.is_dir():
                _note(folders, name)
            if info.is_dir() or not accept(name):
                continue
            if info.file_size > max_bytes:
                raise _too_large(archive, name, max_bytes)
            wanted = info.file_size if head is None else min(head, info.file_size)
            with opened.open(info) as file:
                data = file.read(wanted)
            if len(data) < wanted:
                raise InputError(f"{archive} is truncated within {printable(name)}")
            yield name, data


def _note(folders: list[str] | None, name: str) -> None:
    if folders is not None:
        folders.append(name)


def _problem_of(info: zipfile.ZipInfo) -> str:
    if info.flag_bits & 1:
        return "is encrypted"
    kind = stat.S_IFMT(info.external_attr >> 16)
    if info.create_system == 3 and kind not in (0, stat.S_IFREG):
        return "is a link, which is not followed" if stat.S_ISLNK(kind) else "is no regular file"
    if info.compress_type not in _ZIP_METHODS:
        return "is compressed otherwise than by deflate or bzip2"
    return ""


def _check_directory(raw: BinaryIO, archive: str, size: int) -> None:
    """Refuses a list of members that would fill the memory before its first is looked at."""
    raw.seek(max(0, size - 2**16 - 22))
    tail = raw.read()
    end = tail.rfind(_ZIP_END)
    claimed = int.from_bytes(tail[end + 12 : end + 16], "little") if end >= 0 else 0
    if claimed == 0xFFFFFFFF or (end >= 0 and tail[end - 20 : end - 16] == b"PK\x06\x07"):
        # zip64: what lies between the last member and the end is at most all of the file
        where = int.from_bytes(tail[end - 12 : end - 4], "little")
        raw.seek(min(where, size))
        claimed = int.from_bytes(raw.read(48)[40:48], "little")
    raw.seek(0)
    if claimed > _MAX_DIRECTORY:
        raise InputError(f"{archive} holds too many files: its list of them has {claimed} bytes")


# --- tar --------------------------------------------------------------------------------------------------------------


def _read_tar(
    plain: BinaryIO,
    path: str,
    size: int,
    accept: Accept,
    max_bytes: int,
    folders: list[str] | None,
) -> Iterator[tuple[str, bytes]]:
    stream = _ForwardReader(plain, _MAX_TAR_HEADER, _most(size), path)
    archive = tarfile.TarFile(fileobj=stream)  # type: ignore[arg-type]
    guard = _Guard(path)
    while (member := archive.next()) is not None:
        # tarfile remembers every member, which adds up over a hundred thousand.
        archive.members = []  # type: ignore[attr-defined]
        if member.isdir():
            _note(folders, member.name)
            continue
        linked = "is a link, which is not followed" if member.issym() or member.islnk() else ""
        guard.check(member.name, linked or ("" if member.isreg() else "is no regular file"))
        if not accept(member.name):
            continue
        if member.issparse() or member.size > max_bytes:
            raise _too_large(path, member.name, max_bytes)
        file = archive.extractfile(member)
        assert file is not None
        stream.limit = max_bytes
        data = file.read()
        stream.limit = _MAX_TAR_HEADER
        if len(data) != member.size:
            raise InputError(f"{path} is truncated within {printable(member.name)}")
        yield member.name, data
    if not stream.ended_in_zeros():
        raise InputError(f"{path} is truncated or corrupt: the end of the archive is missing")
    stream.drain()


def _decompressed(raw: BinaryIO) -> Any:
    start = raw.read(6)
    raw.seek(0)
    if start.startswith(b"\x1f\x8b"):
        return gzip.GzipFile(fileobj=raw)
    if start.startswith(b"BZh"):
        return bz2.BZ2File(raw)
    if start.startswith(b"\xfd7zXZ\x00"):
        return lzma.LZMAFile(raw)
    return raw


class _ForwardReader:
    """A file that goes forward only, for tarfile: never more than ``limit`` bytes at once, and short steps back.

    tarfile asks for whatever length a header claims, and steps back by a byte before every header, for which gzip
    would begin again at the start.
    """

    def __init__(self, file: Any, limit: int, most: int, name: str):
        self.limit = limit
        self._file = file
        self._most = most  # bytes in all
        self._name = name  # for the error message
        self._position = 0  # as tarfile sees it
        self._tail = b""  # the last bytes that were read
        self._end = 0  # where the tail ends

    def tell(self) -> int:
        return self._position

    def seek(self, position: int, whence: int = 0) -> int:
        if whence != 0 or position < self._end - len(self._tail):
            raise tarfile.ReadError("the archive cannot be read from front to back")
        while position > self._end:
            if not self._fetch(min(position - self._end, 2**18)):
                break
        self._position = min(position, self._end)
        return self._position

    def read(self, size: int = -1) -> bytes:
        if size < 0 or size > self.limit:
            raise tarfile.ReadError(
                f"a header claims {size} bytes, more than the {self.limit} allowed"
            )
        back = self._end - self._position
        data = self._tail[len(self._tail) - back :][:size] if back else b""
        if len(data) < size:
            data += self._fetch(size - len(data))
        self._position += len(data)
        return data

    def ended_in_zeros(self) -> bool:
        """Tells whether the last block that was read is one of zeros, with which an archive ends."""
        return len(self._tail) >= 512 and not any(self._tail[-512:])

    def drain(self) -> None:
        """Reads the padding after the end, so that a compressed file's checksum is compared."""
        for _ in range(64):
            if not self._fetch(2**16):
                break

    def _fetch(self, size: int) -> bytes:
        data: bytes = self._file.read(size)
        self._tail = (self._tail + data)[-1024:] if len(data) < 1024 else data[-1024:]
        self._end += len(data)
        if self._end > self._most:
            raise _too_much(self._name, self._most)
        return data
