"""Tables and sentences of edits, traces and many facts: every number and every count read back, made up by hand."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rich.table import Table

from factedit.errors import UsageError
from factedit.evaluate.benchmark import UNEDITED, Legs
from factedit.evaluate.estimates import Estimate
from factedit.facts import EditRequest, FactRecord
from factedit.report.arrays import check_arrays, write_arrays
from factedit.report.case_study import CaseTexts, marked, render
from factedit.report.colours import map_of, white_at
from factedit.report.figures import averages_figure, trace_figure
from factedit.report.figures_layers import curve_of, layers_figure
from factedit.report.figures_layers import points_as_json as layers_as_json
from factedit.report.figures_many import WRITTEN, many_figure
from factedit.report.tables import (
    SHOWN,
    averages_table,
    csv_text,
    edit_table,
    left_out_text,
    markdown,
    not_edited_text,
    not_executed_text,
    notes_on_rows,
    summary_table,
    trace_table,
    write_summary,
)
from factedit.report.together import checked_table, checked_words, facts_table, row_in_words, trials_table
from factedit.trace.effects import Averages, Curve, TraceResult, average

REQUEST = {"subject": "Paris", "prompt": "{} is in", "target_new": "Rome", "target_true": "France"}


def rows(table: Table) -> list[list[str]]:
    """The cells of a table, row by row."""
    return [list(map(str, row)) for row in zip(*(column.cells for column in table.columns), strict=True)]


def traced(kinds: tuple[str, ...] = ("hidden", "mlp"), **changes: Any) -> TraceResult:
    """Five tokens at three layers; the subject is tokens 1 and 2, and 0.1 · token + 0.01 · layer is restored."""
    grid = tuple(tuple(0.1 * token + 0.01 * layer for layer in range(3)) for token in range(5))
    own: dict[str, Any] = {
        "model": "m", "prompt": "a [b] c", "subject": "b", "subject_range": (1, 3),
        "tokens": ("a", " [", "b", "]", " c"), "answer": " x", "clean": 0.9, "corrupted": 0.05, "window": 2,
        "noise": 0.5, "samples": 2, "seed": 1, "scores": dict.fromkeys(kinds, grid),
    }  # fmt: skip
    return TraceResult(**own | changes)


def test_a_trace_in_a_table() -> None:
    """The peak is at the last token and layer: 0.42 − 0.05; at the subject's last token 0.22 − 0.05."""
    table = trace_table(traced())
    assert table.title == "'a [b] c' → ' x': P 0.900, corrupted 0.050, TE 0.850"
    assert rows(table) == [[kind, "0.370", "2", "' c'", "0.170", "2"] for kind in ("hidden", "mlp")]


def test_averages_of_one_fact_have_no_interval() -> None:
    """It was printed as ±nan: of a single fact nothing is known of the spread."""
    one = average([traced()], asked=4)
    table = averages_table(one)
    assert table.title == "1 of 4 facts answered right; P 90.0 %, ATE 85.0 %"
    by_role = {row[0]: row[1:] for row in rows(table)}
    assert by_role["last subject"] == ["17.0 (2)", "17.0 (2)"]
    assert by_role["middle subject"] == ["–", "–"], "of two tokens none is in the middle"
    assert averages_figure(one).get_suptitle() == "1 facts of 4: ATE 85.0 %; bands: 95 % intervals"
    two = averages_table(average([traced(), traced(clean=0.7)], asked=2))
    half = 100 * 1.959964 * (0.02**0.5) / 2**0.5  # of 0.85 and 0.65
    assert two.title == f"2 of 2 facts answered right; P 80.0 %, ATE 75.0 ±{half:.1f} %"
    assert {row[0]: row[1] for row in rows(two)}["last subject"] == "17.0 ±0.0 (2)"


def test_an_average_peaks_where_its_curve_is_highest() -> None:
    curve = Curve((0.1, 0.3, 0.2), (0.01, 0.02, 0.03), 7)
    own = Averages(facts=7, asked=9, total_effect=(0.5, 0.1), clean=0.6, curves={"mlp": {"last": curve}})
    assert rows(averages_table(own))[-1] == ["last", "30.0 ±2.0 (1)"]


