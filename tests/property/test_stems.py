"""Resuming on shared stems is what running every row whole is, in every family."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor

from conftest import VOCAB
from factedit.engine.resume import Past, Segment, align, embed
from factedit.engine.stems import Beginnings, Stems
from factedit.models.adapter import EditableModel

Rows = list[tuple[int, ...]]


def final_state(model: EditableModel, past: Past | None, row: int, beginning: tuple[int, ...], last: int) -> Tensor:
    """The last layer's output at a token after a beginning, on the past's row or by running everything."""
    ids = (last,) if past is not None else (*beginning, last)
    batch = align([ids])
    own = None if past is None else past.select(torch.tensor([row]))
    mask = batch.mask if own is None else torch.cat([own.mask, batch.mask], 1)
    segment = Segment(model, mask, past=own, embeddings=embed(model, batch.ids))
    with torch.no_grad():
        return segment.run(segment.start, range(model.n_layer))[0, -1]


def rows_of(kind: str) -> tuple[list[int], Rows]:
    draw = random.Random(0)
    text = lambda n: tuple(draw.randrange(3, VOCAB) for _ in range(n))  # noqa: E731
    stems = {0: text(7), 1: text(3), 2: ()}
    if kind == "one row each":
        return [0, 1], [stems[0], stems[1]]
    if kind == "nothing shared":
        return [0, 0, 0], [text(5), text(1), text(9)]
    if kind == "nothing at all":
        return [0, 1], [(), ()]
    groups = [0, 0, 0, 1, 1, 2, 2]
    return groups, [stems[g] + text(n) for g, n in zip(groups, (6, 0, 2, 5, 1, 0, 4), strict=True)]


@pytest.mark.parametrize("kind", ["of all lengths", "one row each", "nothing shared", "nothing at all"])
def test_the_past_is_that_of_the_whole_rows(any_family: EditableModel, kind: str) -> None:
    groups, beginnings = rows_of(kind)
    [past] = Stems(any_family, groups, beginnings).pasts([Beginnings(groups, beginnings)])
    if kind == "nothing at all":
        assert past is None
        return
    assert past is not None
    assert past.mask.sum(1).tolist() == [len(ids) for ids in beginnings]
    assert past.mask.shape[1] == max(map(len, beginnings)), "no more padding than the longest row asks for"
    for n, ids in enumerate(beginnings):
        expected = final_state(any_family, None, n, ids, 11)
        torch.testing.assert_close(final_state(any_family, past, n, ids, 11), expected, atol=2e-5, rtol=1e-4)


def test_what_is_shared_is_run_once(tiny_gpt2: EditableModel, monkeypatch: pytest.MonkeyPatch) -> None:
    run: list[int] = []

    def counted(*arguments: object, **named: Tensor) -> Segment:
        run.append(named["embeddings"].shape[0] * named["embeddings"].shape[1])
        return Segment(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr("factedit.engine.stems.Segment", counted)
    stem, rows = tuple(range(10, 30)), [(40,), (41,), (42,), (43,)]
    groups, beginnings = [0] * 4, [stem + row for row in rows]
    Stems(tiny_gpt2, groups, beginnings).pasts([Beginnings(groups, beginnings)])
    assert run == [20, 4]
