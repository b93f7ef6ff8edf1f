"""The whole way in a real browser: ask, where, change, proof, ledger, undo; and that nothing leaves the machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from factedit.work.ask import ask
from factedit.work.trace import trace_prompt
from page_browser import Window, change

VIEWS = ("ask", "where", "change", "proof", "damage", "ledger", "compare", "audit")
SERIOUS = ("serious", "critical")
HOSTILE = "<img src=x onerror=alert(1)>\u202eelttaeS\x1b[31m"


def test_the_whole_way(window: Window, place: Any) -> None:
    page, model = window.page, place[2].model
    window.go("ask", prompt="Paris is in")
    page.wait_for_selector("table.top tbody tr")
    [asked] = ask(model, ["Paris is in"])
    assert window.numbers("table.top") == [token.probability for token in asked.before.top]

    window.go("where", traced="In Paris the", subject="Paris", noise="0.5")
    page.get_by_role("button", name="Trace it").click()
    page.wait_for_selector("table.map")
    page.wait_for_selector(".warn span:not(:empty)")  # then nobody else asks the model
    trace = trace_prompt(model, "In Paris the", "Paris", noise="0.5")
    assert window.numbers(".found .bars") == [trace.clean, trace.corrupted]
    assert page.locator("table.map").count() == 3
    first = page.locator("table.map").nth(0).locator("td").nth(1)
    first.hover()
    assert f"{trace.corrupted:.3f} → {trace.scores['hidden'][0][1]:.3f}" in page.locator(".reading").inner_text()
    page.locator("table.map").nth(0).locator("td").nth(0).focus()
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.dataset.layer") == "1"

    change(window)
    [made] = [row.edit for row in place[2].rows]
    told = made.notes[0]
    assert window.numbers(".sides .bars") == [
        told.before["target_new"], told.after["target_new"], told.before["target_true"], told.after["target_true"],
    ]  # fmt: skip

    window.go("ask", prompt="Paris is in")
    page.locator("table.top").nth(1).wait_for()  # what was kept from before the edit is not shown again
    [asked] = ask(model, ["Paris is in"], [made])
    assert asked.after is not None
    both = (*asked.before.top, *asked.after.top)
    assert window.numbers("table.top") == [token.probability for token in both]

    window.go("proof")
    verdict = page.wait_for_selector(".verdict").inner_text()
    assert verdict.startswith(("It took", "It did not take", "Half taken"))
    assert page.locator("table.proof tbody tr").count() > 3

    page.get_by_role("link", name="Did other facts move?").click()  # each view leads on to the next
    page.get_by_role("button", name="Ask them before and after").click()
    page.get_by_role("link", name="Take it back in the ledger").click()
    page.get_by_role("switch").click()
    page.wait_for_selector("[role=switch][aria-checked=false]")
    page.get_by_role("switch").click()
    page.wait_for_selector("[role=switch][aria-checked=true]")
    page.get_by_role("button", name="Take everything back").click()
    page.wait_for_selector("table.hashes")
    start, before, edited, after = page.locator("table.hashes td").all_inner_texts()
    assert start == before == after == model.fingerprint() != edited
    assert "Nothing is left" in page.locator(".found h2").first.inner_text()


def test_text_that_is_markup_stays_text(window: Window) -> None:
    page = window.page
    change(window, new=HOSTILE)
    window.go("proof")
    page.wait_for_selector(".verdict")
    window.go("ledger")
    page.wait_for_selector(".ledger")
    assert page.locator("main img, main script").count() == 0
    shown = page.locator(".ledger strong").inner_text()
    assert "<img src=x onerror=alert(1)>\\u202eelttaeS\\u001b[31m" in shown


@pytest.mark.parametrize(("width", "theme"), [(390, "light"), (1440, "dark")])
def test_every_view_is_accessible_and_fits(place: Any, width: int, theme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is missing")
    opened, address, _ = place
    own = Window(opened, address, viewport={"width": width, "height": 800}, color_scheme=theme)
    for view in VIEWS:
        own.go(view)
        own.page.wait_for_selector("section[aria-labelledby=title] .lead")
        own.page.wait_for_timeout(150)
        wide = own.page.evaluate("document.documentElement.scrollWidth - innerWidth")
        assert wide <= 0, f"{view} is {wide} px too wide"
        found = [rule for rule in axe.Axe().run(own.page).response["violations"] if rule["impact"] in SERIOUS]
        assert not found, (view, [(rule["id"], rule["nodes"][0]["html"][:200]) for rule in found])
    own.context.close()
    assert own.logs == []


def test_two_windows_see_one_model(window: Window, place: Any) -> None:
    change(window)
    other = window.context.new_page()
    other.goto(place[1].partition("?")[0] + "#/ledger")
    other.get_by_role("switch").click()
    other.wait_for_selector("[role=switch][aria-checked=false]")
    window.go("ask", prompt="Paris is in")
    window.page.wait_for_selector("table.top")
    assert window.page.locator("table.top").count() == 1, "the edit is off, whichever window switched it"


def test_a_lost_server_is_told_and_the_page_picks_up_again(place: Any) -> None:
    opened, address, _ = place
    own = Window(opened, address)
    own.context.set_offline(True)
    own.page.get_by_role("button", name="Ask the model").click()
    own.page.wait_for_selector("#status:has-text('does not answer')")
    own.context.set_offline(False)
    own.page.get_by_role("button", name="Ask the model").click()
    own.page.wait_for_selector("table.top")
    assert own.page.locator("#status").inner_text() == ""
    own.context.close()


def test_a_view_is_saved_as_one_file_that_needs_nothing(window: Window, place: Any, tmp_path: Path) -> None:
    window.go("ask", prompt="Paris is in")
    window.page.wait_for_selector("table.top")
    with window.page.expect_download() as waiting:
        window.page.get_by_role("button", name="Save this view").click()
    saved = tmp_path / "view.html"
    waiting.value.save_as(saved)
    assert saved.read_text().count("<script") == 2, "its numbers, and what draws them"
    own = place[0].new_context(offline=True)
    page = own.new_page()
    page.goto(saved.as_uri())
    assert page.locator("h1").inner_text() == "Ask"
    assert page.locator("table.top tbody tr").count() == 10
    assert page.locator(".given").first.inner_text() == "Paris is in"
    own.close()


def test_a_browser_without_the_cookie_sees_a_word_and_nothing_else(place: Any) -> None:
    opened, address, _ = place
    page = opened.new_context().new_page()
    answer = page.goto(address.partition("?")[0])
    assert answer.status == 403
    assert "Open the address" in page.content()
    page.context.close()
