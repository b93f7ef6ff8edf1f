"""Prompts of a record that begin alike, e.g. with the edit's own sentence: that beginning is run once for all of them.

Its keys and values, under the record's edit, are reused by every prompt after it. The numbers are those of whole
prompts up to the order of summation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from factedit.edit.artefact import Edit, rows_edited
from factedit.engine import budget
from factedit.engine.resume import Past, Segment, align, embed
from factedit.evaluate.asks import OwnEdits
from factedit.evaluate.distribution import Distribution
from factedit.evaluate.probability import Question, ReadPlan, Score, by_prompts, plan_of, read_places, score_of
from factedit.models.adapter import EditableModel


@dataclass(frozen=True)
class Told:
    """What a model thinks comes after a prompt.

    Attributes:
        next: the distribution of the next token.
        scores: of the possible answers, in order.
    """

    next: Distribution
    scores: tuple[Score, ...]


class After(NamedTuple):
    """A prompt with possible answers, beside others of its record that begin as it does; the reply is a `Told`.

    Attributes:
        prompt: the whole text.
        answers: at least one.
    """

    prompt: str
    answers: tuple[str, ...]

    @classmethod
    @torch.no_grad()
    def read(
        cls,
        model: EditableModel,
        asked: Sequence[Sequence[After]],
        variants: Sequence[OwnEdits],
        *,
        seed: int,  # noqa: ARG003
    ) -> list[list[list[Told]]]:
        """Return replies `[variant][record][ask]`; nothing is drawn, so the seed does not matter."""
        replies: list[list[list[Told]]] = [[] for _ in variants]
        for asks, alike in by_prompts(model, asked, variants):
            for records in _parts(model, asks):
                part = [asks[n] for n in records]
                edits = [variants[v] for v in alike]
                cut = [None if edited is None else [edited[n] for n in records] for edited in edits]
                for variant, told in zip(alike, _told(model, part, cut), strict=True):
                    replies[variant] += told
        return replies


def _parts(model: EditableModel, asks: Sequence[Sequence[After]]) -> Iterator[list[int]]:
    """Record numbers in groups of as many prompts as the device likes; four letters count as a token."""
    part: list[int] = []
    columns = 0
    for n, of_record in enumerate(asks):
        wide = sum(1 + len(ask.prompt) // 4 for ask in of_record)
        if part and columns + wide > budget.columns_scored(model):
            yield part
            part, columns = [], 0
        part.append(n)
        columns += wide
    if part:
        yield part


def _told(
    model: EditableModel, asks: Sequence[Sequence[After]], variants: Sequence[OwnEdits]
) -> Iterator[list[list[Told]]]:
    """Per variant, in turn, the replies of some records."""
    plan = plan_of(
        model, [[Question(ask.prompt, answer) for ask in of_record for answer in ask.answers] for of_record in asks]
    )
    stems = _stems(plan, len(asks))
    for finals in _finals(model, plan, stems, variants):
        reads = {read for case in plan.reads for question in case for read in question}
        local = {read: read._replace(position=read.position - len(stems[plan.owner[read.row]])) for read in reads}
        shifted = dict(read_places(model, finals, [(moved.row, moved) for moved in local.values()]))
        values = {read: shifted[moved] for read, moved in local.items()}
        told = []
        for of_record, case in zip(asks, plan.reads, strict=True):
            left = iter(case)
            replies = []
            for ask in of_record:
                questions = [next(left) for _ in ask.answers]
                first = local[questions[0][0]]
                hidden = finals[first.row, first.position]
                replies.append(Told(Distribution(model, hidden), tuple(score_of(values, q) for q in questions)))
            told.append(replies)
        yield told


def _stems(plan: ReadPlan, cases: int) -> list[tuple[int, ...]]:
    """Return per case what all of its rows begin with, short of the first position that is read."""
    stems = []
    for case in range(cases):
        rows = [row for row, owner in zip(plan.rows, plan.owner, strict=True) if owner == case]
        first, last = min(rows), max(rows)
        alike = next((n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(map(len, rows)))
        at = min(read.position for question in plan.reads[case] for read in question)
        stems.append(first[: min(alike, at)])
    return stems


def _finals(
    model: EditableModel, plan: ReadPlan, stems: Sequence[tuple[int, ...]], variants: Sequence[OwnEdits]
) -> Iterator[Tensor]:
    """Per variant what the last layer gives at the rows' tokens after their stems, `[rows, tokens, d_model]`.

    The layers before the first edited one are run once and serve all variants.
    """
    layers = [edit.first_layer for edits in variants for edit in edits or () if edit is not None]
    first = min((layer for layer in layers if layer is not None), default=model.n_layer)
    lower, upper = range(first), range(first, model.n_layer)
    owner = torch.tensor(plan.owner, device=model.device)
    rows = align(
        [row[len(stems[case]) :] for row, case in zip(plan.rows, plan.owner, strict=True)], device=model.device
    )
    stem = _Stem(model, stems, lower) if any(stems) else None
    before = None if stem is None else stem.past().select(owner)
    start = _segment(model, rows.ids, rows.mask, before)
    hidden = start.run(start.start, lower)
    for edits in variants:
        per_case = [None] * len(stems) if edits is None else edits
        past = None if stem is None else stem.under(per_case, upper).select(owner)
        segment = _segment(model, rows.ids, rows.mask, past)
        with rows_edited(model, [per_case[case] for case in plan.owner]):
            yield segment.run(hidden, upper)


class _Stem:
    """The cases' stems in one batch, run up to the first edited layer."""

    def __init__(self, model: EditableModel, stems: Sequence[tuple[int, ...]], lower: range) -> None:
        batch = align(stems, [len(stem) for stem in stems], device=model.device)
        self._model = model
        self._segment = Segment(model, batch.mask, embeddings=embed(model, batch.ids))
        self._hidden = self._segment.run(self._segment.start, lower, keep=True)

    def past(self) -> Past:
        """Return keys and values of the layers that were run."""
        return self._segment.past()

    def under(self, edits: Sequence[Edit | None], upper: range) -> Past:
        """Return keys and values of all layers, each stem under its own edit."""
        with rows_edited(self._model, edits):
            self._segment.run(self._hidden, upper, keep=True)
        return self._segment.past()


def _segment(model: EditableModel, ids: Tensor, mask: Tensor, past: Past | None) -> Segment:
    whole = mask if past is None else torch.cat([past.mask, mask], 1)
    return Segment(model, whole, past=past, embeddings=embed(model, ids))
