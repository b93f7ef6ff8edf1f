"""Every request that is not the page's own is refused; what is answered is marked."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from factedit.web.guard import LARGEST
from factedit.web.session import Session
from page_server import HOST, PORT, page_client, post, tiny_session

OWN = {"origin": f"http://{HOST}", "content-type": "application/json"}


@pytest.fixture(scope="module")
def session() -> Session:
    return tiny_session()


@pytest.fixture
def page(session: Session) -> Iterator[Any]:
    with page_client(session) as found:
        yield found


def test_the_token_lets_in_and_leaves_the_address(page: Any) -> None:
    client, keys, _ = page
    answer = client.get("/", params={"token": keys.token})
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith(f"factedit_{PORT}=")
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert keys.token not in cookie
    assert client.get("/").status_code == 200


def test_every_answer_has_its_own_nonce_and_a_strict_policy(page: Any) -> None:
    client, _, _ = page
    nonces = set()
    for _ in range(2):
        answer = client.get("/")
        policy = answer.headers["content-security-policy"]
        [nonce] = set(re.findall(r"'nonce-([^']+)'", policy))
        assert f'nonce="{nonce}"' in answer.text
        assert "unsafe" not in policy
        assert "default-src 'none'" in policy
        assert "require-trusted-types-for 'script'" in policy
        nonces.add(nonce)
    assert len(nonces) == 2
    for path in ("/", "/api/state", "/nothing"):
        headers = client.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cache-control"] == "no-store"
        assert "content-security-policy" in headers


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "evil.example"}, 421),
        ({"host": f"evil.example:{PORT}"}, 421),
        ({"host": f"127.0.0.1:{PORT + 1}"}, 421),
        ({"host": "127.0.0.1"}, 421),
        ({"host": f"localhost:{PORT}"}, 403),  # a name of this machine, and an Origin that is not it
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": f"https://{HOST}"}, 403),
        ({"origin": f"http://127.0.0.1:{PORT + 1}"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),  # another port of this machine
        ({"sec-fetch-site": "none"}, 403),
        ({"content-type": "text/plain"}, 415),
        ({"content-type": "application/x-www-form-urlencoded"}, 415),
        ({"content-type": "multipart/form-data; boundary=x"}, 415),
        ({"cookie": f"factedit_{PORT}=guess"}, 403),
        ({"cookie": ""}, 403),
        ({"cookie": "factedit_8000=x"}, 403),
    ],
)
def test_a_forged_post_is_refused(page: Any, headers: dict[str, str], status: int) -> None:
    client, _, jobs = page
    if "cookie" in headers:
        client.cookies.clear()
    answer = client.post("/api/ask", content='{"prompt": "Paris"}', headers=OWN | headers)
    assert answer.status_code == status, answer.text
    assert set(answer.json()) == {"error"}
    assert not jobs.live()


def test_a_post_without_an_origin_is_refused(page: Any) -> None:
    assert page[0].post("/api/ask", json={"prompt": "Paris"}).status_code == 403


def test_without_the_cookie_nothing_is_told(page: Any) -> None:
    client, _, _ = page
    client.cookies.clear()
    for path in ("/", "/api/state", "/api/suggestions", "/static/app.js", "/api/jobs/0", "/nothing"):
        answer = client.get(path)
        assert answer.status_code == 403, path
        assert "tiny" not in answer.text


@pytest.mark.parametrize("query", ["token=", "token=guess", "token=é", "token=a&token=b", "prompt=Paris"])
def test_a_wrong_token_or_another_query_is_refused(page: Any, query: str) -> None:
    answer = page[0].get(f"/?{query}")
    assert answer.status_code in (400, 403)
    assert "set-cookie" not in answer.headers


def test_the_token_is_no_good_elsewhere(page: Any) -> None:
    client, keys, _ = page
    assert client.get("/api/state", params={"token": keys.token}).status_code == 400
    assert client.get("/", params={"token": keys.token}, headers={"host": "evil.example"}).status_code == 421


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_other_methods_are_refused(page: Any, method: str) -> None:
    answer = page[0].request(method, "/api/ask", headers=OWN)
    assert answer.status_code == 405
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize(
    "path",
    ["/docs", "/redoc", "/openapi.json", "/static/../session.py", "/static/%2e%2e/session.py", "/static/index.html",
     "/static/app.py", "/api", "/api/jobs/../../state", "/etc/passwd"],
)  # fmt: skip
def test_unknown_addresses_say_so(page: Any, path: str) -> None:
    answer = page[0].get(path)
    assert answer.status_code == 404, answer.text
    assert set(answer.json()) == {"error"}


def test_a_large_request_is_refused_before_it_is_read(page: Any) -> None:
    answer = page[0].post("/api/ask", content=b"[" * (LARGEST + 1), headers=OWN)
    assert answer.status_code == 413


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("ask", {"prompt": ""}),
        ("ask", {"prompt": "x" * 4001}),
        ("ask", {"prompt": 3}),
        ("ask", {"prompt": "x", "tokens": 10**9}),
        ("ask", {"prompt": "x", "folder": "/etc"}),
        ("ask", []),
        ("trace", {"prompt": "x", "subject": "x", "samples": 10**6}),
        ("edit", {"subject": "Paris", "prompt": "{} is", "target_new": "x", "trained": "/etc"}),
        ("prove", {"edit": "../../etc"}),
        ("export", {"form": "peft", "folder": "/tmp/x"}),
        ("audit", {"suspect": "/etc/passwd"}),
        ("audit", {"suspect": -1}),
        ("cancel", {"job": "../x"}),
    ],
)
def test_what_is_not_understood_is_refused_with_a_word(page: Any, path: str, value: Any) -> None:
    client, _, jobs = page
    answer = post(client, path, value)
    assert answer.status_code == 422, answer.text
    assert answer.json()["error"].startswith("This was not understood: ")
    assert not jobs.live()


def test_json_that_is_none_is_refused(page: Any) -> None:
    answer = page[0].post("/api/ask", content=b"{", headers=OWN)
    assert answer.status_code == 422
    assert set(answer.json()) == {"error"}
