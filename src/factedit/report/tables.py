"""Tables for terminals (rich), for documents (Markdown) and for machines (CSV)."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from factedit.cache import write_atomic
from factedit.edit.show import FACTS_SHOWN
from factedit.evaluate.estimates import Estimate, Summary, plus_minus
from factedit.evaluate.told import StoredResults, left_out, not_edited, not_executed
from factedit.facts import fill
from factedit.report.columns import columns_of, decimals_of
from factedit.safe import safe_text
from factedit.trace.effects import ROLES, Averages, TraceResult
from factedit.trace.state import StateReading

SHOWN = 5  # cases that a method could not edit


def _cell(row: Mapping[str, Estimate], name: str) -> str:
    return row[name].told(decimals_of(name)) if name in row else "–"


def in_markdown(text: str) -> str:
    """Return a name for a cell or a head of Markdown: nothing in it is markup, and it stays in its cell."""
    return re.sub(r"([\\`*_{}\[\]<>#|~$])", r"\\\1", safe_text(text).replace("\n", " "))


def as_item(text: str) -> str:
    """Return a sentence for a list of Markdown: it stays on its line, and opens no tag."""
    return safe_text(text).replace("\n", " ").replace("<", "&lt;")


def _count(row: Mapping[str, Estimate]) -> int:
    return max((e.n for e in row.values()), default=0)


def summary_table(summary: Summary, *, title: str) -> Table:
    """Return a row per method, with 95 % intervals."""
    names = columns_of(summary)
    table = Table("method", "n", *names, title=f"{title} (mean ± 95 % interval)")
    for method, row in summary.items():
        table.add_row(method, str(_count(row)), *(_cell(row, name) for name in names))
    return table


def markdown(summary: Summary) -> str:
    """Return the same as a Markdown table."""
    names = columns_of(summary)
    lines = ["| method | n | " + " | ".join(names) + " |", "|---" * (len(names) + 2) + "|"]
    for method, row in summary.items():
        lines.append(
            f"| {in_markdown(method)} | {_count(row)} | " + " | ".join(_cell(row, name) for name in names) + " |"
        )
    return "\n".join(lines) + "\n"


def csv_text(summary: Summary) -> str:
    """Return the same as CSV, value and half-width in columns of their own."""
    names = columns_of(summary)
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["method", "n", *(c for name in names for c in (name, f"{name}_half_width"))])
    for method, row in summary.items():
        cells = [cell for name in names for cell in (csv_cells(row[name]) if name in row else ("", ""))]
        writer.writerow([method, _count(row), *cells])
    return buffer.getvalue()


def csv_cells(estimate: Estimate) -> tuple[float | str, float | str]:
    """Return value and half-width; empty where there is none."""
    value, half_width = ("" if math.isnan(x) else x for x in (estimate.value, estimate.half_width))
    return value, half_width


def not_edited_text(method: str, cases: Mapping[str, str], n: int) -> str:
    """Return which of n cases a method could not edit, and why."""
    shown = "; ".join(f"{case} ({why})" for case, why in list(cases.items())[:SHOWN])
    more = "; …" if len(cases) > SHOWN else ""
    return f"{method} could not edit {len(cases)} of {n} cases, which count as unedited: {shown}{more}"


def left_out_text(metric: str, methods: Mapping[str, Mapping[str, str]], n: int) -> str:
    """Return where a metric has no scores, and why.

    Args:
        metric: its name.
        methods: per method the cases without, and why.
        n: how many cases there are.
    """
    same = len({tuple(cases.items()) for cases in methods.values()}) == 1
    [(method, cases), *_] = sorted(methods.items(), key=lambda row: -len(row[1]))
    shown = "; ".join(f"{case} ({why})" for case, why in list(cases.items())[:SHOWN])
    more = "; …" if len(cases) > SHOWN else ""
    where = "" if same else f" under {method}"
    return f"{metric} has no score in {len(cases)} of {n} cases{where}: {shown}{more}"


def not_executed_text(method: str, scores: Mapping[str, Sequence[int]]) -> str:
    """Say of which scores of a row some tests were not executed, and how many."""
    counts = ", ".join(f"{name} {missing} of {done + missing}" for name, (done, missing) in scores.items())
    return (
        f"{method}: tests that were not executed and do not count, as the model's numbers are not finite there, "
        f"nothing was asked, or the unedited model does not hold what they presuppose: {counts}"
    )


def notes_on_rows(results: StoredResults) -> list[str]:
    """Return a sentence per row that has cases not edited, per metric without scores, per row with tests not executed.

    Args:
        results: per row the stored results by case.
    """
    edits = {method: not_edited(rows) for method, rows in results.items()}
    told = [not_edited_text(method, cases, len(results[method])) for method, cases in edits.items() if cases]
    count = max(map(len, results.values()), default=0)
    told += [left_out_text(metric, methods, count) for metric, methods in left_out(results).items()]
    return told + [not_executed_text(method, scores) for method, scores in not_executed(results).items()]


def write_summary(
    summary: Summary,
    folder: Path,
    *,
    title: str,
    as_json: Any | None,
    notes: Sequence[str] = (),
    about: Mapping[str, str] | None = None,
) -> Table:
    """Write table.md, table.csv and (where given) summary.json to a folder; return the table for the terminal.

    Args:
        summary: per method its scores.
        folder: where to.
        title: of the table on the terminal.
        as_json: what summary.json holds.
        notes: what is not in the scores, in sentences.
        about: what the table is of, by name: model, data, command, versions.
    """
    told = (*notes, *(f"{name}: {text}" for name, text in (about or {}).items()))
    said = "".join(f"\n- {as_item(note)}\n" for note in told)
    write_atomic(folder / "table.md", markdown(summary) + said)
    write_atomic(folder / "table.csv", csv_text(summary))
    if as_json is not None:
        write_atomic(folder / "summary.json", json.dumps(as_json, indent=1, allow_nan=False) + "\n")
    return summary_table(summary, title=title)


def trace_table(trace: TraceResult) -> Table:
    """Return total effect, and per kind where the indirect effect peaks."""
    what = trace.measured if trace.against else "P"
    effect = f"{what} {trace.clean:.3f}, corrupted {trace.corrupted:.3f}, TE {trace.total_effect:.3f}"
    title = f"{trace.prompt!r} → {trace.answer!r}: {effect}"
    table = Table("kind", "peak IE", "layer", "token", "subject_last peak", "layer", title=title)
    for kind in trace.scores:
        effects = trace.indirect_effects(kind)
        token, layer = trace.peak(kind)
        layer_last, effect_last = trace.at_subject_last(kind)
        table.add_row(
            kind, f"{effects[token, layer]:.3f}", str(layer), repr(trace.tokens[token]),
            f"{effect_last:.3f}", str(layer_last),
        )  # fmt: skip
    return table


def experts_table(trace: TraceResult) -> Table | None:
    """Return per layer the experts that the subject's last token is sent to, and in how many other wordings the same;
    None where the model has none.
    """
    others = trace.experts.get("paraphrases", {})
    if not trace.experts:
        return None
    head = ["layer", "experts of the subject's last token"]
    table = Table(*head, *([f"wordings with the same, of {len(others)}", "others there"] if others else []))
    for layer, tokens in trace.experts["tokens"].items():
        sent_to = tokens[trace.subject_range[1] - 1]
        row = [layer, ", ".join(f"{expert} ({weight:.2f})" for expert, weight in sent_to.items())]
        if others:
            there = [set(wording[layer]) for wording in others.values()]
            more = sorted(set[str]().union(*there) - set(sent_to), key=int)
            row += [str(sum(experts == set(sent_to) for experts in there)), ", ".join(more) or "–"]
        table.add_row(*row)
    return table


def states_table(states: Sequence[StateReading]) -> Table:
    """Return what states say: by the logit lens, and where one stands in the Patchscope's prompt of repetitions."""
    table = Table("state", "token", "logit lens", "repeated", "and written", title="What states say")
    for state in states:
        lens, repeated = (
            ", ".join(f"{t.text!r} {t.probability:.3f}" for t in tokens[:3]) for tokens in (state.lens, state.repeated)
        )
        place = f"{state.kind}, layer {state.layer}, token {state.token}"
        table.add_row(
            place, repr(state.text), lens, repeated or state.why_not, repr(state.written) if state.written else "–"
        )
    return table


