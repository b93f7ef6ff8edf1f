"""Tables for notebooks: every text escaped, one pair of colours on every page."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from conftest import ROOT
from factedit.account.difference import Difference
from factedit.account.outcome import Audit, Suspicion
from factedit.markup import _LEAST, _MOST, BLUE, GREEN, NEW, OLD, OTHER, PURPLE, RED, Cell, table
from factedit.report.colours import LINES
from factedit.report.page import PARTS as DEMO_PARTS
from factedit.trace.effects import TraceResult
from factedit.work.proof import PARTS

HOSTILE = "<script>alert(1)</script>\u202e\x1b[31m\" onload='x"


class Seen(HTMLParser):
    """Tags, attributes and text of some markup."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.styles: list[str] = []
        self.names: set[str] = set()
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.names |= {name for name, _ in attrs}
        self.styles += [value or "" for name, value in attrs if name == "style"]

    def handle_data(self, data: str) -> None:
        self.text += data


def trace(**changes: object) -> TraceResult:
    grid = ((0.1, 0.2, 0.1), (0.1, 0.9, 0.3))
    return TraceResult(
        **{
            "model": "m", "prompt": "Paris is", "subject": "Paris", "subject_range": (0, 1), "tokens": ("Paris", " is"),
            "answer": " in", "clean": 0.9, "corrupted": 0.1, "window": 1, "noise": 0.5, "samples": 1, "seed": 1,
            "scores": {"hidden": grid, "mlp": grid}, **changes,
        }
    )  # fmt: skip


def audit(prompt: str) -> Audit:
    suspicion = Suspicion("s", prompt, 0.9, 0.5, ((" x", 0.1, 0.6),), ())
    difference = Difference("h.1.<b>", (3, 3), 0.25, 1, (1.0,))
    return Audit("base", prompt, (difference,), 9, True, 4, (suspicion,), True)


@pytest.mark.parametrize(
    "page",
    [
        table(HOSTILE, [HOSTILE], [[HOSTILE, Cell(HOSTILE, 0.5, title=HOSTILE)]]),
        trace(prompt=HOSTILE, answer=HOSTILE, tokens=(HOSTILE, HOSTILE))._repr_html_(),
        audit(HOSTILE)._repr_html_(),
    ],
    ids=["table", "trace", "audit"],
)
def test_every_text_is_escaped(page: str) -> None:
    seen = Seen(page)
    assert set(seen.tags) <= {"table", "caption", "thead", "tr", "th", "td"}
    assert seen.names <= {"scope", "style", "title"}
    assert not {"\u202e", "\x1b"} & set(page)
    assert "<script>alert(1)</script>" in seen.text


def test_a_trace_is_a_map_per_kind_whose_darkest_cell_is_the_largest_effect() -> None:
    seen = Seen(trace()._repr_html_())
    assert seen.tags.count("table") == 2
    shades = [float(re.findall(r"/ ([\d.]+)", style)[0]) for style in seen.styles[:6]]
    assert shades.index(max(shades)) == 4
    assert max(shades) == pytest.approx(0.98)
    assert min(shades) == pytest.approx(0.04)
    assert "Paris*" in seen.text
    assert " is*" not in seen.text


def contrast(colour: str) -> float:
    """Of a colour on white, as WCAG defines it."""
    parts = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 1.05 / (0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] + 0.05)


def test_one_pair_of_colours_that_can_be_read() -> None:
    assert all(contrast(colour) > 4.5 for colour in (NEW, OLD, OTHER))
    style = (ROOT / "src/factedit/web/static/page.css").read_text()
    assert f"--new: {NEW}; --old: {OLD}; --other: {OTHER};" in style
    for path in ("report/page.html.j2", "report/case_study.py"):
        assert "colours.NEW" in (ROOT / "src/factedit" / path).read_text()


def test_shades_and_lines_are_the_same_on_the_page_in_notebooks_and_in_figures() -> None:
    style = (ROOT / "src/factedit/web/static/page.css").read_text()
    hues = {"purple": PURPLE, "green": GREEN, "red": RED, "blue": BLUE}
    told = " ".join(f"--{name}: {' '.join(map(str, hue))};" for name, hue in hues.items())
    assert f"{told} --least: {_LEAST};" in style
    assert f"calc(var(--least) + var(--share) * {_MOST})" in style
    assert " ".join(f"--l{n}: {colour};" for n, colour in enumerate(LINES)) in style
    assert all(contrast(colour) >= 3 for colour in LINES)


def test_the_demo_and_the_proof_head_their_parts_alike() -> None:
    same = {"rewrite": "rewrite", "paraphrase": "wording", "neighbour": "neighbour"}
    assert {part: DEMO_PARTS[part] for part in same} == {part: PARTS[name] for part, name in same.items()}
