"""Scores against the number of facts on one model: a small picture per score, a line per method, 95 % bands."""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from factedit.evaluate.benchmark import UNEDITED
from factedit.evaluate.benchmarks.table import all_benchmarks
from factedit.evaluate.estimates import Estimate
from factedit.evaluate.metrics.free import Free
from factedit.evaluate.run import Evaluation
from factedit.evaluate.whole import MOVED, PANEL, PERPLEXITY
from factedit.report.colours import LINES
from factedit.report.figures import write_figure

BINS = 10  # of age


class Picture(NamedTuple):
    """A score that is drawn against the number of facts.

    Attributes:
        score: its name.
        title: over the picture.
        percent: it goes from 0 to 100.
        unedited: the unedited model has a value to compare with.
    """

    score: str
    title: str
    percent: bool = True
    unedited: bool = True


[WRITTEN] = [column.name for column in Free.columns]
OF_A_MODEL = (  # whatever the benchmark
    Picture(PANEL, "other facts still answered, %"),
    Picture(PERPLEXITY, "perplexity of the unedited model's text", percent=False),
    Picture(MOVED, "‖ΔW‖ / ‖W‖", percent=False, unedited=False),
)


class Point(NamedTuple):
    """A row of edits that are on one model.

    Attributes:
        method: its name.
        regime: `at once`, or the step of a sequence in words.
        facts: on the model.
        row: the row's name.
    """

    method: str
    regime: str
    facts: int
    row: str


def points_of(rows: Mapping[str, Mapping[str, Any]]) -> list[Point]:
    """Return the rows of edits that are on one model together, fewest facts first, given every row's settings."""
    points = []
    for row, settings in rows.items():
        regime: Mapping[str, Any] = settings.get("regime") or {}
        if "joint" in regime:
            points.append(Point(settings["method"], "at once", int(regime["joint"]), row))
        elif "sequence" in regime:
            points.append(Point(settings["method"], f"by {regime['sequence']}", int(regime["count"]), row))
    return sorted(points, key=lambda point: point.facts)


def write_many_figure(evaluation: Evaluation, folder: Path, *, model: str = "") -> Path | None:
    """Write `many.png` and `many.svg`; None where no row is of edits that are on one model together.

    Args:
        evaluation: its rows are drawn.
        folder: where to.
        model: its name, for the title.

    Raises:
        ResourceError: the files cannot be written.
    """
    figure = many_figure(evaluation, model=model)
    if figure is None:
        return None
    for suffix in (".svg", ".png"):
        write_figure(figure, folder / f"many{suffix}")
    return folder / "many.png"


def many_figure(evaluation: Evaluation, *, model: str = "") -> Figure | None:
    """Return every score against the number of facts, and of sequences what is still written by age; None without such
    rows, or where none of the scores that are shown was measured.

    The unedited model's value is a dotted line.
    """
    points = points_of(evaluation.settings)
    if not points:
        return None
    shown = pictures(evaluation.summary[point.row] for point in points)
    if not shown:
        return None
    lines = list(dict.fromkeys((point.method, point.regime) for point in points))
    first = shown[0].score
    by_age = ages_of(points, evaluation.results) if first == WRITTEN else []
    count = len(shown) + bool(by_age)
    columns = min(4, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(3.1 * columns, 2.5 * rows + 0.4), layout="constrained")
    grid = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes, picture in zip(grid, shown, strict=False):
        _against_facts(axes, picture, evaluation, points, lines)
    if by_age:
        _by_age(grid[len(shown)], by_age, lines)
    for axes in grid[count:]:
        axes.set_axis_off()
    scored = sorted({row[first].n for row in (evaluation.summary[p.row] for p in points) if first in row})
    whose = f"{model}: " if model else ""
    figure.suptitle(f"{whose}{', '.join(map(str, scored))} facts scored per point; bands: 95 % intervals", fontsize=8)
    handles, names = grid[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=min(4, len(names)), fontsize=7, frameon=False)
    return figure


