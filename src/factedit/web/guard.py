"""Who may talk to the page: this machine's own browser window, and nobody else (docs/decisions/0020-the-page.md)."""

from __future__ import annotations

import json
import secrets
from collections.abc import Awaitable, Callable, Iterable, MutableMapping, Sequence
from dataclasses import dataclass, field
from hmac import compare_digest
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs

AsgiScope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[AsgiScope, Receive, Send], Awaitable[None]]

LARGEST = 64 * 1024  # bytes of a request
METHODS = ("GET", "HEAD", "POST")
POLICY = (
    "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}
CLOSED = (
    "This page is for the one who started it. Open the address that 'factedit serve' printed in the terminal; it holds "
    "a token that this browser does not have."
)


@dataclass(frozen=True)
class Keys:
    """What lets a browser in.

    Attributes:
        hosts: what the `Host` header may say, with the port.
        port: the port.
        token: in the launch address.
        session: in the cookie.
    """

    hosts: frozenset[str]
    port: int
    token: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)
    session: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)

    @property
    def cookie(self) -> str:
        """The cookie's name: cookies do not tell ports apart, so it holds the port."""
        return f"factedit_{self.port}"


class Refused(Exception):
    """A request that is not answered; with its status."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class Guard:
    """Stands before the application: refuses what is not the page's own, and marks every answer.

    Args:
        app: what answers.
        keys: who is let in.
    """

    def __init__(self, app: App, keys: Keys) -> None:
        self.app, self.keys = app, keys

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        """Answer, or refuse."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        nonce = secrets.token_urlsafe(16)
        scope.setdefault("state", {})["nonce"] = nonce
        send = _marked(send, nonce)
        try:
            if self._opens(scope):
                await self._let_in(send)
                return
            self._check(scope)
            body = await _read(scope, receive)
        except Refused as refused:
            await _answer(send, refused.status, {"error": str(refused)})
            return
        await self.app(scope, _replay(body, receive), send)

    def _opens(self, scope: AsgiScope) -> bool:
        """Whether this is the launch address with its token."""
        self._check_host(scope)
        query = scope.get("query_string", b"").decode("latin-1")
        if not query:
            return False
        given = parse_qs(query).get("token", [])
        if scope["path"] != "/" or scope["method"] not in ("GET", "HEAD") or len(given) != 1:
            raise Refused(400, "Addresses of the page have no questions in them.")
        if not compare_digest(given[0].encode(), self.keys.token.encode()):
            raise Refused(403, CLOSED)
        return True

    async def _let_in(self, send: Send) -> None:
        cookie = f"{self.keys.cookie}={self.keys.session}; HttpOnly; SameSite=Strict; Path=/"
        await _answer(send, 303, {}, [(b"location", b"/"), (b"set-cookie", cookie.encode())])

    def _check_host(self, scope: AsgiScope) -> None:
        if _header(scope, "host") not in self.keys.hosts:
            raise Refused(421, "This server answers to its own address alone.")

    def _check(self, scope: AsgiScope) -> None:
        if scope["method"] not in METHODS:
            raise Refused(405, f"{scope['method'][:20]!r} is not answered here.")
        origin, site = _header(scope, "origin"), _header(scope, "sec-fetch-site")
        posted = scope["method"] == "POST"
        if (origin or posted) and origin != f"http://{_header(scope, 'host')}":
            raise Refused(403, "The request comes from another page.")
        if site is not None and site != "same-origin" and not (site == "none" and scope["path"] == "/" and not posted):
            raise Refused(403, "The request comes from another page.")
        if not self._knows(scope):
            raise Refused(403, CLOSED)
        if posted and (_header(scope, "content-type") or "").split(";")[0].strip().lower() != "application/json":
            raise Refused(415, "Only JSON is taken (application/json).")

    def _knows(self, scope: AsgiScope) -> bool:
        try:
            cookies = SimpleCookie(_header(scope, "cookie") or "")
        except CookieError:
            return False
        cookie = cookies.get(self.keys.cookie)
        return cookie is not None and compare_digest(cookie.value.encode(), self.keys.session.encode())


def loopback_hosts(port: int, further: Iterable[str] = ()) -> frozenset[str]:
    """Return what a browser may call this machine, with the port.

    Args:
        port: of the server.
        further: other names it was opened under.
    """
    names = ("127.0.0.1", "localhost", "[::1]", *further)
    return frozenset({f"{name}:{port}" for name in names} | (set(names) if port == 80 else set()))


def _header(scope: AsgiScope, name: str) -> str | None:
    """A header's value; nothing where it is missing, and nothing that fits where it comes twice."""
    values = [value.decode("latin-1") for key, value in scope["headers"] if key.decode("latin-1").lower() == name]
    return None if not values else values[0] if len(values) == 1 else "\n".join(values)


async def _read(scope: AsgiScope, receive: Receive) -> bytes:
    body = b""
    while scope["method"] == "POST":
        message = await receive()
        body += message.get("body", b"")
        if len(body) > LARGEST:
            raise Refused(413, f"The request is larger than {LARGEST} bytes.")
        if message["type"] == "http.disconnect" or not message.get("more_body"):
            break
    return body


def _replay(body: bytes, receive: Receive) -> Receive:
    sent = False

    async def again() -> MutableMapping[str, Any]:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def _marked(send: Send, nonce: str) -> Send:
    added = {**HEADERS, "content-security-policy": POLICY.format(nonce=nonce)}

    async def marked(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            rest = [pair for pair in message.get("headers", []) if pair[0].decode("latin-1").lower() not in added]
            message["headers"] = [*rest, *((key.encode(), value.encode()) for key, value in added.items())]
        await send(message)

    return marked


async def _answer(send: Send, status: int, value: dict[str, Any], headers: Sequence[tuple[bytes, bytes]] = ()) -> None:
    body = json.dumps(value).encode() if value else b""
    sent = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *headers]
    await send({"type": "http.response.start", "status": status, "headers": sent})
    await send({"type": "http.response.body", "body": body})
