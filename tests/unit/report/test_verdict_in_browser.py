"""The committed page of the verdict in a browser: wide and narrow, light and dark."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from conftest import ROOT
from page_browser import browser

PAGE = (ROOT / "docs" / "results" / "verdict-gemma3-270m" / "verdict.html").as_uri()
SERIOUS = ("serious", "critical")
BROKEN = """() => {
  const broken = [];
  for (const cell of document.querySelectorAll('thead th, tbody th, .mark, .fig b')) {
    const walk = document.createTreeWalker(cell, NodeFilter.SHOW_TEXT);
    for (let node = walk.nextNode(); node; node = walk.nextNode())
      for (const word of node.data.matchAll(/[^\\s-]+-?/g)) {
        const range = document.createRange();
        range.setStart(node, word.index);
        range.setEnd(node, word.index + word[0].length);
        if (new Set([...range.getClientRects()].map(line => Math.round(line.top))).size > 1) broken.push(word[0]);
      }
  }
  return broken;
}"""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser() as opened:
        yield opened


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, 390])
def test_the_answer_is_seen_first_and_no_word_breaks(chromium: Any, width: int, scheme: str) -> None:
    context = chromium.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page = context.new_page()
    page.goto(PAGE)
    assert page.evaluate("document.documentElement.scrollWidth") <= width, "the page itself does not scroll sideways"
    answer, table = (page.locator(name).first.bounding_box() for name in (".answer", "tbody"))
    assert answer["y"] + answer["height"] < min(800, table["y"])
    assert page.evaluate(BROKEN) == []
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is missing")
    found = [rule for rule in axe.Axe().run(page).response["violations"] if rule["impact"] in SERIOUS]
    context.close()
    assert [(rule["id"], rule["nodes"][0]["html"]) for rule in found] == []
