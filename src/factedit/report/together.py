"""What editing many facts gave, as a table and in sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from factedit.text import clipped

SHOWN = 20  # facts of the table
TableRow = Mapping[str, Any]


def facts_table(row: TableRow) -> Table:
    """Return the facts that the model does not write, with what it writes instead or why they were not edited.

    Args:
        row: `EditedTogether.as_json()`.
    """
    others = [fact for fact in row["facts"] if fact["status"] != "took"]
    more = f", the first {SHOWN} of {len(others)}" if len(others) > SHOWN else ""
    table = Table("fact", "status", "why, or what is written", title=f"Facts that did not take or were left out{more}")
    for fact in others[:SHOWN]:
        request, after = fact["request"], fact["after"] or fact["before"]
        table.add_row(_fact(request), fact["status"], fact["why"] or _written(after))
    return table


def _fact(request: Mapping[str, str]) -> str:
    text = request["prompt"].replace("{}", request["subject"], 1)
    return clipped(f"{text} → {request['target_new']}")


def _written(held: TableRow | None) -> str:
    return "" if held is None else held["continuation"].strip()


def row_in_words(row: TableRow) -> str:
    """Return how many facts took, what their wordings and neighbours do, and what it cost elsewhere."""
    counts, made = row["counts"], [edit for edit in row["edits"] if edit["requests"]]
    edited = counts["took"] + counts["not written"]
    others = [f" {name.capitalize()}: {counts[name]}." for name in ("known", "left out", "failed") if counts[name]]
    replaced = sum(edit["takes_back"] for edit in row["edits"])
    others += [f" Replaced: {replaced}."] if replaced else []
    lines = [
        f"{row['method']}: {edited} of {len(row['facts'])} facts edited in {len(made)} "
        f"{'edit' if len(made) == 1 else 'edits'} ({row['seconds']:.0f} s).",
        f"Written: {_share((counts['took'], edited))}." + "".join(others),
    ]
    if row["wordings"][1]:
        lines.append(f"Other wordings of them: written in {_share(row['wordings'])}.")
    before, after = row["neighbours"]
    if before[1]:
        lines.append(f"Neighbours that keep their answer: {_share(after)}, before {_share(before)}.")
    if row["harm"] is not None:
        lines += _elsewhere(*row["harm"])
    sizes = [e["update_norm"] / e["weight_norm"] for e in made if e["update_norm"] and e["weight_norm"]]
    if sizes:
        lines.append(f"‖ΔW‖ / ‖W‖: {', '.join(f'{size:.3f}' for size in sizes[:SHOWN])}.")
    return "\n".join(lines)


def _elsewhere(first: TableRow, last: TableRow) -> list[str]:
    lines = []
    if first["panel"] is not None:
        lines.append(
            f"Other facts that the unedited model knows: {_number(last['panel'], '.1f')} % of {first['facts']} still "
            f"answered, before {first['panel']:.1f} %."
        )
    if first["perplexity"] is not None:
        now = "not a number" if last["perplexity"] is None else f"{last['perplexity']:.2f}"
        lines.append(
            f"Perplexity of the unedited model's own text ({first['tokens']} tokens): {now}, "
            f"before {first['perplexity']:.2f}."
        )
    return lines


def trials_table(rows: Sequence[TableRow]) -> Table:
    """Return what the candidates of `--method auto` did.

    Args:
        rows: `Trial.as_json()` of each.
    """
    table = Table(
        "method", "written %", "wordings %", "neighbours lost", "other facts lost", "perplexity", "seconds", ""
    )
    for row in rows:
        table.add_row(
            row["candidate"], _number(row["written"], ".1f"), _number(row["wordings"], ".1f"),
            _number(row["neighbours_lost"], ".1f"), _number(row["panel_lost"], ".1f"),
            _number(row["perplexity_up"], "+.1%"), f"{row['seconds']:.0f}", row["failed"],
        )  # fmt: skip
    return table


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def checked_table(rows: Sequence[TableRow]) -> Table:
    """Return the facts that a folder of edits does not hold, the oldest first.

    Args:
        rows: `Checked.as_json()` of every fact.
    """
    lost = [(age, row) for age, row in enumerate(rows) if not row["written"]]
    more = f", the first {SHOWN} of {len(lost)}" if len(lost) > SHOWN else ""
    table = Table("", "fact", "when it was made", "what is written", title=f"Facts that are not written{more}")
    for age, row in lost[:SHOWN]:
        request, recorded = row["request"], row["recorded"]
        then = "not measured" if recorded is None else "written" if recorded else "not written"
        now = f"not asked: {row['why']}" if row["written"] is None else row["continuation"].strip()
        table.add_row(str(age), _fact(request), then, now)
    return table


def checked_words(rows: Sequence[TableRow]) -> str:
    """Return how many facts are written, how many of those that were no longer are, and how many were not asked."""
    asked = [row for row in rows if row["written"] is not None]
    written = sum(row["written"] for row in asked)
    lost = sum(bool(row["recorded"]) and not row["written"] for row in asked)
    said = f"Written: {_share((written, len(asked)))}. Written when their edit was made, and no longer: {lost}."
    return said + (f" Not asked: {len(rows) - len(asked)}." if len(asked) < len(rows) else "")


def _share(share: Any) -> str:
    met, of = share
    return f"{met} of {of}" + (f" ({100 * met / of:.1f} %)" if of else "")
