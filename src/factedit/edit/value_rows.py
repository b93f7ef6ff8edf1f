"""The rows of a v* optimisation: each fact after each context, and its essence; run once up to the edited matrix.

Rows with about as many tokens from the subject on share a batch, so little is padded behind the subject; `hidden`
resumes a batch at the edited matrix with offsets added (see `engine/resume.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor

from factedit.edit.endings import Stop, ended, spoken
from factedit.engine.graphs import Step, captured
from factedit.engine.resume import Past, Segment, align, embed, run_together
from factedit.engine.stems import Beginnings, Stems
from factedit.facts import EditRequest
from factedit.models.adapter import EditableModel
from factedit.models.matrix import run_once
from factedit.models.positions import locate, subject_continuations
from factedit.models.tokens import in_contexts

ESSENCE = "{} is a"
TOKENS_PER_FETCH = 24  # fetching a matrix costs a processor as much as its product with this many tokens;
TOKENS_PER_CALL = {torch.float32: 256}  # calling a layer, forward and back, costs an accelerator as much as running
IN_HALF = 1024  # so many tokens through it


@dataclass(frozen=True)
class PromptRow:
    """One row of the batch: a context of one fact, or its essence.

    Attributes:
        fact: index of the fact.
        context: index of the context; the bare prompt is 0.
        ids: token ids; the essence ends at the subject.
        subject_last: where δ is added.
        reads: positions whose next token is scored.
        targets: those next tokens; empty where the next token is to stay what it was, as for the essence.
        weight: of that divergence; None: the settings' `kl`.
        scale: δ times this is added.
    """

    fact: int
    context: int
    ids: tuple[int, ...]
    subject_last: int
    reads: tuple[int, ...]
    targets: tuple[int, ...]
    weight: float | None = None
    scale: float = 1.0


def grouped(rows: Sequence[PromptRow], model: EditableModel) -> list[list[PromptRow]]:
    """Return rows that run together: those with as many tokens from the subject on, so that nothing is padded behind.
    No rows are no groups.

    A group joins the next wider one where padding it costs the device less than running it alone.
    """
    on_processor = model.device.type == "cpu"
    alone = TOKENS_PER_FETCH if on_processor else TOKENS_PER_CALL.get(model.dtype, IN_HALF)
    by_width: dict[int, list[PromptRow]] = {}
    for row in rows:
        by_width.setdefault(len(row.ids) - row.subject_last, []).append(row)
    groups: list[list[PromptRow]] = []
    narrower: list[PromptRow] = []
    widths = sorted(by_width)
    for width, next_width in zip_longest(widths, widths[1:]):
        narrower = narrower + by_width[width]
        if next_width is None or len(narrower) * (next_width - width) > alone:
            groups.append(narrower)
            narrower = []
    return groups


def stems_of(model: EditableModel, rows: Sequence[PromptRow], *, layers: int | None = None) -> Stems:
    """Return what rows of one context begin with alike, whatever the fact, of the lowest layers or of all."""
    return Stems(model, *beginnings(rows), layers=layers)


def beginnings(rows: Sequence[PromptRow]) -> Beginnings:
    """Return the tokens of rows before the subject's last, by context."""
    return Beginnings([row.context for row in rows], [row.ids[: row.subject_last] for row in rows])


def own_rows(batches: Sequence[RowBatch], fact: int) -> tuple[Tensor, Tensor]:
    """Return keys and values of a fact's context rows, the bare prompt first."""
    of_fact = [(b.keys[i], b.values[i], row) for b in batches for i, row in enumerate(b.rows) if row.fact == fact]
    of_fact = sorted((f for f in of_fact if f[2].targets), key=lambda f: f[2].context)
    return torch.stack([key for key, _, _ in of_fact]), torch.stack([value for _, value, _ in of_fact])


