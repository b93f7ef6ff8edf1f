"""Scores against the number of facts: which rows are points, what is drawn at them, what is written by age."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from factedit.evaluate.benchmark import UNEDITED
from factedit.evaluate.estimates import Estimate
from factedit.report.figures_many import (
    BINS,
    WRITTEN,
    Point,
    ages_of,
    many_figure,
    pictures,
    points_of,
    write_many_figure,
)  # fmt: skip

NAME = WRITTEN


def scores(value: float) -> dict[str, Estimate]:
    return {NAME: Estimate(value, 1.0, 9), "perplexity": Estimate(value / 10, 0.1, 9)}


def evaluation(**more: Any) -> Any:
    """Rows at once and in sequence, of one and of several facts."""
    settings = {
        UNEDITED: {"method": UNEDITED},
        "rome": {"method": "rome"},
        "memit, 100 at once": {"method": "memit", "regime": {"joint": 100}},
        "memit, 10 at once": {"method": "memit", "regime": {"joint": 10}},
        "memit, 20 in batches of 5": {"method": "memit", "regime": {"sequence": 5, "count": 20}},
    }
    written = [100.0] * 10 + [0.0] * 10
    results = {"memit, 20 in batches of 5": {str(n): {"scores": {NAME: own}} for n, own in enumerate(written)}}
    summary = {row: scores(50.0 + n) for n, row in enumerate(settings)}
    return SimpleNamespace(settings=settings, summary=summary, results=results, **more)


def test_rows_of_edits_that_are_on_one_model_are_points() -> None:
    found = points_of(evaluation().settings)
    assert [(p.method, p.regime, p.facts) for p in found] == [
        ("memit", "at once", 10), ("memit", "by 5", 20), ("memit", "at once", 100),
    ]  # fmt: skip


def test_a_line_per_method_and_regime_and_what_is_written_by_age() -> None:
    figure = many_figure(evaluation())
    assert figure is not None
    first = figure.axes[0]
    drawn = {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in first.get_lines()}
    assert drawn["memit, at once"] == ([10, 100], [53.0, 52.0])
    assert drawn["memit, by 5"] == ([20], [54.0])
    assert set(drawn[UNEDITED][1]) == {50.0}
    age = next(axes for axes in figure.axes if axes.get_title().startswith("written, by age"))
    [line] = age.get_lines()
    np.testing.assert_allclose(line.get_ydata(), [100.0] * (BINS // 2) + [0.0] * (BINS // 2))
    limits = {axes.get_title(): axes.get_ylim() for axes in figure.axes}
    assert limits["written by itself, %"] == (-3, 103)
    assert limits["perplexity of the unedited model's text"][1] < 20, "no percentage"


def test_the_longest_sequence_of_a_line_is_told_by_age_in_tenths() -> None:
    short, long = (Point("memit", "by 5", count, f"memit, {count}") for count in (20, 40))
    written = [float(n < 12) for n in range(40)]
    cases = {
        short.row: {str(n): {"scores": {NAME: 0.5}} for n in range(20)},
        long.row: {str(n): {"scores": {NAME: own}} for n, own in enumerate(written)},
    }
    [own] = ages_of([short, long], cases)
    assert own[:4] == long
    assert own.written == tuple(np.mean(written[n : n + 4]) for n in range(0, 40, 4))
    assert own.at == tuple(np.linspace(0, 100, BINS))


def test_what_was_not_written_down_is_no_number_and_no_line_is_made_of_nothing() -> None:
    point, once = Point("memit", "by 5", 20, "row"), Point("memit", "at once", 20, "row")
    holes = {"row": {str(n): {"scores": {NAME: 1.0} if n % 2 else {}} for n in range(10)} | {"failed": {"failed": "?"}}}
    [own] = ages_of([point], holes)
    assert [np.isnan(value) for value in own.written] == [n % 2 == 0 for n in range(10)]
    nothing = {"row": {str(n): {"scores": {}} for n in range(20)}}
    assert ages_of([point], nothing) == ages_of([once], holes) == []
    assert ages_of([Point("memit", "by 5", BINS - 1, "row")], holes) == [], "too few facts to have ages"


def test_a_picture_of_every_score_that_a_row_has() -> None:
    """Percentages from 0 to 100; of how far the matrices moved the unedited model has nothing to compare with."""
    shown = pictures([{"perplexity", "unknown"}, {"moved", "NS"}, {"free", "S", "panel", "perplexity"}])
    assert [picture.score for picture in shown] == ["free", "S", "NS", "panel", "perplexity", "moved"]
    assert {picture.score for picture in shown if not picture.percent} == {"perplexity", "moved"}
    assert [picture.score for picture in shown if not picture.unedited] == ["moved"]
    assert pictures([]) == pictures([{"unknown"}]) == []


def test_the_unedited_model_is_a_line_where_there_is_something_to_compare() -> None:
    moved = evaluation()
    moved.summary = {row: own | {"moved": Estimate(0.5, 0.0, 9)} for row, own in moved.summary.items()}
    figure = many_figure(moved)
    assert figure is not None
    labels = {axes.get_title(): {line.get_label() for line in axes.get_lines()} for axes in figure.axes}
    assert UNEDITED in labels["perplexity of the unedited model's text"]
    assert UNEDITED not in labels["‖ΔW‖ / ‖W‖"]


def test_without_such_rows_there_is_no_figure(tmp_path: Path) -> None:
    alone = evaluation()
    alone.settings = {row: own for row, own in alone.settings.items() if "regime" not in own}
    assert many_figure(alone) is None
    assert write_many_figure(alone, tmp_path) is None
    assert list(tmp_path.iterdir()) == []
    assert write_many_figure(evaluation(), tmp_path) == tmp_path / "many.png"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["many.png", "many.svg"]
