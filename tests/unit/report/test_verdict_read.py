"""A verdict read back from its JSON: the same cells, and the committed page from the committed numbers."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

from conftest import ROOT
from factedit.evaluate.estimates import Estimate
from factedit.report.verdict_page import markdown, verdict_as_json
from factedit.report.verdict_read import verdict_from
from factedit.report.verdict_rules import MethodScores, judge
from factedit.report.verdict_words import ASKED, sentences
from factedit.safe import without_nan
from run_command import ok, refused

COMMITTED = ROOT / "docs" / "results" / "verdict-gemma3-270m"
SCORES = {
    "ES": Estimate(99.0, 1.0, 100), "NS": Estimate(70.0, 2.0, 100), "NKL+": Estimate(math.inf, math.nan, 100),
    "multihop": Estimate(90.0, 1.0, 100), "seconds_per_edit": Estimate(2.5, math.nan, 100),
}  # fmt: skip
ROW = MethodScores("rome", "counterfact", 1, SCORES, {"NS": Estimate(-1.0, 2.0, 100)}, {"multihop"})


def as_written(table: Any) -> dict[str, Any]:
    written: dict[str, Any] = json.loads(json.dumps(without_nan(verdict_as_json(table, about=["x"]))))
    return written


def test_what_is_read_back_is_what_was_judged() -> None:
    """A change stays one, a mean that JSON has no number for is infinite, what could not be measured stays so."""
    table = judge([ROW, ROW._replace(method="memit", facts=100)])
    again = verdict_from(as_written(table))
    assert as_written(again) == as_written(table)
    assert sentences(again) == sentences(table)
    marks = {f.score: f.mark for cell in again["rome"].values() for f in cell.figures}
    assert marks == {"ES": "holds", "NS": "holds", "NKL+": "fails", "multihop": "not measurable",
                     "seconds_per_edit": "told"}  # fmt: skip
    [change] = again["rome"]["stays where it should?"].figures
    assert (change.judged.value, change.value.value) == (-1.0, 70.0)
    [taken] = again["rome"]["taken up?"].figures
    assert taken.judged is taken.value


def test_figures_are_judged_by_the_rules_of_now_and_those_without_a_rule_are_left_out() -> None:
    rows = as_written(judge([ROW]))
    figures = rows["methods"]["rome"]["taken up?"]["figures"]
    figures[0]["mark"] = "fails"  # as another rule would have said
    figures.append(figures[0] | {"score": "no longer asked"})
    [kept] = verdict_from(rows)["rome"]["taken up?"].figures
    assert (kept.score, kept.mark) == ("ES", "holds")


def test_the_committed_page_follows_from_the_committed_numbers(tmp_path: Path) -> None:
    rows = json.loads((COMMITTED / "verdict.json").read_text())
    table = verdict_from(rows)
    again = without_nan({"weights": rows["weights"], **verdict_as_json(table, about=rows["about"])})
    assert json.loads(json.dumps(again)) == rows
    assert markdown(table, title=ASKED, about=rows["about"]) == (COMMITTED / "verdict.md").read_text()
    page = (COMMITTED / "verdict.html").read_text()
    answer = sentences(table)[0].removeprefix(ASKED).strip()
    assert page.index(f"<h1>{ASKED}</h1>") < page.index(answer) < page.index("<table>")
    assert page.count("<figure>") == len(re.findall('alt="[^"]+', page))


def test_by_command_the_page_is_made_again_of_its_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "verdict.json").write_text((COMMITTED / "verdict.json").read_text())
    asked = ("verdict", tmp_path / "kept", "--method", "memory,rome", "--out", tmp_path / "v")
    ok(*asked)
    assert list(json.loads((tmp_path / "v" / "verdict.json").read_text())["methods"]) == ["memory", "rome"]
    assert "memit is not in these results; there are ice, " in refused(
        capsys, 2, "verdict", tmp_path / "kept", "--method", "memit", "--out", tmp_path / "w"
    )
    for text in ("[]", "{", '{"methods": {"rome": {}}}', '{"methods": 1}'):
        (tmp_path / "kept" / "verdict.json").write_text(text)
        said = refused(capsys, 1, "verdict", tmp_path / "kept", "--out", tmp_path / "w")
        assert "is no verdict that 'factedit verdict' wrote" in " ".join(said.split())
