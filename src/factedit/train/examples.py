"""What a hypernetwork is trained on: edits, other wordings of them, and texts that must stay as they are.

Three sources. `general`: the model's own sampled continuation of a piece of text is the
edit, the same continuation after a shortened piece its other wording (MEND, arXiv 2110.11309, §5, "Wikitext
generation"). Records of facts: the request, one of its wordings; what must stay is the record's unrelated question
(zsRE) or a piece of text (CounterFact). Which of them a step gets depends on the seed and the step alone.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from factedit.edit.target_rows import TargetRow, target_row
from factedit.engine.generate import generate
from factedit.errors import DataError, RequestError
from factedit.facts import FactRecord
from factedit.models.adapter import EditableModel
from factedit.models.tokens import text_tokens

PIECE = 24  # tokens of a piece of text
CONTINUATION = 5  # tokens of an edit on general text (published: 10); most of a step is reading the vocabulary at them
STAYS = 3  # tokens whose distribution must stay, per text
TOP_K = 5
HELD_OUT = 8  # one text in so many stands in validation only


@dataclass(frozen=True)
class Example:
    """One training example.

    Attributes:
        edit: prompt and target of the edit.
        asked: another wording with the same target.
        stays: an unrelated text; its distributions at the reads must stay.
    """

    edit: TargetRow
    asked: TargetRow
    stays: TargetRow


Draws = Sequence[tuple[int, random.Random]]  # which record, and its own stream of random numbers


class Source(Protocol):
    """A training set."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of its records."""
        ...

    @property
    def texts(self) -> tuple[str, ...]:
        """The prompts it trains on, for later comparison with what is evaluated."""
        ...

    def examples(self, model: EditableModel, draws: Draws, *, held_out: bool = False) -> list[Example]:
        """Return one example per record drawn; what must stay is drawn from other texts for validation than for
        training.
        """
        ...


@dataclass(frozen=True)
class RecordExamples:
    """Facts to edit.

    Attributes:
        records: what to train on.
        pieces: token ids of texts that must stay, for records without an unrelated question of their own.
    """

    records: tuple[FactRecord, ...] = field(repr=False)
    pieces: tuple[tuple[int, ...], ...] = field(repr=False, default=())

    @property
    def names(self) -> tuple[str, ...]:
        """The case ids."""
        return tuple(record.case_id for record in self.records)

    @property
    def texts(self) -> tuple[str, ...]:
        """Every wording of every request."""
        return tuple(text for r in self.records for text in (r.request.text, *r.paraphrases))

    def examples(self, model: EditableModel, draws: Draws, *, held_out: bool = False) -> list[Example]:
        """Return the request, one of its wordings drawn, and what must stay."""
        pieces = _part(self.pieces, held_out)
        return [self._example(model, number, draw, pieces) for number, draw in draws]

    def _example(
        self, model: EditableModel, number: int, draw: random.Random, pieces: Sequence[Sequence[int]]
    ) -> Example:
        record = self.records[number]
        wording = draw.choice((record.request.text, *record.paraphrases))
        target = record.request.target_new
        if record.answered_neighbor is not None:
            stays = target_row(model, *record.answered_neighbor)
            stays = TargetRow(stays.ids, stays.reads[:STAYS], stays.targets[:STAYS])
        else:
            stays = _stays(draw.choice(pieces))
        return Example(target_row(model, record.request.text, target), target_row(model, wording, target), stays)


@dataclass(frozen=True)
class Pieces:
    """Pieces of general text, continued by the model itself.

    Attributes:
        pieces: token ids, start token included.
    """

    pieces: tuple[tuple[int, ...], ...] = field(repr=False)

    @property
    def texts(self) -> tuple[str, ...]:
        """None: no evaluation asks for the continuation of a piece of text."""
        return ()

    @property
    def names(self) -> tuple[str, ...]:
        """The token ids, written out: a piece has no other name."""
        return tuple(" ".join(map(str, piece)) for piece in self.pieces)

    def examples(self, model: EditableModel, draws: Draws, *, held_out: bool = False) -> list[Example]:
        """Return the model's continuation of a piece, after the piece and after its end alone; another piece stays."""
        prompts = []
        for number, draw in draws:
            piece = self.pieces[number]
            prompts.append(piece[: draw.randint(min(8, len(piece)), len(piece))])
        seeds = [draw.randrange(1 << 30) for _, draw in draws]
        added = generate(model, prompts, tokens=[CONTINUATION] * len(prompts), top_k=TOP_K, seeds=seeds)
        examples, others = [], _part(self.pieces, held_out)
        for prompt, continuation, (number, draw) in zip(prompts, added, draws, strict=True):
            start = 1 if prompt[0] == model.tokenizer.bos_token_id else 0
            cut = draw.randint(0, (len(prompt) - start) // 2)
            shorter = prompt[:start] + prompt[start + cut :]
            examples.append(
                Example(
                    _followed(prompt, continuation),
                    _followed(shorter, continuation),
                    _stays(_another(others, self.pieces[number], draw)),
                )
            )
        return examples


def pieces_of(model: EditableModel, texts: Iterable[str], count: int) -> tuple[tuple[int, ...], ...]:
    """Return one piece of `PIECE` tokens from the beginning of each text, until there are `count`.

    Raises:
        DataError: fewer than two texts are long enough.
    """
    pieces: list[tuple[int, ...]] = []
    for text in texts:
        start, body = text_tokens(model, text[: 20 * PIECE])
        ids = start + body
        if len(ids) >= PIECE:
            pieces.append(tuple(ids[:PIECE]))
        if len(pieces) == count:
            break
    if len(pieces) < 2:
        raise DataError(f"The text holds {len(pieces)} pieces of {PIECE} tokens; give text with at least two.")
    return tuple(pieces)


def usable(model: EditableModel, records: Sequence[FactRecord]) -> tuple[FactRecord, ...]:
    """Return the records whose every text the model's tokenizer and context can take."""
    kept = []
    for record in records:
        try:
            for text in (record.request.text, *record.paraphrases):
                target_row(model, text, record.request.target_new)
            if record.answered_neighbor is not None:
                target_row(model, *record.answered_neighbor)
            kept.append(record)
        except RequestError:
            continue
    return tuple(kept)


def _followed(prompt: Sequence[int], added: Sequence[int]) -> TargetRow:
    first = len(prompt) - 1
    return TargetRow((*prompt, *added[:-1]), tuple(range(first, first + len(added))), tuple(added))


def _part(pieces: Sequence[Sequence[int]], held_out: bool) -> Sequence[Sequence[int]]:
    """Return the pieces that must stay in validation, every so manyth, or in training: the others."""
    if held_out or len(pieces) <= 1:
        return pieces[::HELD_OUT]
    return [piece for n, piece in enumerate(pieces) if n % HELD_OUT]


def _another(pieces: Sequence[Sequence[int]], excluded: Sequence[int], draw: random.Random) -> Sequence[int]:
    """Return one of the pieces, other than the edit's own where there is another."""
    others = [piece for piece in pieces if piece != excluded]
    return draw.choice(others or pieces)


def _stays(piece: Sequence[int]) -> TargetRow:
    count = min(STAYS, len(piece) - 1)
    return _followed(piece[:-count], piece[-count:])
