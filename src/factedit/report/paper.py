"""A benchmark's published table with our rows: its columns, its marks, its numbers beside ours.

Bold marks the best of a column among our edited models, `(!)` a clear failure in generalisation or specificity, which
the ROME paper (arXiv 2202.05262, tables 1 and 4) prints in green and in red. Intervals are 95 %.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from factedit.cache import write_atomic
from factedit.evaluate.benchmark import UNEDITED, Benchmark
from factedit.evaluate.column import MEMORY, SECONDS
from factedit.evaluate.compare import Comparison
from factedit.evaluate.estimates import Estimate, Summary
from factedit.evaluate.metrics.table import all_metrics
from factedit.evaluate.whole import COLUMNS as WHOLE
from factedit.report.columns import columns_of, decimals_of
from factedit.report.tables import as_item, csv_cells, in_markdown
from factedit.report.verdict import verdicts, verdicts_in_words


def markdown(
    benchmark: Benchmark,
    summary: Summary,
    comparison: Comparison,
    *,
    model: str,
    memory: Mapping[str, float],
    notes: Mapping[str, str],
    protocol: str = "",
) -> str:
    """Return the table, its verdict in words, and what one must know to read it.

    Args:
        benchmark: whose table.
        summary: per method its scores; the unedited model among them.
        comparison: of the same methods.
        model: how ours is called.
        memory: per method the peak memory in MB.
        notes: what else to say, e.g. the source of the reference texts; name to text.
        protocol: of many facts on one model, whose published rows stand beside ours; none: of single edits.
    """
    columns = _columns(benchmark, summary, protocol)
    best, failed = _best(summary, columns, benchmark), _failed(summary, comparison, benchmark)
    named = in_markdown(model)
    lines = [f"# {benchmark.title} on {named}", "", _line(["editor", "n", *columns, "seconds per edit", "peak MB"])]
    lines.append("|" + "---|" * (len(columns) + 4))
    for method, row in summary.items():
        cells = [_cell(row.get(c), method == best.get(c), (method, c) in failed, decimals_of(c)) for c in columns]
        seconds = f"{row[SECONDS].value:.2f}" if SECONDS in row else "–"
        count = str(max((e.n for e in row.values()), default=0))
        lines.append(
            _line(
                [named if method == UNEDITED else in_markdown(method), count, *cells, seconds, f"{memory[method]:.0f}"]
            )
        )
    for theirs in benchmark.published_rows(protocol):
        cells = [f"{theirs.values[c]:.1f}" if c in theirs.values else "–" for c in columns]
        name = theirs.source if theirs.method == UNEDITED else f"{theirs.method} ({theirs.source})"
        lines.append(_line([f"*{name}*", "", *cells, "–", "–"]))
    said = [f"- {name}: {as_item(text)}" for name, text in notes.items()]
    legend = "Mean ± 95 % interval over records. **Best** of our edited models; (!) clear failure."
    return (
        "\n".join([*lines, "", legend, "", "## In words", "", verdicts_in_words(summary, comparison, benchmark), *said])
        + "\n"
    )


def csv_text(
    benchmark: Benchmark, summary: Summary, *, model: str, memory: Mapping[str, float], protocol: str = ""
) -> str:
    """Return the same rows as CSV; value, half-width and n in columns of their own."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    columns = [*(_columns(benchmark, summary, protocol) if protocol else benchmark.columns), SECONDS]
    parts = [f"{c}{part}" for c in columns for part in ("", "_half_width", "_n")]
    writer.writerow(["model", "editor", *parts, MEMORY])
    for method, row in summary.items():
        cells = [x for c in columns for x in ((*csv_cells(row[c]), row[c].n) if c in row else ("", "", ""))]
        writer.writerow([model, method, *cells, memory[method]])
    for theirs in benchmark.published_rows(protocol):
        cells = [x for c in columns for x in (theirs.values.get(c, ""), "", "")]
        writer.writerow([theirs.source, theirs.method, *cells, ""])
    return buffer.getvalue()


def write_table(
    benchmark: Benchmark,
    summary: Summary,
    comparison: Comparison,
    folder: Path,
    *,
    model: str,
    memory: Mapping[str, float],
    notes: Mapping[str, str],
    as_json: Any,
    protocol: str = "",
) -> None:
    """Write table.md, table.csv and table.json to a folder; arguments as for `markdown`.

    Raises:
        ResourceError: the disk is full or not writable.
    """
    text = markdown(benchmark, summary, comparison, notes=notes, model=model, memory=memory, protocol=protocol)
    write_atomic(folder / "table.md", text)
    write_atomic(folder / "table.csv", csv_text(benchmark, summary, model=model, memory=memory, protocol=protocol))
    write_atomic(folder / "table.json", json.dumps(as_json, indent=1, allow_nan=False) + "\n")


def _columns(benchmark: Benchmark, summary: Summary, protocol: str) -> list[str]:
    """Return the benchmark's columns that were measured, and of many facts what was measured beside them."""
    measured = columns_of(summary)
    if protocol:
        return [name for name in measured if name not in (SECONDS, MEMORY)]
    return [name for name in benchmark.columns if name in measured]


def _best(summary: Summary, columns: list[str], benchmark: Benchmark) -> dict[str, str]:
    """Return the edited model with the best value of each column."""
    known = [*benchmark.scores, *WHOLE, *(column for metric in all_metrics().values() for column in metric.columns)]
    lower = {column.name for column in known if column.better == "lower"}
    best = {}
    for column in columns:
        values = {m: row[column].value for m, row in summary.items() if m != UNEDITED and column in row}
        if values:
            best[column] = (min if column in lower else max)(values, key=lambda m: values[m])
    return best


def _failed(summary: Summary, comparison: Comparison, benchmark: Benchmark) -> set[tuple[str, str]]:
    """Method and column of every clear failure."""
    failures = set()
    for method, verdict in verdicts(summary, comparison, benchmark.legs).items():
        failures |= {(method, name) for name, failed in zip(benchmark.legs, verdict.failures, strict=True) if failed}
    return failures


def _cell(estimate: Estimate | None, best: bool, failed: bool, decimals: int = 1) -> str:
    if estimate is None:
        return "–"
    text = estimate.told(decimals)
    return (f"**{text}**" if best else text) + (" (!)" if failed else "")


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"
