"""The guard as a server calls it, byte by byte: headers that come twice, bodies in pieces, other kinds of talk."""

from __future__ import annotations

import asyncio
import json
from collections.abc import MutableMapping
from typing import Any

import pytest

from factedit.web.guard import CLOSED, HEADERS, LARGEST, Guard, Keys, loopback_hosts

PORT = 8123
HOST = f"127.0.0.1:{PORT}".encode()
KEYS = Keys(loopback_hosts(PORT), PORT, token="t" * 43, session="s" * 43)
COOKIE = f"factedit_{PORT}={KEYS.session}".encode()
GET = {b"host": HOST, b"cookie": COOKIE}
POST = {**GET, b"origin": b"http://" + HOST, b"content-type": b"application/json"}
Message = MutableMapping[str, Any]


class Talk:
    """One request: what the server was asked, and what it answered."""

    def __init__(
        self,
        headers: dict[bytes, bytes] | list[tuple[bytes, bytes]],
        *,
        method: str = "GET",
        path: str = "/api/state",
        query: bytes = b"",
        body: list[bytes] | None = None,
        kind: str = "http",
        cut: bool = False,
    ) -> None:
        pairs = list(headers.items()) if isinstance(headers, dict) else headers
        self.scope: Message = {"type": kind, "method": method, "path": path, "query_string": query, "headers": pairs}
        self.pieces = list(body or [b""])
        self.cut, self.sent, self.reached = cut, list[Message](), list[bytes]()
        asyncio.run(Guard(self.app, KEYS)(self.scope, self.receive, self.send))

    async def receive(self) -> Message:
        if not self.pieces:
            return {"type": "http.disconnect"}
        piece = self.pieces.pop(0)
        return {"type": "http.request", "body": piece, "more_body": bool(self.pieces) or self.cut}

    async def send(self, message: Message) -> None:
        self.sent.append(message)

    async def app(self, scope: Message, receive: Any, send: Any) -> None:
        """What is guarded: it notes the body and answers."""
        if scope["type"] == "http":
            self.reached.append((await receive())["body"])
            await send({"type": "http.response.start", "status": 200, "headers": [(b"X-Frame-Options", b"ALLOWALL")]})
            await send({"type": "http.response.body", "body": b"{}"})
        else:
            self.reached.append(scope["type"].encode())

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])

    @property
    def why(self) -> str:
        return str(json.loads(self.sent[1]["body"])["error"])


def test_the_pages_own_requests_pass() -> None:
    assert Talk(GET).reached == [b""]
    posted = Talk(POST, method="POST", path="/api/ask", body=[b'{"a": 1}'])
    assert (posted.status, posted.reached) == (200, [b'{"a": 1}'])
    assert Talk({**GET, b"sec-fetch-site": b"same-origin"}).status == 200
    assert Talk({**GET, b"sec-fetch-site": b"none"}, path="/").status == 200, "the address was typed"
    assert Talk({**POST, b"content-type": b" Application/JSON ; charset=utf-8"}, method="POST").status == 200
    for name in ("localhost", "[::1]", "127.0.0.1"):
        own = f"{name}:{PORT}".encode()
        assert Talk({**POST, b"host": own, b"origin": b"http://" + own}, method="POST").status == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([(b"host", HOST), (b"host", HOST), (b"cookie", COOKIE)], 421),
        ([(b"cookie", COOKIE)], 421),
        ([(b"host", b""), (b"cookie", COOKIE)], 421),
        ([(b"host", HOST + b"."), (b"cookie", COOKIE)], 421),
        ([(b"host", b"localhost@evil.example"), (b"cookie", COOKIE)], 421),
        ([(b"host", b"\xff\xfe"), (b"cookie", COOKIE)], 421),
        ([(b"host", HOST), (b"cookie", COOKIE), (b"origin", b"http://" + HOST), (b"origin", b"http://evil")], 403),
        ([(b"host", HOST), (b"cookie", COOKIE), (b"origin", b"http://evil")], 403),
        ([(b"host", HOST), (b"cookie", COOKIE), (b"origin", b"")], 200),
        ([(b"host", HOST), (b"cookie", COOKIE), (b"sec-fetch-site", b"cross-site")], 403),
        ([(b"host", HOST), (b"cookie", COOKIE), (b"sec-fetch-site", b"none")], 403),
        ([(b"host", HOST), (b"cookie", COOKIE), (b"cookie", b"x=1")], 200),
        ([(b"host", HOST), (b"cookie", COOKIE[:-1])], 403),
        ([(b"host", HOST), (b"cookie", COOKIE + b"s")], 403),
        ([(b"host", HOST), (b"cookie", b"other=1; " + COOKIE)], 200),
        ([(b"host", HOST), (b"cookie", f"factedit_{PORT + 1}={KEYS.session}".encode())], 403),
        ([(b"host", HOST), (b"cookie", f"factedit_{PORT}={KEYS.token}".encode())], 403),
        ([(b"host", HOST), (b"cookie", f"factedit_{PORT}=".encode() + b"\xe9")], 403),
        ([(b"host", HOST), (b"cookie", b"a[]=\x00; " + COOKIE)], 403),
        ([(b"host", HOST)], 403),
    ],
)  # fmt: skip
def test_headers_that_are_doubled_empty_or_of_somebody_else(headers: list[tuple[bytes, bytes]], status: int) -> None:
    talk = Talk(headers)
    assert talk.status == status, headers
    assert bool(talk.reached) == (status == 200), "nothing that is refused reaches the page"
    if status == 403 and len(headers) < 3:
        assert talk.why == CLOSED


