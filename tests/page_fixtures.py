"""What the tests of the page in a browser share: a tiny model's server, a Chromium, a quiet window."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

if TYPE_CHECKING:
    from page_browser import Window


@pytest.fixture(scope="module")
def place() -> Iterator[Any]:
    """A browser, the launch address, the session."""
    from factedit.web import actions
    from page_browser import browser, served
    from page_server import quick_moments, tiny_session

    with pytest.MonkeyPatch.context() as patch, browser() as opened:
        patch.setattr(actions, "moments_from", quick_moments)
        session = tiny_session(n_positions=256, max_position_embeddings=256)
        with served(session) as address:
            yield opened, address, session


@pytest.fixture
def window(place: Any) -> Iterator[Window]:
    """A window that logs nothing, asks nobody else, and leaves nothing on the model."""
    from page_browser import Window

    opened, address, session = place
    found = Window(opened, address)
    yield found
    found.context.close()
    session.switch(None, False)
    for row in session.rows:
        session.forget(row.edit.identity)
    assert found.logs == []
    assert found.hosts == {urlsplit(address).netloc}