def pictures(rows: Iterable[Container[str]]) -> list[Picture]:
    """Return the pictures of scores that some row has: what is written, the benchmarks' headlines and legs, those of a
    model.
    """
    benchmarks, there = all_benchmarks().values(), list(rows)
    of_benchmarks = [name for b in benchmarks for name in (*([b.headline.name] if b.headline else ()), *b.legs)]
    every = (Picture(WRITTEN, "written by itself, %"), *(Picture(name, name) for name in of_benchmarks), *OF_A_MODEL)
    return [picture for picture in dict.fromkeys(every) if any(picture.score in row for row in there)]


def _against_facts(
    axes: Axes, picture: Picture, evaluation: Evaluation, points: list[Point], lines: list[tuple[str, str]]
) -> None:
    name = picture.score
    before = evaluation.summary[UNEDITED].get(name)
    if before is not None and picture.unedited:
        axes.axhline(before.value, color="#777777", linewidth=0.9, linestyle=":", label="unedited")
    for colour, line in zip(_colours(lines), lines, strict=True):
        on_line = [p for p in points if (p.method, p.regime) == line and name in evaluation.summary[p.row]]
        values = [evaluation.summary[point.row][name] for point in on_line]
        _line(axes, [point.facts for point in on_line], values, colour, f"{line[0]}, {line[1]}")
    axes.set_xscale("log")
    at = sorted({point.facts for point in points})
    axes.set_xticks(at, [str(n) for n in at])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("facts on the model", fontsize=7)
    if picture.percent:
        axes.set_ylim(-3, 103)
    axes.set_title(picture.title, fontsize=8)
    axes.tick_params(labelsize=7)


def _line(axes: Axes, at: list[int], values: list[Estimate], colour: str, label: str) -> None:
    middle = np.array([value.value for value in values])
    half = np.nan_to_num(np.array([value.half_width for value in values]))
    axes.plot(at, middle, color=colour, label=label, linewidth=1.4, marker="o", markersize=2.6)
    axes.fill_between(at, middle - half, middle + half, color=colour, alpha=0.15, linewidth=0)


class Ages(NamedTuple):
    """What the longest sequence of a method still writes, by age.

    Attributes:
        method, regime: whose, see `Point`.
        facts: on the model.
        row: the row's name.
        at: places in the sequence in percent, the oldest facts first.
        written: per place the share that is written, in percent; NaN where none was measured.
    """

    method: str
    regime: str
    facts: int
    row: str
    at: tuple[float, ...]
    written: tuple[float, ...]


def ages_of(points: Sequence[Point], cases: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> list[Ages]:
    """Return per line of sequences what its longest one still writes, in at most `BINS` parts by age.

    Args:
        points: see `points_of`.
        cases: per row the stored result of every case, in the order in which they were put on.
    """
    lines = []
    longest = {(p.method, p.regime): p for p in points if p.regime != "at once" and p.facts >= BINS}
    for point in longest.values():  # fewest facts come first, so the last of a line is its longest
        scored = [case["scores"] for case in cases[point.row].values() if "scores" in case]
        written = np.array([scores.get(WRITTEN, np.nan) for scores in scored])
        if not len(written) or np.isnan(written).all():
            continue
        parts = [part[~np.isnan(part)] for part in np.array_split(written, BINS) if len(part)]
        shares = tuple(float(part.mean()) if len(part) else math.nan for part in parts)
        lines.append(Ages(*point, tuple(np.linspace(0, 100, len(parts)).tolist()), shares))
    return lines


def _by_age(axes: Axes, ages: Sequence[Ages], lines: list[tuple[str, str]]) -> None:
    """Of the longest sequence of every method: the share that is written, oldest facts left."""
    colours = dict(zip(lines, _colours(lines), strict=True))
    for line in ages:
        colour = colours[line.method, line.regime]
        axes.plot(line.at, line.written, color=colour, linewidth=1.4, marker="o", markersize=2.6)
    axes.set_ylim(-3, 103)
    axes.set_title("written, by age: oldest facts left, %", fontsize=8)
    axes.set_xlabel("place in the sequence, %", fontsize=7)
    axes.tick_params(labelsize=7)


def _colours(lines: list[tuple[str, str]]) -> list[str]:
    return [LINES[n % len(LINES)] for n in range(len(lines))]
