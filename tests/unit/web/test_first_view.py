"""The first view is drawn before the model is loaded beside it; without a page, loading waits for nobody."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit

import pytest

from conftest import tiny
from factedit.web import serve as serving
from factedit.web.first import FirstView
from factedit.web.serve import ServerSettings, serve
from factedit.web.session import Session
from page_browser import Held, served
from processes import PATIENCE

LONG = 600.0  # seconds; a test that comes to wait for it fails
AFTER = (("nobody", 0.0, LONG), ("a page that draws nothing", LONG, 0.0))


def waited_for(first: FirstView) -> threading.Event:
    """Set when the wait for a first view has ended."""
    ended = threading.Event()

    def wait() -> None:
        first.wait()
        ended.set()

    threading.Thread(target=wait, daemon=True).start()
    return ended


@pytest.mark.parametrize(("who", "alone", "opened"), AFTER)
def test_it_is_not_waited_for_for_ever(who: str, alone: float, opened: float) -> None:
    first = FirstView(alone, opened)
    ended = waited_for(first)
    if who != "nobody":
        assert not ended.is_set()
        first.opens()
    assert ended.wait(PATIENCE)


def test_a_page_that_was_opened_is_waited_for_until_it_has_drawn() -> None:
    first = FirstView(LONG, LONG)
    ended = waited_for(first)
    first.opens()
    assert not ended.wait(0.01)
    first.drawn()
    assert ended.wait(PATIENCE)


@contextmanager
def started(
    monkeypatch: pytest.MonkeyPatch, opener: Callable[[], Any], first: FirstView, browser: bool = False
) -> Iterator[Any]:
    """`serve` in a thread of its own: gives the address, and ends the server."""
    import uvicorn

    servers, told, addresses = list[Any](), threading.Event(), list[str]()

    class Kept(uvicorn.Server):
        def __init__(self, config: uvicorn.Config) -> None:
            super().__init__(config)
            servers.append(self)

    def say(address: str) -> None:
        assert servers, "what the server needs is there before its address is told"
        addresses.append(address)
        told.set()

    monkeypatch.setattr(uvicorn, "Server", Kept)
    monkeypatch.setattr(serving, "FirstView", lambda: first)
    settings = ServerSettings("tiny", port=0, browser=browser)
    running = threading.Thread(
        target=serve, args=(settings, opener), kwargs={"say": say, "unforeseen": str}, daemon=True
    )
    running.start()
    try:
        assert told.wait(PATIENCE)
        yield urlsplit(addresses[0])
    finally:
        servers[0].should_exit = servers[0].force_exit = True
        running.join(PATIENCE)
    assert not running.is_alive()


def test_the_model_is_loaded_when_the_page_has_what_it_draws_from(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before: it was loaded at once, and the first paint waited for its imports."""
    begun = threading.Event()

    def opener() -> Any:
        begun.set()
        return tiny("gpt2"), ()

    with started(monkeypatch, opener, FirstView(LONG, LONG)) as address:
        talk = HTTPConnection(address.netloc, timeout=60)

        def get(path: str, **headers: str) -> Any:
            talk.request("GET", path, headers=headers)
            reply = talk.getresponse()
            reply.read()
            return reply

        cookie = get(f"/?{address.query}").getheader("set-cookie").split(";")[0]
        for path in ("/", "/static/page.css", "/static/app.js", "/api/state", "/static/example.json"):
            assert get(path, cookie=cookie).status == 200
            assert not begun.is_set(), path
        assert get("/api/suggestions", cookie=cookie).status == 200
        assert begun.wait(PATIENCE)
        talk.close()


def test_without_a_page_the_model_is_loaded_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    begun = threading.Event()

    def opener() -> Any:
        begun.set()
        return tiny("gpt2"), ()

    with started(monkeypatch, opener, FirstView(0.0, LONG)):
        assert begun.wait(PATIENCE)


def test_a_browser_that_keeps_the_terminal_keeps_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before: one such as lynx asked a server that waited for it to be closed."""
    closed = threading.Event()
    monkeypatch.setattr(serving.webbrowser, "open", lambda _address: closed.wait(PATIENCE))
    with started(monkeypatch, lambda: (tiny("gpt2"), ()), FirstView(0.0, 0.0), browser=True) as address:
        talk = HTTPConnection(address.netloc, timeout=60)
        talk.request("GET", f"/?{address.query}")
        assert talk.getresponse().status == 303
        talk.close()
        closed.set()


def test_a_browser_that_was_opened_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    first, asked = FirstView(LONG, LONG), threading.Event()
    seen = waited_for(first)
    monkeypatch.setattr(serving.webbrowser, "open", lambda _address: asked.set() or True)
    monkeypatch.setattr(first, "opens", lambda: first.drawn() or FirstView.opens(first))
    with started(monkeypatch, lambda: (tiny("gpt2"), ()), first, browser=True):
        assert asked.wait(PATIENCE)
        assert seen.wait(PATIENCE)


@pytest.mark.parametrize("slow", ["/static/example.json", "/api/state", "/static/charts.js"])
def test_the_stored_example_is_drawn_before_the_model_is_loaded(place: Any, slow: str) -> None:
    begun, may = threading.Event(), threading.Event()

    def opener() -> Any:
        begun.set()
        may.wait(PATIENCE)
        return tiny("gpt2"), ()

    session, first = Session(opener, "tiny"), FirstView(LONG, LONG)
    loading = threading.Thread(target=lambda: (first.wait(), session.open()), daemon=True)
    loading.start()
    with served(session, first) as address:
        context = place[0].new_context()
        page = context.new_page()
        held = Held(page, slow)
        page.goto(address, wait_until="commit")
        held.wait()
        assert not begun.is_set()
        held.let_go()
        page.get_by_text("A stored answer of").wait_for()
        assert begun.wait(PATIENCE)
        may.set()
        loading.join(PATIENCE)
        page.wait_for_selector("button:has-text('Ask the model'):enabled")
        context.close()


def test_the_page_asks_for_suggestions_when_its_first_view_is_drawn(place: Any) -> None:
    """By this the server knows that it is drawn."""
    context = place[0].new_context()
    page = context.new_page()
    held = Held(page, "/api/suggestions")
    page.goto(place[1], wait_until="commit")
    held.wait()
    assert page.locator("h1").all_inner_texts() == ["Ask"]
    held.let_go()
    context.close()
