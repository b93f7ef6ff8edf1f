"""Tables 1 and 4 of the ROME paper (arXiv 2202.05262) with our rows: its columns, its marks, its numbers beside ours.

Bold marks the best of a column among our edited models, `(!)` a clear failure in generalisation or specificity, which
the paper prints in green and in red. Intervals are 95 %.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from typing import NamedTuple

from factedit.evaluate.chunk import UNEDITED
from factedit.evaluate.compare import Comparison
from factedit.evaluate.metrics import Estimate
from factedit.report.tables import csv_cells
from factedit.report.verdict import NAMES, Summary, in_words, verdicts


class Published(NamedTuple):
    """A published row.

    Attributes:
        model: the model that was edited.
        method: by our name.
        values: per column of the table.
    """

    model: str
    method: str
    values: tuple[float, ...]

    @property
    def source(self) -> str:
        """Where the row is from, in words."""
        return f"{self.model}, published"


class PaperTable(NamedTuple):
    """One of the paper's tables.

    Attributes:
        title: its title.
        columns: our names of its columns, in its order.
        methods: the methods of its rows, in its order.
        published: its rows.
    """

    title: str
    columns: tuple[str, ...]
    methods: tuple[str, ...]
    published: tuple[Published, ...]

    def by_column(self, row: Published) -> dict[str, float]:
        """A published row's values by the table's columns."""
        return dict(zip(self.columns, row.values, strict=True))


XL, J = "GPT-2 XL", "GPT-J"

TABLES = {
    "zsre": PaperTable(
        "zsRE (Table 1)",
        ("efficacy", "paraphrase", "specificity"),
        ("ft", "ft-l", "kn", "ke", "ke-zsre", "mend", "mend-zsre", "rome", "rome-original"),
        (
            Published(XL, UNEDITED, (22.2, 21.3, 24.2)),
            Published(XL, "ft", (99.6, 82.1, 23.2)),
            Published(XL, "ft-l", (92.3, 47.2, 23.4)),
            Published(XL, "ke", (65.5, 61.4, 24.9)),
            Published(XL, "ke-zsre", (92.4, 90.0, 23.8)),
            Published(XL, "mend", (75.9, 65.3, 24.1)),
            Published(XL, "mend-zsre", (99.4, 99.3, 24.1)),
            Published(XL, "rome", (99.8, 88.1, 24.2)),
        ),
    ),
    "counterfact": PaperTable(
        "CounterFact (Table 4)",
        ("S", "ES", "EM", "PS", "PM", "NS", "NM", "GE", "RS"),
        ("ft", "ft-l", "kn", "ke", "ke-cf", "mend", "mend-cf", "rome", "rome-original"),
        (
            Published(XL, UNEDITED, (30.5, 22.2, -4.8, 24.7, -5.0, 78.1, 5.0, 626.6, 31.9)),
            Published(XL, "ft", (65.1, 100.0, 98.8, 87.9, 46.6, 40.4, -6.2, 607.1, 40.5)),
            Published(XL, "ft-l", (66.9, 99.1, 91.5, 48.7, 28.9, 70.3, 3.5, 621.4, 37.4)),
            Published(XL, "kn", (35.6, 28.7, -3.4, 28.0, -3.3, 72.9, 3.7, 570.4, 30.3)),
            Published(XL, "ke", (52.2, 84.3, 33.9, 75.4, 14.6, 30.9, -11.0, 586.6, 31.2)),
            Published(XL, "ke-cf", (18.1, 99.9, 97.0, 95.8, 59.2, 6.9, -63.2, 383.0, 24.5)),
            Published(XL, "mend", (57.9, 99.1, 70.9, 65.4, 12.2, 37.9, -11.6, 624.2, 34.8)),
            Published(XL, "mend-cf", (14.9, 100.0, 99.2, 97.0, 65.6, 5.5, -69.9, 570.0, 33.2)),
            Published(XL, "rome", (89.2, 100.0, 97.9, 96.4, 62.7, 75.4, 4.2, 621.9, 41.9)),
            Published(J, UNEDITED, (23.6, 16.3, -7.2, 18.6, -7.4, 83.0, 7.3, 621.8, 29.8)),
            Published(J, "ft", (25.5, 100.0, 99.9, 96.6, 71.0, 10.3, -50.7, 387.8, 24.6)),
            Published(J, "ft-l", (68.7, 99.6, 95.0, 47.9, 30.4, 78.6, 6.8, 622.8, 35.5)),
            Published(J, "mend", (63.2, 97.4, 71.5, 53.6, 11.0, 53.9, -6.0, 620.5, 32.6)),
            Published(J, "rome", (91.5, 99.9, 99.4, 99.1, 74.1, 78.9, 5.2, 620.1, 43.0)),
        ),
    ),
}


def markdown(
    which: str,
    summary: Summary,
    comparison: Comparison,
    *,
    model: str,
    memory: Mapping[str, float],
    notes: Mapping[str, str],
) -> str:
    """The table, its verdict in words, and what one must know to read it.

    Args:
        which: `zsre` or `counterfact`.
        summary: per method its scores; the unedited model among them.
        comparison: of the same methods.
        model: how ours is called.
        memory: per method the peak memory in MB.
        notes: what else to say, e.g. the source of the reference texts; name to text.
    """
    table = TABLES[which]
    columns = [c for c in table.columns if any(c in row for row in summary.values())]
    best, failed = _best(summary, columns), _failed(summary, comparison)
    lines = [f"# {table.title} on {model}", "", _line(["editor", "n", *columns, "seconds per edit", "peak MB"])]
    lines.append("|" + "---|" * (len(columns) + 4))
    for method, row in summary.items():
        cells = [_cell(row.get(c), method == best.get(c), (method, c) in failed) for c in columns]
        seconds = f"{row['seconds_per_edit'].value:.2f}" if "seconds_per_edit" in row else "–"
        count = str(max((e.n for e in row.values()), default=0))
        lines.append(_line([model if method == UNEDITED else method, count, *cells, seconds, f"{memory[method]:.0f}"]))
    for theirs in table.published:
        shown = table.by_column(theirs)
        cells = [f"{shown[c]:.1f}" if c in shown else "–" for c in columns]
        name = theirs.source if theirs.method == UNEDITED else f"{theirs.method} ({theirs.source})"
        lines.append(_line([f"*{name}*", "", *cells, "–", "–"]))
    said = [f"- {name}: {text}" for name, text in notes.items()]
    legend = "Mean ± 95 % interval over records. **Best** of our edited models; (!) clear failure."
    return "\n".join([*lines, "", legend, "", "## In words", "", in_words(summary, comparison), *said]) + "\n"


def csv_text(which: str, summary: Summary, *, model: str, memory: Mapping[str, float]) -> str:
    """The same rows as CSV; value, half-width and n in columns of their own."""
    table = TABLES[which]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    columns = [*table.columns, "seconds_per_edit"]
    parts = [f"{c}{part}" for c in columns for part in ("", "_half_width", "_n")]
    writer.writerow(["model", "editor", *parts, "peak_memory_mb"])
    for method, row in summary.items():
        cells = [x for c in columns for x in ((*csv_cells(row[c]), row[c].n) if c in row else ("", "", ""))]
        writer.writerow([model, method, *cells, memory[method]])
    for theirs in table.published:
        shown = table.by_column(theirs)
        writer.writerow([theirs.source, theirs.method, *(x for c in columns for x in (shown.get(c, ""), "", "")), ""])
    return buffer.getvalue()


def _best(summary: Summary, columns: list[str]) -> dict[str, str]:
    """The edited model with the largest value of each column."""
    found = {}
    for column in columns:
        own = {m: row[column].value for m, row in summary.items() if m != UNEDITED and column in row}
        if own:
            found[column] = max(own, key=lambda m: own[m])
    return found


def _failed(summary: Summary, comparison: Comparison) -> set[tuple[str, str]]:
    """Method and column of every clear failure."""
    found = set()
    for method, verdict in verdicts(summary, comparison).items():
        names = next(names for names in NAMES.values() if set(names) <= summary[method].keys())
        found |= {(method, name) for name, failed in zip(names, verdict.failures, strict=True) if failed}
    return found


def _cell(estimate: Estimate | None, best: bool, failed: bool) -> str:
    if estimate is None:
        return "–"
    text = f"{estimate.value:.1f}" if estimate.n < 2 else str(estimate)
    return (f"**{text}**" if best else text) + (" (!)" if failed else "")


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"