def request_rows(
    model: EditableModel, fact: int, request: EditRequest, contexts: Sequence[str], stop: Stop = "none"
) -> list[PromptRow]:
    """Return the rows of a fact: after every context, and the essence.

    Args:
        model: whose tokenizer counts.
        fact: index of the fact.
        request: the fact.
        contexts: templates, the bare one first.
        stop: how the target ends; see `endings.py`.

    Raises:
        RequestError: a subject or target without tokens.
        UnsupportedModel: a target is to end in an end token that there is not.
    """
    templates = in_contexts(model, request.prompt, contexts)
    rows = []
    for number, (text, first) in enumerate(
        subject_continuations(model, templates, request.subject, spoken(request.target_new, stop))
    ):
        reads = tuple(range(first - 1, len(text.ids) - 1))
        row = PromptRow(fact, number, text.ids[:-1], text.subject_last, reads, text.ids[first:])
        rows.append(ended(model, row, stop))
    essence = locate(model, ESSENCE, request.subject)
    where = essence.subject_last
    return [*rows, PromptRow(fact, -1, essence.ids[: where + 1], where, (where,), ())]


class RowBatch:
    """The rows, run once up to the edited matrix (`begun`); `hidden` resumes there.

    Args:
        model: the model; unchanged.
        layer: whose matrix.
        rows: the rows.
        past: of their tokens before the subject's last; see `Stems`.

    Attributes:
        keys, values: `[rows, d_mlp]`, `[rows, d_model]` at the last subject tokens, without δ.
        parts: how many offsets a fact has (here, the one).
        reached: how many of the resumed layers take an offset.
    """

    parts = 1
    reached = 1

    @torch.no_grad()
    def __init__(self, model: EditableModel, layer: int, rows: Sequence[PromptRow], past: Past | None) -> None:
        self.model, self.layer, self.rows, self._running = model, layer, rows, list(rows)
        after = align([row.ids[row.subject_last :] for row in rows], device=model.device)
        self._mask = after.mask if past is None else torch.cat([past.mask, after.mask], 1)
        self._segment = Segment(model, self._mask, past=past, embeddings=embed(model, after.ids))
        self._resumed = range(self.first_resumed(layer), model.n_layer)
        self._hidden = self._segment.start
        self._past = None if past is None else past.of_layers(self._resumed)
        self._facts = torch.tensor([row.fact for row in rows], device=model.device)
        self._scales = torch.tensor([row.scale for row in rows], device=model.device)
        self._step: Step | None = None  # made with the first offsets

    @staticmethod
    def first_resumed(layer: int) -> int:
        """Return the first layer that is run at every step."""
        return layer

    def enter(self, layers: range) -> None:
        """Take the rows through layers below the first resumed one, the last of them at least."""
        self._hidden = self._segment.run(self._hidden, layers)

    def settle(self) -> None:
        """See the rows at the edited matrix, where they are now, and set up what steps share."""
        del self._segment  # it holds the past of all layers
        self._note_first()
        self._prepare()

    def _note_first(self) -> None:
        """Keep what the last subject tokens give without δ."""
        before = self._mask.shape[1] - self._hidden.shape[1]
        segment = Segment(self.model, self._mask[:, : before + 1], past=self._past)
        with self.model.mlp(self.layer).noted((slice(None), 0)) as seen:
            segment.run(self._hidden[:, :1], range(self.layer, self.layer + self.reached))
        self.keys, self.values = seen[0]

    def keep_facts(self, facts: set[int]) -> None:
        """Go on with the rows of these facts only."""
        kept = [n for n, row in enumerate(self._running) if row.fact in facts]
        if len(kept) == len(self._running):
            return
        self._running = [self._running[n] for n in kept]
        index = torch.tensor(kept, dtype=torch.long, device=self._mask.device)
        del self._segment  # it holds the past that is replaced
        self._mask, self._hidden, self._facts = self._mask[index], self._hidden[index], self._facts[index]
        self._scales = self._scales[index]
        self._past = None if self._past is None else self._past.select(index)
        self._step = self._plain_step  # a captured one has the rows as they were
        if kept:
            self._prepare()

    def _prepare(self) -> None:
        """Set up what all steps of the rows that are still run share."""
        self._segment = Segment(self.model, self._mask, past=self._past)
        self._given: list[Any] = []
        place = [(n, position - row.subject_last) for n, row in enumerate(self._running) for position in row.reads]
        self._read_row, self._read_column = torch.tensor(place, device=self._mask.device).T

    def reads(self) -> list[tuple[int, int, int, int, float | None]]:
        """Return per read of the rows still run: fact, context, target token, tokens of the target, weight; where the
        next token is to stay what it was, target token -1 of 0.
        """
        return [
            (row.fact, row.context, target, len(row.targets), row.weight)
            for row in self._running
            for target in row.targets or (-1,)
        ]

    def hidden(self, offsets: Tensor) -> Tensor:
        """Return final hidden states `[reads, d_model]` at the positions that are read.

        Args:
            offsets: δ `[parts · facts, d_model]`, which is added.
        """
        if not self._running:
            return self._hidden.new_zeros(0, self.model.d_model)
        if self._step is None:
            # layers that come and go, or give at every step what they gave at the first, do not repeat
            same = not self.model.streamed and self.model.mixture(self.layer) is None
            self._step = captured(self._plain_step, offsets) if same else self._plain_step
        return self._step(offsets)

    def _plain_step(self, offsets: Tensor) -> Tensor:
        return self._read(self._run(offsets, self._resumed))

    def _read(self, final: Tensor) -> Tensor:
        return final[self._read_row, self._read_column]

    def _run(self, offsets: Tensor, layers: range) -> Tensor:
        """Hidden states `[rows, tokens, d_model]` with δ added, after all of the resumed layers, or the first, those
        that take an offset among them.
        """
        added, mixture = self._per_row(offsets), self.model.mixture(self.layer)
        # no step changes what a layer of experts reads, and reading all their weights again is dear
        same = nullcontext() if mixture is None else run_once(mixture.block, self._given)
        with same, self.model.mlp(self.layer).valued(lambda value: value + added):
            return self._segment.run(self._hidden, layers)

    def _per_row(self, offsets: Tensor) -> Tensor:
        """Return each row's δ, of `[facts, d_model]`, at its last subject token: `[rows, tokens, d_model]`."""
        row_offsets = offsets[self._facts]
        if any(row.scale != 1.0 for row in self._running):
            row_offsets = row_offsets * self._scales[:, None].to(row_offsets.dtype)
        return self._at_first(row_offsets)

    def _at_first(self, vectors: Tensor) -> Tensor:
        """Return one vector per row `[rows, d_model]` at the last subject token, zero elsewhere: `[rows, tokens,
        d_model]`.
        """
        first = torch.zeros(self._hidden.shape[1], dtype=vectors.dtype, device=vectors.device)
        first[0] = 1.0
        return vectors[:, None] * first[:, None]


