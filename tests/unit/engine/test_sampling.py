"""What is written: the likeliest tokens of plain forward passes, or a seeded draw among the likeliest."""

from __future__ import annotations

import pytest
import torch

from conftest import tiny
from factedit.engine.generate import generate, sample_texts, start_token
from factedit.models.adapter import EditableModel

PROMPTS = [[7, 9, 11], [20, 21], [33, 34, 35, 36]]


@torch.no_grad()
def greedy(model: EditableModel, row: list[int], tokens: int) -> list[int]:
    """One whole forward pass per token."""
    ids = list(row)
    for _ in range(tokens):
        ids.append(int(model.lm(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(row) :]


def test_greedy_text_is_that_of_whole_forward_passes(editable_family: EditableModel) -> None:
    found = generate(editable_family, PROMPTS, tokens=[5, 3, 4])
    assert found == [greedy(editable_family, row, n) for row, n in zip(PROMPTS, (5, 3, 4), strict=True)]


def test_a_draw_is_among_the_likeliest_and_by_their_probabilities() -> None:
    model = tiny("gpt2")
    with torch.no_grad():
        logits = model.lm(input_ids=torch.tensor([PROMPTS[0]])).logits[0, -1]
    best = logits.topk(3)
    draws = [own[0] for own in generate(model, [PROMPTS[0]] * 600, tokens=[1] * 600, top_k=3, seeds=range(600))]
    assert set(draws) <= set(best.indices.tolist())
    for token, share in zip(best.indices.tolist(), best.values.softmax(-1).tolist(), strict=True):
        assert draws.count(token) / 600 == pytest.approx(share, abs=4 * (share * (1 - share) / 600) ** 0.5)


def test_a_row_depends_on_its_own_seed_alone() -> None:
    model = tiny("llama")
    together = generate(model, PROMPTS, tokens=[6] * 3, top_k=5, seeds=[4, 5, 6])
    alone = [generate(model, [row], tokens=[6], top_k=5, seeds=[seed])[0]
             for row, seed in zip(PROMPTS, (4, 5, 6), strict=True)]  # fmt: skip
    assert together == alone
    assert generate(model, PROMPTS, tokens=[6] * 3, top_k=5, seeds=[4, 5, 7])[2] != together[2]
    assert generate(model, PROMPTS, tokens=[6] * 3, top_k=5) == generate(
        model, PROMPTS, tokens=[6] * 3, top_k=5, seeds=[0, 1, 2]
    )


def test_nothing_is_added_where_nothing_is_asked_for() -> None:
    model = tiny("gpt2")
    assert generate(model, [], tokens=[]) == []
    assert generate(model, PROMPTS, tokens=[0, 2, 0]) == [[], greedy(model, PROMPTS[1], 2), []]


@pytest.mark.parametrize(("bos", "eos", "expected"), [("<s>", "</s>", 1), (None, "</s>", 2), (None, None, 0)])
def test_a_text_begins_with_the_start_token_or_what_stands_for_it(
    bos: str | None, eos: str | None, expected: int
) -> None:
    model = tiny("gpt2")
    model.tokenizer.bos_token, model.tokenizer.eos_token = bos, eos
    assert start_token(model) == expected


def test_texts_have_their_length_and_each_its_seed() -> None:
    model = tiny("gpt2")
    texts = sample_texts(model, [4, 6], top_k=5, seed=8, openings=["", "The"])
    assert len(texts) == 4
    begun = [[1], [1], [1, *model.tokenizer("The")["input_ids"]], [1, *model.tokenizer("The")["input_ids"]]]
    for text, row, length, seed in zip(texts, begun, (4, 6, 4, 6), range(8, 12), strict=True):
        [added] = generate(model, [row], tokens=[length - len(row)], top_k=5, seeds=[seed])
        assert text == ("The" if len(row) > 1 else "") + model.tokenizer.decode(added, skip_special_tokens=True)
