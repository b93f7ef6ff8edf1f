"""What one types wrongly, or asks of a model that cannot do it, is said on the page in a sentence; nothing is lost."""

from __future__ import annotations

from typing import Any

import pytest

from conftest import tiny
from factedit.web.session import Session
from page_browser import Window, served

FACT = {"subject": "Paris", "relation": "{} is in", "new": "Seattle", "old": "France"}


def alert(window: Window) -> str:
    return str(window.page.wait_for_selector("[role=alert]").inner_text())


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"Subject": " "}, "The subject is empty"),
        ({"New object": ""}, "The new object is empty"),
        ({"Relation, with {} for the subject": "is in"}, "exactly one"),
        ({"Settings, one a line": "steps"}, "not written like steps=30"),
        ({"Settings, one a line": "stepps=3"}, "do not hold"),
    ],
)
def test_a_fact_that_cannot_be_changed_says_why(window: Window, place: Any, given: dict[str, str], said: str) -> None:
    window.go("change", **FACT)
    window.page.locator("summary", has_text="Method and settings").click()
    for label, value in given.items():
        window.page.get_by_label(label, exact=True).fill(value)
    window.page.get_by_role("button", name="Change it").click()
    assert said in alert(window)
    assert place[2].rows == ()


def test_a_subject_that_is_not_in_the_prompt_is_told(window: Window) -> None:
    window.go("where", traced="Paris is in", subject="Rome")
    window.page.get_by_role("button", name="Trace it").click()
    assert "does not occur in the prompt" in alert(window)
    window.page.get_by_label("Subject in it").fill("Paris")
    window.page.get_by_role("button", name="Trace it").click()
    window.page.wait_for_selector("table.map")


def test_a_prompt_that_is_too_long_is_told(window: Window) -> None:
    window.go("ask", prompt="Paris is in " * 200)
    assert "Shorten it" in alert(window)
    assert int(window.page.get_by_label("Prompt").get_attribute("maxlength") or 0) == 4000


def test_an_unknown_address_shows_the_first_view(window: Window) -> None:
    window.page.evaluate("location.hash = '#/soul?prompt=Paris'")
    window.page.wait_for_selector("nav a[aria-current][href^='#/ask']")
    assert window.page.locator("h1").inner_text() == "Ask"


def test_a_model_that_is_only_traced_says_so_before_one_types(place: Any) -> None:
    session = Session(lambda: (tiny("jetmoe"), ()), "tiny")
    session.open()
    with served(session) as address:
        window = Window(place[0], address)
        window.go("change", **FACT)
        said = window.page.locator("main .error").inner_text()
        assert session.model.family.refused in said
        assert "another model" in said
        assert window.page.get_by_role("button", name="Change it").count() == 0
        window.context.close()
    assert window.logs == []
