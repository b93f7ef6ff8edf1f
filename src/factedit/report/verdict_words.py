"""Sentences that follow from the cells of a verdict, each by a rule; where its condition is not met a rule is silent.

Two figures are told apart where the interval of their difference leaves out 0; what is not measurable, or of fewer
records than a verdict needs, is not compared. Methods are compared on the figures
that they have in common: the same score on the same data set with as many facts on the model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from factedit.report.verdict import interval
from factedit.report.verdict_rules import (
    EDITED,
    HARDER,
    PUBLISHED,
    QUESTIONS,
    STOP,
    Figure,
    VerdictCell,
    VerdictTable,
    form_of,
)

ASKED = "Is editing the right way?"
JUDGED = tuple(question.name for question in QUESTIONS if question.name != "cost?")
LOWER = ("at most", "gains at most")
COMPARED = ("holds", "partly", "fails")  # marks of figures that are measured


def as_the_papers_ask(verdict: VerdictTable) -> list[str]:
    """Say which methods hold on all that papers on editing ask."""
    good = [method for method, cells in verdict.items() if all(cells[name].mark == "holds" for name in PUBLISHED)]
    asked = any(cells[name].figures for cells in verdict.values() for name in PUBLISHED)
    if not asked:
        return []
    who = f"{_list(good)} {'holds' if len(good) == 1 else 'hold'}" if good else "no method is shown to hold"
    return [f"Asked as papers on editing ask (taken up, in other words, other facts), {who} on all three."]


def asked_harder(verdict: VerdictTable) -> list[str]:
    """Say of methods that take facts up on which harder questions they do not hold, with the worst figure of each."""
    lines = []
    for method, cells in verdict.items():
        weak = [name for name in HARDER if cells[name].mark in ("fails", "partly")]
        if cells["taken up?"].mark == "holds" and weak:
            told = "; ".join(f"{name} {cells[name].mark} ({_told(_worst(cells[name]))})" for name in weak)
            lines.append(f"Asked harder, {method} does not hold everywhere: {told}.")
    return lines


def the_end_pays(verdict: VerdictTable) -> list[str]:
    """Say whether training the end of the answer changes what is written exactly."""
    lines = []
    for method in verdict:
        if f"{method}{STOP}" not in verdict:
            continue
        for before, after in _shared(verdict[method]["written?"], verdict[f"{method}{STOP}"]["written?"]):
            gap = after.value.value - before.value.value
            if before.score.endswith("_exact") and abs(gap) > _noise(before, after):
                verb = "raises" if gap > 0 else "lowers"
                lines.append(
                    f"Training the end of the answer {verb} what {method} writes exactly on {before.dataset}: "
                    f"{before.value} → {after.value} ({before.score})."
                )
    return lines


def weights_or_text(verdict: VerdictTable) -> list[str]:
    """Say where the best edit of weights and the best text before the prompt can be told apart."""
    return _forms(verdict, EDITED, "a text before the prompt", "Editing weights", "a text before the prompt")


def editing_or_tuning(verdict: VerdictTable) -> list[str]:
    """Say where the best edit of weights and the best fine-tuning can be told apart."""
    return _forms(verdict, EDITED, "fine-tuned weights", "Editing weights", "fine-tuning")


def weights_or_memory(verdict: VerdictTable) -> list[str]:
    """Say where the best edit of weights and the best memory beside a matrix can be told apart."""
    return _forms(verdict, EDITED, "a memory beside a matrix", "Editing weights", "a memory beside a matrix")


def together(verdict: VerdictTable) -> list[str]:
    """Say what becomes of facts that are on one model together."""
    lines = []
    for method, cells in verdict.items():
        cell = cells["many at once?"]
        if cell.figures and cell.mark in COMPARED:
            worst = _worst(cell)
            verb = {"holds": "holds", "partly": "holds in part", "fails": "fails"}[cell.mark]
            lines.append(f"With {worst.facts} facts on one model {method} {verb} ({_told(worst)}).")
    return lines


def the_answer(verdict: VerdictTable) -> list[str]:
    """Say whether editing is the right way, as far as the table supports it, and how far the best alternative gets."""
    counted = {method: [n for n in JUDGED if cells[n].mark in COMPARED] for method, cells in verdict.items()}
    good = {m: [n for n in names if verdict[m][n].mark == "holds"] for m, names in counted.items()}
    editing = [m for m in verdict if form_of(m) == EDITED and counted[m]]
    others = [m for m in verdict if form_of(m) != EDITED and counted[m]]
    if not editing:
        return [f"{ASKED} These results cannot say: no edit of weights is among what was measured."]
    best, other = (max(side, key=lambda m: (len(good[m]), -len(counted[m])), default="") for side in (editing, others))
    whole = f"{best}, holds on {len(good[best])} of the {len(counted[best])} questions that were measured"
    if len(good[best]) < len(counted[best]):
        answer = [f"{ASKED} Not on this table as it stands: the best edit, {whole}; {_not_held(verdict[best])}."]
    elif set(counted[best]) & set(HARDER):
        answer = [f"{ASKED} On this table nothing speaks against it: the best edit, {whole}."]
    else:
        answer = [f"{ASKED} These results cannot say: the best edit, {whole}, and none of the harder ones was."]
    if not other:
        return [*answer, "No alternative was measured beside it."]
    share = f"{len(good[other])} of {len(counted[other])}"
    return [*answer, f"Of the alternatives, {other} ({form_of(other)}) holds on the most: {share}."]


def _not_held(cells: Mapping[str, VerdictCell]) -> str:
    """Say on which questions a method holds in part, and on which it fails."""
    names = {mark: [f"“{name}”" for name in JUDGED if cells[name].mark == mark] for mark in ("partly", "fails")}
    told = [f"it holds in part on {_list(names['partly'])}"] if names["partly"] else []
    told += [f"{'' if told else 'it '}fails on {_list(names['fails'])}"] if names["fails"] else []
    return " and ".join(told)


SENTENCES: tuple[Callable[[VerdictTable], list[str]], ...] = (
    the_answer, as_the_papers_ask, asked_harder, the_end_pays, weights_or_text, weights_or_memory, editing_or_tuning,
    together,
)  # fmt: skip


def sentences(verdict: VerdictTable) -> list[str]:
    """Return all that the rules say, in their order: the answer first."""
    return [text for rule in SENTENCES for text in rule(verdict)]


def _forms(verdict: VerdictTable, one: str, other: str, called: str, against: str) -> list[str]:
    ones, others = ([m for m in verdict if form_of(m) == form] for form in (one, other))
    if not ones or not others:
        return []
    better, worse, compared = list[str](), list[str](), 0
    for question in JUDGED:
        best = _best_pair(verdict, question, ones, others)
        if best is None:
            continue
        compared += 1
        (name, mine), (rival, theirs) = best
        gap = _goodness(mine) - _goodness(theirs)
        told = f"“{question}” ({name} {mine.value}, {rival} {theirs.value}: {mine.score}, {mine.dataset})"
        if abs(gap) > _noise(mine, theirs):
            (better if gap > 0 else worse).append(told)
    if not compared:
        return []
    if not better and not worse:
        asked = "question" if compared == 1 else "questions"
        return [f"{called} and {against} cannot be told apart at this n on the {compared} {asked} that both answer."]
    parts = [f"better for certain on {'; '.join(better)}"] if better else []
    parts += [f"worse for certain on {'; '.join(worse)}"] if worse else []
    return [f"{called}, at its best against {against} at its best, is {', and '.join(parts)}."]


def _best_pair(
    verdict: VerdictTable, question: str, ones: Sequence[str], others: Sequence[str]
) -> tuple[tuple[str, Figure], tuple[str, Figure]] | None:
    """Return the best method of either side on the first figure that both sides have, with the figures."""
    sides = [
        [(m, f) for m in side for f in verdict[m][question].figures if f.mark in COMPARED] for side in (ones, others)
    ]
    keys = [[_key(figure) for _, figure in side] for side in sides]
    shared = next((key for key in keys[0] if key in keys[1]), None)
    if shared is None:
        return None
    first, second = (
        max(((m, f) for m, f in side if _key(f) == shared), key=lambda pair: _goodness(pair[1])) for side in sides
    )
    return first, second


def _shared(one: VerdictCell, other: VerdictCell) -> list[tuple[Figure, Figure]]:
    there = {_key(figure): figure for figure in other.figures if figure.mark in COMPARED}
    return [(f, there[_key(f)]) for f in one.figures if f.mark in COMPARED and _key(f) in there]


def _key(figure: Figure) -> tuple[str, str, int]:
    return figure.score, figure.dataset, figure.facts


def _goodness(figure: Figure) -> float:
    return -figure.judged.value if figure.rule.how in LOWER else figure.judged.value


def _noise(one: Figure, other: Figure) -> float:
    """Half the width of the 95 % interval of a difference, the two taken as independent."""
    return math.hypot(*(_half(figure) for figure in (one, other)))


def _half(figure: Figure) -> float:
    """Half of the interval that a figure is judged by; an infinite mean has no width."""
    low, high = interval(figure.judged, figure.rule.span)
    return 0.0 if low == high else (high - low) / 2


def _worst(cell: VerdictCell) -> Figure:
    return cell.by_mark[0]


def _told(figure: Figure) -> str:
    changed = f", {figure.judged.value:+.1f} to the unedited model" if figure.judged is not figure.value else ""
    return f"{figure.score} {figure.value}{changed}, {figure.dataset}"


def _list(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
