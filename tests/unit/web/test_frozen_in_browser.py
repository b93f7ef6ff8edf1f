"""What needs nothing else, in a real browser: the demo's report from a file, and a notebook's outputs in a page; with
scripts they draw, without them the same numbers stand in tables, and nobody is asked for anything.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from factedit.account.difference import Difference
from factedit.account.outcome import Audit, Suspicion
from factedit.evaluate.estimates import Estimate
from factedit.evaluate.run import Evaluation
from factedit.markup import GREY, PURPLE
from factedit.report.page import write_page
from factedit.report.story import Story
from factedit.trace.effects import TraceResult
from factedit.work.demo import Demo
from page_browser import browser
from processes import PATIENCE
from tiny_story import tiny_story

SERIOUS = ("serious", "critical")
HOSTILE = "<img src=x onerror=alert(1)>"
VALUES = "cells => cells.map(cell => Number(cell.dataset.value ?? cell.value))"
SHADES = "cells => cells.map(cell => getComputedStyle(cell).backgroundColor)"


@pytest.fixture(scope="module")
def opened() -> Iterator[Any]:
    with browser() as started:
        yield started


@pytest.fixture(scope="module")
def story() -> Story:
    return tiny_story()


@pytest.fixture(scope="module")
def report(story: Story, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_page(story, tmp_path_factory.mktemp("demo") / "report.html", notice="its terms", seconds=3.0)


@contextmanager
def shown(opened: Any, file: Path, *, refused: str = "", **how: Any) -> Iterator[Any]:
    """A file in a window of its own, which logs nothing, or refusals alone, and asks for nothing else."""
    context = opened.new_context(**how)
    page, logs, asked = context.new_page(), [], []
    page.set_default_timeout(1000 * PATIENCE)
    page.on("console", lambda said: logs.append(said.text))
    page.on("pageerror", lambda error: logs.append(str(error)))
    page.on("request", lambda sent: asked.append(sent.url))
    page.goto(file.as_uri())
    yield page
    context.close()
    assert [said for said in logs if not refused or refused not in said] == []
    assert [url for url in asked if not url.startswith("about:")] == [file.as_uri()]


def values(place: Any, selector: str) -> list[float]:
    """The numbers that are drawn, with all their digits."""
    return list(place.eval_on_selector_all(selector, VALUES))


def test_the_reports_cells_carry_the_numbers_of_the_json(opened: Any, report: Path, story: Story) -> None:
    told = Demo(story, "", 1.0).as_json()
    with shown(opened, report) as page:
        for kind in told["trace"]["kinds"]:
            drawn = values(page, f"table.map[data-kind={kind}] td")
            assert drawn == [value for row in told["trace"][kind] for value in row], kind
        assert values(page, ".fall data") == [story.trace.clean, story.trace.corrupted]
        asked = [row for row in told["answers"] if row["new"]]
        assert values(page, "table.proof data") == [value for row in asked for value in (*row["new"], *row["true"])]
        assert page.locator("[data-drawing] > table").count() == 0, "the plain tables are drawn"
        assert page.locator("table.map thead th.edited").all_inner_texts() == ["1"] * 3
        assert page.locator("p").first.inner_text().startswith(story.verdict[0])
        assert page.locator("main b, main img").count() == 0, "text of a request is no markup"
        page.locator("table.map td").nth(2).hover()
        assert page.locator(".reading").inner_text() == page.locator("table.map td").nth(2).get_attribute("aria-label")


def test_without_scripts_the_tables_stand(opened: Any, report: Path, story: Story) -> None:
    with shown(opened, report, java_script_enabled=False) as page:
        cells = page.locator("[data-drawing=trace] td").all_inner_texts()
        assert cells == [f"{value:.3f}" for grid in story.trace.scores.values() for row in grid for value in row]
        assert page.locator("[data-drawing=answers] tr").count() == len(story.answers) + 1
        assert page.locator("[data-drawing=answers] table").is_visible()


@pytest.mark.parametrize(("width", "theme"), [(390, "light"), (1440, "dark")])
def test_the_report_is_accessible_and_fits(opened: Any, report: Path, width: int, theme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is missing")
    with shown(opened, report, viewport={"width": width, "height": 800}, color_scheme=theme) as page:
        assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
        heavy = [rule for rule in axe.Axe().run(page).response["violations"] if rule["impact"] in SERIOUS]
        assert not heavy, [(rule["id"], rule["nodes"][0]["html"][:200]) for rule in heavy]


def test_no_other_script_runs_in_a_report(opened: Any, report: Path, tmp_path: Path) -> None:
    """Whatever came into it: the policy knows its own script by its hash."""
    forged = tmp_path / "forged.html"
    smuggled = '<script>document.title = "run"</script><a id="on" onclick="document.title = 1">x</a></body>'
    forged.write_text(report.read_text().replace("</body>", smuggled))
    context = opened.new_context()
    page = context.new_page()
    page.goto(forged.as_uri())
    page.locator("#on").dispatch_event("click")
    assert page.title().startswith("factedit:")
    assert page.locator("table.map").count() == 3, "its own ran"
    context.close()


# -- in a notebook ---------------------------------------------------------------------------------


def trace() -> TraceResult:
    return TraceResult(
        model="m", prompt=f"Paris {HOSTILE}", subject="Paris", subject_range=(0, 1), tokens=("Paris", HOSTILE),
        answer=" in", clean=0.9, corrupted=0.1, window=1, noise=0.5, samples=1, seed=1,
        scores={"hidden": ((0.1, 0.9, 0.05), (0.1, 0.5, 0.1 + 0.2))},
    )  # fmt: skip


@pytest.fixture(scope="module")
def results(story: Story) -> dict[str, Any]:
    """One of each that a notebook shows."""
    suspicion = Suspicion("s", HOSTILE, 0.91234, 0.5, ((" x", 0.1, 0.6),), ())
    summary = {"a<b>": {"ES": Estimate(50.123, 1.5, 9)}, "ft": {"ES": Estimate(20.0, 2.0, 9)}}
    return {
        "trace": trace(),
        "edit": story.edit.with_outcomes([({"target_new": 0.0125}, {"target_new": 0.875, "answers_target_new": True})]),
        "evaluation": Evaluation(summary, {name: {} for name in summary}, {}, SimpleNamespace()),  # type: ignore[arg-type]
        "audit": Audit(
            "base", HOSTILE, (Difference("h.1", (3, 3), 0.25678, 1, (1.0,)),), 9, True, 4, (suspicion,), True
        ),
    }


def notebook(results: dict[str, Any], file: Path, *, taken_out: str = "", policy: str = "") -> Path:
    """The outputs in a page, with what a viewer takes out of them, and its policy."""
    outputs = "\n".join(f'<section id="{name}">{result._repr_html_()}</section>' for name, result in results.items())
    outputs = re.sub(taken_out, "", outputs, flags=re.DOTALL) if taken_out else outputs
    rule = f'<meta http-equiv="Content-Security-Policy" content="{policy}">' if policy else ""
    file.write_text(f'<!doctype html><html lang="en"><meta charset="utf-8">{rule}<title>n</title>{outputs}</html>')
    return file


def frame_of(page: Any, name: str) -> Any:
    return page.query_selector(f"#{name} iframe").content_frame()


def test_a_notebooks_outputs_draw_their_numbers(opened: Any, results: dict[str, Any], tmp_path: Path) -> None:
    with shown(opened, notebook(results, tmp_path / "n.html")) as page:
        traced = frame_of(page, "trace")
        assert values(traced, "table.map td") == [0.1, 0.9, 0.05, 0.1, 0.5, 0.1 + 0.2]
        share = 0.98 * 0.05 / 0.8
        hues = [", ".join(map(str, hue)) for hue in (PURPLE, GREY)]
        white, darkest, grey, *_ = traced.eval_on_selector_all("table.map td", SHADES)
        assert (white, darkest) == (f"rgba({hues[0]}, 0)", f"rgba({hues[0]}, 0.98)"), "white where nothing returns"
        assert grey.startswith(f"rgba({hues[1]}, ")
        assert float(grey.rpartition(" ")[2][:-1]) == pytest.approx(share, abs=0.005)
        assert values(frame_of(page, "edit"), ".sides data") == [0.0125, 0.875]
        assert values(frame_of(page, "evaluation"), "td data") == [50.123, 20.0]
        assert values(frame_of(page, "audit"), "td data") == [0.25678, 0.91234]
        for name in results:
            assert frame_of(page, name).locator("[data-drawing] > table").count() == 0, name
            assert frame_of(page, name).locator("img").count() == 0, "text of others is no markup"
            assert not page.locator(f"#{name} .factedit-plain").is_visible(), "the table does not stand twice"


def test_where_a_notebook_lets_no_script_run_the_tables_stand(
    opened: Any, results: dict[str, Any], tmp_path: Path
) -> None:
    """A viewer whose policy refuses scripts: its frames have that policy, too."""
    file = notebook(results, tmp_path / "n.html", policy="script-src 'none'")
    with shown(opened, file, refused="Content Security Policy") as page:
        for name in results:
            frame = page.frame_locator(f"#{name} iframe")
            plain = page.locator(f"#{name} .factedit-plain td").all_text_contents()
            assert frame.locator("table").first.is_visible(), name
            assert frame.locator("td").all_text_contents() == plain != [], name


@pytest.mark.parametrize("taken_out", [r"<iframe.*?</iframe>", r"<iframe.*?</iframe>|<style>.*?</style>"])
def test_where_frames_are_taken_out_the_tables_stand(
    opened: Any, results: dict[str, Any], tmp_path: Path, taken_out: str
) -> None:
    """As a repository's web page does with a notebook."""
    with shown(opened, notebook(results, tmp_path / "n.html", taken_out=taken_out)) as page:
        assert page.locator("iframe").count() == 0
        assert page.locator("#trace td").all_inner_texts() == ["0.100", "0.900", "0.050", "0.100", "0.500", "0.300"]
        for name in results:
            assert page.locator(f"#{name} table").first.is_visible(), name


def test_a_frame_has_no_origin_and_reaches_nothing(opened: Any, results: dict[str, Any], tmp_path: Path) -> None:
    """What runs in it is of no page: neither the notebook's storage nor its elements are its own."""
    with shown(opened, notebook(results, tmp_path / "n.html")) as page:
        frame = frame_of(page, "trace")
        assert frame.evaluate("self.origin") == "null"
        assert (
            frame.evaluate("(() => { try { return parent.document.title } catch { return 'refused' } })()") == "refused"
        )
