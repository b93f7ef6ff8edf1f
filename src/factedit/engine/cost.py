"""What a job takes, from the shape of the model alone: multiply-adds and bytes of weights, before anything is run.

Every formula of the house is here, in plain numbers; what a command puts together of them is in `work/dry_run.py`.
Counted are the products with the layers' matrices and with the output matrix, and attention's scores and sums (queries
with all keys of a row, as torch's kernels take them). A way back costs what the way there costs, since no parameter
needs a gradient, and attention's twice (four products instead of two). Norms and activations are not counted: they are
bound by memory and a few per cent of the time.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from factedit.models.adapter import EditableModel


class Work(NamedTuple):
    """What a job takes.

    Attributes:
        flops: multiply-adds, times two.
        read: bytes of weights that pass through the processor, once for every batch.
        passes: through all layers of a model that is read from disk, where what runs together passes a layer at once
            (`streaming.py`); a part of the layers is a part of a pass.
    """

    flops: float = 0.0
    read: float = 0.0
    passes: float = 0.0

    def __add__(self, other: tuple[float, ...]) -> Work:  # type: ignore[override]
        return Work(*(mine + its for mine, its in zip(self, other, strict=True)))

    def times(self, count: float) -> Work:
        """Return the work of the same so many times."""
        return Work(*(part * count for part in self))


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """The sizes of a model that decide what it costs.

    Attributes:
        n_layer, d_model, d_mlp, vocab: see `EditableModel`.
        layer: numbers of a layer's matrices that a token is multiplied by (of stacked experts those it is sent to).
        stored: numbers of a layer.
        width: of all heads' queries together.
        numbers: of the whole model, tied ones once.
        bytes_each: of a number.
    """

    n_layer: int
    d_model: int
    d_mlp: int
    vocab: int
    layer: float
    stored: float
    width: int
    numbers: int
    bytes_each: int

    @classmethod
    def of(cls, model: EditableModel) -> ModelShape:
        """Return the shape of a model, which may be an outline."""
        config = model.lm.config.get_text_config()
        d_head = getattr(config, "head_dim", None) or model.d_model // config.num_attention_heads
        stored = sum(p.numel() for layer in model.layers for p in layer.parameters()) / model.n_layer
        return cls(
            n_layer=model.n_layer, d_model=model.d_model, vocab=model.vocab,
            d_mlp=0 if model.family.experts else model.d_mlp,
            layer=sum(_multiplied(layer, config) for layer in model.layers) / model.n_layer, stored=stored,
            width=d_head * config.num_attention_heads, numbers=sum(p.numel() for p in model.lm.parameters()),
            bytes_each=torch.finfo(model.dtype).bits // 8,
        )  # fmt: skip

    @property
    def weights(self) -> int:
        """Bytes of the whole model."""
        return self.numbers * self.bytes_each

    def forward(self, tokens: float, keys: float, layers: int, *, reads: float = 0.0, batches: float = 1.0) -> Work:
        """Return the work of tokens through layers.

        Args:
            tokens: how many.
            keys: that each sees, on average.
            layers: how many.
            reads: positions whose vocabulary is read.
            batches: in so many parts, each of which fetches the weights.
        """
        flops = tokens * layers * (2 * self.layer + 4 * self.width * keys) + 2 * reads * self.vocab * self.d_model
        head = self.vocab * self.d_model if reads else 0
        return Work(flops, batches * self.bytes_each * (layers * self.stored + head), batches * layers / self.n_layer)

    def backward(self, tokens: float, keys: float, layers: int, *, reads: float = 0.0, batches: float = 1.0) -> Work:
        """Return the work of the way back through the same, gradients reaching hidden states and no parameter."""
        there = self.forward(tokens, keys, layers, reads=reads, batches=batches)
        last = min(layers, 1) * batches / self.n_layer  # it is still there
        return there + Work(4 * tokens * layers * self.width * keys, 0.0, -last)


def _multiplied(layer: nn.Module, config: object) -> float:
    """Numbers of the matrices that a token is multiplied by in a layer."""
    plain = sum(m.weight.numel() for m in layer.modules() if isinstance(m, nn.Linear | Conv1D))
    experts = [p for p in layer.parameters() if p.ndim == 3]  # `[experts, …]`, stacked
    taken = getattr(config, "num_experts_per_tok", None) or getattr(config, "moe_k", None) or 1
    return float(plain) + sum(p[0].numel() * min(int(taken), len(p)) for p in experts)


# -- jobs ------------------------------------------------------------------------------------------


def trace_work(
    shape: ModelShape, tokens: int, begin: int, samples: int, starts: Sequence[int], *, batches: int = 1,
    together: int = 1,
) -> Work:  # fmt: skip
    """Return the work of a causal trace (ROME section 2.1): the clean run, the corrupted ones, and every restored one
    from where it differs.

    Args:
        shape: of the model.
        tokens: of the prompt.
        begin: the subject's first token.
        samples: noise samples.
        starts: per restoration at one token the first layer that runs differently.
        batches: parts in which the restorations at one token run.
        together: tokens at which restorations run in one pass, where layers are read from disk.
    """
    n = shape.n_layer
    work = shape.forward(tokens, tokens, n, reads=1)
    work += shape.forward(samples * (tokens - begin), tokens, n, reads=samples)
    for token in range(begin, tokens):
        felt = [start for start in starts if token == tokens - 1 or start < n]
        for start in felt:
            alone = shape.forward(samples * (tokens - token), tokens, n - start, reads=samples, batches=0)
            work += alone
        if felt:
            work += Work(0, shape.forward(0, 0, n - min(felt), reads=1, batches=batches).read)
    return work + Work(0, 0, math.ceil(tokens / together) * (n - min(starts, default=n)) / n)


class ValueRow(NamedTuple):
    """A row that a value is optimised on.

    Attributes:
        before: tokens before the one that δ is added at.
        after: tokens from there on.
        reads: positions whose vocabulary is read.
    """

    before: int
    after: int
    reads: int


def values_work(
    shape: ModelShape, rows: Iterable[ValueRow], layer: int, evaluations: int, *, stems: int = 0, batches: float = 1.0,
    beginnings: int = 1,
) -> Work:  # fmt: skip
    """Return the work of v* or z of facts (ROME eq. 4): up to the edited layer once, then every evaluation there, all
    but the last back.

    Args:
        shape: of the model.
        rows: of all facts.
        layer: the first that is run at every step.
        evaluations: of the loss.
        stems: tokens of what rows begin with alike, which is run once; the rows' own count only from δ's token on.
        batches: parts in which the facts run; each is optimised by itself.
        beginnings: passes before δ's token, where layers are read from disk: stems, and what differs after them.
    """
    rows = list(rows)
    above, work = shape.n_layer - layer, Work()
    work += shape.forward(stems, stems / max(1, len(rows)), shape.n_layer, batches=batches)
    for row in rows:
        keys = row.before + row.after
        work += shape.forward(row.after, keys, layer, batches=0)
        work += shape.forward(1, row.before + 1, 1, batches=0)  # keys and values without δ
        work += shape.forward(row.after, keys, above, reads=row.reads, batches=0).times(evaluations)
        work += shape.backward(row.after, keys, above, reads=row.reads, batches=0).times(evaluations - 1)
    fetched = shape.forward(0, 0, above, reads=1, batches=batches).read * (2 * evaluations - 1)
    back = max(0, above - 2)  # the last one is still there, and the edited one's weights wait
    again = (evaluations - 1) * (back + above if above > 1 else 0)
    visits = math.ceil(batches) * (layer + above + again)
    passes = beginnings + visits / shape.n_layer
    return Work(work.flops, work.read + fetched + shape.forward(0, 0, layer, batches=batches).read, passes)


def moments_work(
    shape: ModelShape, layers: Sequence[int], tokens: int, *, piece: int, batches: float = 1.0, summed: int = 1 << 14
) -> Work:
    """Return the work of E[k kᵀ]: text up to the last layer asked, and half of k kᵀ and an eighth, which is symmetric,
    per layer; `summed` tokens pass the layers at once where these are read from disk.
    """
    through = shape.forward(tokens, piece, max(layers) + 1, batches=batches)
    passes = math.ceil(tokens / summed) * (max(layers) + 1) / shape.n_layer
    return Work(through.flops + len(layers) * 2 * 5 / 8 * tokens * shape.d_mlp**2, through.read, passes)


def solve_work(size: int, columns: int) -> Work:
    """Return the work of a Cholesky factor of `[size, size]` in float64 and its two triangular solves for so many
    columns.
    """
    return Work(size**3 / 3 + 2 * size**2 * columns, 8.0 * size**2)


def tuned_work(shape: ModelShape, tokens: float, layer: int, steps: int, *, reads: float, batches: float = 1.0) -> Work:
    """Return the work of one matrix tuned on rows of tokens: there and back from its layer at every step, and the
    matrix's gradient.
    """
    above, length = shape.n_layer - layer, tokens
    step = shape.forward(tokens, length, above, reads=reads, batches=batches)
    step += shape.backward(tokens, length, above, reads=reads, batches=batches)
    step += Work(2 * tokens * shape.d_mlp * shape.d_model)
    return shape.forward(tokens, length, layer, batches=batches) + step.times(steps)


# -- memory ----------------------------------------------------------------------------------------


def held(shape: ModelShape, tokens: float, reads: float) -> float:
    """Return how many bytes are held while so many tokens pass a layer and so many rows of logits are read."""
    return tokens * (10 * shape.d_model + 5 * shape.d_mlp) * 4 + 12 * reads * shape.vocab


def of_moment(d_mlp: int) -> float:
    """Return how many bytes are those of C, its factor in float64, and the copy that it is taken of."""
    return d_mlp**2 * (4 + 8 + 8)
