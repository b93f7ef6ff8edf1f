"""Marks at their limits, and every sentence's rule: made-up figures on which it fires and on which it is silent."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from factedit.evaluate.benchmarks.table import all_benchmarks
from factedit.evaluate.estimates import Estimate
from factedit.evaluate.metrics.table import METRICS
from factedit.report import verdict_words as words
from factedit.report.verdict_figures import COLOURS, SIGNS, draw, panels
from factedit.report.verdict_page import interval_text, limit, markdown, render, verdict_as_json, write_verdict
from factedit.report.verdict_rules import QUESTIONS, WORST, Limit, MethodScores, form_of, judge, mark_of

SURE = 1.0
GOOD = {"ES": 99.0, "PS": 97.0, "NS": 70.0, "seconds_per_edit": 2.5, "peak_memory_mb": 900.0}
HARD = {"bare_exact": 95.0, "NS+": 60.0, "ripple_all": 80.0}


def row(method: str, scores: dict[str, float], change: dict[str, float] | None = None, *, facts: int = 1,
        dataset: str = "counterfact", half: float = SURE, n: int = 100) -> MethodScores:  # fmt: skip
    made = {name: Estimate(value, half, n) for name, value in scores.items()}
    moved = {"NS": -1.0, "NS+": -3.0} | (change or {})
    return MethodScores(
        method, dataset, facts, made, {k: Estimate(v, half, n) for k, v in moved.items() if k in scores}
    )


@pytest.mark.parametrize(("rule", "value", "half", "mark"), [
    (Limit("x", "at least", 90, 60), 92, 2, "holds"), (Limit("x", "at least", 90, 60), 91, 2, "partly"),
    (Limit("x", "at least", 90, 60), 58, 2, "partly"), (Limit("x", "at least", 90, 60), 57.9, 2, "fails"),
    (Limit("x", "at most", 0.5, 2), 0.4, 0.1, "holds"), (Limit("x", "at most", 0.5, 2), 0.45, 0.1, "partly"),
    (Limit("x", "at most", 0.5, 2), 2.05, 0.1, "partly"), (Limit("x", "at most", 0.5, 2), 2.2, 0.1, "fails"),
    (Limit("x", "loses at most", 5, 20), -3, 2, "holds"), (Limit("x", "loses at most", 5, 20), 8, 2, "holds"),
    (Limit("x", "loses at most", 5, 20), -4, 2, "partly"), (Limit("x", "loses at most", 5, 20), -18, 2, "partly"),
    (Limit("x", "loses at most", 5, 20), -22.1, 2, "fails"), (Limit("x", "gains at most", 2, 10), 1, 1, "holds"),
    (Limit("x", "gains at most", 2, 10), -9, 1, "holds"), (Limit("x", "gains at most", 2, 10), 2, 1, "partly"),
    (Limit("x", "gains at most", 2, 10), 11.1, 1, "fails"), (Limit("x"), 3, 1, "told"),
])  # fmt: skip
def test_a_mark_goes_by_the_whole_interval(rule: Limit, value: float, half: float, mark: str) -> None:
    assert mark_of(rule, Estimate(value, half, 100)) == mark
    assert mark_of(rule, Estimate(value, half, 9)) == ("told" if mark == "told" else "not measurable")


def test_records_that_all_agree_have_the_interval_of_the_rule_of_three() -> None:
    rule = Limit("x", "at least", 90, 60)
    assert mark_of(rule, Estimate(100, 0.0, 30)) == "holds"
    assert mark_of(rule, Estimate(100, 0.0, 29)) == "partly"


@pytest.mark.parametrize("how", ["at least", "at most", "loses at most", "gains at most"])
def test_what_has_no_number_or_no_interval_is_not_judged(how: Any) -> None:
    rule = Limit("x", how, 5, 20)
    assert mark_of(rule, Estimate(math.nan, math.nan, 50)) == "not measurable"
    assert mark_of(rule, Estimate(0.0, math.nan, 50)) == "not measurable"
    assert mark_of(Limit("NKL+", "at most", 0.5, 2), Estimate(math.inf, math.nan, 50)) == "fails"


def test_what_is_not_measurable_is_compared_by_no_sentence() -> None:
    """One record, or a task that the unedited model cannot do, tells no two methods apart; nor does 100 of 10."""
    alone = [row(m, {"ES": es}, n=1, half=math.nan) for m, es in (("rome", 100.0), ("ice", 0.0))]
    assert said("weights_or_text", *alone) == []
    silent = [row(m, {"multihop": v})._replace(silent={"multihop"}) for m, v in (("rome", 9.0), ("ice", 0.0))]
    assert said("weights_or_text", *silent) == []
    ends = [row(m, {"bare_exact": v}, n=3, half=0.0) for m, v in (("rome", 0.0), ("rome+stop", 100.0))]
    assert said("the_end_pays", *ends) == []
    agree = [row(m, {"ES": v}, n=10, half=0.0) for m, v in (("rome", 100.0), ("ice", 80.0))]
    assert said("weights_or_text", *agree)[0].endswith("cannot be told apart at this n on the 1 question that both "
                                                       "answer."), "±30 each, by the rule of three"  # fmt: skip


def test_a_cell_is_as_good_as_its_worst_figure_and_knows_its_data_set_and_number_of_facts() -> None:
    cells = judge([
        row("rome", {"ES": 99.0, "bare_exact": 95.0, "qa_exact": 1.0, "free": 1.0}),
        row("rome", {"efficacy": 70.0, "bare_exact": 1.0, "qa_exact": 85.0}, dataset="zsre"),
        row("rome", {"ES": 30.0, "perplexity": 31.0}, facts=50), row("rome", {"ES": 95.0}, facts=100),
    ])["rome"]  # fmt: skip
    taken, written = cells["taken up?"], cells["written?"]
    assert [(f.score, f.dataset, f.mark) for f in taken.figures] == [
        ("ES", "counterfact", "holds"), ("efficacy", "zsre", "partly"),
    ]  # fmt: skip
    assert taken.mark == "partly"
    assert [(f.score, f.dataset) for f in written.figures] == [("bare_exact", "counterfact"), ("qa_exact", "zsre")]
    assert written.mark == "holds"
    assert [(f.score, f.facts) for f in cells["many at once?"].figures] == [("ES", 100)], "as many as were tried"
    assert cells["many at once?"].mark == "holds"
    assert cells["abilities?"].mark == "told"
    assert cells["consequences?"].mark == "not measured"
    only = judge([row("memit", {"ES": 30.0}, facts=100)])["memit"]
    assert only["taken up?"].mark == "not measured", "of facts that are each alone"
    assert set(WORST) | {"not measured"} == set(COLOURS) == set(SIGNS)


def test_a_change_is_judged_only_beside_the_unedited_model() -> None:
    unpaired = judge([row("rome", {"NS": 70.0}, {})._replace(change={})])["rome"]
    assert unpaired["stays where it should?"].mark == "not measured", "no change without the unedited model"


def test_a_task_that_the_unedited_model_cannot_do_is_not_judged() -> None:
    able = row("rome", {"multihop": 90.0, "ripple_all": 80.0})
    [multihop] = [
        f for f in judge([able._replace(silent={"multihop"})])["rome"]["consequences?"].figures if f.score == "multihop"
    ]
    assert multihop.mark == "not measurable"
    assert judge([able])["rome"]["consequences?"].mark == "holds"
    assert judge([able._replace(silent={"multihop"})])["rome"]["consequences?"].mark == "holds", "by the other figure"


def test_every_score_that_is_judged_exists_or_is_still_to_come() -> None:
    known = {c.name for m in METRICS.values() for c in m.columns} | {
        c.name for b in all_benchmarks().values() for c in b.scores
    }
    coming = {"perplexity", "seconds_per_edit", "peak_memory_mb"}
    assert {rule.score for question in QUESTIONS for rule in question.rules} <= known | coming


def test_what_methods_leave_behind() -> None:
    assert form_of("rome") == form_of("rome+stop (1a2b)") == form_of("of-another-package") == "edited weights"
    assert form_of("ft-m+stop") == form_of("ft (1a2b)") == "fine-tuned weights"
    assert form_of("ice") == "a text before the prompt"
    assert form_of("memory+stop") == "a memory beside a matrix"


def said(rule: str, *rows: MethodScores) -> list[str]:
    found: list[str] = getattr(words, rule)(judge(rows))
    return found


def test_as_the_papers_ask() -> None:
    rows = [row("rome", GOOD), row("ft", GOOD | {"PS": 70.0}), row("memit", GOOD)]
    assert said("as_the_papers_ask", *rows) == [
        "Asked as papers on editing ask (taken up, in other words, other facts), rome and memit hold on all three."
    ]
    assert said("as_the_papers_ask", rows[0])[0].endswith("other facts), rome holds on all three.")
    assert said("as_the_papers_ask", rows[1])[0].endswith("no method is shown to hold on all three.")
    assert said("as_the_papers_ask", row("rome", HARD)) == []


def test_asked_harder() -> None:
    weak = row("rome", GOOD | HARD | {"bare_exact": 21.0}, {"NS+": -28.0})
    assert said("asked_harder", weak) == [
        "Asked harder, rome does not hold everywhere: written? fails (bare_exact 21.0 ±1.0, counterfact); under "
        "pressure? partly (NS+ 60.0 ±1.0, -28.0 to the unedited model, counterfact)."
    ]
    assert said("asked_harder", row("rome", GOOD | HARD)) == []
    assert said("asked_harder", row("kn", GOOD | {"ES": 20.0, "bare_exact": 1.0})) == [], "what is not taken up at all"


def test_the_end_pays() -> None:
    before, after = row("rome", HARD | {"bare_exact": 29.0}), row("rome+stop", HARD)
    assert said("the_end_pays", before, after) == [
        "Training the end of the answer raises what rome writes exactly on counterfact: 29.0 ±1.0 → 95.0 ±1.0 "
        "(bare_exact)."
    ]
    assert "lowers" in said("the_end_pays", before._replace(method="rome+stop"), after._replace(method="rome"))[0]
    wide = row("rome", HARD | {"bare_exact": 80.0}, half=14.0), row("rome+stop", HARD, half=14.0)
    assert said("the_end_pays", *wide) == [], "15 points, and the interval of the difference is 19.8 wide"
    assert said("the_end_pays", before) == []
    elsewhere = row("rome+stop", {"qa_exact": 95.0}, dataset="zsre")
    assert said("the_end_pays", before, elsewhere) == []


@pytest.mark.parametrize(("rule", "other", "name"), [
    ("weights_or_text", "ice", "a text before the prompt"), ("weights_or_memory", "memory", "a memory beside a matrix"),
    ("editing_or_tuning", "ft", "fine-tuning"),
])  # fmt: skip
def test_one_form_against_another(rule: str, other: str, name: str) -> None:
    rome, kn = row("rome", GOOD | HARD), row("kn", GOOD | {"ES": 10.0})
    rival = row(other, GOOD | HARD | {"bare_exact": 99.0, "PS": 50.0})
    assert said(rule, rome, kn, rival) == [
        f"Editing weights, at its best against {name} at its best, is better for certain on “in other words?” (rome "
        f"97.0 ±1.0, {other} 50.0 ±1.0: PS, counterfact), and worse for certain on “written?” (rome 95.0 ±1.0, {other} "
        "99.0 ±1.0: bare_exact, counterfact)."
    ]
    same = row(other, GOOD | HARD)
    assert said(rule, rome, same) == [
        f"Editing weights and {name} cannot be told apart at this n on the 6 questions that both answer."
    ]
    assert said(rule, rome, kn) == []
    assert said(rule, rome, row(other, {"qa_exact": 1.0}, dataset="zsre")) == [], "no figure in common"
    low, high = row("rome", {"negated_opens": 10.0}), row(other, {"negated_opens": 80.0})
    assert "better for certain on “consequences?”" in said(rule, low, high)[0], "lower is better"


def test_together() -> None:
    many = row("memit", GOOD | {"NS": 55.0}, {"NS": -16.0}, facts=1000)
    assert said("together", many) == [
        "With 1000 facts on one model memit holds in part (NS 55.0 ±1.0, -16.0 to the unedited model, counterfact)."
    ]
    assert "memit holds (ES" in said("together", row("memit", GOOD, facts=10))[0]
    assert "memit fails (ES" in said("together", row("memit", GOOD | {"ES": 5.0}, facts=10))[0]
    assert said("together", row("rome", GOOD)) == []


def test_the_answer() -> None:
    good, weak = row("rome", GOOD | HARD), row("rome", GOOD | HARD | {"bare_exact": 20.0})
    ice = row("ice", GOOD | HARD | {"PS": 70.0})
    assert said("the_answer", good, ice) == [
        "Is editing the right way? On this table nothing speaks against it: the best edit, rome, holds on 6 of the 6 "
        "questions that were measured.",
        "Of the alternatives, ice (a text before the prompt) holds on the most: 5 of 6.",
    ]
    assert said("the_answer", weak) == [
        "Is editing the right way? Not on this table as it stands: the best edit, rome, holds on 5 of the 6 questions "
        "that were measured; it fails on “written?”.",
        "No alternative was measured beside it.",
    ]
    worse = row("rome", GOOD | HARD | {"bare_exact": 20.0, "PS": 70.0, "ripple_all": 40.0})
    assert said("the_answer", worse)[0].endswith(
        "; it holds in part on “in other words?” and “consequences?” and fails on “written?”."
    )
    assert "cannot say" in said("the_answer", row("rome", GOOD))[0]
    cannot = ["Is editing the right way? These results cannot say: no edit of weights is among what was measured."]
    assert said("the_answer", ice) == said("the_answer") == cannot


def test_all_rules_are_in_the_table() -> None:
    rules = {name for name, value in vars(words).items() if callable(value) and getattr(value, "__module__", "") ==
             words.__name__ and not name.startswith("_") and name != "sentences"}  # fmt: skip
    assert {rule.__name__ for rule in words.SENTENCES} == rules
    table = judge([row("rome", GOOD | HARD), row("ice", GOOD)])
    assert words.sentences(table) == [text for rule in words.SENTENCES for text in rule(table)]
    assert words.sentences(table)[:2] == words.the_answer(table), "the answer first"


def test_the_page_the_markdown_and_the_json(tmp_path: Path) -> None:
    rows = [row("rome", {"ES": 99.0, "NS+": 60.0}), row("a<b>", {"ES": 5.0}), row("memit", {"ES": 99.0}, facts=100)]
    table = judge(rows)
    page = render(table, title="T & t", about=["Of <these>."])
    assert "T &amp; t" in page
    assert "a&lt;b&gt;" in page
    assert "a<b>" not in page
    assert page.count("<figure>") == len(panels(table)) == page.count("data:image/png;base64,")
    assert "<b>consequences?</b>, <b>abilities?</b>, <b>cost?</b>." in page.split("Not measured in these results: ")[1]
    places = []
    for text in words.sentences(table):
        places.append(page.find(text.replace("<", "&lt;").replace(">", "&gt;").replace("'", "&#39;")))
    assert places == sorted(places)
    assert -1 not in places
    assert places[0] < page.index("<table>") < places[2], "the answer stands before the table, what else follows after"
    asked = render(table, title=words.ASKED, about=[])
    assert asked.count(words.ASKED) == 2, "in the title and the heading, and not again in the answer"
    text = markdown(table, title="T", about=["Of these."])
    assert text.splitlines()[2] == words.sentences(table)[0]
    head = next(line for line in text.splitlines() if line.startswith("| method"))
    assert head.count("|") == next(line for line in text.splitlines() if line.startswith("| rome")).count("|")
    assert "abilities?" not in head
    assert "NS+ 60.0 ±1.0 (-3.0 ±1.0)" in text
    told = verdict_as_json(table, about=["x"])
    assert told["methods"]["rome"]["taken up?"]["figures"][0]["value"] == [99.0, 1.0, 100]
    assert told["methods"]["rome"]["undo"] == "to the bit, also from the middle"
    write_verdict(table, tmp_path, title="T", about=[], rows=told)
    assert json.loads((tmp_path / "verdict.json").read_text()) == told
    assert (tmp_path / "verdict.html").read_text().startswith("<!doctype html>")


def test_a_panel_draws_what_is_judged_in_the_colour_of_its_mark() -> None:
    table = judge([row("rome", GOOD), row("kn", GOOD | {"ES": 10.0}, {"NS": -40.0})])
    by_title = {panel.title: panel for panel in panels(table)}
    [axes] = draw(by_title["NS, counterfact"]).axes
    assert axes.get_title() == "NS, counterfact, change"
    points = [line for line in axes.lines if len(line.get_xdata()) == 1 and line.get_marker() in "oDX"]
    assert [(float(line.get_xdata()[0]), line.get_color()) for line in points] == [
        (-1.0, COLOURS["holds"]), (-40.0, COLOURS["fails"]),
    ]  # fmt: skip
    [axes] = draw(by_title["ES, counterfact"]).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["rome", "kn"]


def test_numbers_and_limits_in_words() -> None:
    assert interval_text(Estimate(0.1234, 0.05, 9)) == "0.12 ±0.05"
    assert interval_text(Estimate(12.34, 0.5, 9), sign=True) == "+12.3 ±0.5"
    assert interval_text(Estimate(12.34, math.nan, 9)) == "12.3"
    assert limit(Limit("bare_exact", "at least", 90, 50, ("counterfact",))) == (
        "bare_exact (counterfact): at least 90; fails beyond 50"
    )
    assert limit(Limit("x")) == "x: told, not judged"
