"""The paper's tables: its columns, marks and numbers; verdicts from intervals, not from means."""

from __future__ import annotations

import csv
import io
import math

import pytest

from factedit.evaluate.metrics import Estimate
from factedit.report.paper import PUBLISHED_MODEL, TABLES, csv_text, markdown
from factedit.report.verdict import in_words, verdicts


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


def test_the_papers_own_numbers_get_the_papers_own_verdicts() -> None:
    found = {m: (v.efficacy, v.generalisation, v.specificity) for m, v in verdicts(SUMMARY).items()}
    assert found == {
        "ft": ("strong", "strong", "harmed"),
        "ft-l": ("strong", "weak", "harmed"),
        "kn": ("weak", "weak", "harmed"),
        "mend-cf": ("strong", "strong", "collapsed"),
        "rome": ("strong", "strong", "kept"),
    }


def test_few_records_decide_nothing() -> None:
    """The same means with wide intervals: no strong, no weak, nothing harmed."""
    wide = {m: row(*(r[k].value for k in ("ES", "PS", "NS")), half=45.0, n=3) for m, r in SUMMARY.items()}
    for verdict in verdicts(wide).values():
        assert "strong" not in (verdict.efficacy, verdict.generalisation)
        assert verdict.specificity in ("kept", "collapsed" if verdict.method == "never" else "kept")
    one = {m: row(*(r[k].value for k in ("ES", "PS", "NS")), half=math.nan, n=1) for m, r in SUMMARY.items()}
    assert {v.efficacy for v in verdicts(one).values()} == {"middling"}


def test_words_carry_the_numbers_and_the_ties() -> None:
    said = in_words(SUMMARY)
    assert "rome: strong efficacy (100.0 ±2.0)" in said
    assert "mend-cf: strong efficacy" in said
    assert "other facts collapse: 5.5 ±2.0 of 78.0 ±2.0" in said
    assert "Best S: rome" in said
    assert "apart from all others" in said
    tied = in_words({**SUMMARY, "rome-original": row(100.0, 95.0, 75.0)})
    assert "not to be told apart at this n: rome-original" in tied
    assert in_words({"unedited": SUMMARY["unedited"]}) == "No method has the scores that a verdict needs.\n"


def test_zsre_has_its_own_names() -> None:
    names = ("efficacy", "paraphrase", "specificity")
    summary = {
        "unedited": {n: Estimate(v, 1.0, 50) for n, v in zip(names, (22.0, 21.0, 24.0), strict=True)},
        "ft-l": {n: Estimate(v, 1.0, 50) for n, v in zip(names, (92.0, 47.0, 23.0), strict=True)},
    }
    verdict = verdicts(summary)["ft-l"]
    assert (verdict.efficacy, verdict.generalisation, verdict.specificity) == ("strong", "weak", "kept")
    text = markdown("zsre", summary, model="tiny", memory={"unedited": 1.0, "ft-l": 2.0}, notes={})
    assert "| editor | n | efficacy | paraphrase | specificity | seconds per edit | peak MB |" in text
    assert f"| *ft-l ({PUBLISHED_MODEL})* |  | 92.3 | 47.2 | 23.4 |" in text


def test_the_table_marks_the_best_and_the_failures() -> None:
    memory = dict.fromkeys(SUMMARY, 1234.0)
    text = markdown("counterfact", SUMMARY, model="tiny", memory=memory, notes={"command": "`factedit …`"})
    lines = {line.split(" | ")[0].strip("| "): line for line in text.splitlines() if line.startswith("|")}
    assert lines["tiny"].startswith("| tiny | 100 |"), "the unedited model carries the model's name"
    assert "**76.0 ±2.0**" in lines["rome"]
    assert "22.0 ±2.0" in lines["tiny"]
    assert "**" not in lines["tiny"]
    assert "5.5 ±2.0 (!)" in lines["mend-cf"]
    assert "48.0 ±2.0 (!)" in lines["ft-l"]
    assert "| 1.50 | 1234 |" in lines["ft"]
    assert lines[f"*rome ({PUBLISHED_MODEL})*"] == (
        f"| *rome ({PUBLISHED_MODEL})* |  | 89.2 | 100.0 | 96.4 | 75.4 | – | – |"
    ), "only the columns that ours have, in the paper's order"
    assert "- command: `factedit …`" in text


def test_published_rows_are_harmonic_means() -> None:
    """The published S follows from the published ES, PS, NS (to their rounding): a check against typing errors."""
    table = TABLES["counterfact"]
    for method, values in table.published.items():
        shown = dict(zip(table.columns, values, strict=False))
        s = 3 / sum(1 / shown[name] for name in ("ES", "PS", "NS"))
        assert s == pytest.approx(shown["S"], abs=0.15), method


def test_csv_has_the_same_rows() -> None:
    rows = list(
        csv.DictReader(io.StringIO(csv_text("counterfact", SUMMARY, model="tiny", memory=dict.fromkeys(SUMMARY, 7.0))))
    )
    assert len(rows) == len(SUMMARY) + len(TABLES["counterfact"].published)
    [own] = [r for r in rows if (r["model"], r["editor"]) == ("tiny", "rome")]
    assert float(own["NS"]) == 76.0
    assert float(own["NS_half_width"]) == 2.0
    [theirs] = [r for r in rows if (r["model"], r["editor"]) == (PUBLISHED_MODEL, "rome")]
    assert float(theirs["NS"]) == 75.4
