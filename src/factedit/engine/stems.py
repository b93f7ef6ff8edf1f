"""What many rows begin with alike, run once: the texts before a fact are the same for every fact.

Rows of one group (a context, say) share a stem, their longest common beginning. All stems are run in one batch, and
every row's own tokens are resumed on its stem's. In no run a row has padding between its tokens, so that windows of
attention and linear biases count as without it: stems are padded left, what follows them right, and the two are then
moved together.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from factedit.engine.resume import Past, Segment, align, embed, run_together
from factedit.models.adapter import EditableModel


class Beginnings(NamedTuple):
    """Beginnings of rows that run in one batch.

    Attributes:
        groups: per beginning the group it belongs to.
        ids: its tokens; may be empty.
    """

    groups: Sequence[Hashable]
    ids: Sequence[tuple[int, ...]]


class Stems:
    """The stems of groups of beginnings.

    Args:
        model: the model; unchanged.
        groups: per beginning the group it belongs to.
        beginnings: token ids; may be empty.
        layers: how many of the lowest layers are run; None: all.
    """

    @torch.no_grad()
    def __init__(
        self,
        model: EditableModel,
        groups: Sequence[Hashable],
        beginnings: Sequence[tuple[int, ...]],
        *,
        layers: int | None = None,
    ) -> None:
        self._model, self._layers = model, range(model.n_layer if layers is None else layers)
        members: dict[Hashable, list[tuple[int, ...]]] = {}
        for group, ids in zip(groups, beginnings, strict=True):
            members.setdefault(group, []).append(ids)
        stems = {group: _common(of_group) for group, of_group in members.items()}
        self._length = {group: len(stem) for group, stem in stems.items()}
        self._place = {group: n for n, group in enumerate(stems)}
        rows = list(stems.values())
        self._past = self._grown([(None, rows, list(self._length.values()))])[0] if any(rows) else None

    @torch.no_grad()
    def pasts(self, batches: Sequence[Beginnings]) -> list[Past | None]:
        """Return keys and values of whole beginnings per batch, padded left; None where all of a batch are empty.

        Of a model that is read from disk a layer comes once for all batches.
        """
        pasts = [self._past and self._past.select(self._places(batch.groups)) for batch in batches]
        rests = [[ids[self._length[group] :] for group, ids in zip(*batch, strict=True)] for batch in batches]
        longer = [n for n, rest in enumerate(rests) if any(rest)]
        for n, past in zip(
            longer, self._grown([(pasts[n], rests[n], [0] * len(rests[n])) for n in longer]), strict=True
        ):
            pasts[n] = past
        return [
            _compact(past) if past is not None and any(batch.ids) else None
            for past, batch in zip(pasts, batches, strict=True)
        ]

    def _places(self, groups: Sequence[Hashable]) -> Tensor:
        return torch.tensor([self._place[group] for group in groups], device=self._model.device)

    def _grown(self, longer: Sequence[tuple[Past | None, Sequence[Sequence[int]], Sequence[int]]]) -> list[Past]:
        """Return pasts with more tokens after each: rows, and where they are split."""
        segments = []
        for past, rows, splits in longer:
            batch = align(rows, splits, device=self._model.device)
            mask = batch.mask if past is None else torch.cat([past.mask, batch.mask], 1)
            segments.append(Segment(self._model, mask, past=past, embeddings=embed(self._model, batch.ids)))
        run_together(segments, [segment.start for segment in segments], self._layers, keep=True)
        return [segment.past() for segment in segments]


def _common(rows: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """Return the longest beginning that all rows share: what the first and the last of them in order share."""
    first, last = min(rows), max(rows)
    return first[: next((n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))]


def _compact(past: Past) -> Past:
    """Return the same with all padding of a row before its tokens, and no more of it than the longest row asks for."""
    longest = int(past.mask.sum(1).max())
    order = past.mask.byte().argsort(dim=1, stable=True)[:, -longest:]

    def moved(tensor: Tensor) -> Tensor:
        index = order[:, None, :, None].expand(-1, tensor.shape[1], -1, tensor.shape[3])
        return tensor.gather(2, index)

    return past.each(moved, past.mask.gather(1, order))
