"""Where in a real browser: a cell that is pressed is read, averages have their bands, figures are saved with their
numbers; all numbers are those of the library.
"""

from __future__ import annotations

import csv
import io
import json
import struct
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from factedit.facts import KnownFact
from factedit.report.arrays import write_arrays
from factedit.trace.state import read_state
from factedit.work.trace import trace_known, trace_prompt
from page_browser import Window

ASKED = {"traced": "In Paris the", "subject": "Paris", "noise": "0.5"}
FACTS = ("Paris", "Seattle", "France", "LeBron James", "The Space Needle")


def traced(window: Window) -> None:
    window.go("where", **ASKED)
    window.page.get_by_role("button", name="Trace it").click()
    window.page.wait_for_selector("table.map")
    window.page.wait_for_selector(".warn span:not(:empty)")  # what it knows was asked for


def saved(window: Window, name: str, folder: Path) -> Path:
    """What a button that saves a figure gives."""
    with window.page.expect_download() as waiting:
        window.page.get_by_role("button", name=f"save {name}").click()
    waiting.value.save_as(folder / waiting.value.suggested_filename)
    return folder / waiting.value.suggested_filename


def test_a_cell_that_is_pressed_is_read(window: Window, place: Any) -> None:
    page, model = window.page, place[2].model
    traced(window)
    page.locator("table.map[data-kind=hidden] td[data-row='1'][data-layer='2']").click()
    page.wait_for_selector(".state table.top")
    own = read_state(model, ASKED["traced"], 1, 2)
    assert window.numbers(".state") == [token.probability for token in (*own.lens, *own.repeated)]
    assert page.locator(".state .writes bdi").inner_text().split() == own.written.split()
    assert "--read 1:2" in page.locator(".state pre").first.text_content()

    cell = page.locator("table.map[data-kind=mlp] td[data-row='0'][data-layer='0']")
    cell.focus()
    page.keyboard.press("Enter")
    page.wait_for_selector(".state p.soft:has-text('reads a hidden state')")
    lens = read_state(model, ASKED["traced"], 0, 0, kind="mlp").lens
    assert window.numbers(".state") == [token.probability for token in lens]

    page.reload()  # a link is traced and read again by itself
    page.wait_for_selector(".state p.soft:has-text('reads a hidden state')")
    assert page.evaluate("location.hash").endswith("state=mlp%3A0%3A0")
    assert window.numbers(".state") == [token.probability for token in lens]


