"""The facts' prompts up to their subjects, taken through the edited layers as these are written one after the other.

Keys (MEMIT, arXiv 2210.07229, eq. 20): contexts come in *types*, the bare prompt being a type of its own. k is the mean
over types of the mean inside a type, so the bare prompt counts a half however many texts there are. (ROME's k* is the
plain mean.)

Every row is run once up to a layer and goes on from there; the bare rows give their keys and, run on, the hidden
states that the residual is measured at. Nothing below the present layer is run again, unless the states that wait
there take more room than the weights: then they are run from the beginning for every layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from factedit.edit.experts import EditedExperts, chosen_key
from factedit.engine import budget
from factedit.engine.half import at_least_float32
from factedit.engine.resume import Segment, align, embed
from factedit.errors import UsageError
from factedit.facts import EditRequest
from factedit.models.adapter import EditableModel
from factedit.models.positions import locate_all
from factedit.models.tokens import in_contexts

Reading = Literal["hidden", "value"]


class Seen(NamedTuple):
    """What the prompts give at their subjects' last tokens, before a layer is written.

    Attributes:
        keys: the facts' mean keys at that layer, `[facts, d_mlp]`.
        values: its matrix's output in the bare prompts, `[facts, d_model]`.
        reached: what the bare prompts give at the last edited layer, `[facts, d_model]`.
    """

    keys: Tensor
    values: Tensor
    reached: Tensor


@dataclass
class _Rows:
    """Rows that run together.

    Attributes:
        ids: their token ids, each ending at the last subject token.
        facts, weights: per row whose it is and what it counts in the fact's key.
        hidden: what layer `layer` receives, `[rows, tokens, d_model]`, or None where it is not kept.
    """

    ids: list[tuple[int, ...]]
    facts: Tensor
    weights: Tensor
    hidden: Tensor | None = None


class Prompts:
    """The prompts of facts after every context, each up to its subject's last token.

    Args:
        model: the model; to be written to by the caller between the calls, from low layers to high ones.
        requests: the facts.
        contexts: types of templates with one `{}`; the first type holds the bare `"{}"` alone.
        layer: the first layer that is asked for.
        experts: which experts' keys are taken, see `edit/experts.py`.

    Raises:
        UsageError: the first type is not the bare prompt, or a type is empty.
        RequestError: a subject without tokens.
    """

    def __init__(
        self,
        model: EditableModel,
        requests: Sequence[EditRequest],
        contexts: Sequence[Sequence[str]],
        layer: int,
        *,
        experts: EditedExperts = "each",
    ) -> None:
        check_types(contexts)
        self._requests, self._experts = tuple(requests), experts
        self._model, self._count, self._layer = model, len(requests), layer
        self._bare = _packed(model, requests, [(context, 1 / len(contexts)) for context in contexts[0]])
        texts = [(context, 1 / len(of_type) / len(contexts)) for of_type in contexts[1:] for context in of_type]
        self._texts = _packed(model, requests, texts)
        waiting = sum(len(rows.ids) * max(map(len, rows.ids)) for rows in (*self._bare, *self._texts))
        self._kept = waiting <= budget.tokens_waiting(model)

    @torch.no_grad()
    def see(self, layer: int, last: int, reading: Reading = "hidden") -> Seen:
        """Return keys at a layer, and what is reached at the last edited one, with the weights as they are now.

        Args:
            layer: this layer, or one above those asked for so far; all layers below are as they will stay.
            last: the last edited layer.
            reading: at that layer, the block's output (`hidden`) or its matrix's (`value`).
        """
        model, wide = self._model, at_least_float32(self._model.dtype)
        keys = torch.zeros(self._count, model.mlp(layer).width, dtype=torch.float64, device=model.device)
        bare_keys = torch.zeros_like(keys) if model.mixture(layer) else keys  # of the bare prompts
        values = torch.zeros(self._count, model.d_model, dtype=wide, device=model.device)
        reached = torch.zeros_like(values)
        for bare, rows in [*((True, pack) for pack in self._bare), *((False, pack) for pack in self._texts)]:
            segment, hidden = self._enter(rows, layer)
            where = list(range(len(rows.ids))), [len(ids) - 1 for ids in rows.ids]
            with model.mlp(layer).noted(where) as first:
                after = segment.run(hidden, range(layer, layer + 1))
            keys.index_add_(0, rows.facts, rows.weights[:, None] * first[0][0].double())
            if bare:
                if bare_keys is not keys:
                    bare_keys[rows.facts] = first[0][0].double()
                values[rows.facts] = first[0][1].to(wide)
                with model.mlp(last).noted(where) as top:
                    end = segment.run(after, range(layer + 1, last + 1))
                outputs = end[where] if reading == "hidden" else (top or first)[0][1]
                reached[rows.facts] = outputs.to(wide)
        self._layer = layer
        if bare_keys is not keys:
            facts = zip(self._requests, keys, bare_keys, strict=True)
            keys = torch.stack([chosen_key(model, layer, *fact, self._experts) for fact in facts])
        return Seen(keys.to(wide), values, reached)

    @torch.no_grad()
    def reached(self, last: int, reading: Reading = "hidden") -> Tensor:
        """Return what the bare prompts give at the last edited layer with the weights as they are now, `[facts,
        d_model]`.
        """
        wide = at_least_float32(self._model.dtype)
        outputs = torch.zeros(self._count, self._model.d_model, dtype=wide, device=self._model.device)
        for rows in self._bare:
            segment, hidden = self._enter(rows, self._layer)
            where = list(range(len(rows.ids))), [len(ids) - 1 for ids in rows.ids]
            with self._model.mlp(last).noted(where) as seen:
                end = segment.run(hidden, range(self._layer, last + 1))
            outputs[rows.facts] = (end[where] if reading == "hidden" else seen[0][1]).to(wide)
        return outputs

    def _enter(self, rows: _Rows, layer: int) -> tuple[Segment, Tensor]:
        """Return the rows as they enter a layer; they wait there."""
        batch = align(rows.ids, device=self._model.device)
        segment = Segment(self._model, batch.mask, embeddings=embed(self._model, batch.ids))
        if rows.hidden is None:
            hidden = segment.run(segment.start, range(layer))
        else:
            hidden = segment.run(rows.hidden, range(self._layer, layer))
        rows.hidden = hidden if self._kept else None
        return segment, hidden


def check_types(contexts: Sequence[Sequence[str]]) -> None:
    """Refuse contexts that are not types, the first of them the bare prompt.

    Raises:
        UsageError: saying what was found.
    """
    if not contexts or list(contexts[0]) != ["{}"]:
        raise UsageError("The first type of contexts must be the bare prompt alone: [['{}'], [texts…]].")
    for texts in contexts:
        if not texts or any(text.count("{}") != 1 for text in texts):
            raise UsageError(f"A type of contexts must hold texts with exactly one '{{}}' each; found {list(texts)!r}.")


def _packed(
    model: EditableModel, requests: Sequence[EditRequest], contexts: Sequence[tuple[str, float]]
) -> list[_Rows]:
    """Return every fact after every context, rows of like length together."""
    asked = [(fact, weight, context) for context, weight in contexts for fact in range(len(requests))]
    after = [in_contexts(model, requests[fact].prompt, [context])[0] for fact, _, context in asked]
    texts = [(template, requests[fact].subject) for template, (fact, _, _) in zip(after, asked, strict=True)]
    beginnings = [text.ids[: text.subject_last + 1] for text in locate_all(model, texts)]
    order = sorted(range(len(asked)), key=lambda n: len(beginnings[n]))
    packs = []
    for part in _parts(order, [len(ids) for ids in beginnings], budget.tokens_of_prompts(model)):
        facts = torch.tensor([asked[n][0] for n in part], device=model.device)
        weights = torch.tensor([asked[n][1] for n in part], dtype=torch.float64, device=model.device)
        packs.append(_Rows([beginnings[n] for n in part], facts, weights))
    return packs


def _parts(order: Sequence[int], lengths: Sequence[int], limit: int) -> Iterator[list[int]]:
    """Yield rows, from short to long, in parts of at most `limit` tokens with the padding."""
    part: list[int] = []
    for n in order:
        if part and (len(part) + 1) * lengths[n] > limit:
            yield part
            part = []
        part.append(n)
    if part:
        yield part
