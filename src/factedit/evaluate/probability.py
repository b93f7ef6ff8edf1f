"""Probabilities of answers under many differently edited models at once.

A question is a prompt and a possible answer. Within a case, rows that begin alike are read off one row: two
one-word answers to one prompt need the prompt alone. The layers before the first edited one are run once and
serve the unedited model and every edited one; rows of one batch carry different edits; the vocabulary is read
only where an answer's token is expected.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from factedit.edit.artefact import Edit, rows_edited
from factedit.edit.asking import prompts_edited
from factedit.engine import budget
from factedit.engine.resume import Segment, align, embed, read_out
from factedit.engine.vocabulary import normaliser
from factedit.errors import RequestError
from factedit.evaluate.asks import OwnEdits
from factedit.models.adapter import EditableModel
from factedit.models.positions import continuations


class Question(NamedTuple):
    """A prompt and a possible answer; asked of a model, the reply is its `Score`."""

    prompt: str
    answer: str

    @classmethod
    def read(
        cls,
        model: EditableModel,
        asked: Sequence[Sequence[Question]],
        variants: Sequence[OwnEdits],
        *,
        seed: int,  # noqa: ARG003
    ) -> list[list[list[Score]]]:
        """Return replies `[variant][record][ask]`; nothing is drawn, so the seed does not matter."""
        return score(model, asked, variants)


def is_readable(model: EditableModel, question: Question) -> bool:
    """Return whether a prompt with its answer can be asked: it fits the model's context, and its tokens can be told
    apart (what is written in odd bytes may grow when it is tokenised again).
    """
    try:
        continuations(model, [question])
    except RequestError:
        return False
    return True


@dataclass(frozen=True)
class Score:
    """What a model thinks of an answer.

    Attributes:
        log_p: per answer token its log probability, in nats, given the prompt and the answer before it.
        first: per answer token whether it is the likeliest one there.
    """

    log_p: tuple[float, ...]
    first: tuple[bool, ...]

    @property
    def mean_log_p(self) -> float:
        """The mean log probability of the answer's tokens, in nats; what answers are compared by.

        Far below anything the model would write, probabilities are all 0 in floating point; their logarithms are not.
        """
        return math.fsum(self.log_p) / len(self.log_p)

    @property
    def probability(self) -> float:
        """exp of the mean log probability: length-normalised (ROME, section 3.3)."""
        return math.exp(self.mean_log_p)

    @property
    def executed(self) -> bool:
        """Whether it is a score at all: every log probability is finite."""
        return all(map(math.isfinite, self.log_p))

    @property
    def accuracy(self) -> float:
        """Share of the answer's tokens that are the likeliest, each given the right ones before it."""
        return sum(self.first) / len(self.first)


def mean_accuracy(scores: Sequence[Score]) -> float:
    """Return the mean of their accuracies × 100 over those that were executed; NaN where none was."""
    shares = [score.accuracy for score in scores if score.executed]
    return 100 * sum(shares) / len(shares) if shares else math.nan


class Read(NamedTuple):
    """A token whose probability is read: of which row, at which position before it."""

    row: int
    position: int
    token: int


@dataclass(frozen=True)
class ReadPlan:
    """Rows to run and what to read off them.

    Attributes:
        rows: token ids.
        owner: per row the case it belongs to.
        reads: per case, per question, one read per answer token.
    """

    rows: list[tuple[int, ...]]
    owner: list[int]
    reads: list[list[list[Read]]]


def plan_of(model: EditableModel, cases: Sequence[Sequence[Question]]) -> ReadPlan:
    """Return the rows that the questions of cases need, each once in a case, and what is read off them.

    Raises:
        RequestError: an answer without tokens, a text longer than the context.
    """
    rows: list[tuple[int, ...]] = []
    owner: list[int] = []
    reads: list[list[list[Read]]] = []
    tokenized = iter(continuations(model, [question for questions in cases for question in questions]))
    for case, questions in enumerate(cases):
        texts = list(itertools.islice(tokenized, len(questions)))
        wanted = sorted({ids[:-1] for ids, _ in texts}, key=len, reverse=True)
        kept: list[tuple[int, ...]] = []
        for ids in wanted:  # a row that another one begins with is read off that one
            if not any(other[: len(ids)] == ids for other in kept):
                kept.append(ids)
        place = {ids: next(i for i, other in enumerate(kept) if other[: len(ids)] == ids) for ids in wanted}
        base = len(rows)
        rows += kept
        owner += [case] * len(kept)
        reads.append(
            [[Read(base + place[ids[:-1]], i - 1, ids[i]) for i in range(first, len(ids))] for ids, first in texts]
        )
    return ReadPlan(rows, owner, reads)


@torch.no_grad()
def score(
    model: EditableModel, cases: Sequence[Sequence[Question]], variants: Sequence[Sequence[Edit | None] | None]
) -> list[list[list[Score]]]:
    """Score every question of every case under every variant of the model.

    Args:
        model: the unedited model; not changed.
        cases: the questions of each case.
        variants: None for the unedited model, or per case one edit or None.

    Returns:
        `[variant][case][question]`.

    Raises:
        RequestError: an answer without tokens, a text longer than the context.
    """
    by_variant: list[list[list[Score]]] = [[] for _ in variants]
    cases = [[Question(*question) for question in case] for case in cases]  # plain pairs will do
    for questions, alike in by_prompts(model, cases, variants):
        for variant, scores in zip(alike, _score(model, questions, [variants[v] for v in alike]), strict=True):
            by_variant[variant] = scores
    return by_variant