def averages_table(averages: Averages) -> Table:
    """Return per role and kind the peak of the average indirect effect (%) and its layer."""
    ate, half = averages.total_effect
    title = (
        f"{averages.facts} of {averages.asked} facts answered right; P {100 * averages.clean:.1f} %, "
        f"ATE {plus_minus(100 * ate, 100 * half)} %"
    )
    table = Table("token", *(f"{kind}: peak AIE % (layer)" for kind in averages.curves), title=title)
    for role in ROLES:
        cells = []
        for kind, curves in averages.curves.items():
            if role in curves:
                layer, value = averages.peak(kind, role)
                cells.append(f"{plus_minus(100 * value, 100 * curves[role].half_width[layer])} ({layer})")
            else:
                cells.append("–")
        table.add_row(role, *cells)
    return table


def edit_table(row: Mapping[str, Any]) -> Table:
    """Return one edit, as `work.edit.describe` gives it: what it did to its prompts and how large it is."""
    layers = row["layer"] if isinstance(row["layer"], list) else [row["layer"]]
    where = f" at layer {', '.join(map(str, layers))}" if layers else ""
    if "request" in row:
        request = row["request"]
        table = Table("", "before", "after", title=f"{row['method']}{where}: {_asked(request)}")
        _add_outcome(table, row)
    else:
        table = Table("", "before", "after", title=f"{row['method']}{where}: {row['requests']} facts in one edit")
        for fact in row["facts"][:FACTS_SHOWN]:
            table.add_row(_asked(fact["request"]), "", "", style="bold")
            _add_outcome(table, fact)
        if len(row["facts"]) > FACTS_SHOWN:
            table.add_row(f"and {len(row['facts']) - FACTS_SHOWN} more facts", "", "")
    if row.get("weight_norm"):
        table.add_row("‖ΔW‖ / ‖W‖", "", f"{row['update_norm'] / row['weight_norm']:.4f}")
    if "experts" in row:
        for layer, shares in row["experts"].items():
            table.add_row(
                f"written at layer {layer} into", "", ", ".join(f"{n} {100 * p:.0f} %" for n, p in shares.items())
            )
    if "spill" in row:
        table.add_row("spill onto ordinary text", "", f"{row['spill']:.4f}")
    if "losses" in row:
        table.add_row("evaluations of the loss", "", str(len(row["losses"])))
    return table


def _asked(request: Mapping[str, Any]) -> str:
    return f"{fill(request['prompt'], request['subject'])!r} → {request['target_new']!r}"


def _add_outcome(table: Table, fact: Mapping[str, Any]) -> None:
    """The rows of one fact: the objects' probabilities and the continuation, before and after."""
    before, after = fact["before"], fact["after"]
    for key in ("target_new", "target_true"):
        if key in before:
            table.add_row(f"P({fact['request'][key]})", f"{before[key]:.4f}", f"{after[key]:.4f}")
    table.add_row("greedy continuation", before["continuation"].strip(), after["continuation"].strip())
    if "experts" in before:
        other = [layer for layer, experts in before["experts"].items() if set(experts) != set(after["experts"][layer])]
        told = f"others at layer {', '.join(other)}" if other else "the same in every layer"
        table.add_row("experts of the subject's last token", "", told)
