"""Limits of the page: its addresses, the size of requests, how long uploads stay.

Gradio itself bounds one file (``max_file_size``) and can delete old ones (``delete_cache``). What
is here bounds the rest: a request as a whole, all uploads together, and uploads that were
interrupted; a file is deleted as soon as it is answered.
"""

import contextlib
import json
import math
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from starlette.formparsers import MultiPartException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# All that the page asks for. Gradio also answers with files by their path, fetches addresses for its visitors, and takes recordings.
_ADDRESSES = {
    "GET": r"/|/config|/theme\.css|/favicon\.ico|/robots\.txt|/assets/.+|/static/.+|/svelte/.+"
    r"|/gradio_api/(startup-events|queue/data|upload_progress|heartbeat/\w+)",
    "POST": r"/gradio_api/(upload|queue/join)",
}
_FORM_BYTES = 2**16  # what a form adds to the file that it carries
_MAX_REQUEST_BYTES = 2**18  # of any other request: the positions of sliders, the name of a file


class Guard:
    """ASGI middleware that bounds what a visitor can ask for.

    It answers 404 to all that the page does not need, 413 to what is too large, 507 when uploads
    pile up.

    Args:
        app: What it stands before.
        uploads: What it keeps count of.
        max_upload_bytes: Of one request's files together.
        max_kept_bytes: Of all uploads that are kept at a time.
    """

    def __init__(
        self, app: ASGIApp, uploads: "Uploads", max_upload_bytes: int, max_kept_bytes: int
    ) -> None:
        self.app, self.uploads = app, uploads
        self.max_upload_bytes, self.max_kept_bytes = max_upload_bytes, max_kept_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request, or passes it on."""
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        method, path = scope.get("method"), scope["path"]
        allowed = _ADDRESSES.get(
            "GET" if method == "HEAD" else method or ""
        )  # a websocket has no method
        if allowed is None or not re.fullmatch(allowed, path) or ".." in path:
            return await _refuse(send, 404, "There is nothing here.")
        upload = path.endswith("/upload")
        limit = self.max_upload_bytes + _FORM_BYTES if upload else _MAX_REQUEST_BYTES
        length = _length(scope, limit)
        if length > limit:
            return await _refuse(
                send, 413, f"A file may have at most {self.max_upload_bytes >> 20} MiB."
            )
        if upload and self.uploads.n_bytes() + length > self.max_kept_bytes:
            return await _refuse(
                send, 507, "Too many uploads wait to be read: try again in some minutes."
            )
        had = 0

        async def bounded() -> Message:
            nonlocal had
            message = await receive()
            had += len(message.get("body", b""))
            if had > limit or (upload and message["type"] == "http.disconnect"):
                raise MultiPartException(
                    "maximum allowed size"
                )  # upon which gradio deletes what it has of the upload
            return message

        if not upload:
            return await self.app(scope, bounded, send)
        with self.uploads.under_way(length) as paths:
            said = bytearray()

            async def heard(message: Message) -> None:
                said.extend(message.get("body", b"")[:_MAX_REQUEST_BYTES])
                await send(message)

            await self.app(scope, bounded, heard)
            with contextlib.suppress(ValueError):  # an error's text
                paths += [path for path in json.loads(said) if isinstance(path, str)]


def _length(scope: Scope, unknown: int) -> int:
    value = next((value for name, value in scope["headers"] if name == b"content-length"), b"")
    return int(value) if value.isdigit() and len(value) < 20 else unknown


async def _refuse(send: Send, status: int, text: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text.encode()})


class Uploads:
    """The files that visitors have uploaded: deleted when they are read, or after some minutes.

    Gradio names a file by its content, so that two visitors with the same file share one path: it
    goes when the last of them has been answered, and never while an upload is under way.

    Attributes:
        folder: Where they are; nothing else is ever deleted.
        seconds: How long one is kept that nobody reads, an interrupted one, or a dataset.
        forget: Sets of paths that gradio keeps, out of which those are taken that are no longer
            there.
    """

    def __init__(self, folder: Path, seconds: float) -> None:
        self.folder, self.seconds = folder.resolve(), seconds
        self.forget: list[set[str]] = []
        self._lock = threading.Lock()
        self._waiting: Counter[Path] = Counter()  # uploaded, and not yet read
        self._read: set[Path] = set()
        self._under_way, self._coming = 0, 0  # uploads, and their bytes

    def n_bytes(self) -> int:
        """Returns how much all of them take, with what is under way."""
        return self._coming + sum(_stat(path)[0] for path in self.folder.rglob("*"))

    @contextlib.contextmanager
    def under_way(self, n_bytes: int = 0) -> Iterator[list[str]]:
        """Surrounds one upload; the block appends the paths of its files to the list."""
        paths: list[str] = []
        with self._lock:
            self._under_way, self._coming = self._under_way + 1, self._coming + n_bytes
        try:
            yield paths
        finally:
            with self._lock:
                self._under_way, self._coming = self._under_way - 1, self._coming - n_bytes
                self._waiting.update(Path(path).resolve() for path in paths)
                self._delete()

    def read(self, path: str | Path) -> None:
        """Says that one visitor's file was read."""
        found = Path(path).resolve()
        if found.is_relative_to(self.folder) and found != self.folder:
            with self._lock:
                self._waiting[found] -= 1
                self._read.add(found)
                self._delete()

    def _delete(self) -> None:
        if self._under_way:
            return
        for path in [path for path in self._read if self._waiting[path] <= 0]:
            path.unlink(missing_ok=True)
            self._read.discard(path)
            del self._waiting[path]
            if path.parent != self.folder:
                with contextlib.suppress(OSError):  # a file of the same content with another name
                    path.parent.rmdir()

    def sweep(self) -> None:
        """Deletes what is older than ``seconds``."""
        now = time.time()
        with self._lock:
            for path in sorted(self.folder.rglob("*"), reverse=True):  # files before their folders
                if now - _stat(path)[1] > self.seconds:
                    with contextlib.suppress(OSError):  # not empty, or gone
                        path.rmdir() if path.is_dir() else path.unlink()
            for path in [path for path in self._waiting if not path.exists()]:
                del self._waiting[path]
            self._read &= set(self._waiting)
        for paths in self.forget:
            paths -= {path for path in list(paths) if not Path(path).exists()}

    def swept(self, period: float = 60) -> contextlib.AbstractContextManager[None]:
        """Sweeps in the background every ``period`` seconds while the block runs."""

        def sweep(stopped: threading.Event) -> None:
            while not stopped.wait(period):
                self.sweep()

        return in_background(sweep, "sweep")


@contextlib.contextmanager
def in_background(work: Callable[[threading.Event], None], name: str) -> Iterator[None]:
    """Does work in a thread beside the block.

    At its end the event tells the thread to stop, and some seconds are left for it.
    """
    stopped = threading.Event()
    thread = threading.Thread(target=work, args=(stopped,), name=f"haloformer-{name}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join(timeout=10)


def _stat(path: Path) -> tuple[int, float]:
    """Returns a file's size, 0 of a folder, and when it was changed."""
    try:
        found = path.stat()
    except OSError:  # it has just been deleted
        return 0, math.inf
    return 0 if path.is_dir() else found.st_size, found.st_mtime
