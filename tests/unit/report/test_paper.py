"""The paper's tables: its columns, marks and numbers; verdicts from intervals, not from means."""

from __future__ import annotations

import csv
import io
import math

import pytest

from factedit.evaluate.benchmark import Legs
from factedit.evaluate.benchmarks.counterfact import COUNTERFACT
from factedit.evaluate.benchmarks.zsre import ZSRE
from factedit.evaluate.compare import Comparison
from factedit.evaluate.compare import compare as compare_by_record
from factedit.evaluate.estimates import Estimate
from factedit.report.paper import csv_text, markdown
from factedit.report.verdict import Verdict, verdicts, verdicts_in_words


def row(es: float, ps: float, ns: float, half: float = 2.0, n: int = 100, **rest: float) -> dict[str, Estimate]:
    s = 3 / (1 / es + 1 / ps + 1 / ns)
    values = {"S": s, "ES": es, "PS": ps, "NS": ns, **rest}
    return {name: Estimate(value, half, n) for name, value in values.items()}


SUMMARY = {
    "unedited": row(22.0, 25.0, 78.0),
    "ft": row(99.5, 88.0, 40.5, seconds_per_edit=1.5),
    "ft-l": row(97.0, 48.0, 70.0),
    "kn": row(29.0, 28.0, 73.0),
    "mend-cf": row(100.0, 97.0, 5.5),
    "rome": row(100.0, 96.0, 76.0),
}


def compare(rows: dict[str, list[dict[str, float]]]) -> Comparison:
    """As `compare`, records by their place in a list."""
    return compare_by_record({m: dict(enumerate(own)) for m, own in rows.items()}, COUNTERFACT.headline)  # type: ignore[arg-type]


def unpaired(summary: dict[str, dict[str, Estimate]]) -> Comparison:
    """Differences of the means, their intervals those of the means."""
    base, edited = summary["unedited"], {m: r for m, r in summary.items() if m != "unedited"}
    change = {
        m: {k: Estimate(r[k].value - base[k].value, r[k].half_width, r[k].n) for k in r if k in base}
        for m, r in edited.items()
    }
    if not all("S" in r for r in edited.values()) or not edited:
        return Comparison(change, {})
    best = max(edited, key=lambda m: edited[m]["S"].value)
    top = edited[best]["S"].value
    behind = {m: Estimate(top - r["S"].value, r["S"].half_width, r["S"].n) for m, r in edited.items()}
    return Comparison(change, behind, best)


def judged(summary: dict[str, dict[str, Estimate]], legs: Legs = COUNTERFACT.legs) -> dict[str, Verdict]:
    return verdicts(summary, unpaired(summary), legs)


def test_the_papers_own_numbers_get_the_papers_own_verdicts() -> None:
    found = {m: (v.efficacy, v.generalisation, v.specificity) for m, v in judged(SUMMARY).items()}
    assert found == {
        "ft": ("strong", "strong", "harmed"),
        "ft-l": ("strong", "weak", "harmed"),
        "kn": ("weak", "weak", "harmed"),
        "mend-cf": ("strong", "strong", "collapsed"),
        "rome": ("strong", "strong", "kept"),
    }


def test_few_records_decide_nothing() -> None:
    """The same means with wide intervals: no strong, no weak, nothing harmed."""
    for half, n in ((80.0, 50), (0.0, 9), (math.nan, 1)):
        few = {m: row(*(r[k].value for k in ("ES", "PS", "NS")), half=half, n=n) for m, r in SUMMARY.items()}
        level = "middling" if n >= 10 else "undecided"
        for verdict in judged(few).values():
            assert (verdict.efficacy, verdict.generalisation) == (level, level)
            assert verdict.specificity == "undecided"
            assert (" not decided efficacy (" in verdict.words) == (n < 10)


def test_all_records_alike_are_not_certainty() -> None:
    """20 successes of 20: the rate may still be 85 %."""
    for n, level in ((20, "middling"), (40, "strong")):
        same = {"unedited": row(20.0, 20.0, 78.0, n=n), "m": row(100.0, 96.0, 78.0, half=0.0, n=n)}
        assert judged(same)["m"].efficacy == level


def test_words_carry_the_numbers_and_the_ties() -> None:
    said = verdicts_in_words(SUMMARY, unpaired(SUMMARY), COUNTERFACT)
    assert "rome: strong efficacy (100.0 ±2.0)" in said
    assert "mend-cf: strong efficacy" in said
    assert "other facts collapse: 5.5 ±2.0 of 78.0 ±2.0" in said
    assert "Best S: rome" in said
    assert "apart from all others" in said
    two = {**SUMMARY, "rome-original": row(100.0, 95.0, 75.0)}
    alone = {m: SUMMARY[m] for m in ("unedited", "rome")}
    assert verdicts_in_words(alone, unpaired(alone), COUNTERFACT).endswith("- S: 89.4 ±2.0.\n"), "apart from nobody"
    tied = verdicts_in_words(two, unpaired(two), COUNTERFACT)
    assert "not to be told apart at this n: rome-original" in tied
    assert (
        verdicts_in_words({"unedited": SUMMARY["unedited"]}, Comparison({}, {}), COUNTERFACT)
        == "No method has the scores that a verdict needs.\n"
    )


