"""In a real browser, each question held back: answers that come late, and readers who have gone on meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from factedit.edit.artefact import Edit
from factedit.web import actions, puzzle
from page_browser import SETTINGS, Held, Window, browser, change, served
from page_server import quick_moments, tiny_session
from stack_cases import random_edit
from stored_results import write_results

FACT = {"subject": "Paris", "relation": "{} is in", "new": "Seattle", "old": "France", "settings": SETTINGS}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A browser, the launch address, the session; with two folders of results."""
    folders = tuple(write_results(tmp_path_factory.mktemp("results") / name) for name in ("first", "second"))
    with pytest.MonkeyPatch.context() as patch, browser() as opened:
        patch.setattr(actions, "moments_from", quick_moments)
        session = tiny_session(folders, n_positions=256, max_position_embeddings=256)
        with served(session) as address:
            yield opened, address, session


def begin_edit(window: Window) -> Held:
    """Press “Change it”, and hold the question back."""
    held = Held(window.page, "/api/edit")
    window.go("change", **FACT)
    window.page.get_by_role("button", name="Change it").click()
    held.wait()
    return held


def job_ends(response: Any) -> bool:
    """Whether this answer says that a job is at its end."""
    return "/api/jobs/" in response.url and response.json()["state"] not in ("queued", "running")


def test_an_edit_that_ends_while_one_looks_at_the_ledger_is_seen_there(window: Window) -> None:
    """Before: it was there when the ledger was opened anew, and not earlier."""
    held = begin_edit(window)
    window.go("ledger")
    window.page.get_by_text("Nothing yet.").wait_for()
    held.let_go()
    window.page.get_by_role("switch").wait_for()


def test_an_edit_that_ends_when_one_has_left_and_come_back_is_shown(window: Window) -> None:
    """Before: it was drawn into the view that had been left."""
    held = begin_edit(window)
    window.go("damage")
    window.go("change", **FACT)
    assert window.page.locator(".facts strong").count() == 0
    held.let_go()
    window.page.wait_for_selector(".facts strong")
    window.page.wait_for_selector(".factors section")


def test_what_is_typed_while_an_edit_is_computed_is_none_of_its_fact(window: Window) -> None:
    """Before: the edit was kept as one of the fact that was typed last, and the keys went away from its field."""
    held = begin_edit(window)
    subject = window.page.get_by_label("Subject", exact=True)
    subject.fill("Danielle")
    held.let_go()
    window.page.wait_for_selector(".factors section")
    assert window.page.evaluate("document.activeElement.value") == "Danielle"
    window.go("damage")
    window.go("change", **FACT | {"subject": "Danielle"})
    assert window.page.locator(".facts strong").count() == 0
    window.go("change", **FACT)
    assert window.page.locator(".facts strong").count() > 0


