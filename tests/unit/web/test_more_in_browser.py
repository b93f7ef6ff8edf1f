"""In a real browser: the slider, factors, tests of one's own, history, what was typed while a model loads, keys alone,
and text that would turn the order of letters, wherever it is shown.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from conftest import tiny
from factedit.web.session import Session
from factedit.work.fall import LEVELS, fall
from factedit.work.reads import read_and_written
from page_browser import Window, change, served
from page_server import tiny_session
from processes import PATIENCE

TURNED = "\u202eelttaeS \u2066x\u2069\u200f"
SHOWN = """() => {
  const found = [], turned = /[\\u0000-\\u0008\\u000b-\\u001f\\u200e\\u200f\\u202a-\\u202e\\u2066-\\u2069]/;
  for (const node of document.querySelectorAll("main *")) {
    for (const own of node.childNodes) if (own.nodeType === 3 && turned.test(own.data)) found.push(own.data);
    const spoken = ["title", "aria-label", "placeholder"].map((name) => node.getAttribute(name) ?? "");
    found.push(...spoken.filter((text) => turned.test(text)));
  }
  return found;
}"""


def test_the_answer_falls_with_the_slider(window: Window, place: Any) -> None:
    page, model = window.page, place[2].model
    window.go("where", traced="In Paris the", subject="Paris")
    page.get_by_role("button", name="Trace it").click()
    page.wait_for_selector(".warn span:not(:empty)")
    assert page.locator(".stale").inner_text() == "", "the bar is at the noise of the map"
    slider = page.get_by_role("slider")
    assert slider.get_attribute("aria-valuetext") == "3 σ (the paper's)"
    slider.focus()
    page.keyboard.press("End")
    page.wait_for_selector(".stale:has-text('The bar is at 6 σ; the map below is at 3 σ')")
    fallen = fall(model, "In Paris the", "Paris")
    left = {own.level: own.corrupted for own in fallen.levels}
    assert window.numbers(".fall") == [fallen.clean, left["6s"]]
    for level in reversed(LEVELS[LEVELS.index("3s") : -1]):
        page.keyboard.press("ArrowLeft")
        assert window.numbers(".fall") == [fallen.clean, left[level]], "at once: no question is asked again"
    assert page.locator(".stale").inner_text() == ""


def test_what_a_change_reads_and_writes_is_told_after_it(window: Window, place: Any) -> None:
    change(window)
    window.page.wait_for_selector(".factors table.top")
    [made] = [row.edit for row in place[2].rows]
    [own] = read_and_written(place[2].model, made)
    assert window.numbers(".factors") == [*(s.share for s in own.subjects), *(t.probability for t in own.tokens)]
    assert window.page.locator(".factors th[scope=row]").first.inner_text().startswith("Paris")
    window.page.get_by_text("The settings it was made with").click()
    assert window.page.get_by_text("steps = 12").is_visible()


def test_prompts_of_ones_own_are_asked_again_in_another_window(window: Window, place: Any) -> None:
    change(window)
    window.go("proof")
    window.page.wait_for_selector(".verdict")
    window.page.get_by_label("Prompts of your own").fill("In Paris the")
    window.page.get_by_role("button", name="Prove it").click()
    window.page.wait_for_selector(".proof th:has-text('In Paris the')")
    other = window.context.new_page()
    other.goto(place[1].partition("?")[0] + "#/proof")
    other.wait_for_selector(".proof th:has-text('In Paris the')")
    assert other.get_by_label("Prompts of your own").input_value() == "In Paris the"
    other.close()


def test_an_export_shows_its_card_how_it_is_served_and_that_it_was_made(place: Any, tmp_path: Path) -> None:
    session = tiny_session(out=tmp_path / "exports", n_positions=256, max_position_embeddings=256)
    with served(session) as address:
        window = Window(place[0], address)
        change(window)
        window.go("ledger")
        window.page.locator("#form").select_option("peft")
        window.page.get_by_role("button", name="Export into exports").click()
        commands = window.page.get_by_label("commands that serve it")
        commands.wait_for()
        assert "vllm serve" in commands.inner_text()
        assert "canary.py" in commands.inner_text()
        card = (tmp_path / "exports" / "peft-1" / "README.md").read_text()
        assert window.page.get_by_label("the export's card").text_content() == card
        done = window.page.locator(".history tbody tr").all_inner_texts()
        assert ["exported as peft: peft-1" in done[0], "put on: Paris is in → Seattle" in done[1]] == [True, True]
        assert str(tmp_path) not in window.page.content()
        window.context.close()
    assert window.logs == []


def test_what_was_typed_while_the_model_loads_stays_when_it_is_there(place: Any) -> None:
    """Before: the view was drawn anew, and the prompt that had been typed was gone."""
    session = Session(lambda: (tiny("gpt2"), ()), "tiny")
    with served(session) as address:
        window = Window(place[0], address)
        page = window.page
        prompt = page.get_by_role("textbox", name="Prompt")
        prompt.fill("Seattle is in")
        page.keyboard.press("Home")
        session.open()
        page.wait_for_selector("button:has-text('Ask the model'):enabled")
        assert prompt.input_value() == "Seattle is in"
        assert page.evaluate("document.activeElement.tagName") == "TEXTAREA", "and one can go on typing"
        page.keyboard.type("Now ")
        assert prompt.input_value() == "Now Seattle is in"
        page.wait_for_selector("table.top")  # the answer to the first prompt, which was asked by itself
        window.context.close()
    assert window.logs == []


def test_keys_alone_walk_the_panel_and_keep_their_place_in_the_ledger(window: Window) -> None:
    page = window.page
    change(window)
    window.go("damage")
    page.get_by_role("button", name="Ask them before and after").click()
    first = page.locator("button.strip").first
    first.wait_for()
    assert page.locator("button.strip[tabindex='0']").count() == 1, "one stop for the tabulator, not 24"
    first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    third = page.locator("button.strip").nth(2)
    assert page.evaluate("document.activeElement.ariaLabel") == third.get_attribute("aria-label")
    prompt = page.locator(".card .sentence").inner_text()
    assert (third.get_attribute("aria-label") or "").startswith(prompt)
    window.go("ledger")
    switch = page.get_by_role("switch")
    switch.focus()
    for state in ("false", "true"):
        page.keyboard.press("Space")
        page.wait_for_selector(f"[role=switch][aria-checked={state}]")
        page.wait_for_selector("[role=switch]:focus")


@pytest.mark.parametrize("view", ["where", "change", "proof", "damage", "ledger", "compare"])
def test_letters_are_not_turned_anywhere(window: Window, view: str, place: Any) -> None:
    page = window.page
    if view == "where":
        window.go("where", traced=f"In Paris {TURNED} the", subject="Paris", noise="0.5")
        page.get_by_role("button", name="Trace it").click()
        page.wait_for_selector("table.map")
        for cell in page.locator("table.map").first.locator("tr td:first-of-type").all():
            cell.hover()
            assert page.evaluate(SHOWN) == []
        return
    change(window, new=TURNED, old=TURNED[::-1])
    if view != "change":
        window.go(view)
    if view == "damage":
        page.get_by_role("button", name="Ask them before and after").click()
    page.wait_for_selector({"change": ".factors table.top", "proof": ".verdict", "damage": ".strip"}.get(view, "h1"))
    assert page.evaluate(SHOWN) == []
    if view == "ledger":
        assert "\\u202e" in page.locator("main").inner_text()
        assert "\u202e" not in page.locator("pre").first.inner_text()


def test_the_arrow_of_a_window_that_is_behind_is_refused_in_words(window: Window, place: Any) -> None:
    from stack_cases import random_edit

    session = place[2]
    for layer in (0, 1, 2):
        session.put(random_edit(session.model, layer, layer=layer))
    window.go("ledger")
    window.page.get_by_role("button", name="Subject 0 is in").first.wait_for()
    moved = threading.Thread(target=session.move, args=(session.rows[0].edit.identity, 1))
    moved.start()
    moved.join()
    window.page.locator(".ledger li").first.get_by_role("button", name="one place down").click()
    window.page.wait_for_selector("[role=alert]:has-text('changed in another window')")
    assert [row.edit.requests[0].subject for row in session.rows] == ["Subject 1", "Subject 0", "Subject 2"]
    refused, window.logs = list(window.logs), []
    assert all("400" in line for line in refused), "the browser notes the refusal, and nothing else"


def test_where_asks_about_the_subject_that_was_chosen_in_change(window: Window) -> None:
    """Before: it kept a prompt about the subject before, and its first word was a refusal."""
    prompt = window.page.get_by_label("Prompt")
    both = "Seattle or Paris is in"  # names both: it can be traced for either
    for traced, expected in (("Seattle is in", "Paris is in"), (both, both)):
        window.go("change", subject="Seattle", relation="{} is in", new="France", traced=traced)
        window.page.get_by_label("Subject", exact=True).fill("Paris")
        window.page.get_by_role("link", name="Where").click()
        window.page.wait_for_selector("h1:has-text('Where')")
        assert prompt.input_value() == expected


def test_who_has_gone_elsewhere_is_not_taken_back(window: Window) -> None:
    """Before: a view that wrote its choice into the address just after the reader had left it came back."""
    window.go("where")
    window.page.evaluate(
        """() => {
            location.hash = "#/change?subject=Paris"; // not drawn yet
            for (const field of document.querySelectorAll("#main select, #main input"))
                field.dispatchEvent(new Event("change", { bubbles: true }));
        }"""
    )
    window.page.wait_for_selector("h1:has-text('Change')")
    assert window.page.evaluate("location.hash").startswith("#/change?")


@pytest.mark.parametrize("slow", ["/api/suggestions", "/api/state", "/static/example.json"])
def test_a_link_followed_while_the_page_still_starts_is_followed(place: Any, slow: str) -> None:
    """Before: links were listened to only when all had come, and the first one on a slow machine was lost."""
    context = place[0].new_context()
    page, held = context.new_page(), []
    page.set_default_timeout(1000 * PATIENCE)
    page.route(f"**{slow}", lambda route: held.append(route))
    with page.expect_request(f"**{slow}"):
        page.goto(place[1])
    page.evaluate("location.hash = '#/change?subject=Paris'")
    page.evaluate("() => new Promise((done) => setTimeout(done, 50))")  # the browser has told of the new address
    held[0].continue_()
    page.wait_for_selector("nav a[aria-current][href^='#/change']")
    assert page.locator("h1").inner_text() == "Change"
    assert page.get_by_label("Subject", exact=True).input_value() == "Paris"
    context.close()
