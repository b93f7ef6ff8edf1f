"""The page in a real browser: a server in this process, and Debian's Chromium; skipped with a word where it is not."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from factedit.web.guard import Guard, Keys, loopback_hosts
from factedit.web.jobs import Jobs
from factedit.web.session import Session

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@contextmanager
def served(session: Session) -> Iterator[str]:
    """The launch address of a server for this session."""
    import uvicorn

    from factedit.web.app import make_app
    from factedit.web.serve import ServerSettings, listen

    listening, jobs = listen(ServerSettings("tiny", port=0)), Jobs()
    port = listening.getsockname()[1]
    keys = Keys(loopback_hosts(port), port)
    config = uvicorn.Config(Guard(make_app(session, jobs), keys), log_level="critical", lifespan="off", ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{port}/?token={keys.token}"
    finally:
        server.should_exit = server.force_exit = True
        thread.join(5)
        jobs.close()


@contextmanager
def browser() -> Iterator[Any]:
    """Chromium; the test is skipped where it or playwright is missing."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is missing: pip install playwright")
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed: apt-get install chromium")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            yield opened
        finally:
            opened.close()
