"""What is asked of every method, when an answer counts as holding, and what may be said: all thresholds are here.

A cell of the verdict is a method and a question. Every figure of a cell is marked by the whole of its 95 % interval,
against the limits of its rule: `holds` where all of it is inside the first, `fails` where all of it is outside the
second, else `partly`; under ten records, or where the unedited model cannot do the
task, `not measurable`. A cell is as good as the worst of its figures. Figures of
several data sets are never merged.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from factedit.evaluate.column import MEMORY, SECONDS
from factedit.evaluate.estimates import Estimate
from factedit.evaluate.whole import PERPLEXITY
from factedit.report.verdict import FEW, interval

Mark = Literal["holds", "partly", "fails", "not measurable", "told"]
How = Literal["at least", "at most", "loses at most", "gains at most", "told"]
WORST: tuple[Mark, ...] = ("fails", "partly", "holds", "not measurable", "told")


class Limit(NamedTuple):
    """When one score holds and when it fails.

    Attributes:
        score: its name.
        how: the score itself (`at least`, `at most`), its paired change to the unedited model (`loses at most`,
            `gains at most`), or `told`, which is not judged.
        holds, fails: the limits.
        of: data sets that it is judged on; none: all.
        span: the range of one record's value; infinite where there is no end to it.
    """

    score: str
    how: How = "told"
    holds: float = 0.0
    fails: float = 0.0
    of: tuple[str, ...] = ()
    span: float = 100.0


class VerdictQuestion(NamedTuple):
    """A column of the verdict.

    Attributes:
        name: as people ask it.
        means: what is looked at.
        rules: the figures that answer it.
        facts: of facts that are each `alone` on the model, of as many `together` as were tried, or of `any`.
    """

    name: str
    means: str
    rules: tuple[Limit, ...]
    facts: Literal["alone", "together", "any"] = "alone"


TAKEN = (
    Limit("ES", "at least", 90, 60),
    Limit("efficacy", "at least", 90, 60),
    Limit("edit_tokens", "at least", 90, 60),
)
WORDINGS = (
    Limit("PS", "at least", 85, 60), Limit("paraphrase", "at least", 85, 60),
    Limit("rephrased_tokens", "at least", 85, 60),
)  # fmt: skip
NEIGHBOURS = (
    Limit("NS", "loses at most", 5, 20), Limit("specificity", "loses at most", 5, 20),
    Limit("locality_tokens", "loses at most", 5, 20),
)  # fmt: skip
QUESTIONS = (
    VerdictQuestion("taken up?", "the new object is the likelier one on the edited prompt", TAKEN),
    VerdictQuestion("in other words?", "the same at other wordings", WORDINGS),
    VerdictQuestion(
        "written?",
        "the model writes the new object by itself, exactly, stops, and does not repeat itself",
        (
            Limit("bare_exact", "at least", 90, 50, ("counterfact",)), Limit("qa_exact", "at least", 80, 50, ("zsre",)),
            Limit("bare_opens", "at least", 90, 60), Limit("written_repeats", "gains at most", 2, 10),
        ),
    ),
    VerdictQuestion(
        "stays where it should?",
        "other facts are as they were: neighbours, the subject's other facts, facts at large",
        (
            *NEIGHBOURS, Limit("same_subject", "at least", 90, 60), Limit("written_stays", "at least", 90, 60),
            Limit("panel_kept", "at least", 95, 85),
        ),
    ),
    VerdictQuestion(
        "under pressure?",
        "neighbours after the edit's own sentence, and the fact after sentences about the old object",
        (
            Limit("NS+", "loses at most", 15, 35), Limit("NKL+", "at most", 0.5, 2, span=math.inf),
            Limit("distracted_holds", "at least", 80, 40),
        ),
    ),
    VerdictQuestion(
        "consequences?",
        "what follows from the fact is answered accordingly, and its negation is not",
        (
            Limit("ripple_all", "at least", 60, 30), Limit("multihop", "at least", 60, 30),
            Limit("portability_legacy", "at least", 60, 30), Limit("negated_opens", "at most", 50, 75),
            Limit("fact_check", "at least", 85, 60),
        ),
    ),
    VerdictQuestion(
        "abilities?", "tasks that have nothing to do with the fact, and perplexity of text",
        (
            Limit("ability_right", "loses at most", 2, 10), Limit("ability_changed", "at most", 10, 30),
            Limit(PERPLEXITY),
        ),
        "any",
    ),
    VerdictQuestion(
        "many at once?", "the first questions again, of facts that are on the model together",
        (*TAKEN, *WORDINGS, *NEIGHBOURS), "together",
    ),
    VerdictQuestion(
        "cost?", "seconds per edit, most memory", (Limit(SECONDS), Limit(MEMORY)), "any",
    ),
)  # fmt: skip
PUBLISHED = ("taken up?", "in other words?", "stays where it should?")  # what papers on editing ask
HARDER = ("written?", "under pressure?", "consequences?", "abilities?", "many at once?")
FORMS = {  # what a method leaves behind, by the name without `+stop`
    "a text before the prompt": ("ice", "ike", "retrieval", "mello"),
    "a memory beside a matrix": ("memory", "grace"),
    "fine-tuned weights": ("ft", "ft-l", "ft-m", "locft-bf", "lora"),
}
EDITED = "edited weights"
UNDO = {
    "a text before the prompt": "leave the text out",
    "a memory beside a matrix": "exactly, row by row",
    "fine-tuned weights": "to the bit, whole edits only",
    EDITED: "to the bit, also from the middle",
}
STOP = "+stop"


class MethodScores(NamedTuple):
    """A method on a data set.

    Attributes:
        method: its name.
        dataset: its name.
        facts: how many are on the model together; 1 where each is alone.
        scores: the means.
        change: the paired differences to the unedited model.
        silent: scores that say nothing on this model, since it cannot do the task unedited.
    """

    method: str
    dataset: str
    facts: int
    scores: Mapping[str, Estimate]
    change: Mapping[str, Estimate]
    silent: Collection[str] = ()


class Figure(NamedTuple):
    """A number in a cell.

    Attributes:
        score, dataset: of what.
        facts: on the model together.
        value: the mean, with its interval.
        judged: what the mark goes by: the mean, or its change.
        mark: see the module.
        rule: by which it was marked.
    """

    score: str
    dataset: str
    facts: int
    value: Estimate
    judged: Estimate
    mark: Mark
    rule: Limit


@dataclass(frozen=True)
class VerdictCell:
    """A method and a question; without figures nothing was measured.

    Attributes:
        figures: in the order of the rules.
    """

    figures: tuple[Figure, ...] = field(default=())

    @property
    def by_mark(self) -> tuple[Figure, ...]:
        """The figures, those of the worst mark first."""
        return tuple(sorted(self.figures, key=lambda figure: WORST.index(figure.mark)))

    @property
    def mark(self) -> str:
        """The worst mark of the figures; `not measured` without any."""
        return self.by_mark[0].mark if self.figures else "not measured"


VerdictTable = Mapping[str, Mapping[str, VerdictCell]]


def judge(rows: Iterable[MethodScores]) -> dict[str, dict[str, VerdictCell]]:
    """Return per method and question its cell.

    Args:
        rows: of edited models; one per method, data set and number of facts.
    """
    by_method: dict[str, list[MethodScores]] = {}
    for row in rows:
        by_method.setdefault(row.method, []).append(row)
    return {
        method: {question.name: _cell(question, of_method) for question in QUESTIONS}
        for method, of_method in by_method.items()
    }


def _cell(question: VerdictQuestion, rows: Iterable[MethodScores]) -> VerdictCell:
    kept = list(rows)
    most = max((row.facts for row in kept), default=1)
    if question.facts == "alone":
        kept = [row for row in kept if row.facts == 1]
    elif question.facts == "together":
        kept = [row for row in kept if row.facts == most > 1]
    figures = [_figure(rule, row) for rule in question.rules for row in kept]
    return VerdictCell(tuple(figure for figure in figures if figure is not None))


def _figure(rule: Limit, row: MethodScores) -> Figure | None:
    if rule.score not in row.scores or (rule.of and row.dataset not in rule.of):
        return None
    value, changes = row.scores[rule.score], rule.how in ("loses at most", "gains at most")
    judged = row.change.get(rule.score) if changes else value
    if judged is None:
        return None
    mark: Mark = "not measurable" if rule.score in row.silent else mark_of(rule, judged)
    return Figure(rule.score, row.dataset, row.facts, value, judged, mark, rule)


def mark_of(rule: Limit, estimate: Estimate) -> Mark:
    """Return what a rule says of a mean or a change."""
    if rule.how == "told":
        return "told"
    unknown = math.isnan(estimate.value) or (math.isnan(estimate.half_width) and math.isfinite(estimate.value))
    if estimate.n < FEW or unknown:  # no number, or one without its interval
        return "not measurable"
    low, high = interval(estimate, rule.span)
    if rule.how == "at least":
        return "holds" if low >= rule.holds else "fails" if high < rule.fails else "partly"
    if rule.how == "loses at most":
        return "holds" if low >= -rule.holds else "fails" if high < -rule.fails else "partly"
    return "holds" if high <= rule.holds else "fails" if low > rule.fails else "partly"


def form_of(method: str) -> str:
    """Return what a method leaves behind."""
    plain = method.partition(" ")[0].removesuffix(STOP)
    return next((form for form, names in FORMS.items() if plain in names), EDITED)
