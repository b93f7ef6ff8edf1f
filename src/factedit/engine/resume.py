"""The engine: resume a forward pass at layer l and token p.

Everything factedit does is a forward pass with a change at some (layer, position). Before the first change
nothing differs from the clean run, so the clean part is run once and the rest is *resumed*: only layers
>= l, only tokens >= p, against the keys and values of the tokens before.

How, without knowing an architecture: the model's own body prepares each layer's arguments (masks, rotary embeddings,
positions, cache) while every layer's `forward` is replaced by a recorder that returns its input. This costs no layer
compute. The layers are then called with these arguments, as many as are needed. The output side is run the same way.

Batches are aligned at a column: what lies before it is padded left, what follows is padded right.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from factedit.engine.attention import short_attention
from factedit.engine.head import tall_head
from factedit.engine.products import own_products
from factedit.engine.states import ReadBefore
from factedit.engine.streaming import passed
from factedit.models.adapter import EditableModel
from factedit.models.matrix import forward_replaced


@dataclass(frozen=True)
class Past:
    """Keys and values of the tokens before a segment, and what modules with a state have read of them.

    Attributes:
        keys, values: per layer `[rows, heads, tokens, d_head]`, or None where the layer was not run or has none.
        mask: `[rows, tokens]`, True where there is a token and not padding.
        read: per layer `[rows, 1, tokens, d_model]` (`states.py`), or None; empty where no layer has a state.
    """

    keys: tuple[Tensor | None, ...]
    values: tuple[Tensor | None, ...]
    mask: Tensor
    read: tuple[Tensor | None, ...] = ()

    def select(self, rows: Tensor) -> Past:
        """Return the past of these rows, in this order (a row may come more than once)."""
        return self.each(lambda tensor: tensor.index_select(0, rows.to(tensor.device)), self.mask.index_select(0, rows))

    def of_layers(self, layers: Container[int]) -> Past:
        """Return the past of these layers alone."""

        def kept(tensors: Sequence[Tensor | None]) -> tuple[Tensor | None, ...]:
            return tuple(tensor if n in layers else None for n, tensor in enumerate(tensors))

        return Past(kept(self.keys), kept(self.values), self.mask, kept(self.read))

    def until(self, tokens: int) -> Past:
        """Return the past cut to its first `tokens` columns."""
        return self.each(lambda tensor: tensor[:, :, :tokens], self.mask[:, :tokens])

    def each(self, change: Callable[[Tensor], Tensor], mask: Tensor) -> Past:
        """Return the past with every tensor `[rows, heads, tokens, …]` changed alike, and another mask."""

        def changed(tensors: Sequence[Tensor | None]) -> tuple[Tensor | None, ...]:
            return tuple(None if tensor is None else change(tensor) for tensor in tensors)

        return Past(changed(self.keys), changed(self.values), mask, changed(self.read))


@dataclass(frozen=True)
class Batch:
    """Rows of tokens aligned at a column.

    Attributes:
        ids: `[rows, columns]`.
        mask: `[rows, columns]`, True where there is a token.
        split: the column at which every row was aligned.
        offset: per row, how many padding columns stand before its first token.
    """

    ids: Tensor
    mask: Tensor
    split: int
    offset: tuple[int, ...]


def align(rows: Sequence[Sequence[int]], splits: Sequence[int] | None = None, *, device: Any = "cpu") -> Batch:
    """Lay rows of token ids under each other so that token `splits[i]` of every row i stands in one column.

    Without `splits` the rows begin in one column (right padding only).
    """
    splits = splits or [0] * len(rows)
    before = max(splits)
    width = before + max(len(row) - split for row, split in zip(rows, splits, strict=True))
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros(len(rows), width, dtype=torch.bool)
    offset = tuple(before - split for split in splits)
    for i, (row, start) in enumerate(zip(rows, offset, strict=True)):
        ids[i, start : start + len(row)] = torch.tensor(row)
        mask[i, start : start + len(row)] = True
    return Batch(ids.to(device), mask.to(device), before, offset)


class _KeptLayer(DynamicLayer):
    """Hands out cat(past, new) without growing, so the same past can be resumed again and again."""

    def __init__(self, keys: Tensor | None, values: Tensor | None, length: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.past_keys, self.past_values, self.length = keys, values, length
        self.new: tuple[Tensor, Tensor] | None = None
        self.keep = False

    def update(self, key_states: Tensor, value_states: Tensor, *_args: Any, **_kwargs: Any) -> tuple[Tensor, Tensor]:
        if self.past_keys is not None and self.past_values is not None:
            key_states = torch.cat([self.past_keys, key_states], dim=-2)
            value_states = torch.cat([self.past_values, value_states], dim=-2)
        if self.keep:
            self.new = key_states, value_states
        return key_states, value_states

    def get_seq_length(self) -> int:
        return self.length


class Segment:
    """A run of tokens of a batch, ready to be taken through any range of layers.

    Args:
        model: the model.
        mask: `[rows, past + tokens]`, True where there is a token: of the past and of the segment.
        past: keys and values of the tokens before (None: the segment begins the text).
        embeddings: `[rows, tokens, d_model]` token embeddings; needed only to enter at layer 0.

    Attributes:
        start: `[rows, tokens, d_model]` what layer 0 receives, h[-1] (meaningless without `embeddings`).
    """

    def __init__(
        self, model: EditableModel, mask: Tensor, *, past: Past | None = None, embeddings: Tensor | None = None
    ) -> None:
        length = 0 if past is None else past.mask.shape[1]
        self.model, self._mask = model, mask
        none: tuple[None, ...] = (None,) * model.n_layer
        keys, values = (none, none) if past is None else (past.keys, past.values)
        self._kept = [_KeptLayer(k, v, length) for k, v in zip(keys, values, strict=True)]
        with_state = any(places.state is not None for places in model.places)
        self._read = [ReadBefore(read) for read in (past.read if past is not None and past.read else none)]
        self._padding = mask if with_state and not bool(mask.all()) else None
        if embeddings is None:
            shape = (mask.shape[0], mask.shape[1] - length, model.lm.get_input_embeddings().weight.shape[1])
            embeddings = torch.zeros(shape, dtype=model.dtype, device=mask.device)
        self.start, self._calls = _record(model, embeddings, mask, Cache(layers=list(self._kept)))

    def run(self, hidden: Tensor, layers: range, *, keep: bool = False) -> Tensor:
        """Take hidden states `[rows, tokens, d_model]` through the layers.

        Args:
            hidden: what the first layer of the range receives; gradients reach it; for parameters see `own_products`.
            layers: which layers, in order; an empty range returns `hidden`.
            keep: remember keys and values for `past`.
        """
        few = short_attention(hidden.device, hidden.dtype, hidden.shape[1], self._mask.shape[1])
        if self.model.streamed:
            return run_together([self], [hidden], layers, keep=keep)[0]
        with own_products(self.model, layers), few:
            for layer in layers:
                hidden = self.one(layer, hidden, keep)
        return hidden

    def one(self, layer: int, hidden: Tensor, keep: bool) -> Tensor:
        """Take hidden states through one layer, which is in memory."""
        self._kept[layer].keep = keep
        args, kwargs = self._calls[layer]
        with self._with_state(layer, keep):
            output = self.model.layers[layer](hidden, *args, **kwargs)
        first: Tensor = output[0] if isinstance(output, tuple) else output
        return first

    def _with_state(self, layer: int, keep: bool) -> AbstractContextManager[None]:
        module = self.model.places[layer].state
        return nullcontext() if module is None else self._read[layer].in_place(module, self._padding, keep=keep)

    def past(self) -> Past:
        """Return keys and values of all tokens so far, of the layers that were run with `keep`."""
        new = [kept.new or (None, None) for kept in self._kept]
        read = tuple(read.new for read in self._read)
        return Past(tuple(k for k, _ in new), tuple(v for _, v in new), self._mask, read)


def run_together(
    segments: Sequence[Segment], hidden: Sequence[Tensor], layers: range, *, keep: bool = False
) -> list[Tensor]:
    """Take several segments of a model through layers, each of which comes once for all; see `Segment.run`."""
    if not segments or not segments[0].model.streamed:
        return [segment.run(states, layers, keep=keep) for segment, states in zip(segments, hidden, strict=True)]
    ones = [lambda layer, states, segment=segment: segment.one(layer, states, keep) for segment in segments]
    return passed(segments[0].model, hidden, layers, ones)


def embed(model: EditableModel, ids: Tensor) -> Tensor:
    """Return token embeddings `[rows, tokens, d_embed]` as the body receives them (scaled, where a family scales)."""
    embeddings: Tensor = model.lm.get_input_embeddings()(ids)
    return embeddings


def read_out(model: EditableModel, hidden: Tensor) -> Tensor:
    """Return logits `[n, vocab]` of final hidden states `[n, d_model]`: the model's own norm, head and capping.

    Gradients reach `hidden` and no parameter.
    """
    # n rows of one token each: no attention across them and no long positions
    width = model.lm.get_input_embeddings().weight.shape[1]
    dummy = torch.zeros(hidden.shape[0], 1, width, dtype=model.dtype, device=hidden.device)
    output = hidden.unsqueeze(1)
    with _layers_replaced(model, lambda _layer, _hidden, _args, _kwargs: output), tall_head(model):
        logits: Tensor = _call(model, dummy, None, None).logits
    return logits.squeeze(1)  # an index would make its gradient a second tensor of this size


def next_token(model: EditableModel, ids: Sequence[int]) -> int:
    """Return the token the model ranks first after a row of token ids."""
    return next_tokens(model, [ids])[0]


@torch.no_grad()
def next_tokens(model: EditableModel, rows: Sequence[Sequence[int]]) -> list[int]:
    """Return the tokens the model ranks first after rows of token ids, in one batch."""
    batch = align(rows, device=model.device)
    segment = Segment(model, batch.mask, embeddings=embed(model, batch.ids))
    hidden = segment.run(segment.start, range(model.n_layer))
    tokens: list[int] = read_out(model, hidden[range(len(rows)), [len(row) - 1 for row in rows]]).argmax(-1).tolist()
    return tokens


def _record(
    model: EditableModel, embeddings: Tensor, mask: Tensor, cache: Cache
) -> tuple[Tensor, list[tuple[tuple[Any, ...], dict[str, Any]]]]:
    """Return what layer 0 receives, and the arguments each layer is called with."""
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    start: list[Tensor] = []

    def note(layer: int, hidden: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        if layer == 0:
            start.append(hidden)
        calls.append((args, kwargs))
        return hidden

    with _layers_replaced(model, note):
        _call(model, embeddings.clone(), mask, cache, body_only=True)  # some bodies scale what they are given in place
    return start[0], calls


def _call(
    model: EditableModel, embeddings: Tensor, mask: Tensor | None, cache: Cache | None, *, body_only: bool = False
) -> Any:
    """Call the model (or only its body) on embeddings, with positions counted from each row's first token.

    Without a mask there is no padding. It is then not looked at, for which an accelerator would have to be waited for.
    """
    target = model.body if body_only else model.lm
    if model.family.embedding_gain:
        embeddings = embeddings * getattr(model.body, model.family.embedding_gain)
    kwargs: dict[str, Any] = {"inputs_embeds": embeddings, "use_cache": cache is not None, "return_dict": True}
    kwargs["past_key_values"] = cache
    if mask is not None:
        kwargs["attention_mask"] = mask.long()
        if "position_ids" in inspect.signature(target.forward).parameters:
            positions = (mask.long().cumsum(-1) - 1).clamp(min=0)
            kwargs["position_ids"] = positions[:, -embeddings.shape[1] :]
    return target(**kwargs)


@contextmanager
def _layers_replaced(
    model: EditableModel, instead: Callable[[int, Tensor, tuple[Any, ...], dict[str, Any]], Tensor]
) -> Iterator[None]:
    """Every layer's `forward` replaced by `instead(layer, hidden, args, kwargs)`; restored on leaving."""
    tuple_output = model.family.tuple_output

    def replacement(layer: int) -> Callable[..., Any]:
        def forward(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
            hidden = instead(layer, hidden_states, args, kwargs)
            return (hidden, None) if tuple_output else hidden

        return forward

    with ExitStack() as stack:
        for index, module in enumerate(model.layers):
            stack.enter_context(forward_replaced(module, replacement(index)))
        yield