def test_what_the_model_does_not_know_is_told_and_known_facts_are_offered(
    window: Window, place: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = [KnownFact(fact_id=name, prompt=f"In {name} the", subject=name, answer="?") for name in FACTS[:2]]
    monkeypatch.setattr("factedit.web.actions.known_facts", lambda *_, **how: facts[: how["count"]])
    traced(window)
    trace = trace_prompt(place[2].model, "In Paris the", "Paris", noise="0.5")
    assert trace.total_effect < 0.05, "a random model knows nothing"
    offered = window.page.locator(".warn a")
    assert "may not know this fact" in window.page.locator(".warn").inner_text()
    assert offered.all_inner_texts() == ["In Paris the", "In Seattle the"]
    offered.last.click()
    assert window.page.get_by_label("Prompt").input_value() == "In Seattle the"
    assert window.page.get_by_label("Subject in it").input_value() == "Seattle"


def test_a_saved_view_draws_its_maps_and_curves_from_its_numbers(window: Window, place: Any, tmp_path: Path) -> None:
    traced(window)
    with window.page.expect_download() as waiting:
        window.page.get_by_role("button", name="Save this view").click()
    waiting.value.save_as(tmp_path / "where.html")
    text = (tmp_path / "where.html").read_text()
    assert not any(word in text for word in ("<link", "<button", " src=", "http://127", "nonce", "onclick="))
    context = place[0].new_context(offline=True)
    frozen = context.new_page()
    logs: list[str] = []
    frozen.on("console", lambda said: logs.append(said.text))
    frozen.on("pageerror", lambda error: logs.append(str(error)))
    frozen.goto((tmp_path / "where.html").as_uri())
    for selector in ("table.map td", "svg.curves", "polygon.band", "figcaption"):
        assert frozen.locator(selector).count() == window.page.locator(selector).count() > 0, selector
    shades = "cells => cells.map(cell => getComputedStyle(cell).backgroundColor)"
    assert len(set(frozen.eval_on_selector_all("table.map td", shades))) > 3
    given = frozen.locator(".given").all_inner_texts()
    assert given[:3] == ["In Paris the", "Paris", "hidden, MLP, attention"], "as it is read, not as it is sent"
    assert "ν = 0.5" in frozen.locator(".level").inner_text()
    values = "cells => cells.map(cell => cell.dataset.value)"
    assert frozen.eval_on_selector_all("table.map td", values) == window.page.eval_on_selector_all(
        "table.map td", values
    )
    cell = frozen.locator("table.map td").nth(3)
    cell.hover()
    assert frozen.locator(".reading").inner_text() == cell.get_attribute("aria-label"), "it can be read as on the page"
    assert "may not know this fact" in frozen.locator(".warn").inner_text(), "what the page said beside it stays"
    assert logs == []
    context.close()
    plain = place[0].new_context(java_script_enabled=False)
    still = plain.new_page()
    still.goto((tmp_path / "where.html").as_uri())
    assert still.locator("table.map td").count() == window.page.locator("table.map td").count()
    plain.close()


def test_a_window_is_marked_as_what_is_put_back_together(window: Window) -> None:
    window.go("where", **ASKED, window="2")
    window.page.get_by_role("button", name="Trace it").click()
    window.page.locator("table.map[data-kind=mlp] td[data-row='1'][data-layer='2']").hover()
    together = window.page.locator("table.map[data-kind=mlp] td.together")
    assert [own.get_attribute("data-layer") for own in together.all()] == ["1", "2"]
    assert "layers 1 to 2" in window.page.locator(".reading").inner_text()


def test_a_trace_is_saved_as_the_command_writes_it(window: Window, place: Any, tmp_path: Path) -> None:
    traced(window)
    trace = trace_prompt(place[2].model, "In Paris the", "Paris", noise="0.5")
    for suffix in (".csv", ".npz"):
        write_arrays({"prompt": trace}, tmp_path / f"own{suffix}")
    own = list(csv.DictReader(io.StringIO((tmp_path / "own.csv").read_text())))
    rows = list(csv.DictReader(io.StringIO(saved(window, "trace as CSV", tmp_path).read_text())))
    numbers = ("value", "effect")
    assert [{k: float(v) if k in numbers else v for k, v in row.items()} for row in rows] == [
        {k: float(v) if k in numbers else v for k, v in row.items()} for row in own
    ]
    with np.load(saved(window, "trace as NPZ", tmp_path)) as found, np.load(tmp_path / "own.npz") as expected:
        assert set(found.files) == set(expected.files)
        for name in expected.files:
            np.testing.assert_array_equal(found[name], expected[name])


def test_a_drawing_is_saved_as_a_file_that_needs_nothing(window: Window, tmp_path: Path) -> None:
    traced(window)
    drawn = ET.fromstring(saved(window, "trace as SVG", tmp_path).read_text())
    cells = list(drawn.iter("{http://www.w3.org/2000/svg}rect"))[1:]
    kinds, tokens, layers = 3, len(window.page.locator("table.map").first.locator("tbody tr").all()), 4
    assert len(cells) == kinds * tokens * layers
    assert not any("class" in own.attrib or "style" in own.attrib for own in drawn.iter())
    assert len({own.get("fill-opacity") for own in cells}) > 3
    picture = saved(window, "trace as PNG", tmp_path).read_bytes()
    assert picture[:8] == b"\x89PNG\r\n\x1a\n"
    sides = [int(float(drawn.get(side, "0"))) for side in ("width", "height")]
    assert struct.unpack(">II", picture[16:24]) == (2 * sides[0], 2 * sides[1])


def test_averages_have_their_bands(window: Window, place: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACTEDIT_CACHE", str(tmp_path / "cache"))
    known = tmp_path / "known.jsonl"
    known.write_text("".join(json.dumps({"subject": own, "prompt": f"{own} is in"}) + "\n" for own in FACTS))
    monkeypatch.setattr("factedit.web.actions.KNOWN", str(known))
    window.go("where", noise="0.5")  # no prompt: nothing else is traced beside
    window.page.get_by_role("button", name="Average over them").click()
    window.page.wait_for_selector(".averages svg.curves polygon.band")
    own = trace_known(place[2].model, str(known), tmp_path / "own", records=10, noise="0.5").averages
    ate, *peaks = window.numbers(".averages")
    assert ate == 100 * own.total_effect[0]
    expected = [100 * own.peak(kind, role)[1] for kind in own.curves for role in own.curves[kind]]
    assert peaks == expected
    assert window.page.locator(".averages svg.curves").count() == 3
    with np.load(saved(window, "averages-mlp as NPZ", tmp_path)) as found:
        roles = [str(role) for role in found["roles"]]
        assert roles == list(own.curves["mlp"])
        np.testing.assert_array_equal(found["mean"], [own.curves["mlp"][role].mean for role in roles])
        np.testing.assert_array_equal(found["half_width"], [own.curves["mlp"][role].half_width for role in roles])
    commands = window.page.locator("[data-drawing=averages] ~ .copies pre")
    assert "--facts worldfacts-known" in commands.first.text_content()
