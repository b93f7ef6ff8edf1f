"""What a state says: the logit lens, and a Patchscope.

The logit lens (nostalgebraist 2020) reads a state with the model's own output side, as if no layer came after it. A
Patchscope (Ghandeharioun et al. 2024, arXiv 2401.06102) puts a hidden state in place of that of another prompt, at the
same layer, and lets the model go on: here of the paper's prompt of repetitions (its figure 1), so that the model says
what the state stands for.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any, cast

import torch
from torch import Tensor

from factedit.engine.likeliest import Token, likeliest
from factedit.engine.resume import Segment, align, embed, next_token, read_out
from factedit.errors import UsageError
from factedit.models.adapter import CONTRIBUTIONS, Contribution, EditableModel
from factedit.models.positions import locate, strings, tokenize
from factedit.models.tokens import is_space, text_after

REPEAT, PLACE = "cat -> cat; 1135 -> 1135; hello -> hello; {} ->", "?"  # arXiv 2401.06102, figure 1
KINDS = ("hidden", *CONTRIBUTIONS)
TOP, WRITTEN = 10, 8  # tokens


@dataclass(frozen=True, kw_only=True)
class StateReading:
    """What one state of a clean run says.

    Attributes:
        prompt: of the run.
        kind: `hidden`, `mlp` or `attn`: the hidden state after the layer, or what is added to it there.
        token: its position; `text`: that token.
        layer: the layer.
        lens: the likeliest tokens by the logit lens.
        repeated: the likeliest next tokens where the state stands in the prompt of repetitions; empty: see `why_not`.
        written: what the model writes there.
        why_not: why there is no Patchscope, in a sentence; empty where there is one.
    """

    prompt: str
    kind: str
    token: int
    text: str
    layer: int
    lens: tuple[Token, ...]
    repeated: tuple[Token, ...] = ()
    written: str = ""
    why_not: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return every field; a token as `{text, probability}`."""
        return asdict(self) | {name: [t._asdict() for t in getattr(self, name)] for name in ("lens", "repeated")}


@torch.no_grad()
def read_state(
    model: EditableModel, prompt: str, token: int, layer: int, *, kind: str = "hidden", top: int = TOP
) -> StateReading:
    """Read one state of a prompt's clean run: by the logit lens and, of a hidden state, by a Patchscope.

    Args:
        model: the model; unchanged.
        prompt: a complete text.
        token: a position in it; the one after its end is the space that a trace puts there, where the model says one.
        layer: the layer.
        kind: of `KINDS`; what MLP and attention add is read by the lens alone.
        top: how many tokens.

    Raises:
        UsageError: an unknown kind, or no such token or layer.
        RequestError: the prompt is empty or too long.
    """
    if kind not in KINDS:
        raise UsageError(f"A state of the kind {kind!r} cannot be read; there are {', '.join(KINDS)}.")
    model.check_layer(layer)
    ids = _ids(model, prompt, token)
    state = _state(model, ids, layer, kind)[token]
    told: dict[str, Any] = {"prompt": prompt, "kind": kind, "token": token, "layer": layer}
    told |= {"text": strings(model, ids)[token], "lens": likeliest(model, state, top)}
    if kind != "hidden":
        return StateReading(**told, why_not="A Patchscope reads a hidden state, not what is added to one.")
    if layer == model.n_layer - 1:
        return StateReading(**told, why_not="After the last layer no token reads this state any more.")
    first, written = _repeated(model, state, layer, top)
    return StateReading(**told, repeated=first, written=written)


def _ids(model: EditableModel, prompt: str, token: int) -> Sequence[int]:
    ids = tokenize(model, prompt).ids
    if token == len(ids) and is_space(model, space := next_token(model, ids)):
        ids = (*ids, space)
    if not 0 <= token < len(ids):
        raise UsageError(f"Token {token} was asked for; the prompt has tokens 0 to {len(ids) - 1}.")
    return ids


def _state(model: EditableModel, ids: Sequence[int], layer: int, kind: str) -> Tensor:
    """States of a layer `[tokens, d_model]`."""
    batch, seen = align([ids], device=model.device), list[Tensor]()
    segment = Segment(model, batch.mask, embeddings=embed(model, batch.ids))
    before = segment.run(segment.start, range(layer))
    with ExitStack() as stack:
        if kind != "hidden":
            stack.enter_context(model.present(layer))
            stack.enter_context(model.on_output(cast(Contribution, kind), layer, lambda out: seen.append(out.clone())))
        after = segment.run(before, range(layer, layer + 1))
    return (seen or [after])[0][0]


def _repeated(model: EditableModel, state: Tensor, layer: int, top: int) -> tuple[tuple[Token, ...], str]:
    """The likeliest next tokens after the prompt of repetitions with the state in it, and the greedy continuation."""
    text, layers = locate(model, REPEAT, PLACE), range(model.n_layer)
    batch = align([text.ids], device=model.device)
    segment = Segment(model, batch.mask, embeddings=embed(model, batch.ids))
    hidden = segment.run(segment.start, layers[: layer + 1], keep=True).clone()
    hidden[0, text.subject_last] = state
    final = segment.run(hidden, layers[layer + 1 :], keep=True)[0, -1]
    first, written = likeliest(model, final, top), list[int]()
    while True:
        written.append(int(read_out(model, final[None]).argmax()))
        if len(written) == WRITTEN:
            return first, text_after(model, text.ids, written)
        mask = batch.mask.new_ones(1, len(text.ids) + len(written))
        added = embed(model, batch.ids.new_tensor([written[-1:]]))
        segment = Segment(model, mask, past=segment.past(), embeddings=added)
        final = segment.run(segment.start, layers, keep=True)[0, -1]