def test_a_job_is_cancelled_before_its_name_is_known(
    window: Window, place: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before: the button did nothing, until the first answer about the job had come."""
    page, go = window.page, threading.Event()
    page.wait_for_selector("table.top")

    def on() -> list[Edit]:
        assert go.wait(60)
        return []

    monkeypatch.setattr(place[2], "on", on)
    held = Held(page, "/api/ask")
    page.get_by_role("button", name="Ask the model").click()
    held.wait()
    page.get_by_role("button", name="Cancel").click()
    with page.expect_response("**/api/cancel"):
        held.let_go()
    go.set()
    page.get_by_text("Cancelled. The model is as it was.").wait_for()


def test_the_question_before_is_cancelled_and_says_nothing(
    window: Window, place: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before: an answer to the older question stood under the newer one."""
    page, go = window.page, threading.Event()
    page.wait_for_selector("table.top")

    def on() -> list[Edit]:
        assert go.wait(60)
        return []

    monkeypatch.setattr(place[2], "on", on)
    page.get_by_role("button", name="Ask the model").click()
    page.wait_for_selector(".working span:has-text('asking')")
    page.get_by_role("textbox", name="Prompt").fill("Seattle is")
    with page.expect_response("**/api/cancel"):
        page.get_by_role("button", name="Ask the model").click()
    go.set()
    page.wait_for_selector("table.top")
    assert "'Seattle is'" in page.get_by_label("command").text_content()
    assert page.locator("[role=alert]").count() == 0


def test_the_answer_to_the_choice_before_is_dropped(window: Window) -> None:
    """Before: results that came late stood under the name of those that were chosen since."""
    page = window.page
    held = Held(page, "/api/results/0")
    window.go("compare")
    held.wait()
    page.get_by_label("Results").select_option("1")
    page.wait_for_selector("h2:has-text('second')")
    with page.expect_response("**/api/results/0"):
        held.let_go()
    assert page.locator("h2", has_text="first").count() == 0


def test_results_that_come_when_one_has_left_change_no_address(window: Window) -> None:
    """Before: the row and score of a link were written into the address of the view that was shown by then."""
    window.go("compare", results="1")
    window.page.locator("button.number").first.click()
    window.page.wait_for_selector(".records table")
    link = window.page.evaluate("location.hash")
    window.go("ask")
    held = Held(window.page, "/api/results/1")
    window.page.evaluate("hash => { location.hash = hash }", link)
    held.wait()
    window.go("ledger")
    before = window.page.evaluate("location.hash")
    with window.page.expect_response("**/api/results/1"):
        held.let_go()
    assert window.page.evaluate("location.hash") == before


def test_a_guess_is_not_overwritten_by_what_was_asked_before(
    window: Window, place: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    page, model = window.page, place[2].model
    five = tuple(random_edit(model, number, layer=1) for number in range(5))
    made = puzzle.Puzzle(1, five, 0)
    monkeypatch.setattr(puzzle, "make_puzzle", lambda *_given, **_named: made)
    window.go("audit")
    page.get_by_role("button", name="Make the puzzle").click()
    page.get_by_role("button", name="Ask model A").wait_for()
    held = Held(page, "/api/puzzle-ask")
    page.get_by_role("button", name="Ask model A").click()
    held.wait()
    page.get_by_role("button", name="It is model B").click()
    page.wait_for_selector(".puzzle .verdict")
    with page.expect_response(job_ends):
        held.let_go()
    assert page.locator(".puzzle .verdict").count() == 1
    assert page.locator(".puzzle table.top").count() == 0


def test_a_view_is_saved_as_it_was_when_that_was_asked(window: Window, tmp_path: Path) -> None:
    """Before: a reader who had gone on found the next view under the name of the one before."""
    page = window.page
    page.wait_for_selector("table.top")
    held = Held(page, "/static/frozen.txt")
    page.get_by_role("button", name="Save this view").click()
    held.wait()
    window.go("change")
    with page.expect_download() as saved:
        held.let_go()
    saved.value.save_as(tmp_path / "view.html")
    text = (tmp_path / "view.html").read_text()
    assert saved.value.suggested_filename == "factedit-ask.html"
    assert "<title>Ask · factedit</title>" in text
    assert ">Ask</h1>" in text


def test_the_bar_is_not_of_another_sentence_than_the_map(window: Window) -> None:
    """Before: the slider asked about what was typed since, and drew that above the map of the sentence before."""
    page = window.page
    window.go("where", traced="In Paris the", subject="Paris")
    page.get_by_role("button", name="Trace it").click()
    page.wait_for_selector("table.map")
    before = window.numbers(".fall")
    page.get_by_label("Prompt").fill("Paris is in Seattle")
    page.get_by_role("slider").focus()
    with page.expect_response(job_ends):
        page.keyboard.press("End")
    assert window.numbers(".fall") == before


def test_suggestions_that_come_late_are_there_without_a_key(place: Any) -> None:
    """Before: who opened a link to Change got none before the first key."""
    context = place[0].new_context()
    page = context.new_page()
    page.goto(place[1])
    page.wait_for_selector("h1")
    held = Held(page, "/api/suggestions")
    page.goto(place[1].partition("?")[0] + "#/change", wait_until="commit")
    page.reload(wait_until="commit")
    held.wait()
    page.wait_for_selector("h1:has-text('Change')")
    assert page.locator("#relations option").count() == 0
    held.let_go()
    page.locator("#relations option").first.wait_for(state="attached")
    context.close()


def test_an_older_state_is_not_taken_for_the_newer_one(window: Window, place: Any) -> None:
    """Before: the ledger was drawn as it had been, where two answers overtook each other."""
    session, page = place[2], window.page
    for layer in (0, 1):
        session.put(random_edit(session.model, layer, layer=layer))
    window.go("ledger")
    first, second = page.get_by_role("switch").nth(0), page.get_by_role("switch").nth(1)
    second.wait_for()
    late = list[Any]()

    def fetched(route: Any) -> None:
        if late:
            route.continue_()
        else:
            late.append((route, route.fetch()))

    page.route("**/api/state", fetched)
    first.click()
    while not late:
        page.wait_for_timeout(5)
    second.click()
    page.wait_for_selector("[role=switch][aria-checked=false] >> nth=1")
    with page.expect_response("**/api/state"):
        late[0][0].fulfill(response=late[0][1])
    assert second.get_attribute("aria-checked") == "false"


def test_another_edit_is_proved_without_the_prompts_of_the_one_before(window: Window, place: Any) -> None:
    """Before: prompts of one's own went over to the edit that was chosen next, and were kept as its tests."""
    page, session = window.page, place[2]
    for layer in (0, 1):
        session.put(random_edit(session.model, layer, layer=layer))
    window.go("proof")
    page.wait_for_selector(".verdict")
    further = page.get_by_label("Prompts of your own")
    further.fill("In Paris the")
    page.get_by_role("button", name="Prove it").click()
    page.wait_for_selector(".proof th:has-text('In Paris the')")
    edits = page.get_by_label("Edit", exact=True)
    edits.select_option(index=0)
    assert further.input_value() == ""
    assert page.evaluate("document.activeElement.tagName") == "SELECT", "keys alone go on choosing"
    page.wait_for_selector(".verdict")
    assert [row.tests for row in session.rows] == [(), ("In Paris the",)]


def test_what_the_ledger_says_stays_when_it_is_drawn_again(window: Window, place: Any) -> None:
    """Before: the hashes of an undone model were gone with the next change of the ledger in another window."""
    change(window)
    window.go("ledger")
    window.page.get_by_role("button", name="Take everything back").click()
    window.page.wait_for_selector("table.hashes")
    other = random_edit(place[2].model, 3, layer=2)
    with window.page.expect_response("**/api/state"):
        place[2].put(other)
        place[2].switch(other.identity, False)
    window.page.get_by_role("switch").nth(1).wait_for()
    assert window.page.locator("table.hashes").count() == 1
