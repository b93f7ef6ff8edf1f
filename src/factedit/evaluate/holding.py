"""Which facts a model holds: what it writes by itself on each one's prompt, other wordings, and neighbours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from factedit.evaluate.asks import Ask, replies
from factedit.evaluate.metrics.free import FREE_TOKENS, free_match
from factedit.evaluate.probability import Question
from factedit.evaluate.texts import Greedy
from factedit.evaluate.together import Together
from factedit.facts import FactRecord
from factedit.models.adapter import EditableModel

AT_ONCE = 32  # facts asked together


class Share(NamedTuple):
    """How many of so many."""

    met: int
    of: int

    def __add__(self, other: tuple[Any, ...]) -> Share:
        return Share(self.met + other[0], self.of + other[1])

    @property
    def percent(self) -> float | None:
        """In percent; None of none."""
        return 100 * self.met / self.of if self.of else None


@dataclass(frozen=True)
class Held:
    """How one fact stands in a model.

    Attributes:
        written: the greedy continuation of its prompt opens with the new object.
        continuation: that text.
        probability: of the new object, length-normalised.
        wordings: in how many of its other wordings the new object is written.
        neighbours: for how many prompts about other subjects their own answer is likelier than the new object.
    """

    written: bool
    continuation: str
    probability: float
    wordings: Share
    neighbours: Share

    def as_json(self) -> dict[str, Any]:
        """Return the same as JSON values; shares as `[met, of]`."""
        return vars(self) | {"wordings": list(self.wordings), "neighbours": list(self.neighbours)}


def ask_facts(
    model: EditableModel,
    records: Sequence[FactRecord],
    progress: Callable[[int], None] = lambda _facts: None,
    *,
    under: Together | None = None,
) -> list[Held]:
    """Return how facts stand in a model as it is.

    Args:
        model: not changed.
        records: the facts; those without paraphrases or neighbours are asked their prompt alone.
        progress: called with the number of facts that were just asked.
        under: edits that are on the model: those of prompts put their texts before what is asked.

    Raises:
        RequestError: a fact that the model cannot be asked.
        ResourceError: a single fact does not fit in memory.
    """
    held: list[Held] = []
    for begin in range(0, len(records), AT_ONCE):
        part = records[begin : begin + AT_ONCE]
        asks: Sequence[Sequence[Any]] = [_asks(record) for record in part]
        [answers] = replies(model, asks if under is None else under.asked(asks), [None], seed=0)
        held += [_held(record, told) for record, told in zip(part, answers, strict=True)]
        progress(len(part))
    return held


def _asks(record: FactRecord) -> list[Ask]:
    request = record.request
    written = [Greedy(text, FREE_TOKENS) for text in (request.text, *record.paraphrases)]
    answers = [] if request.target_true is None else [request.target_true, request.target_new]
    beside = [Question(text, answer) for text in record.neighborhood for answer in answers]
    return [*written, Question(request.text, request.target_new), *beside]


def _held(record: FactRecord, answered: Sequence[Any]) -> Held:
    target, others = record.request.target_new, len(record.paraphrases)
    texts, score, beside = answered[: 1 + others], answered[1 + others], answered[2 + others :]
    pairs = list(zip(beside[::2], beside[1::2], strict=True))
    return Held(
        written=free_match(texts[0], target),
        continuation=texts[0],
        probability=score.probability,
        wordings=Share(sum(free_match(text, target) for text in texts[1:]), others),
        neighbours=Share(sum(true.mean_log_p > new.mean_log_p for true, new in pairs), len(pairs)),
    )
