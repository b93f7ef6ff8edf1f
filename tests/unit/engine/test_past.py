"""The past of a segment: rows chosen, layers kept, columns cut, and resumed again and again."""

from __future__ import annotations

import pytest
import torch

from conftest import tiny
from factedit.engine.resume import Past, Segment, align, embed
from factedit.models.adapter import EditableModel

ROWS = [[5, 9, 200, 41, 7], [7, 8, 11], [20, 21, 22, 23]]


def past_of(model: EditableModel, rows: list[list[int]]) -> Past:
    """Of the rows' tokens but the last, padded left."""
    begun = [row[:-1] for row in rows]
    batch = align(begun, [len(row) for row in begun])
    segment = Segment(model, batch.mask, embeddings=embed(model, batch.ids))
    segment.run(segment.start, range(model.n_layer), keep=True)
    return segment.past()


@torch.no_grad()
def last_hidden(model: EditableModel, past: Past, tokens: list[int]) -> torch.Tensor:
    """The last block's output at one more token per row."""
    ids = torch.tensor(tokens)[:, None]
    mask = torch.cat([past.mask, torch.ones(len(tokens), 1, dtype=torch.bool)], 1)
    segment = Segment(model, mask, past=past, embeddings=embed(model, ids))
    return segment.run(segment.start, range(model.n_layer))[:, 0]


@torch.no_grad()
def whole(model: EditableModel, row: list[int]) -> torch.Tensor:
    """The same by a plain forward pass of the body's blocks."""
    seen: list[torch.Tensor] = []
    handle = model.layers[-1].register_forward_hook(
        lambda _m, _i, out: seen.append(out[0] if isinstance(out, tuple) else out)
    )
    model.lm(input_ids=torch.tensor([row]))
    handle.remove()
    return seen[0].view(1, len(row), -1)[0, -1]


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma3_text", "gpt_neox"])
@torch.no_grad()
def test_chosen_rows_go_on_as_alone(family: str) -> None:
    model = tiny(family)
    past = past_of(model, ROWS)
    chosen = torch.tensor([2, 0, 2])
    found = last_hidden(model, past.select(chosen), [ROWS[n][-1] for n in chosen.tolist()])
    for n, row in enumerate(chosen.tolist()):
        torch.testing.assert_close(found[n], whole(model, ROWS[row]), rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_a_past_can_be_resumed_again_and_again() -> None:
    model = tiny("llama")
    past = past_of(model, ROWS)
    before = [key.clone() for key in past.keys if key is not None]
    first = last_hidden(model, past, [row[-1] for row in ROWS])
    last_hidden(model, past, [3, 4, 5])
    assert torch.equal(last_hidden(model, past, [row[-1] for row in ROWS]), first)
    assert all(torch.equal(a, b) for a, b in zip(before, past.keys, strict=True))


@torch.no_grad()
def test_a_past_cut_short_is_that_of_the_beginning() -> None:
    model = tiny("gpt2")
    past = past_of(model, ROWS[:1]).until(2)
    found = last_hidden(model, past, [ROWS[0][2]])
    torch.testing.assert_close(found[0], whole(model, ROWS[0][:3]), rtol=1e-3, atol=1e-4)
    assert past.mask.shape == (1, 2)


@torch.no_grad()
def test_layers_that_are_not_kept_hold_nothing() -> None:
    model = tiny("gpt2")
    past = past_of(model, ROWS).of_layers(range(2, 4))
    assert [key is None for key in past.keys] == [True, True, False, False]
    assert [value is None for value in past.values] == [True, True, False, False]
    for cut in (past.select(torch.tensor([1])), past.until(1)):
        assert [key is None for key in cut.keys] == [True, True, False, False]


def test_rows_are_aligned_at_a_column() -> None:
    batch = align(ROWS, [2, 0, 4])
    assert batch.split == 4
    assert batch.offset == (2, 4, 0)
    for n, (row, offset) in enumerate(zip(ROWS, (2, 4, 0), strict=True)):
        assert batch.ids[n, offset : offset + len(row)].tolist() == row
        expected = [offset <= column < offset + len(row) for column in range(batch.ids.shape[1])]
        assert batch.mask[n].tolist() == expected