@pytest.mark.parametrize(
    ("before", "row", "expected"),
    [
        ({"target_new": 0.01234, "target_true": 0.5}, {},
         [["P(Rome)", "0.0123", "0.9000"], ["P(France)", "0.5000", "0.1000"]]),
        ({"target_new": 0.0}, {"update_norm": 1.0, "weight_norm": 8.0}, [["P(Rome)", "0.0000", "0.9000"],
                                                                       ["‖ΔW‖ / ‖W‖", "", "0.1250"]]),
        ({"target_new": 0.0}, {"weight_norm": 0.0, "update_norm": 1.0}, [["P(Rome)", "0.0000", "0.9000"]]),
        ({"target_new": 0.0}, {"spill": 0.01, "losses": [[1], [2], [3]]},
         [["P(Rome)", "0.0000", "0.9000"], ["spill onto ordinary text", "", "0.0100"],
          ["evaluations of the loss", "", "3"]]),
    ],
)  # fmt: skip
def test_an_edit_of_one_fact(before: dict[str, float], row: dict[str, Any], expected: list[list[str]]) -> None:
    after = {"target_new": 0.9, "target_true": 0.1, "continuation": " Rome. "}
    edit = {"method": "rome", "layer": 3, "request": REQUEST, "before": {**before, "continuation": " France"},
            "after": after, **row}  # fmt: skip
    table = edit_table(edit)
    assert table.title == "rome at layer 3: 'Paris is in' → 'Rome'"
    found = rows(table)
    assert ["greedy continuation", "France", "Rome."] in found
    assert [own for own in found if own[0] != "greedy continuation"] == expected


def test_an_edit_of_many_facts_shows_some_and_says_how_many_more() -> None:
    from factedit.edit.show import FACTS_SHOWN

    outcome = {"target_new": 0.5, "continuation": "x"}
    facts = [{"request": {**REQUEST, "subject": f"s{n}"}, "before": outcome, "after": outcome}
             for n in range(FACTS_SHOWN + 2)]  # fmt: skip
    edit = {"method": "memit", "layer": [3, 4], "requests": len(facts), "facts": facts}
    table = edit_table(edit)
    assert table.title == f"memit at layer 3, 4: {FACTS_SHOWN + 2} facts in one edit"
    found = rows(table)
    assert len(found) == 3 * FACTS_SHOWN + 1
    assert found[0][0] == "'s0 is in' → 'Rome'"
    assert found[-1][0] == "and 2 more facts"
    few = edit_table({**edit, "facts": facts[:1], "requests": 1})
    assert len(rows(few)) == 3
    nowhere = edit_table({"method": "ice", "layer": [], "requests": 0, "facts": []})
    assert nowhere.title == "ice: 0 facts in one edit", "a text before prompts is at no layer"


def test_an_edit_of_a_model_with_experts() -> None:
    held = {"target_new": 0.5, "continuation": "x", "experts": {"1": {"0": 0.6, "2": 0.4}, "2": {"1": 1.0}}}
    other = {**held, "experts": {"1": {"0": 0.6, "3": 0.4}, "2": {"1": 0.9}}}
    edit = {"method": "rome", "layer": 1, "request": REQUEST, "before": held, "experts": {"1": {"2": 0.7, "0": 0.3}}}
    found = rows(edit_table({**edit, "after": other}))
    assert ["experts of the subject's last token", "", "others at layer 1"] in found
    assert ["written at layer 1 into", "", "2 70 %, 0 30 %"] in found
    assert ["experts of the subject's last token", "", "the same in every layer"] in rows(
        edit_table({**edit, "after": held})
    )


def test_what_is_not_in_the_scores_is_said_with_some_cases_and_a_sign_of_more() -> None:
    cases = {str(n): f"why {n}" for n in range(SHOWN + 1)}
    shown_cases = "; ".join(f"{n} (why {n})" for n in range(SHOWN))
    assert not_edited_text("kn", cases, 9) == (
        f"kn could not edit {SHOWN + 1} of 9 cases, which count as unedited: {shown_cases}; …"
    )
    assert not_edited_text("kn", {"7": "no"}, 9).endswith("unedited: 7 (no)")
    assert left_out_text("free", {"a": cases, "b": cases}, 9) == (
        f"free has no score in {SHOWN + 1} of 9 cases: {shown_cases}; …"
    )
    assert left_out_text("free", {"a": {}, "b": {"7": "no"}}, 9) == "free has no score in 1 of 9 cases under b: 7 (no)"
    assert not_executed_text("rome", {"ES": (3, 1), "NS": (0, 4)}).endswith("presuppose: ES 1 of 4, NS 4 of 4")


