"""Prompts with their targets as rows of tokens, run once up to the first layer that changes.

What fine-tuning, knowledge neurons and the hypernetworks share: the loss is teacher-forced, i.e. every target token
is scored at the position before it, given the target's earlier tokens. All tokens of a row are run from that layer
on, since a change of a matrix acts at every one of them; the vocabulary is read only where a token is scored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from factedit.engine import budget
from factedit.engine.differentiable import applied
from factedit.engine.resume import Segment, align, embed, read_out
from factedit.engine.vocabulary import log_probability
from factedit.models.adapter import EditableModel
from factedit.models.positions import continuation


@dataclass(frozen=True)
class TargetRow:
    """One row and what is read off it.

    Attributes:
        ids: token ids, without the target's last.
        reads: positions whose next token is scored.
        targets: those next tokens.
    """

    ids: tuple[int, ...]
    reads: tuple[int, ...]
    targets: tuple[int, ...]


def target_row(model: EditableModel, prompt: str, target: str) -> TargetRow:
    """Return the row of a prompt and its target.

    Raises:
        RequestError: a target without tokens, or a text longer than the context.
    """
    ids, first = continuation(model, prompt, target)
    return TargetRow(ids[:-1], tuple(range(first - 1, len(ids) - 1)), ids[first:])


class TargetBatch:
    """Rows, run once without gradients up to a layer.

    Args:
        model: the model; unchanged.
        layer: the first layer to be run again and again.
        rows: what to run.
        hidden: what the layer receives, `[rows, tokens, d_model]`, where it is known already.

    Attributes:
        rows: the same.
        owner: per read its row, `[reads]`.
        columns: per read its position, `[reads]`.
        targets: per read the token that is scored, `[reads]`.
        mask: `[rows, tokens]`, True where there is a token.
    """

    @torch.no_grad()
    def __init__(
        self, model: EditableModel, layer: int, rows: Sequence[TargetRow], hidden: Tensor | None = None
    ) -> None:
        self.model, self.layer, self.rows = model, layer, tuple(rows)
        batch = align([row.ids for row in rows], device=model.device)
        self._segment = Segment(model, batch.mask, embeddings=embed(model, batch.ids) if hidden is None else None)
        self._hidden = self._segment.run(self._segment.start, range(layer)) if hidden is None else hidden
        self.mask = batch.mask
        place = [(n, position) for n, row in enumerate(rows) for position in row.reads]
        self.owner, self.columns = torch.tensor(place, device=model.device).T
        self.targets = torch.tensor([t for row in rows for t in row.targets], device=model.device)

    def hidden(self) -> Tensor:
        """Return final hidden states `[reads, d_model]` where tokens are scored, with the hooks that are active now."""
        final = self._segment.run(self._hidden, range(self.layer, self.model.n_layer))
        return final[self.owner, self.columns]

    def losses(self, hidden: Tensor | None = None) -> Tensor:
        """Return the mean negative log-likelihood of each target, `[rows]`, in nats; gradients reach `hidden`."""
        hidden = self.hidden() if hidden is None else hidden
        each = read_losses(self.model, hidden, negative_log_likelihood(self.targets))
        return self.row_means(each)

    def row_means(self, each: Tensor) -> Tensor:
        """Return the mean over each row's reads of one number per read: `[reads]` to `[rows]`."""
        sums = each.new_zeros(len(self.rows)).index_add(0, self.owner, each)
        counts = torch.tensor([len(row.reads) for row in self.rows], device=each.device, dtype=each.dtype)
        return sums / counts


Loss = Callable[[Tensor, slice], Tensor]


def negative_log_likelihood(targets: Tensor) -> Loss:
    """Return −log P of one token per read, from logits `[n, vocab]` of the reads of a slice."""

    def loss(logits: Tensor, part: slice) -> Tensor:
        return -log_probability(logits, targets[part])

    return loss


def read_losses(model: EditableModel, hidden: Tensor, loss: Loss) -> Tensor:
    """Return one loss per read, from the vocabulary at each, with gradients to `hidden` and few logits held at a time.

    Args:
        model: whose norm and head read the states.
        hidden: final hidden states `[reads, d_model]`.
        loss: gives `[n]` from logits `[n, vocab]` and the slice of the reads they belong to.
    """
    if not hidden.requires_grad:
        return torch.cat([loss(read_out(model, hidden[part]), part) for part in _parts(model, len(hidden))])
    return applied(_ReadLosses, hidden, model, loss)


def _parts(model: EditableModel, count: int) -> list[slice]:
    step = budget.reads_tuned(model)
    return [slice(begin, min(begin + step, count)) for begin in range(0, count, step)]


class _ReadLosses(torch.autograd.Function):
    """The gradient is taken in the forward pass, part by part: each read's loss depends on its own state alone."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, model: EditableModel, loss: Loss) -> Tensor:
        values, slopes = [], []
        for part in _parts(model, len(hidden)):
            with torch.enable_grad():
                leaf = hidden[part].detach().requires_grad_()
                losses = loss(read_out(model, leaf), part)
                slopes.append(torch.autograd.grad(losses.sum(), leaf)[0])
            values.append(losses.detach())
        ctx.save_for_backward(torch.cat(slopes))
        return torch.cat(values)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        [slopes] = ctx.saved_tensors
        return slopes * grads[0].to(slopes)[:, None], None, None