def test_methods_are_compared_record_by_record() -> None:
    """Every record loses three points: certain, though the means' intervals overlap; and S, always a little behind."""
    before = [{"ES": 20.0, "PS": 20.0, "NS": float(n % 10) * 10} for n in range(100)]
    first = [{"ES": 100.0, "PS": 90.0, "NS": row["NS"] - 3 * (n % 2)} for n, row in enumerate(before)]
    second = [{"ES": 100.0, "PS": 88.0, "NS": row["NS"]} for row in first]
    third = [{"ES": 100.0, "PS": 90.0 + 20 * (-1) ** n, "NS": row["NS"]} for n, row in enumerate(first)]
    found = compare({"unedited": before, "first": first, "second": second, "third": third})
    change = found.change["first"]["NS"]
    assert change.value == pytest.approx(-1.5)
    assert change.half_width == pytest.approx(1.96 * 1.5 * (100 / 99) ** 0.5 / 10, rel=1e-3)
    assert found.best == "first"
    assert found.behind["second"].value > found.behind["second"].half_width > 0, "apart"
    assert found.behind["third"].half_width > abs(found.behind["third"].value), "not to be told apart"
    assert "unedited" not in found.behind


def test_records_that_lack_a_score_are_left_out_for_all() -> None:
    one = [{"ES": 100.0, "PS": 90.0, "NS": ns} for ns in (50.0, math.nan, 70.0)]
    two = [{"ES": 100.0, "PS": 90.0, "NS": ns} for ns in (60.0, math.nan, 80.0)]
    found = compare({"unedited": one, "a": two, "b": one})
    assert (found.best, found.behind["b"].n) == ("a", 2)
    assert found.change["a"]["NS"] == Estimate(10.0, 0.0, 2)
    assert compare({"unedited": one[1:2], "a": two[1:2]}).best is None


@pytest.mark.parametrize(
    ("change", "half", "level"),
    [
        (-2.0, 2.5, "kept"),
        (-2.0, 1.0, "kept"),
        (-4.5, 1.0, "harmed"),
        (-8.0, 6.0, "harmed"),
        (3.0, 1.0, "kept"),
        (9.0, 3.0, "raised"),
        (-20.0, 25.0, "undecided"),
    ],
)
def test_what_a_change_of_other_facts_is_called(change: float, half: float, level: str) -> None:
    comparison = Comparison({"m": {"NS": Estimate(change, half, 100)}}, {})
    summary = {"unedited": row(22.0, 25.0, 78.0), "m": row(99.0, 96.0, 78.0 + change, half=4.0)}
    verdict = verdicts(summary, comparison, COUNTERFACT.legs)["m"]
    assert verdict.specificity == level
    assert f"{change:+.1f} ±{half:.1f} to the unedited model" in verdict.words


def test_zsre_has_its_own_names() -> None:
    names = ("efficacy", "paraphrase", "specificity")
    summary = {
        "unedited": {n: Estimate(v, 1.0, 50) for n, v in zip(names, (22.0, 21.0, 24.0), strict=True)},
        "ft-l": {n: Estimate(v, 1.0, 50) for n, v in zip(names, (92.0, 47.0, 23.0), strict=True)},
    }
    verdict = judged(summary, ZSRE.legs)["ft-l"]
    assert (verdict.efficacy, verdict.generalisation, verdict.specificity) == ("strong", "weak", "kept")
    text = markdown(ZSRE, summary, unpaired(summary), model="tiny", memory={"unedited": 1.0, "ft-l": 2.0}, notes={})
    assert "| editor | n | efficacy | paraphrase | specificity | seconds per edit | peak MB |" in text
    assert "| *ft-l (GPT-2 XL, published)* |  | 92.3 | 47.2 | 23.4 |" in text


def test_the_table_marks_the_best_and_the_failures() -> None:
    memory = dict.fromkeys(SUMMARY, 1234.0)
    text = markdown(
        COUNTERFACT, SUMMARY, unpaired(SUMMARY), model="tiny", memory=memory, notes={"command": "`factedit …`"}
    )
    lines = {line.split(" | ")[0].strip("| "): line for line in text.splitlines() if line.startswith("|")}
    assert lines["tiny"].startswith("| tiny | 100 |"), "the unedited model carries the model's name"
    assert "**76.0 ±2.0**" in lines["rome"]
    assert "22.0 ±2.0" in lines["tiny"]
    assert "**" not in lines["tiny"]
    assert "5.5 ±2.0 (!)" in lines["mend-cf"]
    assert "48.0 ±2.0 (!)" in lines["ft-l"]
    assert "| 1.50 | 1234 |" in lines["ft"]
    assert lines["*rome (GPT-2 XL, published)*"] == (
        "| *rome (GPT-2 XL, published)* |  | 89.2 | 100.0 | 96.4 | 75.4 | – | – |"
    ), "only the columns that ours have, in the paper's order"
    assert "- command: `factedit …`" in text


def test_published_rows_are_harmonic_means() -> None:
    """The published S follows from the published ES, PS, NS (to their rounding): a check against typing errors."""
    table = COUNTERFACT
    assert len(table.published) == 14
    for row in table.published:
        shown = dict(zip(table.columns, row.values, strict=True))
        s = 3 / sum(1 / shown[name] for name in ("ES", "PS", "NS"))
        assert s == pytest.approx(shown["S"], abs=0.15), row


def test_csv_has_the_same_rows() -> None:
    rows = list(
        csv.DictReader(io.StringIO(csv_text(COUNTERFACT, SUMMARY, model="tiny", memory=dict.fromkeys(SUMMARY, 7.0))))
    )
    assert len(rows) == len(SUMMARY) + len(COUNTERFACT.published)
    [own] = [r for r in rows if (r["model"], r["editor"]) == ("tiny", "rome")]
    assert float(own["NS"]) == 76.0
    assert float(own["NS_half_width"]) == 2.0
    [theirs] = [r for r in rows if (r["model"], r["editor"]) == ("GPT-2 XL, published", "rome")]
    assert float(theirs["NS"]) == 75.4
