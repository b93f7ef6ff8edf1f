"""Which experts tokens are sent to, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack

import torch

from factedit.engine.resume import Segment, align, embed
from factedit.models.adapter import EditableModel
from factedit.models.experts import Routed
from factedit.models.positions import locate_all

Routes = dict[int, dict[int, float]]  # layer, expert: the router's weight


def layers_with_experts(model: EditableModel) -> list[int]:
    """Return the layers that have experts."""
    return [layer for layer in range(model.n_layer) if model.mixture(layer) is not None]


@torch.no_grad()
def routes(model: EditableModel, rows: Sequence[Sequence[int]]) -> list[list[Routes]]:
    """Return per row and token the experts it is sent to, with their weights, those with large weights first.

    Args:
        model: the model, with whatever acts on it (the edits of `rows_edited`, for one).
        rows: token ids.
    """
    layers = layers_with_experts(model)
    chosen: list[list[Routes]] = [[{} for _ in row] for row in rows]
    if not layers or not rows:
        return chosen
    batch, seen = align(rows, device=model.device), dict[int, Routed]()
    with ExitStack() as stack:
        for layer in layers:
            mixture = model.mixture(layer)
            if mixture is not None:
                note = lambda choice, n=layer: seen.update({n: choice})  # noqa: E731
                stack.enter_context(mixture.routed(note))
        segment = Segment(model, batch.mask, embeddings=embed(model, batch.ids))
        segment.run(segment.start, range(layers[-1] + 1))
    for layer, choice in seen.items():
        experts, weights = choice.experts.tolist(), choice.weights.float().tolist()
        for row, tokens in enumerate(chosen):
            for token, routed in enumerate(tokens):
                pairs = zip(experts[row][token], weights[row][token], strict=True)
                routed[layer] = dict(sorted(pairs, key=lambda pair: -pair[1]))
    return chosen


def subject_routes(model: EditableModel, asked: Sequence[tuple[str, str]]) -> list[Routes]:
    """Return per prompt the experts that the subject's last token is sent to.

    Args:
        model: see `routes`.
        asked: prompt template and subject, pairs.

    Raises:
        RequestError: a subject without tokens.
    """
    texts = locate_all(model, asked)
    chosen = routes(model, [text.ids[: text.subject_last + 1] for text in texts])
    return [row[text.subject_last] for row, text in zip(chosen, texts, strict=True)]


def experts_as_json(routed: Routes) -> dict[str, dict[str, float]]:
    """Return one token's experts by layer, as JSON can hold them."""
    return {str(layer): named(experts) for layer, experts in routed.items()}


def named(experts: Mapping[int, float]) -> dict[str, float]:
    """Return experts with their weights, as JSON can hold them."""
    return {str(expert): weight for expert, weight in experts.items()}