def test_notes_stand_in_an_order_and_only_where_there_is_something_to_say() -> None:
    fine = {"scores": {"ES": 1.0}, "tests": {"ES": [1, 0]}}
    assert notes_on_rows({"rome": {"1": fine}}) == []
    assert notes_on_rows({}) == []
    found = notes_on_rows({
        "rome": {"1": {**fine, "failed": "no"}, "2": {**fine, "left_out": {"free": "none"}}},
        "ft": {"1": {**fine, "tests": {"ES": [0, 1]}}},
    })  # fmt: skip
    assert [note.split(":")[0] for note in found] == [
        "rome could not edit 1 of 2 cases, which count as unedited", "free has no score in 1 of 2 cases", "ft",
    ]  # fmt: skip


def test_tables_of_nothing_have_a_head() -> None:
    assert markdown({}) == "| method | n |  |\n|---|---|\n"
    assert csv_text({}) == "method,n\n"
    assert rows(summary_table({"rome": {}}, title="t")) == [["rome", "0"]]


def test_a_csv_has_no_number_as_nothing_and_quotes_names() -> None:
    summary = {'a,"b"': {"ES": Estimate(math.nan, math.nan, 1), "NS": Estimate(50.0, 0.0, 3)}}
    [row] = csv.DictReader(io.StringIO(csv_text(summary)))
    assert (row["method"], row["n"]) == ('a,"b"', "3")
    assert (row["ES"], row["ES_half_width"], row["NS"], row["NS_half_width"]) == ("", "", "50.0", "0.0")


def test_a_summary_is_written_with_its_notes_and_what_it_is_of(tmp_path: Path) -> None:
    summary = {"rome": {"ES": Estimate(99.0, 1.0, 9)}}
    table = write_summary(
        summary, tmp_path, title="t", as_json={"rome": 1}, notes=["two\nlines"], about={"data": "<f>"}
    )
    assert table.title == "t (mean ± 95 % interval)"
    text = (tmp_path / "table.md").read_text()
    assert text.endswith("\n- two lines\n\n- data: &lt;f>\n")
    assert json.loads((tmp_path / "summary.json").read_text()) == {"rome": 1}
    write_summary(summary, tmp_path / "b", title="t", as_json=None)
    assert sorted(file.name for file in (tmp_path / "b").iterdir()) == ["table.csv", "table.md"]
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_summary(summary, tmp_path / "c", title="t", as_json={"x": math.nan})


# -- many facts ------------------------------------------------------------------------------------


def together(**changes: Any) -> dict[str, Any]:
    """Two facts edited in one edit, of which one is written; half of the neighbours stay."""
    held = {"continuation": " Oslo"}
    facts = [
        {"request": REQUEST, "status": "took", "why": "", "before": held, "after": held},
        {"request": {**REQUEST, "subject": "[b]"}, "status": "not written", "why": "", "before": None, "after": held},
    ]
    counts = {"took": 1, "not written": 1, "known": 0, "left out": 0, "failed": 0}
    edits = [{"requests": 2, "takes_back": 0, "update_norm": 1.0, "weight_norm": 4.0}]
    return {
        "method": "memit", "facts": facts, "counts": counts, "edits": edits, "seconds": 12.4, "wordings": [3, 4],
        "neighbours": [[8, 10], [5, 10]], "harm": None, **changes,
    }  # fmt: skip


def test_many_facts_in_words() -> None:
    assert row_in_words(together()) == (
        "memit: 2 of 2 facts edited in 1 edit (12 s).\n"
        "Written: 1 of 2 (50.0 %).\n"
        "Other wordings of them: written in 3 of 4 (75.0 %).\n"
        "Neighbours that keep their answer: 5 of 10 (50.0 %), before 8 of 10 (80.0 %).\n"
        "‖ΔW‖ / ‖W‖: 0.250."
    )


