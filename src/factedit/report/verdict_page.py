"""The verdict as a page, as Markdown and for machines: one table of methods by questions, figures, sentences."""

from __future__ import annotations

import base64
import itertools
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from factedit import __version__
from factedit.cache import write_atomic
from factedit.evaluate.column import MEMORY, SECONDS
from factedit.evaluate.estimates import Estimate, plus_minus
from factedit.report.figures import as_bytes
from factedit.report.tables import as_item, in_markdown
from factedit.report.verdict_figures import COLOURS, DARK, SIGNS, ScorePanel, draw, panels
from factedit.report.verdict_rules import (
    QUESTIONS,
    UNDO,
    Figure,
    Limit,
    VerdictCell,
    VerdictQuestion,
    VerdictTable,
    form_of,
)
from factedit.report.verdict_words import ASKED, sentences, the_answer
from factedit.safe import own_json

SHORT = {SECONDS: "seconds", MEMORY: "MB"}
LEGEND = (
    ("holds", "the whole 95 % interval is inside the limit"),
    ("partly", "between the limits, or the interval crosses one"),
    ("fails", "the whole interval is outside the second limit"),
    ("not measurable", "fewer than ten records executed, or a task that the unedited model cannot do"),
    ("told", "not judged"),
    ("not measured", "no such figure in these results"),
)


def render(verdict: VerdictTable, *, title: str, about: Sequence[str]) -> str:
    """Return the page as text.

    Args:
        verdict: the cells.
        title: of the page.
        about: what the figures are of, in sentences.
    """
    template = (files("factedit.report") / "verdict.html.j2").read_text(encoding="utf-8")
    page = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True).from_string(
        template
    )
    there, missing = asked(verdict)
    answer, others = answer_and_rest(verdict, title)
    return page.render(
        verdict=verdict, questions=there, missing=missing, every=QUESTIONS, title=title, about=about,
        answer=answer, sentences=others, drawn=_drawn(verdict),
        signs=SIGNS, colours=COLOURS, dark=DARK, legend=LEGEND, limit=limit, parts=figure_parts, name_of=_name_of,
        unasked=_unasked, leading=_leading, forms={m: form_of(m) for m in verdict}, undo=UNDO, version=__version__,
    )  # fmt: skip


def answer_and_rest(verdict: VerdictTable, title: str) -> tuple[list[str], list[str]]:
    """Return the sentences that answer the question, and the others; a title that asks it is not repeated."""
    answer = the_answer(verdict)
    shown = [text.removeprefix(ASKED).strip() if title.strip() == ASKED else text for text in answer]
    return shown, sentences(verdict)[len(answer) :]


def _leading(cell: VerdictCell) -> tuple[Figure, ...]:
    """Return the figures that a cell shows at once: the one that its mark is of; of what is told all of one run."""
    first, *others = cell.by_mark
    beside = [f for f in others if cell.mark == "told" and (f.dataset, f.facts) == (first.dataset, first.facts)]
    return (first, *beside)


def _name_of(mark: str) -> str:
    """Return a mark's name in the style sheet."""
    return mark.replace(" ", "-")


def _unasked(cells: Mapping[str, VerdictCell], questions: Sequence[VerdictQuestion]) -> list[str]:
    """Return the questions that a method has no figure for."""
    return [question.name for question in questions if not cells[question.name].figures]


def _drawn(verdict: VerdictTable) -> list[tuple[str, list[tuple[ScorePanel, str, str]]]]:
    """Return per question its panels, each with its drawing and its figures in words."""
    return [
        (
            question,
            [(p, base64.b64encode(as_bytes(draw(p), ".png")).decode(), _spoken(p)) for p in of_question],
        )
        for question, of_question in itertools.groupby(panels(verdict), lambda panel: panel.question)
    ]


def _spoken(panel: ScorePanel) -> str:
    """Return a panel's figures for those who do not see it."""
    return "; ".join(f"{method} {figure_text(figure)}" for method, figure in panel.rows)


def asked(verdict: VerdictTable) -> tuple[list[VerdictQuestion], list[VerdictQuestion]]:
    """Return the questions that some method has a figure for, and those that none has."""
    there = [q for q in QUESTIONS if any(cells[q.name].figures for cells in verdict.values())]
    return there, [q for q in QUESTIONS if q not in there]


def figure_text(figure: Figure) -> str:
    """Return a figure in a cell: the score, its mean, and the change where that is judged."""
    return " ".join(figure_parts(figure))


