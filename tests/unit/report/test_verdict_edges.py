"""A verdict where figures are odd: nats, infinities, one record, names with markup; and its sentences' ties."""

from __future__ import annotations

import json
import math
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from factedit.evaluate.benchmarks.table import all_benchmarks
from factedit.evaluate.column import Column
from factedit.evaluate.estimates import Estimate
from factedit.evaluate.metrics.table import METRICS
from factedit.report import verdict_words as words
from factedit.report.figures import as_bytes
from factedit.report.verdict_figures import draw, panels
from factedit.report.verdict_page import figure_text as told_in_a_cell
from factedit.report.verdict_page import interval_text, markdown, render, verdict_as_json, write_verdict
from factedit.report.verdict_rules import (
    EDITED,
    FORMS,
    HARDER,
    PUBLISHED,
    QUESTIONS,
    UNDO,
    Limit,
    MethodScores,
    form_of,
    judge,
    mark_of,
)


def of(value: float, half: float = 1.0, n: int = 100) -> Estimate:
    return Estimate(value, half, n)


def row(method: str, facts: int = 1, dataset: str = "counterfact", **scores: Estimate) -> MethodScores:
    """A method's row; what is judged by its change has moved by 0 ±1."""
    moved = {name: of(0.0) for name in scores}
    return MethodScores(method, dataset, facts, scores, moved)


@cache
def columns() -> dict[str, Column]:
    """Every score that a table of ours can hold."""
    metrics = [column for metric in METRICS.values() for column in metric.columns]
    return {c.name: c for c in (*metrics, *(c for b in all_benchmarks().values() for c in b.scores))}


def test_what_a_rule_takes_for_the_range_of_a_score_is_its_columns() -> None:
    """The rule of three is 3 / n of the range, and of what has no end there is none."""
    known = columns()
    judged = {r.score: r for q in QUESTIONS for r in q.rules if r.how != "told"}
    assert {name: rule.span for name, rule in judged.items() if name in known} == {
        name: known[name].high - known[name].low for name in judged if name in known
    }
    assert [name for name, rule in judged.items() if math.isinf(rule.span)] == ["NKL+"]


def test_a_limit_points_the_way_the_score_is_better() -> None:
    """A score that is better low is judged by `at most` or `gains at most`, and the first limit is the stricter."""
    for rule in (rule for question in QUESTIONS for rule in question.rules if rule.how != "told"):
        lower = columns()[rule.score].better == "lower"
        assert (rule.how in ("at most", "gains at most")) == lower, rule.score
        stricter = rule.holds > rule.fails if rule.how == "at least" else rule.holds < rule.fails
        assert stricter, rule.score


@pytest.mark.parametrize(
    ("value", "half", "n", "mark"),
    [
        (0.0, 0.0, 10, "holds"),  # a memory whose gate never opens: the same distribution at every neighbour
        (0.5, 0.0, 10, "holds"),
        (1.0, 0.0, 30, "partly"),
        (2.1, 0.0, 30, "fails"),
        (0.0, 0.0, 9, "not measurable"),
        (math.inf, math.nan, 30, "fails"),
        (0.4, math.nan, 30, "not measurable"),
    ],
)
def test_nats_that_all_agree_have_no_rule_of_three(value: float, half: float, n: int, mark: str) -> None:
    """3 / n of 100 would be ten nats either way for thirty records that all have exactly 0."""
    [rule] = [rule for question in QUESTIONS for rule in question.rules if rule.score == "NKL+"]
    assert mark_of(rule, Estimate(value, half, n)) == mark
    cells = judge([row("memory", **{"NKL+": Estimate(value, half, n)})])["memory"]
    assert cells["under pressure?"].mark == mark


def test_a_change_that_no_record_shows_has_the_rule_of_three() -> None:
    """Of 60 records none changed: up to 5 of 100 may, which is the limit itself."""
    rule = Limit("NS", "loses at most", 5, 20)
    assert mark_of(rule, Estimate(0.0, 0.0, 60)) == "holds"
    assert mark_of(rule, Estimate(0.0, 0.0, 59)) == "partly"
    worse = Limit("written_repeats", "gains at most", 2, 10)
    assert mark_of(worse, Estimate(0.0, 0.0, 150)) == "holds"
    assert mark_of(worse, Estimate(0.0, 0.0, 149)) == "partly"


