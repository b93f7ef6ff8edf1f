"""Texts under many edits: each is what its own edited model writes, whoever is written beside it."""

from __future__ import annotations

import pytest

from factedit.evaluate.texts import continue_texts
from factedit.models.adapter import EditableModel
from stack_cases import random_edit

PROMPTS = ["Paris is", "Seattle", "LeBron James plays the", "The capital of", "Café"]


@pytest.mark.parametrize("top_k", [1, 5])
@pytest.mark.parametrize("at_once", [2, 64])
def test_a_text_does_not_depend_on_its_company(
    tiny_gpt2: EditableModel, top_k: int, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("factedit.engine.budget.TEXTS_WRITTEN", at_once)
    edits = [random_edit(tiny_gpt2, seed, layer=1) for seed in range(len(PROMPTS))]
    lengths, seeds = [3, 4, 5, 6, 7], [9, 8, 7, 6, 5]
    found = continue_texts(tiny_gpt2, PROMPTS, edits, tokens=lengths, top_k=top_k, seeds=seeds)
    alone = []
    for prompt, edit, length, seed in zip(PROMPTS, edits, lengths, seeds, strict=True):
        with edit.applied_to(tiny_gpt2, force=True):
            alone += continue_texts(tiny_gpt2, [prompt], [None], tokens=length, top_k=top_k, seeds=[seed])
    assert found == alone
    assert found != continue_texts(tiny_gpt2, PROMPTS, [None] * 5, tokens=lengths, top_k=top_k, seeds=seeds)