@pytest.mark.parametrize("kind", [b"text/json", b"application/jsonx", b"application/x-www-form-urlencoded", b""])
def test_only_json_is_posted(kind: bytes) -> None:
    talk = Talk({**POST, b"content-type": kind}, method="POST")
    assert (talk.status, talk.why) == (415, "Only JSON is taken (application/json).")
    del (headers := dict(POST))[b"content-type"]
    assert Talk(headers, method="POST").status == 415


@pytest.mark.parametrize("origin", [None, b"", b"null", b"https://" + HOST, b"http://" + HOST + b"/"])
def test_what_changes_something_names_its_origin(origin: bytes | None) -> None:
    headers = {**POST, b"origin": origin} if origin is not None else {k: v for k, v in POST.items() if k != b"origin"}
    talk = Talk(headers, method="POST")
    assert (talk.status, talk.why, talk.reached) == (403, "The request comes from another page.", [])


@pytest.mark.parametrize("method", ["PUT", "OPTIONS", "get", "CONNECT", "X" * 4000])
def test_other_methods_are_named_and_cut(method: str) -> None:
    talk = Talk(GET, method=method)
    assert (talk.status, talk.why) == (405, f"{method[:20]!r} is not answered here.")


def test_a_body_comes_in_pieces_up_to_its_limit() -> None:
    pieces = [b"[", b"1" * (LARGEST - 2), b"]"]
    talk = Talk(POST, method="POST", body=pieces)
    assert (talk.status, talk.reached) == (200, [b"".join(pieces)])
    over = Talk(POST, method="POST", body=[*pieces, b"x", b"never asked for"])
    assert (over.status, over.why) == (413, f"The request is larger than {LARGEST} bytes.")
    assert over.pieces == [b"never asked for"], "what is too much is not waited for"
    assert over.reached == []


def test_a_body_that_breaks_off_ends_the_wait() -> None:
    talk = Talk(POST, method="POST", body=[b'{"a":'], cut=True)
    assert talk.reached == [b'{"a":'], "which is no JSON, as the page says"


def test_a_body_of_a_get_is_not_read() -> None:
    talk = Talk(GET, body=[b"x" * 10, b"y"])
    assert (talk.status, talk.reached) == (200, [b""])
    assert len(talk.pieces) == 2


def test_sockets_are_closed_and_the_servers_own_talk_passes() -> None:
    talk = Talk(GET, kind="websocket")
    assert (talk.sent, talk.reached) == ([{"type": "websocket.close", "code": 1008}], [])
    assert Talk([], kind="lifespan").reached == [b"lifespan"]


@pytest.mark.parametrize(
    ("path", "query", "method", "status"),
    [
        ("/", b"token=" + KEYS.token.encode(), "GET", 303),
        ("/", b"token=" + KEYS.token.encode(), "HEAD", 303),
        ("/", b"token=" + KEYS.token.encode(), "POST", 400),
        ("/api/state", b"token=" + KEYS.token.encode(), "GET", 400),
        ("//", b"token=" + KEYS.token.encode(), "GET", 400),
        ("/", b"token=%74" + KEYS.token.encode()[1:], "GET", 303),
        ("/", b"token=" + KEYS.session.encode(), "GET", 403),
        ("/", b"TOKEN=" + KEYS.token.encode(), "GET", 400),
        ("/", b"token", "GET", 400),
        ("/", b"token=%ff%fe%00", "GET", 403),
        ("/", b"\xff\xfe", "GET", 400),
        ("/", b"&" * 5000, "GET", 400),
    ],
)
def test_the_launch_address_is_one_address(path: str, query: bytes, method: str, status: int) -> None:
    talk = Talk({b"host": HOST}, path=path, query=query, method=method)
    headers = dict(talk.sent[0]["headers"])
    assert (talk.status, talk.reached) == (status, [])
    assert (b"set-cookie" in headers) == (status == 303)
    if status == 303:
        assert headers[b"location"] == b"/"
        assert headers[b"set-cookie"] == COOKIE + b"; HttpOnly; SameSite=Strict; Path=/"
        assert KEYS.token.encode() not in headers[b"set-cookie"]


def test_every_answer_is_marked_and_the_applications_marks_are_replaced() -> None:
    for talk in (Talk(GET), Talk({b"host": b"evil"}), Talk({b"host": HOST}, path="/", query=b"token=x")):
        pairs = talk.sent[0]["headers"]
        names = [key.decode().lower() for key, _ in pairs]
        assert len(names) == len(set(names)), "no header comes twice"
        found = {key.decode().lower(): value.decode() for key, value in pairs}
        assert HEADERS.items() <= found.items()
        assert f"'nonce-{talk.scope['state']['nonce']}'" in found["content-security-policy"]
    nonces = {Talk(GET).scope["state"]["nonce"] for _ in range(3)}
    assert len(nonces) == 3


def test_keys_are_new_every_time_and_are_not_shown() -> None:
    one, two = Keys(frozenset(), 1), Keys(frozenset(), 1)
    assert len({one.token, two.token, one.session, two.session}) == 4
    assert min(len(one.token), len(one.session)) >= 43, "32 bytes"
    assert one.token not in repr(one)
    assert one.session not in repr(one)
    assert one.cookie == "factedit_1"


def test_the_port_may_be_left_out_where_browsers_leave_it_out() -> None:
    assert loopback_hosts(80) >= {"127.0.0.1", "127.0.0.1:80", "localhost", "[::1]"}
    assert loopback_hosts(8000, ["box.lan"]) == {
        "127.0.0.1:8000", "localhost:8000", "[::1]:8000", "box.lan:8000",
    }  # fmt: skip
