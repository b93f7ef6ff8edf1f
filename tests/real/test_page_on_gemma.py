"""The whole way of a fact on the page with the embedded model: ask, where, change, proof, ledger, undo."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from factedit.models.adapter import EditableModel
from factedit.trace.state import read_state
from factedit.web.session import Session
from factedit.work.demo import RECORD, TRACE_PROMPT
from page_browser import Window, browser, served

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def gemma_page(gemma: EditableModel) -> Iterator[Any]:
    """A browser, the launch address, and the session of Gemma 3 270M."""
    session = Session(lambda: (gemma, ()), "gemma3-270m")
    session.open()
    with browser() as opened, served(session) as address:
        yield opened, address, session


def test_the_space_needle_is_moved_and_moved_back(gemma_page: Any) -> None:
    opened, address, session = gemma_page
    request = RECORD.request
    window = Window(opened, address)
    page = window.page
    page.set_default_timeout(600_000)
    page.locator("table.top tbody tr").nth(9).wait_for()
    assert page.locator("table.top th").nth(2).inner_text() == "␣Seattle"

    window.go("where")
    page.wait_for_selector("table.map")
    assert page.locator(".sentence strong").inner_text() == "Seattle"
    last = int(page.locator("table.map[data-kind=hidden] th.subject").count()) - 1
    begin = page.locator("table.map[data-kind=hidden] tbody tr", has=page.locator("th.subject")).first
    row = int(begin.locator("td").first.get_attribute("data-row") or 0) + last
    page.locator(f"table.map[data-kind=hidden] td[data-row='{row}'][data-layer='5']").click()
    page.wait_for_selector(".state table.top")
    own = read_state(session.model, TRACE_PROMPT, row, 5)
    assert window.numbers(".state") == [token.probability for token in (*own.lens, *own.repeated)]

    window.go("change")
    page.get_by_role("button", name="Change it").click()
    page.wait_for_selector(".facts strong")
    assert "The model says it now" in page.locator(".found h2").first.inner_text()
    window.go("ask")
    page.locator("table.top").nth(1).wait_for()
    assert page.locator("table.top").nth(1).locator("th").nth(2).inner_text() == f"␣{request.target_new}"
    window.go("proof")
    verdict = page.wait_for_selector(".verdict").inner_text()
    assert verdict.startswith("It took"), verdict

    window.go("ledger")
    page.get_by_role("button", name="Take everything back").click()
    page.wait_for_selector("table.hashes")
    start, before, edited, after = page.locator("table.hashes td").all_inner_texts()
    assert start == before == after == session.fingerprint != edited
    window.context.close()
    assert window.logs == []