def figure_parts(figure: Figure) -> list[str]:
    """Return the same in parts between which a line may end."""
    parts = [SHORT.get(figure.score, figure.score), interval_text(figure.value)]
    if figure.judged is not figure.value:
        parts.append(f"({interval_text(figure.judged, sign=True)})")
    if figure.facts > 1:
        parts[-1] += ","
        parts.append(f"{figure.facts} facts")
    return parts


def interval_text(estimate: Estimate, *, sign: bool = False) -> str:
    """Return a mean with its interval, of which small ones keep two digits."""
    digits = 2 if abs(estimate.value) < 3 and not estimate.half_width >= 1 else 1
    return plus_minus(estimate.value, estimate.half_width, digits, sign=sign)


def limit(rule: Limit) -> str:
    """Return when a score holds and when it fails, in words."""
    if rule.how == "told":
        return f"{rule.score}: told, not judged"
    of = f" ({', '.join(rule.of)})" if rule.of else ""
    return f"{rule.score}{of}: {rule.how} {rule.holds:g}; fails beyond {rule.fails:g}"


def markdown(verdict: VerdictTable, *, title: str, about: Sequence[str]) -> str:
    """Return the same as Markdown, without the figures' drawings; arguments as for `render`."""
    answer, others = answer_and_rest(verdict, title)
    lines = [f"# {in_markdown(title)}", "", *(line for text in answer for line in (as_item(text), ""))]
    there, missing = asked(verdict)
    lines += ["| method | " + " | ".join(question.name for question in there) + " | undo? |"]
    lines += ["|---" * (len(there) + 2) + "|"]
    for method, cells in verdict.items():
        entries = []
        for question in there:
            cell = cells[question.name]
            shown = "; ".join(f"{figure_text(f)} [{in_markdown(f.dataset)}]" for f in cell.figures)
            entries.append(f"{SIGNS[cell.mark]} {cell.mark}" + (f": {shown}" if shown else ""))
        lines.append(f"| {in_markdown(method)} | " + " | ".join([*entries, UNDO[form_of(method)]]) + " |")
    lines += ["", f"Not measured: {', '.join(q.name for q in missing)}"] if missing else []
    lines += ["", "What follows by rule:", "", *(f"- {as_item(text)}" for text in others)] if others else []
    lines += ["", "Marks:", "", *(f"- {SIGNS[mark]} {mark}: {text}" for mark, text in LEGEND), "", "Limits:", ""]
    lines += [f"- {q.name} {q.means}: {'. '.join(limit(rule) for rule in q.rules)}." for q in QUESTIONS]
    return "\n".join([*lines, "", *(f"- {as_item(text)}" for text in about)]) + "\n"


def verdict_as_json(verdict: VerdictTable, *, about: Sequence[str]) -> dict[str, Any]:
    """Return the same for machines; what has no number is NaN."""
    cells: dict[str, Any] = {
        method: {
            "form": form_of(method),
            "undo": UNDO[form_of(method)],
            **{
                name: {"mark": cell.mark, "figures": [_plain(f) for f in cell.figures]}
                for name, cell in of_method.items()
            },
        }
        for method, of_method in verdict.items()
    }
    return {"about": list(about), "sentences": sentences(verdict), "methods": cells}


def _plain(figure: Figure) -> dict[str, Any]:
    numbers: Mapping[str, Estimate] = {"value": figure.value, "judged": figure.judged}
    return {
        "score": figure.score, "dataset": figure.dataset, "facts": figure.facts, "mark": figure.mark,
        "rule": limit(figure.rule), **{name: [e.value, e.half_width, e.n] for name, e in numbers.items()},
    }  # fmt: skip


def write_verdict(verdict: VerdictTable, folder: Path, *, title: str, about: Sequence[str], rows: Any) -> Path:
    """Write verdict.html, verdict.md and verdict.json to a folder; return the page.

    Args:
        verdict, title, about: see `render`.
        folder: where to.
        rows: what verdict.json holds.

    Raises:
        ResourceError: the disk is full or not writable.
    """
    write_atomic(folder / "verdict.json", own_json(rows))  # first: by it the folder is known again
    write_atomic(folder / "verdict.html", render(verdict, title=title, about=about))
    write_atomic(folder / "verdict.md", markdown(verdict, title=title, about=about))
    return folder / "verdict.html"
