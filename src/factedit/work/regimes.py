"""Many facts on one model as a user asks for it: at once or in sequence, with checkpoints, and facts that agree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from factedit.errors import UsageError
from factedit.evaluate.benchmarks.published_many import AT_ONCE, IN_SEQUENCE
from factedit.evaluate.regime import Joint, Regime
from factedit.evaluate.regime import Sequence as InSequence
from factedit.facts import FactRecord, asked_of, one_spelling

POINTS = (1, 10, 32, 100, 316, 1000, 3162, 10_000, 31_623)  # checkpoints of a sequence, half powers of ten
BATCH = 100  # facts of a step, where nothing is said


class AskedRegime(NamedTuple):
    """How facts are to be put on a model.

    Attributes:
        regime: None puts each on alone.
        records: how many are needed.
    """

    regime: Regime | None
    records: int | None


def asked_regime(
    at_once: int | None, sequence: int | None, batch: int | None, checkpoints: Sequence[int], records: int | None
) -> AskedRegime:
    """Return the regime that is meant.

    Args:
        at_once: so many facts at once, the unedited model again for the next so many.
        sequence: so many facts one batch after the other.
        batch: of the sequence; None is `BATCH`.
        checkpoints: after how many facts of the sequence to score; none: `POINTS`, and after the last.
        records: how many were asked for.

    Raises:
        UsageError: both of them; numbers that do not fit.
    """
    together = (
        batch if at_once or sequence else None
    )  # of facts alone it is how many are asked at a time; see `Measures`
    for name, number in (("--at-once", at_once), ("--sequence", sequence), ("--batch", together)):
        if number is not None and number < 1:
            raise UsageError(f"{name} {number} puts no fact on a model: give at least 1.")
    if at_once and sequence:
        raise UsageError("Facts are put on at once or in sequence, not both: give --at-once or --sequence.")
    if at_once:
        if checkpoints:
            raise UsageError("--checkpoints are those of a --sequence.")
        return AskedRegime(Joint(at_once), records or at_once)
    if not sequence:
        if checkpoints:
            raise UsageError("--checkpoints are those of a --sequence.")
        return AskedRegime(None, records)
    if records not in (None, sequence):
        raise UsageError(f"A sequence of {sequence} facts takes {sequence} records; {records} were asked for.")
    step = min(batch or BATCH, sequence)
    return AskedRegime(InSequence(step, tuple(checkpoints) or checkpoints_of(sequence, step)), sequence)


def protocol_of(regime: Regime | None) -> str:
    """Return what a published table of many facts calls a regime: `at once`, `sequence`; nothing for single edits."""
    return AT_ONCE if isinstance(regime, Joint) else IN_SEQUENCE if regime else ""


def checkpoints_of(count: int, batch: int) -> tuple[int, ...]:
    """Return after how many of so many facts to score: `POINTS` up to the next whole batch, and the end."""
    whole = {-(-point // batch) * batch for point in POINTS}
    return tuple(sorted({point for point in whole if point < count} | {count}))


class Agreeing(NamedTuple):
    """The facts of a set that can all be on one model.

    Attributes:
        records: the facts, each once.
        contradicting: how many were left out since one before gives the fact another object.
        repeated: how many since one before says the same.
    """

    records: list[FactRecord]
    contradicting: int
    repeated: int

    def told(self) -> list[str]:
        """Return what was left out, in words; nothing where all stayed."""
        every = len(self.records) + self.contradicting + self.repeated
        counts = ((self.contradicting, "contradict one before"), (self.repeated, "say again what one before does"))
        return [f"{count} of {every} records {what} and were left out." for count, what in counts if count]


def that_agree(records: Sequence[FactRecord]) -> Agreeing:
    """Return the records without those whose fact one before gives an object already.

    Two facts are about the same where subject and relation are one: by the prompt, or by the relation's id where
    there is one (the rule of the multi-CounterFact set, MEMIT, arXiv 2210.07229, appendix).

    Args:
        records: in order; the first of a fact stays.
    """
    objects: dict[tuple[str, str], str] = {}
    kept, contradicting, repeated = list[FactRecord](), 0, 0
    for record in records:
        request, names = record.request, [asked_of(record.request)]
        if record.relation_id is not None:
            names.append((one_spelling(request.subject), record.relation_id))
        target = one_spelling(request.target_new)
        before = [objects[name] for name in names if name in objects]
        if not before:
            kept.append(record)
        elif set(before) == {target}:
            repeated += 1
        else:
            contradicting += 1
        for name in names:
            objects.setdefault(name, before[0] if before else target)
    return Agreeing(kept, contradicting, repeated)
