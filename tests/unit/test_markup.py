"""Tables for notebooks: every text escaped, one pair of colours on every page."""

from __future__ import annotations

import re

import pytest

from conftest import ROOT
from factedit.account.difference import Difference
from factedit.account.outcome import Audit, Suspicion
from factedit.markup import _MOST, BLUE, GREEN, GREY, NEW, OLD, OTHER, PURPLE, RED, Cell, table
from factedit.report.colours import LINES
from factedit.report.page import PARTS as DEMO_PARTS
from factedit.trace.effects import TraceResult
from factedit.work.proof import PARTS
from seen_markup import Seen, framed

HOSTILE = "<script>alert(1)</script>\u202e\x1b[31m\" onload='x"


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


def test_every_text_of_a_table_is_escaped() -> None:
    seen = Seen(table(HOSTILE, [HOSTILE], [[HOSTILE, Cell(HOSTILE, 0.5, title=HOSTILE)]]))
    assert set(seen.tags) <= {"table", "caption", "thead", "tr", "th", "td"}
    assert seen.names <= {"scope", "style", "title"}
    assert seen.text.count("<script>alert(1)</script>\\u202e\\x1b[31m") == 4


@pytest.mark.parametrize(
    "output",
    [
        trace(prompt=HOSTILE, answer=HOSTILE, tokens=(HOSTILE, HOSTILE))._repr_html_(),
        audit(HOSTILE)._repr_html_(),
    ],
    ids=["trace", "audit"],
)
def test_every_text_of_an_output_is_escaped_beside_and_in_its_frame(output: str) -> None:
    outside, inside = framed(output)
    assert set(outside.tags) <= {"div", "style", "iframe", "table", "caption", "thead", "tr", "th", "td"}
    assert len(inside.scripts) == 2, "the numbers, and what draws them"
    assert not {"\u202e", "\x1b"} & set(output)
    for seen in (outside, inside):
        assert "<script>alert(1)</script>" in seen.text
        assert not any(name.startswith("on") for name in seen.names)


def test_a_trace_is_a_table_per_kind_whose_darkest_cell_is_the_largest_effect() -> None:
    outside, inside = framed(trace()._repr_html_())
    for seen in (outside, inside):
        assert seen.tags.count("table") == 2
        assert seen.cells == ["0.100", "0.200", "0.100", "0.100", "0.900", "0.300"] * 2
        styles = [style for style in seen.styles if style.startswith("background")]
        shades = [float(re.findall(r"/ ([\d.]+)", style)[0]) for style in styles[:6]]
        assert (shades.index(max(shades)), max(shades), min(shades)) == (4, _MOST, 0), "white where nothing returns"
        assert "Paris*" in seen.text
        assert " is*" not in seen.text


def test_less_than_nothing_is_grey_on_the_scale_of_more() -> None:
    below = trace(scores={"hidden": ((0.1, 0.05), (0.3, 0.1))})
    outside, _ = framed(below._repr_html_())
    grey, most = (f"background: rgb({' '.join(map(str, hue))} / " for hue in (GREY, PURPLE))
    shades = [style for style in outside.styles if style.startswith("background")]
    assert [style.startswith(grey) for style in shades] == [False, True, False, False]
    assert float(shades[1].removeprefix(grey).rstrip(")")) == pytest.approx(_MOST * 0.05 / 0.2, abs=1e-3)
    assert shades[2] == f"{most}{_MOST:.3f}); color: #fff", "text on it can be read"


def test_a_large_trace_is_numbers_without_shades() -> None:
    """So that it stays small: 48 layers, 20 tokens and three kinds of state, drawn and as a table."""
    grid = tuple(tuple(0.1 + n * 0.017 / (layer + 3) for layer in range(48)) for n in range(20))
    large = trace(tokens=tuple(f" {n}" for n in range(20)), scores=dict.fromkeys(("hidden", "mlp", "attn"), grid))
    output = large._repr_html_()
    outside, _ = framed(output)
    assert len(outside.cells) == 48 * 20 * 3
    assert not [style for style in outside.styles if style.startswith("background")]
    assert len(output) < 240_000


def contrast(colour: str) -> float:
    """Of a colour on white, as WCAG defines it."""
    parts = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 1.05 / (0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] + 0.05)


def test_one_pair_of_colours_that_can_be_read() -> None:
    assert all(contrast(colour) > 4.5 for colour in (NEW, OLD, OTHER))
    style = (ROOT / "src/factedit/markup/drawings/drawings.css").read_text()
    assert f"--new: {NEW}; --old: {OLD}; --other: {OTHER};" in style
    assert "colours.NEW" in (ROOT / "src/factedit/report/case_study.py").read_text()


def test_shades_and_lines_are_the_same_on_the_page_in_notebooks_and_in_figures() -> None:
    style = (ROOT / "src/factedit/markup/drawings/drawings.css").read_text()
    hues = {"purple": PURPLE, "green": GREEN, "red": RED, "blue": BLUE, "grey": GREY}
    told = " ".join(f"--{name}: {' '.join(map(str, hue))};" for name, hue in hues.items())
    assert told in style
    assert style.count(f"calc(var(--share) * {_MOST})") == 2, "of cells, and of the same saved as SVG"
    assert " ".join(f"--l{n}: {colour};" for n, colour in enumerate(LINES)) in style
    assert all(contrast(colour) >= 3 for colour in LINES)


def test_the_demo_and_the_proof_head_their_parts_alike() -> None:
    same = {"rewrite": "rewrite", "paraphrase": "wording", "neighbour": "neighbour"}
    assert {part: DEMO_PARTS[part] for part in same} == {part: PARTS[name] for part, name in same.items()}
