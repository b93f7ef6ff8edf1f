"""The engine's theorem: resuming at (layer, token) gives what the whole pass gives, on every family."""

from __future__ import annotations

import pytest
import torch

from conftest import tiny
from factedit.engine.resume import Past, Segment, align, embed, read_out
from factedit.models.adapter import EditableModel

ROWS = [[5, 17, 99, 40, 7, 203, 11, 64, 31], [8, 9, 301, 12, 77, 6], [44, 45, 46, 47, 48, 49, 50]]
SPLITS = [5, 2, 3]


def full_logits(model: EditableModel, row: list[int]) -> torch.Tensor:
    return model.lm(input_ids=torch.tensor([row])).logits[0]


def clean_states(model: EditableModel, batch) -> tuple[list[torch.Tensor], Segment]:
    segment = Segment(model, batch.mask, embeddings=embed(model, batch.ids))
    states = [segment.start]
    for layer in range(model.n_layer):
        states.append(segment.run(states[-1], range(layer, layer + 1), keep=True))
    return states, segment


@torch.no_grad()
def test_resume_equals_full_pass_at_every_layer(any_family: EditableModel) -> None:
    model = any_family
    batch = align(ROWS, SPLITS)
    states, segment = clean_states(model, batch)
    past = segment.past().until(batch.split)
    for layer in range(model.n_layer):
        again = Segment(model, batch.mask, past=past)
        final = again.run(states[layer][:, batch.split :], range(layer, model.n_layer))
        for i, row in enumerate(ROWS):
            tail = len(row) - SPLITS[i]
            logits = read_out(model, final[i, :tail])
            torch.testing.assert_close(logits, full_logits(model, row)[SPLITS[i] :], atol=2e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("split", range(1, 9))
def test_resume_at_every_token(any_family: EditableModel, split: int) -> None:
    model, row = any_family, ROWS[0]
    batch = align([row])
    states, segment = clean_states(model, batch)
    past = segment.past().until(split)
    for layer in range(model.n_layer):
        final = Segment(model, batch.mask, past=past).run(states[layer][:, split:], range(layer, model.n_layer))
        torch.testing.assert_close(read_out(model, final[0]), full_logits(model, row)[split:], atol=2e-4, rtol=1e-4)


@torch.no_grad()
def test_the_check_can_fail(tiny_gpt2: EditableModel) -> None:
    """A past of other tokens gives other logits: the comparison above is not vacuous."""
    batch = align([ROWS[0]])
    states, segment = clean_states(tiny_gpt2, batch)
    past = segment.past().until(5)
    wrong = Past(tuple(k.flip(2) for k in past.keys), past.values, past.mask)
    final = Segment(tiny_gpt2, batch.mask, past=wrong).run(states[1][:, 5:], range(1, 4))
    assert (read_out(tiny_gpt2, final[0]) - full_logits(tiny_gpt2, ROWS[0])[5:]).abs().max() > 1e-2


def test_gradient_of_a_change_equals_the_full_pass(any_family: EditableModel) -> None:
    """d logit / d delta, delta added to h[l] at one token: resumed and by a hook on the whole model."""
    model, row, layer, token = any_family, ROWS[0], 1, 3
    batch = align([row])
    with torch.no_grad():
        states, segment = clean_states(model, batch)
        past = segment.past().until(token)
    delta = torch.zeros(model.d_model, requires_grad=True)
    hidden = states[layer + 1][:, token:] + delta * (torch.arange(len(row) - token) == 0)[None, :, None]
    final = Segment(model, batch.mask, past=past).run(hidden, range(layer + 1, model.n_layer))
    read_out(model, final[0])[-1].log_softmax(-1)[7].backward()

    whole = torch.zeros(model.d_model, requires_grad=True)

    def add(_module, _args, output):
        first = output[0] if isinstance(output, tuple) else output
        changed = first + whole * (torch.arange(len(row)) == token)[None, :, None]
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    handle = model.layers[layer].register_forward_hook(add)
    full_logits(model, row)[-1].log_softmax(-1)[7].backward()
    handle.remove()
    assert whole.grad.norm() > 1e-4
    torch.testing.assert_close(delta.grad, whole.grad, atol=1e-4, rtol=1e-3)
    model.lm.zero_grad()


@torch.no_grad()
def test_rows_of_a_past_may_be_selected(tiny_gpt2: EditableModel) -> None:
    batch = align(ROWS, SPLITS)
    states, segment = clean_states(tiny_gpt2, batch)
    rows = torch.tensor([2, 0, 2])
    past = segment.past().until(batch.split).select(rows)
    again = Segment(tiny_gpt2, batch.mask[rows], past=past)
    final = again.run(states[2][rows, batch.split :], range(2, 4))
    torch.testing.assert_close(final, states[4][rows, batch.split :], atol=1e-4, rtol=1e-4)


def test_nothing_stays_behind_after_an_exception(any_family: EditableModel) -> None:
    model = any_family
    before = full_logits(model, ROWS[1]).detach()

    def fail(*_args: object) -> None:
        raise RuntimeError("stop")

    segment = Segment(model, torch.ones(1, 6, dtype=torch.bool), embeddings=embed(model, torch.tensor([ROWS[1]])))
    with pytest.raises(RuntimeError, match="stop"), model.on_output("mlp", 1, fail):
        segment.run(segment.start, range(model.n_layer))
    with pytest.raises(Exception):  # noqa: B017 - any failure inside the recorder
        Segment(model, torch.ones(1, 6, dtype=torch.bool), embeddings=torch.zeros(2, 6, 5))
    torch.testing.assert_close(full_logits(model, ROWS[1]).detach(), before, atol=0, rtol=0)
    assert all("forward" not in layer.__dict__ for layer in model.layers)
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in model.lm.modules())


@torch.no_grad()
def test_start_tokens_and_padding_do_not_matter() -> None:
    """The same row alone and left- and right-padded beside longer ones."""
    model = tiny("gemma3_text")
    alone = align([ROWS[1]])
    states, _ = clean_states(model, alone)
    batch = align(ROWS, SPLITS)
    padded, _ = clean_states(model, batch)
    begin = batch.offset[1]
    torch.testing.assert_close(padded[-1][1, begin : begin + len(ROWS[1])], states[-1][0], atol=1e-4, rtol=1e-4)