def test_what_was_not_asked_is_not_in_words() -> None:
    counts = {"took": 0, "not written": 0, "known": 2, "left out": 1, "failed": 3}
    none = {"requests": 0, "takes_back": 2, "update_norm": None, "weight_norm": None}
    text = row_in_words(together(counts=counts, edits=[none], wordings=[0, 0], neighbours=[[0, 0], [0, 0]]))
    assert text == (
        "memit: 0 of 2 facts edited in 0 edits (12 s).\nWritten: 0 of 0. Known: 2. Left out: 1. Failed: 3. Replaced: 2."
    )


def test_harm_elsewhere_in_words_of_a_model_that_is_whole_and_of_one_that_is_broken() -> None:
    before = {"panel": 100.0, "facts": 40, "perplexity": 12.34, "tokens": 900}
    told = row_in_words(together(harm=[before, {**before, "panel": 97.5, "perplexity": 13.0}])).splitlines()
    assert "Other facts that the unedited model knows: 97.5 % of 40 still answered, before 100.0 %." in told
    assert "Perplexity of the unedited model's own text (900 tokens): 13.00, before 12.34." in told
    broken = row_in_words(together(harm=[before, {**before, "panel": 0.0, "perplexity": None}]))
    assert "own text (900 tokens): not a number, before 12.3" in broken
    nothing = {"panel": None, "facts": 0, "perplexity": None, "tokens": 0}
    assert row_in_words(together(harm=[nothing, nothing])) == row_in_words(together())


def test_facts_that_did_not_take_are_listed_with_the_reason_or_what_is_written() -> None:
    odd = {"request": REQUEST, "status": "failed", "why": "No value.", "before": {"continuation": "x"}, "after": None}
    left = {"request": REQUEST, "status": "left out", "why": "", "before": None, "after": None}
    table = facts_table(together(facts=[*together()["facts"], odd, left]))
    assert rows(table) == [
        ["[b] is in → Rome", "not written", "Oslo"], ["Paris is in → Rome", "failed", "No value."],
        ["Paris is in → Rome", "left out", ""],
    ]  # fmt: skip
    assert table.title == "Facts that did not take or were left out"
    many = facts_table(together(facts=[odd] * 25))
    assert len(rows(many)) == 20
    assert str(many.title).endswith(", the first 20 of 25")
    assert rows(facts_table(together(facts=[]))) == []


def test_a_long_prompt_does_not_stretch_a_table() -> None:
    request = {**REQUEST, "prompt": "Once " * 400 + "{} is in"}
    odd = {"request": request, "status": "failed", "why": "No value.", "before": None, "after": None}
    lost = {"request": request, "written": False, "recorded": True, "continuation": "Oslo"}
    for said in (rows(facts_table(together(facts=[odd])))[0][0], rows(checked_table([lost]))[0][1]):
        assert len(said) == 100
        assert said.startswith("Once Once")
        assert said.endswith("Paris is in → Rome")


def test_facts_of_a_folder_that_are_no_longer_written() -> None:
    def fact(written: bool, recorded: bool | None) -> dict[str, Any]:
        return {"request": REQUEST, "written": written, "recorded": recorded, "continuation": " Oslo "}

    checked = [fact(True, True), fact(False, True), fact(False, None), fact(False, False)]
    assert rows(checked_table(checked)) == [
        ["1", "Paris is in → Rome", "written", "Oslo"], ["2", "Paris is in → Rome", "not measured", "Oslo"],
        ["3", "Paris is in → Rome", "not written", "Oslo"],
    ]  # fmt: skip
    assert checked_words(checked) == "Written: 1 of 4 (25.0 %). Written when their edit was made, and no longer: 1."
    assert checked_words([]) == "Written: 0 of 0. Written when their edit was made, and no longer: 0."
    assert str(checked_table([fact(False, True)] * 21).title).endswith(", the first 20 of 21")


