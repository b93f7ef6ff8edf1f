"""Texts under many edits: each is what its own edited model writes, whoever is written beside it."""

from __future__ import annotations

import math

import pytest

import tiny_tokenizers
from factedit.evaluate import texts
from factedit.evaluate.metrics.free import free_match
from factedit.evaluate.metrics.generation_entropy import entropy, generation_entropy
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


def test_white_space_at_the_end_of_a_prompt_is_the_texts(tiny_gpt2: EditableModel) -> None:
    [bare] = continue_texts(tiny_gpt2, ["Paris is"], [None], tokens=5)
    assert continue_texts(tiny_gpt2, ["Paris is  ", "Paris is\n"], [None, None], tokens=5) == [bare, bare]


def test_a_text_has_the_space_that_its_decoder_drops(monkeypatch: pytest.MonkeyPatch) -> None:
    llama = tiny_tokenizers.model_with(tiny_tokenizers.llama_like())
    paris = llama.tokenizer.convert_tokens_to_ids("▁Paris")
    monkeypatch.setattr(texts, "generate", lambda _model, rows, **_: [[paris, paris] for _ in rows])
    assert continue_texts(llama, ["The answer is"], [None], tokens=2) == [" Paris Paris"]


def test_entropy_of_a_text_without_spaces_is_that_of_its_characters() -> None:
    """東京は東京は東 has the pairs 東京, 京は, は東 twice each: log₂ 3 bits; a text of one word has none."""
    assert entropy("東京は東京は東", 2) == pytest.approx(math.log2(3))
    assert generation_entropy(["東京は東京は東"]) > 0
    assert entropy("tokyotokyo", 2) == 0.0
    assert entropy("a b a b a", 2) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("text", "target", "matches"),
    [
        ("東京です。", "東京", True),
        (" Paris, France", "Paris", True),
        (" Parisian", "Paris", False),
        (" 10.5 km", "10", False),
        (" 10.5 km long", "10.5 km", True),
        (" Cafe\u0301", "Café", True),
    ],
)
def test_free_match(text: str, target: str, matches: bool) -> None:
    assert free_match(text, target) is matches