def test_an_infinite_figure_is_worse_for_certain_and_two_of_them_are_equal() -> None:
    """Divergence is infinite where the edited model has probability on what the unedited one never says."""
    endless = Estimate(math.inf, math.nan, 100)
    rome, memory = row("rome", **{"NKL+": endless}), row("memory", **{"NKL+": of(0.1, 0.01)})
    [told] = words.weights_or_memory(judge([rome, memory]))
    assert told == (
        "Editing weights, at its best against a memory beside a matrix at its best, is worse for certain on “under "
        "pressure?” (rome inf, memory 0.1 ±0.0: NKL+, counterfact)."
    )
    both = judge([rome, row("memory", **{"NKL+": endless})])
    assert words.weights_or_memory(both) == [
        "Editing weights and a memory beside a matrix cannot be told apart at this n on the 1 question that both "
        "answer."
    ]


def test_nats_that_all_agree_are_told_apart_by_what_they_are() -> None:
    """0 of 30 records against 0.9 of 30: ±10 nats each would tell nothing apart."""
    exact = judge([
        row("rome", **{"NKL+": Estimate(0.9, 0.0, 30)}), row("memory", **{"NKL+": Estimate(0.0, 0.0, 30)}),
    ])  # fmt: skip
    assert "worse for certain on “under pressure?”" in words.weights_or_memory(exact)[0]


@pytest.mark.parametrize(
    ("estimate", "expected"),
    [
        (Estimate(0.042, math.nan, 5), "0.04"),  # seconds of an edit, which have no interval
        (Estimate(3.0, 0.5, 5), "3.0 ±0.5"),
        (Estimate(2.99, 1.0, 5), "3.0 ±1.0"),
        (Estimate(-2.5, 0.125, 5), "-2.50 ±0.12"),
        (Estimate(math.inf, math.nan, 5), "inf"),
        (Estimate(math.nan, math.nan, 5), "nan"),
    ],
)
def test_small_numbers_keep_two_digits(estimate: Estimate, expected: str) -> None:
    assert interval_text(estimate) == expected


def test_a_figure_in_a_cell_is_told_with_its_change_and_the_facts_beside_it() -> None:
    cells = judge([row("memit", 100, NS=of(70.0, 2.0), ES=of(99.0))])["memit"]
    told = [told_in_a_cell(figure) for figure in cells["many at once?"].figures]
    assert told == ["ES 99.0 ±1.0, 100 facts", "NS 70.0 ±2.0 (+0.0 ±1.0), 100 facts"]
    cost = judge([row("rome", seconds_per_edit=of(2.5, math.nan), peak_memory_mb=of(900.0, math.nan))])["rome"]["cost?"]
    assert [told_in_a_cell(figure) for figure in cost.figures] == ["seconds 2.50", "MB 900.0"]


def test_names_are_no_markup_and_stay_in_their_cell_and_on_their_line() -> None:
    """Methods are named by packages, data sets by users' files."""
    table = judge([row("a|b*", 1, "f|<b>_x_.jsonl", ES=of(99.0)), row("ice", 1, "f|<b>_x_.jsonl", ES=of(50.0))])
    text = markdown(table, title="Is <it>?\n# no", about=["of <b> f\n## y"])
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.replace("\\|", "").count("|") for line in rows} == {4}, "each line has as many cells"
    assert rows[2].startswith("| a\\|b\\* |")
    assert r"f\|\<b\>\_x\_.jsonl" in rows[2]
    assert "<b>" not in text.replace("\\<b\\>", "").replace("&lt;b>", "")
    assert [line for line in text.splitlines() if line.startswith("#")] == ["# Is \\<it\\>? \\# no"]
    page = render(table, title="Is <it>?", about=["of <b> f"])
    assert "<it>" not in page
    assert "<b>_x_" not in page
    assert "f|&lt;b&gt;_x_.jsonl" in page


def test_formulas_in_names_are_drawn_as_they_are() -> None:
    """matplotlib would take $x_$ for a formula, which is none, and stop."""
    table = judge([row("$x_$", 1, "a$b^$.jsonl", ES=of(99.0))])
    [panel] = panels(table)
    figure = draw(panel)
    assert as_bytes(figure, ".png")[:4] == b"\x89PNG"
    assert figure.axes[0].get_title() == "ES, a$b^$.jsonl"