@torch.no_grad()
def begun(batches: Sequence[RowBatch]) -> None:
    """Take rows to where they are resumed at every step.

    Of a model that is read from disk a layer comes once for all batches.
    """
    first = batches[0]._resumed.start
    below = range(max(0, first - 1) if batches[0].model.streamed else 0)
    below_last = run_together([batch._segment for batch in batches], [batch._hidden for batch in batches], below)
    for batch, hidden in zip(batches, below_last, strict=True):
        batch._hidden = hidden
        batch.enter(range(below.stop, first))
    for batch in batches:
        batch.settle()


def hidden_states(batches: Sequence[RowBatch], offsets: Tensor) -> Tensor:
    """Return final hidden states `[reads, d_model]` of all batches where they are read; see `RowBatch.hidden`.

    Of a model that is read from disk a layer comes once for all batches, there and on the way back.
    """
    running = [batch for batch in batches if batch._running]
    if not batches[0].model.streamed or len(running) < 2 or not batches[0]._resumed:
        return torch.cat([batch.hidden(offsets) for batch in batches])
    first, rest = running[0]._resumed[: running[0].reached], running[0]._resumed[running[0].reached :]
    begun = [batch._run(offsets, first) for batch in running]
    finals = run_together([batch._segment for batch in running], begun, rest)
    return torch.cat([batch._read(final) for batch, final in zip(running, finals, strict=True)])
