"""Metrics put to records under many edits at once.

The asks of one metric are read in one batch of differently edited models; edits that records share are put on once. A
metric that fails is named with the reason where its scores would stand, and the others go on. Of the benchmark's own
scores only a record that cannot be asked (a text longer than the context, say) is named and passed over.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from factedit.errors import RequestError
from factedit.evaluate.asks import Ask, OwnEdits, replies
from factedit.evaluate.metric import Answered, Metric, Outcome
from factedit.evaluate.metrics.teacher_forced import TeacherForced
from factedit.evaluate.promised import checked_outcome, fault, is_of_the_metric
from factedit.evaluate.together import Together
from factedit.facts import FactRecord
from factedit.models.adapter import EditableModel
from factedit.plugins import is_stop


class Under(NamedTuple):
    """What a model is read under.

    Attributes:
        own: per record its own edit or none; None as a whole is the model as it is.
        shared: edits that all records share.
    """

    own: OwnEdits = None
    shared: Together | None = None

    def part(self, places: Sequence[int]) -> Under:
        """Return the same for some of the records."""
        return self if self.own is None else Under([self.own[n] for n in places])


AS_IT_IS = Under()


@dataclass
class Measured:
    """What was found for one record under one edit.

    Attributes:
        scores: by column; NaN where nothing could be executed.
        texts: what else to keep.
        tests: by column how many tests were executed and how many were not.
        left_out: by metric why it has no scores here.
    """

    scores: dict[str, float] = field(default_factory=dict)
    texts: dict[str, Any] = field(default_factory=dict)
    tests: dict[str, tuple[int, int]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    def add(self, metric: Metric, outcome: Outcome | str) -> None:
        """Add what a metric found, or why it found nothing."""
        if not isinstance(outcome, str):
            twice = [name for name, text in outcome.texts.items() if self.texts.get(name, text) != text]
            outcome = f"another metric keeps other texts as {twice[0]!r}" if twice else outcome
        if isinstance(outcome, str):
            self.left_out[metric.name] = outcome
            outcome = Outcome(dict.fromkeys((column.name for column in metric.columns), math.nan))
        self.scores |= outcome.scores
        self.texts |= outcome.texts
        self.tests |= {name: (0, 1) if math.isnan(value) else (1, 0) for name, value in outcome.scores.items()}
        self.tests |= {name: (executed, not_executed) for name, (executed, not_executed) in outcome.tests.items()}


def measure(
    model: EditableModel,
    records: Sequence[FactRecord],
    metrics: Sequence[Metric],
    unders: Sequence[Under],
    *,
    seed: int,
) -> list[list[Measured]]:
    """Return every metric for every record under everything given: `[under][record]`.

    Args:
        model: the unedited model; not changed.
        records: what is asked about.
        metrics: what is measured.
        unders: the edits to read under.
        seed: of what is drawn.

    Raises:
        ResourceError: a single record does not fit in memory.
    """
    measured = [[Measured() for _ in records] for _ in unders]
    reader = _Reader(model, seed)
    for metric in metrics:
        for n, by_under in enumerate(_outcomes_or_why(metric, records, range(len(records)), unders, reader)):
            for under, outcome in enumerate(by_under):
                measured[under][n].add(metric, outcome)
    return measured


def _outcomes_or_why(
    metric: Metric, records: Sequence[FactRecord], places: Sequence[int], unders: Sequence[Under], reader: _Reader
) -> list[list[Outcome | str]]:
    """Return outcomes `[record][under]`; where the metric fails, records are taken one by one, and the reason is
    kept.
    """
    try:
        return _outcomes(metric, records, places, unders, reader)
    except BaseException as error:  # of a stranger's metric anything may come
        if is_stop(error) or not is_of_the_metric(error):
            raise
        if isinstance(metric, TeacherForced) and not isinstance(error, RequestError):
            raise  # the benchmark's own scores, without which there is nothing to tell
        why = fault(error)
    if len(places) > 1:
        return [by_under for n in places for by_under in _outcomes_or_why(metric, records, [n], unders, reader)]
    if len(unders) > 1:
        return [[_outcomes_or_why(metric, records, places, [under], reader)[0][0] for under in unders]]
    return [[why]]


def _outcomes(
    metric: Metric, records: Sequence[FactRecord], places: Sequence[int], unders: Sequence[Under], reader: _Reader
) -> list[list[Outcome | str]]:
    """Return outcomes `[record][under]` of the records at these places."""
    lacking = [metric.lacks(records[n]) for n in places]
    asked = [() if lacks else tuple(metric.asks(records[n])) for n, lacks in zip(places, lacking, strict=True)]
    read = reader.read_once if metric.same_for_all else reader.read
    by_under = read(asked, places, unders)
    before = read(asked, places, [AS_IT_IS])[0] if metric.compares else [[] for _ in asked]
    outcomes: list[list[Outcome | str]] = []
    for at, n in enumerate(places):
        if lacking[at]:
            outcomes.append([f"it has no {lacking[at]}"] * len(by_under))
        else:
            answered = [Answered(records[n], tuple(replied[at]), tuple(before[at])) for replied in by_under]
            outcomes.append([checked_outcome(metric, metric.scored(one)) for one in answered])
    return outcomes


class _Reader:
    """Reads asks under edits; what was read once is not read again.

    Args:
        model: the unedited model.
        seed: of what is drawn.
    """

    def __init__(self, model: EditableModel, seed: int) -> None:
        self.model, self.seed = model, seed
        self._known: dict[Hashable, list[list[Any]]] = {}

    def read(
        self, asked: Sequence[Sequence[Ask]], places: Sequence[int], unders: Sequence[Under]
    ) -> list[list[list[Any]]]:
        """Return replies `[under][record][ask]` of the records at these places."""
        keys = [(tuple(asked), tuple(places), id(under)) for under in unders]
        missing = [(key, under) for key, under in zip(keys, unders, strict=True) if key not in self._known]
        apart = [(key, under.part(places).own) for key, under in missing if under.shared is None]
        if apart:
            read = replies(self.model, asked, [edits for _, edits in apart], seed=self.seed)
            self._known |= {key: replied for (key, _), replied in zip(apart, read, strict=True)}
        for key, under in missing:
            if under.shared is not None:
                with under.shared.on(self.model):
                    [self._known[key]] = replies(self.model, under.shared.asked(asked), [None], seed=self.seed)
        return [self._known[key] for key in keys]

    def read_once(
        self, asked: Sequence[Sequence[Ask]], places: Sequence[int], unders: Sequence[Under]
    ) -> list[list[list[Any]]]:
        """Return the same where all records are asked the same: once under what they share, else under each's edit."""
        by_under = []
        for under in unders:
            if under.own is not None:
                by_under += self.read(asked, places, [under])
                continue
            every = tuple(dict.fromkeys(ask for asks in asked for ask in asks))
            [[replies]] = self.read([every], places[:1], [under])
            told = dict(zip(every, replies, strict=True))
            by_under.append([[told[ask] for ask in asks] for asks in asked])
        return by_under