def test_panels_stand_by_question_score_data_set_and_number_of_facts() -> None:
    table = judge([
        row("rome", ES=of(99.0), PS=of(90.0)), row("rome", 1, "own", ES=of(90.0)), row("ft", ES=of(80.0)),
        row("memit", 10, ES=of(70.0)), row("memit", 100, ES=of(60.0)),
    ])  # fmt: skip
    assert [(panel.question, panel.title, [m for m, _ in panel.rows]) for panel in panels(table)] == [
        ("taken up?", "ES, counterfact", ["rome", "ft"]),
        ("taken up?", "ES, own", ["rome"]),
        ("in other words?", "PS, counterfact", ["rome"]),
        ("many at once?", "ES, counterfact, 100 facts at once", ["memit"]),
    ]


def test_the_published_and_the_harder_questions_are_all_that_are_judged() -> None:
    names = [question.name for question in QUESTIONS]
    assert sorted([*PUBLISHED, *HARDER, "cost?"]) == sorted(names)
    assert set(words.JUDGED) == {*PUBLISHED, *HARDER}
    assert UNDO.keys() == {*FORMS, EDITED}
    assert form_of("ftx") == EDITED, "a name that only begins like one"


def test_what_is_best_is_what_holds_on_most_and_of_equals_what_was_asked_less() -> None:
    """Two hold on one each; the one that was asked one question only failed on none."""
    table = judge([row("rome", ES=of(99.0), PS=of(10.0)), row("emmet", ES=of(99.0)), row("ice", ES=of(20.0))])
    assert words.the_answer(table) == [
        "Is editing the right way? These results cannot say: the best edit, emmet, holds on 1 of the 1 questions that "
        "were measured, and none of the harder ones was.",
        "Of the alternatives, ice (a text before the prompt) holds on the most: 0 of 1.",
    ]


def test_sentences_are_silent_on_what_was_not_measured() -> None:
    """Told figures, few records, and nothing at all."""
    for table in (judge([]), judge([row("rome", perplexity=of(20.0))]), judge([row("rome", ES=of(99.0, 1.0, 9))])):
        assert [text for text in words.sentences(table) if "holds on" in text or "hold everywhere" in text] == []
    few = words.as_the_papers_ask(judge([row("rome", ES=of(99.0, 1.0, 9))]))
    assert few == [
        "Asked as papers on editing ask (taken up, in other words, other facts), no method is shown to hold on all "
        "three."
    ]
    assert words.together(judge([row("memit", 50, ES=of(99.0, 1.0, 9))])) == []


def test_the_worst_figure_speaks_for_a_cell() -> None:
    hard = judge([row("rome", ES=of(99.0), bare_exact=of(95.0), bare_opens=of(70.0), written_repeats=of(1.0))])
    [told] = words.asked_harder(hard)
    assert told == ("Asked harder, rome does not hold everywhere: written? partly (bare_opens 70.0 ±1.0, counterfact).")


def test_the_end_pays_only_where_both_were_asked_the_same(tmp_path: Path) -> None:
    """An opening that rises is no exact answer; another number of facts is another question."""
    plain = row("rome", bare_exact=of(20.0), bare_opens=of(20.0))
    assert words.the_end_pays(judge([plain, row("rome+stop", bare_opens=of(90.0))])) == []
    assert len(words.the_end_pays(judge([plain, row("rome+stop", bare_exact=of(21.5))]))) == 1, "1.5 > √2"
    assert words.the_end_pays(judge([plain, row("rome+stop", bare_exact=of(21.4))])) == [], "1.4 < √2"


def test_what_machines_read_has_all_figures_and_no_number_as_null(tmp_path: Path) -> None:
    table = judge([row("rome", ES=of(99.0), seconds_per_edit=of(2.5, math.nan))])
    told: dict[str, Any] = verdict_as_json(table, about=["x"])
    own = told["methods"]["rome"]
    assert {name for name in own if name not in ("form", "undo")} == {question.name for question in QUESTIONS}
    assert own["consequences?"] == {"mark": "not measured", "figures": []}
    [cost] = own["cost?"]["figures"]
    assert (cost["value"][0], cost["value"][2], cost["rule"]) == (2.5, 100, "seconds_per_edit: told, not judged")
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_verdict(table, tmp_path, title="t", about=[], rows=told)
    assert not list(tmp_path.iterdir()), "nothing is written where one of the files could not be"
    told["methods"]["rome"]["cost?"]["figures"][0]["value"][1] = None
    told["methods"]["rome"]["cost?"]["figures"][0]["judged"][1] = None
    write_verdict(table, tmp_path, title="t", about=[], rows=told)
    assert json.loads((tmp_path / "verdict.json").read_text()) == told
    assert sorted(file.name for file in tmp_path.iterdir()) == ["verdict.html", "verdict.json", "verdict.md"]