def test_trials_in_a_table() -> None:
    row = {"candidate": "memit", "written": 95.83, "wordings": None, "neighbours_lost": -1.25, "panel_lost": 0.0,
           "perplexity_up": 0.0123, "seconds": 59.6, "failed": ""}  # fmt: skip
    failed = {**dict.fromkeys(row), "candidate": "alphaedit", "seconds": 0.4, "failed": "no null space"}
    assert rows(trials_table([row, failed])) == [
        ["memit", "95.8", "–", "-1.2", "0.0", "+1.2%", "60", ""],
        ["alphaedit", "–", "–", "–", "–", "–", "0", "no null space"],
    ]


# -- figures ---------------------------------------------------------------------------------------

NAME = WRITTEN


def evaluation(summary: dict[str, dict[str, Estimate]], written: dict[str, list[float]]) -> Any:
    """An evaluation of memit on 10 and 20 facts, as `many_figure` reads it."""
    settings: dict[str, Any] = {UNEDITED: {"method": UNEDITED}}
    settings |= {f"memit, {n}": {"method": "memit", "regime": {"sequence": 5, "count": n}} for n in (10, 20)}
    results = {
        row: {str(n): {"scores": {NAME: own}} for n, own in enumerate(values)} for row, values in written.items()
    }
    return SimpleNamespace(settings=settings, summary={UNEDITED: {}} | summary, results=results)


def test_a_row_that_lacks_a_score_is_no_point_of_it() -> None:
    """Where a model is broken its scores are no numbers, and the row has none of them."""
    found = evaluation(
        {"memit, 10": {NAME: Estimate(90.0, 1.0, 9)}, "memit, 20": {"perplexity": Estimate(1e9, math.nan, 1)}},
        {"memit, 20": [100.0] * 19 + [math.nan], "memit, 10": [100.0] * 10},
    )
    figure = many_figure(found, model="m")
    assert figure is not None
    by_title = {axes.get_title(): axes for axes in figure.axes}
    [line] = [own for own in by_title["written by itself, %"].lines if own.get_label() != UNEDITED]
    assert (list(line.get_xdata()), list(line.get_ydata())) == ([10], [90.0])
    assert figure.get_suptitle() == "m: 9 facts scored per point; bands: 95 % intervals"
    [age] = by_title["written, by age: oldest facts left, %"].lines
    np.testing.assert_allclose(np.asarray(age.get_ydata(), dtype=float), [100.0] * 10)


def test_what_is_written_by_age_is_drawn_only_where_it_was_measured() -> None:
    sizes = {f"memit, {n}": {"perplexity": Estimate(20.0, math.nan, 1)} for n in (10, 20)}
    figure = many_figure(evaluation(sizes, {}))
    assert figure is not None
    assert not [axes for axes in figure.axes if "by age" in axes.get_title()]
    assert many_figure(evaluation({f"memit, {n}": {} for n in (10, 20)}, {})) is None, "nothing to draw"


def test_layers_of_nothing_are_refused_and_points_are_told_for_machines() -> None:
    legs = Legs("ES", "PS", "NS")
    with pytest.raises(UsageError, match="There is no layer to draw; evaluate at least one"):
        layers_figure({}, unedited={}, model="m", legs=legs)
    points = {("last", n): dict.fromkeys(legs, Estimate(n, math.nan, 1)) for n in (7, 5)}
    assert curve_of(points, "last", "ES") == ([5, 7], [Estimate(5, math.nan, 1), Estimate(7, math.nan, 1)])
    assert curve_of(points, "subject_last", "ES") == ([], [])
    told = layers_as_json(points)
    assert [(row["token"], row["layer"], row["ES"][0], row["ES"][2]) for row in told] == [
        ("last", 7, 7, 1),
        ("last", 5, 5, 1),
    ]
    figure = layers_figure(points, unedited=dict.fromkeys(legs, Estimate(1, math.nan, 1)), model="m", legs=legs)
    assert [list(axes.lines[0].get_ydata()) for axes in figure.axes] == [[5, 7]] * 3


def test_the_edited_layers_are_framed_and_named_in_the_title() -> None:
    figure = trace_figure(traced(("mlp",)), edited=(1, 2))
    heat = figure.axes[0]
    assert [(patch.get_x(), patch.get_height()) for patch in heat.patches] == [(1, 5), (2, 5)]
    assert figure.get_suptitle().endswith(",\nframed: the edited layer 1, 2")
    assert "framed" not in trace_figure(traced()).get_suptitle()
    swapped = trace_figure(traced(other_subject="c")).get_suptitle()
    assert "in place of another subject, c" in swapped
    assert "noise samples" not in swapped


