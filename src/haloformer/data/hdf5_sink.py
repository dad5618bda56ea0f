"""A file for HDF5 to write to, which keeps the disk's failures, Ctrl-C and SIGTERM away from it."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer


class Sink:
    """A file-like object for HDF5 that keeps the disk's failures to itself.

    HDF5 cannot close a file that it failed to write to: it prints pages of errors and crashes the
    interpreter at exit. So it is told that all went well, what could not be written is kept in
    memory (little, for the writer asks for ``error`` after every batch and gives up), and the file
    is thrown away.
    """

    def __init__(self, path: Path):
        """Opens an existing file and empties it."""
        self._data = path.open("r+b", buffering=0)
        self._data.truncate(0)
        self._position = self._size = 0
        self._lost: list[tuple[int, bytes]] = []
        self.error: OSError | None = None

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Moves the position and returns it."""
        self._position = offset + (0, self._position, self._size)[whence]
        return self._position

    def tell(self) -> int:
        """Returns the position."""
        return self._position

    def write(self, data: "ReadableBuffer") -> int:
        """Writes at the position and claims that all went well."""
        view = memoryview(data).cast("B")
        done = 0
        try:
            while self.error is None and done < len(view):
                self._data.seek(self._position + done)
                done += self._data.write(view[done:]) or 0
        except OSError as error:
            self.error = error
        if done < len(view):
            self._lost.append((self._position + done, bytes(view[done:])))
        self._position += len(view)
        self._size = max(self._size, self._position)
        return len(view)

    def readinto(self, buffer: "WriteableBuffer") -> int:
        """Reads what was written, be it on the disk or lost."""
        view = memoryview(buffer).cast("B")
        start, stop = self._position, min(self._position + len(view), self._size)
        self._data.seek(start)
        data = bytearray(self._data.read(stop - start) or b"").ljust(max(0, stop - start), b"\0")
        for offset, lost in self._lost:
            low, high = max(start, offset), min(stop, offset + len(lost))
            if low < high:
                data[low - start : high - start] = lost[low - offset : high - offset]
        view[: len(data)] = data
        self._position += len(data)
        return len(data)

    def read(self, size: int) -> bytes:
        """Returns at most ``size`` bytes from the position on."""
        buffer = bytearray(size)
        return bytes(buffer[: self.readinto(buffer)])

    def truncate(self, size: int) -> int:
        """Makes the file as long as that."""
        try:
            if self.error is None:
                self._data.truncate(size)
        except OSError as error:
            self.error = error
        self._size = size
        return size

    def flush(self) -> None:
        """Does nothing: nothing is buffered here."""

    def close(self) -> None:
        """Ends the writing."""
        self._data.close()


@contextlib.contextmanager
def interrupts_deferred() -> Iterator[None]:
    """Holds back Ctrl-C and SIGTERM while HDF5 is at work, which crashes if a :class:`Sink` raises."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    found = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    # What ends the process at once, or is nothing of Python's, stays as it is.
    before = {number: handler for number, handler in found.items() if callable(handler)}
    caught: list[tuple[int, FrameType | None]] = []
    for number in before:
        signal.signal(number, lambda number, frame: caught.append((number, frame)))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if caught:
            before[signal.Signals(caught[0][0])](*caught[0])