def by_prompts(
    model: EditableModel, cases: Sequence[Sequence[Any]], variants: Sequence[OwnEdits]
) -> Iterator[tuple[Sequence[Sequence[Any]], list[int]]]:
    """Yield variants that are asked the same texts, by number, with what they are asked; an edit of prompts changes
    that.

    Args:
        model: the unedited model.
        cases: what is asked of each case.
        variants: None for the unedited model, or per case one edit or None.
    """
    left = list(range(len(variants)))
    asked = [_asked(model, cases, edits) for edits in variants]
    while left:
        alike = [v for v in left if asked[v] == asked[left[0]]]
        left = [v for v in left if v not in alike]
        yield asked[alike[0]], alike


def _asked(model: EditableModel, cases: Sequence[Sequence[Any]], edits: OwnEdits) -> list[list[Any]]:
    if edits is None:
        return [list(case) for case in cases]
    edit_per_ask = [edit for case, edit in zip(cases, edits, strict=True) for _ in case]
    prompts = iter(prompts_edited(model, [ask.prompt for case in cases for ask in case], edit_per_ask))
    return [[ask._replace(prompt=next(prompts)) for ask in case] for case in cases]


def _score(
    model: EditableModel, cases: Sequence[Sequence[Question]], variants: Sequence[Sequence[Edit | None] | None]
) -> list[list[list[Score]]]:
    """`score` of variants that are asked the same texts."""
    plan = plan_of(model, cases)
    results: list[dict[Read, tuple[float, bool]]] = [{} for _ in variants]
    wanted: dict[int, list[Read]] = {}
    for read in {read for case in plan.reads for question in case for read in question}:
        wanted.setdefault(read.row, []).append(read)
    for part, finals in final_states(model, plan.rows, plan.owner, variants):
        local = [(at, read) for at, i in enumerate(part) for read in wanted.get(i, [])]
        for result, final in zip(results, finals, strict=True):
            result.update(read_places(model, final, local))
    return [[[score_of(r, q) for q in case] for case in plan.reads] for r in results]


def final_states(
    model: EditableModel, rows: Sequence[Sequence[int]], owner: Sequence[int], variants: Sequence[OwnEdits]
) -> Iterator[tuple[list[int], Iterator[Tensor]]]:
    """Yield what the last layer gives at every token of rows under variants, for some of the rows at a time.

    The layers before the first edited one are run once and serve all variants.

    Args:
        model: the unedited model; not changed.
        rows: token ids.
        owner: per row the case whose edit it sees.
        variants: None for the unedited model, or per case one edit or None; all are asked the same rows.

    Yields:
        Which rows, and per variant, in turn, their hidden states `[rows, tokens, d_model]`.
    """
    layers = [edit.first_layer for edits in variants for edit in edits or () if edit is not None]
    first = min((layer for layer in layers if layer is not None), default=model.n_layer)
    for part in _parts(model, rows):
        batch = align([rows[i] for i in part], device=model.device)
        segment = Segment(model, batch.mask, embeddings=embed(model, batch.ids))
        hidden = segment.run(segment.start, range(first))
        owners = [owner[i] for i in part]
        yield part, (_finish(model, segment, hidden, first, edits, owners) for edits in variants)


def _parts(model: EditableModel, rows: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """Row numbers in groups of similar length, each group of as many columns in all as the device likes."""
    at_most = budget.columns_scored(model)
    part: list[int] = []
    for i in sorted(range(len(rows)), key=lambda i: len(rows[i])):
        if part and (len(part) + 1) * len(rows[i]) > at_most:
            yield part
            part = []
        part.append(i)
    if part:
        yield part


def _finish(
    model: EditableModel,
    segment: Segment,
    hidden: Tensor,
    first: int,
    edits: Sequence[Edit | None] | None,
    owner: Sequence[int],
) -> Tensor:
    rest = range(first, model.n_layer)
    if edits is None:
        return segment.run(hidden, rest)
    with rows_edited(model, [edits[case] for case in owner]):
        return segment.run(hidden, rest)


def read_places(
    model: EditableModel, final: Tensor, local: Sequence[tuple[int, Read]]
) -> Iterator[tuple[Read, tuple[float, bool]]]:
    """Yield the log probability of each read's token and whether it is the likeliest; a place is read once."""
    of_place: dict[tuple[int, int], list[Read]] = {}
    for at, read in local:
        of_place.setdefault((at, read.position), []).append(read)
    places = sorted(of_place)
    count = budget.reads_scored(model)
    for begin in range(0, len(places), count):
        part = places[begin : begin + count]
        rows, columns = torch.tensor(part, device=final.device).T
        logits = read_out(model, final[rows, columns])
        asked = [(n, read) for n, place in enumerate(part) for read in of_place[place]]
        which = torch.tensor([n for n, _ in asked], device=final.device)
        tokens = torch.tensor([read.token for _, read in asked], device=final.device)
        of_tokens, norm = logits[which, tokens], normaliser(logits).rows(which)
        log_p, best = norm.log_p(of_tokens).tolist(), (of_tokens == norm.largest).tolist()
        yield from ((read, (p, b)) for (_, read), p, b in zip(asked, log_p, best, strict=True))


def score_of(read_off: Mapping[Read, tuple[float, bool]], reads: Sequence[Read]) -> Score:
    """Return the score of an answer from what was read of its tokens."""
    values = [read_off[read] for read in reads]
    return Score(tuple(v[0] for v in values), tuple(v[1] for v in values))