@pytest.mark.parametrize(
    ("zero", "least", "most", "at", "shade"),
    [
        (0.0, -1.0, 3.0, 0.0, 0.5),
        (0.0, -1.0, 3.0, 3.0, 1.0),
        (0.0, -1.0, 3.0, -3.0, 0.0),
        (0.2, 0.2, 0.2, 0.2, 0.5),
        (0.0, -3.0, 1.0, -3.0, 0.0),
        (0.0, -3.0, 1.0, 1.0, 2 / 3),
    ],
)
def test_white_is_the_corrupted_run(zero: float, least: float, most: float, at: float, shade: float) -> None:
    assert float(white_at(zero, least, most)(at)) == pytest.approx(shade)
    assert map_of("mlp")(0.5)[:3] == pytest.approx((1.0, 1.0, 1.0), abs=0.01)
    assert map_of("of a stranger")(1.0) != map_of("mlp")(1.0)


# -- arrays and the case study ---------------------------------------------------------------------


def test_traces_as_arrays_hold_what_was_measured(tmp_path: Path) -> None:
    traces = {"a/b": traced(), "7": traced(("mlp",))}
    write_arrays(traces, tmp_path / "t.npz")
    with np.load(tmp_path / "t.npz") as found:
        assert sorted(found) == sorted([
            "a/b/hidden", "a/b/mlp", "a/b/tokens", "a/b/subject_range", "a/b/effects", "7/mlp", "7/tokens",
            "7/subject_range", "7/effects",
        ])  # fmt: skip
        np.testing.assert_allclose(found["7/mlp"][3], [0.3, 0.31, 0.32])
        assert found["a/b/effects"].tolist() == [0.9, 0.05]
    write_arrays(traces, tmp_path / "t.csv")
    table = list(csv.DictReader(io.StringIO((tmp_path / "t.csv").read_text())))
    assert len(table) == 3 * 5 * 3
    assert {row["fact"] for row in table} == {"a/b", "7"}


@pytest.mark.parametrize("name", ["t.txt", "t", "t.npz.gz"])
def test_other_kinds_of_arrays_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match=r"Arrays can be written as \.npz, \.csv, \.parquet, not"):
        check_arrays(Path(name))


def study_record(new: str, true: str | None) -> FactRecord:
    return FactRecord(case_id="1", request=EditRequest(subject="S", prompt="{} is", target_new=new, target_true=true))


@pytest.mark.parametrize(
    ("new", "true", "text", "expected"),
    [
        ("New York", "New York City", "in New York City.", [("", "in "), ("true", "New York City"), ("", ".")]),
        ("New York City", "New York", "New York City, New York",
         [("new", "New York City"), ("", ", "), ("true", "New York")]),
        ("Rome", None, "RomeRome", [("new", "Rome"), ("new", "Rome")]),
        ("Rome", "", "a", [("", "a")]),
    ],
)  # fmt: skip
def test_of_two_objects_that_begin_alike_the_longer_is_marked(
    new: str, true: str | None, text: str, expected: list[tuple[str, str]]
) -> None:
    assert marked(text, study_record(new, true)) == expected
    assert "".join(part for _, part in marked(text, study_record(new, true))) == text


def test_a_study_shows_every_prompt_with_every_methods_text() -> None:
    record = study_record("Rome", "Oslo")
    case = CaseTexts(record, ("p0", "p1"), {"unedited": ("Oslo a", "b"), "ft|<i>": ("Rome c", "d")})
    page = render([case, case], model="m", tokens=7)
    assert page.count("<h2>S is → Rome</h2>") == 2
    assert page.count("<h3>p1</h3>") == 2
    first = page.split("<h3>p0</h3>")[1].split("<h3>")[0]
    assert '<span class="true">Oslo</span> a' in first
    assert '<span class="new">Rome</span> c' in first
    assert "ft|&lt;i&gt;" in first
    assert "(7 tokens)" in page
