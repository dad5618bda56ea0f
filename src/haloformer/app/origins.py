"""Who may ask the page, and what a browser may do with it.

A web page of somebody else runs in the same browser as this one. It must neither use the app by a
name that it lets point to this machine (DNS rebinding), nor send it files, nor show it in a frame.
"""

import base64
import hashlib
import ipaddress
import re
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOCAL_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})
ANY = "*"
"""In place of the hosts: whatever a request says."""

_HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "x-frame-options": "DENY",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
# Pictures are part of the page's text, and gradio's components set styles and a base, and evaluate the
# templates of its own scripts. A script or a handler inside what is shown never runs.
_POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-eval'{hashes}; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; "
    "manifest-src 'self'; base-uri 'self'; form-action 'none'; frame-ancestors 'none'"
)
_NUMBERS = "<numbers>"  # any address of numbers; no host can be called like this
_SCRIPT = re.compile(rb"<script(?![^>]*\ssrc=)[^>]*>(.*?)</script>", re.DOTALL)
_FORWARDED = (b"forwarded", b"x-forwarded-", b"x-real-ip")
_MAX_PAGE_BYTES = 2**24


def allowed_hosts(host: str, named: Collection[str] = ()) -> frozenset[str]:
    """Returns the hosts under which a page is asked for.

    Args:
        host: The address that it listens on. One that is reached from elsewhere allows every
            address of numbers: no name can be made to point there by somebody else.
        named: More of them; `ANY` allows all.
    """
    names = {name.strip().strip("[]").lower() for name in (*LOCAL_HOSTS, host, *named)}
    reachable = _is_address(host) and host not in LOCAL_HOSTS
    return frozenset(names - {"", _NUMBERS} | ({_NUMBERS} if reachable else set()))


class SameOrigin:
    """ASGI middleware for requests from the page itself, under its own name.

    It answers 421 to another host and 403 to what another web page sends. What a proxy would say of
    the request is dropped, as anybody can say it. Every answer forbids browsers to run scripts that
    are not the page's, and to show it inside another.

    Args:
        app: What it stands before.
        hosts: From `allowed_hosts`.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str]) -> None:
        self.app, self.hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request, or passes it on."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        headers = Headers(scope=scope)
        if not self._is_allowed(headers.getlist("host")):
            text = "The page is not served under this name: haloformer app --allow_hosts adds it."
            return await _refuse(send, 421, text)
        if not _is_of_the_page(scope, headers):
            return await _refuse(send, 403, "Only the page itself may ask for this.")
        kept = [(k, v) for k, v in scope["headers"] if not k.startswith(_FORWARDED)]
        # The server around this has taken the scheme from such a header already.
        inner = {**scope, "headers": kept, "scheme": "http"}
        await self.app(inner, receive, _Protected(send, scope["path"] == "/"))

    def _is_allowed(self, named: list[str]) -> bool:
        if len(named) != 1:
            return False
        if ANY in self.hosts:
            return True
        host = _host_of(named[0])
        return host in self.hosts or (_NUMBERS in self.hosts and _is_address(host))


class _Protected:
    """Sends an answer with the headers that protect it.

    The page itself is held back until it is whole, so that its scripts can be named.
    """

    def __init__(self, send: Send, is_page: bool) -> None:
        self.send, self.is_page = send, is_page
        self.start: Message | None = None
        self.body = bytearray()

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.start = message
            if not self.is_page:
                await self._begin("")
        elif self.is_page and message["type"] == "http.response.body":
            self.body += message.get("body", b"")
            if len(self.body) > _MAX_PAGE_BYTES:
                raise RuntimeError("the page is larger than it should be")
            if not message.get("more_body", False):
                await self._begin(_hashes(bytes(self.body)))
                await self.send({"type": "http.response.body", "body": bytes(self.body)})
        else:
            await self.send(message)

    async def _begin(self, hashes: str) -> None:
        assert self.start is not None
        headers = MutableHeaders(raw=list(self.start.get("headers", [])))
        for name, value in _HEADERS.items():
            headers[name] = value
        headers["content-security-policy"] = _POLICY.format(hashes=hashes)
        await self.send({**self.start, "headers": headers.raw})


def _hashes(page: bytes) -> str:
    """Returns what names the scripts inside a page, and no others."""
    found = [hashlib.sha256(script).digest() for script in _SCRIPT.findall(page)]
    return "".join(f" 'sha256-{base64.b64encode(digest).decode()}'" for digest in found)


def _is_of_the_page(scope: Scope, headers: Headers) -> bool:
    """Whether a request does not come from another web page, as far as a browser says."""
    asks = scope["method"] not in ("GET", "HEAD") or scope["path"].startswith("/gradio_api")
    site = headers.get("sec-fetch-site", "none")
    if asks and site not in ("same-origin", "none"):
        return False
    origin = headers.get("origin")
    if origin is None:
        return True
    try:
        return urlsplit(origin).netloc.lower() == headers["host"].lower()
    except ValueError:
        return False


def _host_of(named: str) -> str:
    """Returns a host without its port and brackets."""
    try:
        return (urlsplit(f"//{named}").hostname or "").lower()
    except ValueError:
        return ""


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


async def _refuse(send: Send, status: int, text: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8")]
    protected = _Protected(send, is_page=False)
    await protected({"type": "http.response.start", "status": status, "headers": headers})
    await protected({"type": "http.response.body", "body": text.encode()})
