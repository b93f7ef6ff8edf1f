"""Prove an edit: its prompt, other wordings, what must stay, and tries to break it, before against after."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, NamedTuple

from factedit.data.worldfacts import relations
from factedit.edit.artefact import Edit
from factedit.edit.standing import facts_on
from factedit.errors import RequestError
from factedit.evaluate.asks import Ask
from factedit.evaluate.metrics.free import free_match
from factedit.evaluate.metrics.negation import NOT, judged, statement
from factedit.evaluate.metrics.pressure import distractions, edit_sentence, resists
from factedit.evaluate.probability import Question, Score
from factedit.evaluate.texts import Greedy
from factedit.evaluate.together import Together
from factedit.facts import EditRequest, FactRecord, fill, one_spelling
from factedit.models.adapter import EditableModel
from factedit.models.positions import continuation
from factedit.text import words
from factedit.work.demo import RECORD
from factedit.work.progress import Progress, advancing, silent

PARTS = {
    "rewrite": "The edited prompt",
    "wording": "Other wordings: these should change too",
    "neighbour": "Neighbours: these should stay",
    "sentence": "Neighbours after the edit's own sentence: these should stay",
    "break": "Tries to break it",
    "own": "Your own prompts",
}
NEW, STAYS, NOT_NEW, JUDGED = "the new object", "as before", "not the new object", "judged true"
HELD, HALF, BROKEN, UNMEASURED = "held", "half", "broken", "not measurable"
logger = logging.getLogger("factedit")
WORDINGS, NEIGHBOURS, AFTER_SENTENCE = 4, 6, 3  # prompts at most
TOKENS, AT_ONCE = 16, 8


class Check(NamedTuple):
    """A prompt, and what is wanted of it.

    Attributes:
        part: of `PARTS`.
        prompt: the text.
        wanted: `the new object`, `as before`, `not the new object`, `judged true`.
    """

    part: str
    prompt: str
    wanted: str


@dataclass(frozen=True)
class Proven:
    """One prompt before and after.

    Attributes:
        part, prompt, wanted: see `Check`.
        new, old: P of the new and the old object (before, after); of a statement that of True and False; None where
            there is no old object.
        text: what is written (before, after); of a statement how it is judged.
        state: `held`; `half`: the new object is likelier than the old one, but not written, or, where all should stay,
            another first word is written that is not the new object; `broken`; or `not measurable`: the unedited model
            does not meet what would have to stay.
    """

    part: str
    prompt: str
    wanted: str
    new: tuple[float, float]
    old: tuple[float, float] | None
    text: tuple[str, str]
    state: str


@dataclass(frozen=True)
class FactProof:
    """All prompts of one fact.

    Attributes:
        request: the fact.
        rows: by part, and within a part the broken ones first.
    """

    request: EditRequest
    rows: tuple[Proven, ...]

    def counted(self, part: str) -> tuple[int, int]:
        """Return how many rows of a part held, and of how many that could be measured."""
        rows = [row for row in self.rows if row.part == part and row.state != UNMEASURED]
        return sum(row.state == HELD for row in rows), len(rows)

    def held_before(self, part: str) -> int:
        """Return how many rows of a part that should give the new object held, and give it unedited, too."""
        held = [row for row in self.rows if row.part == part and row.state == HELD and row.wanted == NEW]
        return sum(free_match(row.text[0], self.request.target_new) for row in held)

    @property
    def verdict(self) -> str:
        """The outcome in a sentence or two."""
        states = {row.state for row in self.rows if row.part == "rewrite"}
        new = self.request.target_new.strip()
        first = {
            HELD: f"It took: the edited model writes {new}.",
            HALF: f"Half taken: {new} is the likelier object, but is not written.",
        }.get(next(iter(states), BROKEN), f"It did not take: {new} is not written.")
        if states == {HELD} and self.held_before("rewrite"):
            first = f"It held before: the unedited model writes {new}, too."
        told = [(name, self.counted(part), self.held_before(part)) for part, name in _NAMES.items()]
        before = {n: f" ({n} before the edit, too)" if n else "" for _, _, n in told}
        return " ".join([first, *(f"{name}: {met} of {of} held{before[n]}." for name, (met, of), n in told if of)])

    def as_json(self) -> dict[str, Any]:
        """Return `{request, verdict, rows}`."""
        return {"request": vars(self.request), "verdict": self.verdict, "rows": [asdict(row) for row in self.rows]}


_NAMES = {
    "wording": "Other wordings", "neighbour": "Neighbours", "sentence": "Neighbours after its sentence",
    "break": "Tries to break it", "own": "Your own prompts",
}  # fmt: skip


def prove(
    model: EditableModel,
    record: FactRecord,
    edits: Sequence[Edit],
    *,
    prompts: Sequence[str] = (),
    progress: Progress = silent,
) -> FactProof:
    """Ask the tests of a fact before and after.

    Args:
        model: unedited; the same bits afterwards.
        record: the fact; see `record_of`.
        edits: that are on together, in order.
        prompts: further ones, which should give the new object.
        progress: told the prompts done.

    Raises:
        RequestError: the fact's own prompt, or one of `prompts`, cannot be asked; others are left out, which is said.
        EditError: an edit of other shapes.
    """
    tests = _that_fit(model, record.request, [*checks_of(record), *(Check("own", prompt, NEW) for prompt in prompts)])
    rows: list[Proven] = []
    advance = advancing(progress, "asking before and after (prompts)", len(tests))
    on, asks = Together(model).plus(edits), partial(_asks, request=record.request)
    for part, before, after in on.against_unedited(tests, asks, at_once=AT_ONCE, step=advance):
        rows += [_proven(record.request, *answer) for answer in zip(part, before, after, strict=True)]
    order = {state: n for n, state in enumerate((BROKEN, HALF, UNMEASURED, HELD))}
    rows.sort(key=lambda row: (list(PARTS).index(row.part), order[row.state]))
    return FactProof(record.request, tuple(rows))


def _that_fit(model: EditableModel, request: EditRequest, tests: Sequence[Check]) -> list[Check]:
    """Return the tests that the model can be asked; what was only made up here and is too long is counted and told."""
    fit = []
    for test in tests:
        try:
            continuation(model, test.prompt, request.target_new)
        except RequestError:
            if test.part in ("rewrite", "own"):  # the user's own words
                raise
            continue
        fit.append(test)
    if len(fit) < len(tests):
        left, first = len(tests) - len(fit), next(test for test in tests if test not in fit)
        logger.warning(
            "%d of %d prompts cannot be asked and are left out; the first: %r", left, len(tests), first.prompt
        )
    return fit


def checks_of(record: FactRecord) -> list[Check]:
    """Return what is asked of a fact; of wordings and neighbours a few."""
    request = record.request
    near = record.neighborhood[:NEIGHBOURS]
    checks = [Check("rewrite", request.text, NEW)]
    checks += [Check("wording", prompt, NEW) for prompt in record.paraphrases[:WORDINGS]]
    checks += [Check("neighbour", prompt, STAYS) for prompt in near]
    checks += [Check("sentence", f"{edit_sentence(request)} {prompt}", STAYS) for prompt in near[:AFTER_SENTENCE]]
    checks.append(Check("break", request.text.rstrip() + NOT, NOT_NEW))
    checks.append(Check("break", statement(request, request.target_new), JUDGED))
    checks += [Check("break", f"{text} {request.text}", NEW) for text in distractions(request)[:2]]
    checks.append(Check("break", f"Question: {request.text} what?\nAnswer:", NEW))
    return checks


def record_of(request: EditRequest) -> FactRecord:
    """Return a fact with other wordings and neighbours, as far as the embedded facts know some.

    Wordings are those of a relation that is written alike; neighbours are other subjects of the old object.
    """
    if RECORD.request.text == request.text:
        return FactRecord(**{**vars(RECORD), "request": request})
    asked, old = one_spelling(request.prompt), one_spelling(request.target_true or "")
    alike = [known for known in relations() if asked in map(one_spelling, (known.prompt, *known.paraphrases))]
    wordings = [text for known in alike for text in (known.prompt, *known.paraphrases) if one_spelling(text) != asked]
    near = [
        subject
        for known in alike or relations()
        for target, subjects in known.objects.items()
        if old and one_spelling(target) == old
        for subject in subjects
        if one_spelling(subject) != one_spelling(request.subject)
    ]
    return FactRecord(
        case_id="0",
        request=request,
        paraphrases=tuple(fill(text, request.subject) for text in wordings),
        neighborhood=tuple(fill(request.prompt, subject) for subject in dict.fromkeys(near)),
    )


def records_on(edits: Sequence[Edit]) -> list[FactRecord]:
    """Return what is known about the facts that edits hold together, without those that were taken back."""
    return [record_of(fact.request) for fact in facts_on(edits)]


def _asks(test: Check, request: EditRequest) -> list[Ask]:
    if test.wanted == JUDGED:
        return [Question(test.prompt, answer) for answer in ("True", "False")]
    targets = [target for target in (request.target_new, request.target_true) if target]
    return [Greedy(test.prompt, TOKENS), *(Question(test.prompt, target) for target in targets)]


def _proven(request: EditRequest, test: Check, before: Sequence[Any], after: Sequence[Any]) -> Proven:
    if test.wanted == JUDGED:
        was, now = ([judged(answers)[0]] for answers in (before, after))
        state = UNMEASURED if was[0] is not False else HELD if now[0] else BROKEN
        said = ("judged " + ("true" if was[0] else "false"), "judged " + ("true" if now[0] else "false"))
        return Proven(*test, _pair(before[0], after[0]), _pair(before[1], after[1]), said, state)
    old = _pair(before[2], after[2]) if len(before) > 2 else None
    row = Proven(*test, _pair(before[1], after[1]), old, (before[0], after[0]), UNMEASURED)
    return Proven(**{**vars(row), "state": _state(row, request)})


def _pair(before: Score, after: Score) -> tuple[float, float]:
    return before.probability, after.probability


def _state(row: Proven, request: EditRequest) -> str:
    """What became of a test, by what is written and which object is the likelier."""
    shares = list(zip(row.new, *([] if row.old is None else [row.old]), strict=True))
    for pair, state in zip(shares, (UNMEASURED, BROKEN), strict=True):
        if not all(map(math.isfinite, pair)):  # before, after: what has no numbers holds nothing
            return state
    was, now = (free_match(text, request.target_new) for text in row.text)
    if row.wanted == NEW:
        held = resists(row.text[1], request) if row.part == "break" else now
        likelier = row.old is not None and row.new[1] > row.old[1]
        return HELD if held else HALF if likelier else BROKEN
    if row.wanted == NOT_NEW:
        return UNMEASURED if was else BROKEN if now else HELD
    if was or (row.old is not None and row.new[0] >= row.old[0]):
        return UNMEASURED
    if now or (row.old is not None and row.new[1] >= row.old[1]):
        return BROKEN
    return HELD if words(row.text[0])[:1] == words(row.text[1])[:1] else HALF
