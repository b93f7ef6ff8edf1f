"""The output matrix read as W xᵀ gives the model's own numbers and gradients, and leaves nothing behind."""

from __future__ import annotations

import pytest
import torch

from factedit.engine.head import tall_head
from factedit.engine.resume import read_out
from factedit.models.adapter import EditableModel


@pytest.mark.parametrize("onednn", [True, False])
@pytest.mark.parametrize("rows", [1, 3, 40])
def test_equal_to_the_head(
    editable_family: EditableModel, rows: int, onednn: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not onednn:
        monkeypatch.setattr("factedit.engine.head.has_onednn", lambda _weight: False)
    monkeypatch.setattr("factedit.engine.head.WORDS_AT_ONCE", 7)
    head = editable_family.lm.get_output_embeddings()
    x = torch.randn(rows, 1, editable_family.d_model, generator=torch.Generator().manual_seed(0))
    slope = torch.randn(rows, 1, editable_family.vocab, generator=torch.Generator().manual_seed(1))
    found = []
    for context in (None, tall_head(editable_family)):
        own = x.clone().requires_grad_()
        if context is None:
            logits = head(own)
        else:
            with context:
                logits = head(own)
        found.append((logits.detach(), torch.autograd.grad(logits, own, slope)[0]))
    torch.testing.assert_close(found[1][0], found[0][0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found[1][1], found[0][1], rtol=1e-4, atol=1e-5)
    assert "forward" not in head.__dict__


def test_nothing_stays_after_an_exception(tiny_gpt2: EditableModel) -> None:
    head = tiny_gpt2.lm.get_output_embeddings()
    seen = []

    def fail() -> None:
        with tall_head(tiny_gpt2):
            seen.append("forward" in head.__dict__)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert seen == [True]
    assert "forward" not in head.__dict__


def test_a_head_somebody_else_patched_is_left_alone(tiny_gpt2: EditableModel) -> None:
    head = tiny_gpt2.lm.get_output_embeddings()
    head.forward = lambda x: torch.zeros(*x.shape[:-1], tiny_gpt2.vocab)
    try:
        logits = read_out(tiny_gpt2, torch.ones(2, tiny_gpt2.d_model))
    finally:
        del head.__dict__["forward"]
    assert torch.equal(logits, torch.zeros(2, tiny_gpt2.vocab))
