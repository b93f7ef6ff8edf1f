"""The page in a real browser: a server in this process, and a Chromium; skipped with a word where there is none."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote, urlsplit

import pytest

from factedit.web.first import FirstView
from factedit.web.guard import Guard, Keys, loopback_hosts
from factedit.web.jobs import Jobs
from factedit.web.session import Session
from page_server import QUICK
from processes import PATIENCE

SETTINGS = "\n".join(f"{name}={json.dumps(value)}" for name, value in QUICK.items())
CHROMIUMS = ("chromium", "chromium-browser", "google-chrome")


@contextmanager
def served(session: Session, first: FirstView | None = None) -> Iterator[str]:
    """The launch address of a server for this session; what is `first` given is told what a page has drawn."""
    import uvicorn

    from factedit.web.app import make_app
    from factedit.web.serve import ServerSettings, listen

    listening, jobs = listen(ServerSettings("tiny", port=0)), Jobs()
    port = listening.getsockname()[1]
    keys = Keys(loopback_hosts(port), port)
    config = uvicorn.Config(
        Guard(make_app(session, jobs, first), keys), log_level="critical", lifespan="off", ws="none"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{port}/?token={keys.token}"
    finally:
        server.should_exit = server.force_exit = True
        thread.join(PATIENCE)
        jobs.close()


@contextmanager
def browser() -> Iterator[Any]:
    """Chromium, the system's or playwright's own; the test is skipped where it or playwright is missing."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is missing: pip install playwright")
    with playwright.sync_playwright() as started:
        path = next(filter(None, map(shutil.which, CHROMIUMS)), None)  # None: playwright's own, or its headless shell
        try:  # a container's shared memory may be too small for a page
            opened = started.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-dev-shm-usage"])
        except playwright.Error as error:
            if path is not None:
                raise
            pytest.skip(
                f"No Chromium: apt-get install chromium, or playwright install chromium ({str(error).splitlines()[0]})"
            )
        try:
            yield opened
        finally:
            opened.close()


class Window:
    """A window of the page, and what it did beside what it was told.

    Attributes:
        page: playwright's.
        logs: what came to the console.
        hosts: that were asked for anything.
    """

    def __init__(self, opened: Any, address: str, **how: Any) -> None:
        self.context = opened.new_context(**how)
        self.page = self.context.new_page()
        self.page.set_default_timeout(1000 * PATIENCE)
        self.logs: list[str] = []
        self.hosts: set[str] = set()
        self.page.on("console", lambda said: self.logs.append(f"{said.type}: {said.text}"))
        self.page.on("pageerror", lambda error: self.logs.append(str(error)))
        self.page.on("request", lambda sent: self.hosts.add(urlsplit(sent.url.removeprefix("blob:")).netloc))
        self.page.on("dialog", lambda dialog: (self.logs.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        self.page.goto(address)
        self.page.wait_for_selector("h1")

    def go(self, view: str, **params: str) -> None:
        """Show a view, by its address."""
        query = "&".join(f"{name}={quote(value)}" for name, value in params.items())
        self.page.evaluate("hash => { location.hash = hash }", f"#/{view}?{query}")
        self.page.wait_for_selector(f"nav a[aria-current][href^='#/{view}']")

    def numbers(self, selector: str) -> list[float]:
        """The numbers that are drawn, with all their digits."""
        return [float(own.get_attribute("value")) for own in self.page.query_selector_all(f"{selector} data")]


class Held:
    """Requests of a page that are held back, so that a test can do something before they are answered.

    Args:
        page: playwright's.
        path: how their addresses end.
    """

    def __init__(self, page: Any, path: str) -> None:
        self._page, self._open = page, False
        self._routes: list[Any] = []
        page.route(f"**{path}", self._asked)

    def _asked(self, route: Any) -> None:
        if self._open:
            route.continue_()
        else:
            self._routes.append(route)

    def wait(self) -> None:
        """Wait until one is held; a page that asks for nothing within a minute fails its test."""
        for _ in range(12_000):
            if self._routes:
                return
            self._page.wait_for_timeout(5)
        raise AssertionError("the page does not ask for what is to be held")

    def let_go(self) -> None:
        """Let all that are held through, and all that come."""
        self._open = True
        while self._routes:
            self._routes.pop(0).continue_()


def change(window: Window, new: str = "Seattle", old: str = "France") -> None:
    """Edit a fact in the view, and wait for all that is asked after it: a test may use the model then."""
    window.go("change", subject="Paris", relation="{} is in", new=new, old=old, settings=SETTINGS)
    window.page.get_by_role("button", name="Change it").click()
    window.page.wait_for_selector(".facts strong")
    window.page.wait_for_selector(".factors section")
