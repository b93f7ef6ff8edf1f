"""Known facts whose answer begins with a space of its own: the space answers nothing."""

from __future__ import annotations

from functools import cache

import pytest
import torch

import tiny_tokenizers
from conftest import tiny_lm
from factedit.errors import RequestError
from factedit.facts import KnownFact
from factedit.models.adapter import EditableModel
from factedit.trace import sweep
from factedit.trace.corrupt import embedding_sigma
from factedit.trace.sweep import trace_fact, trace_facts

SETTINGS = {"noise": 0.5, "samples": 2, "kinds": ["hidden"]}


@cache
def gemma(after_space: str) -> EditableModel:
    """One that says a space after everything, and this after a space: its layers add nothing, its head is written."""
    tokenizer = tiny_tokenizers.gemma_like()
    lm = tiny_lm("llama", vocab_size=len(tokenizer), num_hidden_layers=2, tie_word_embeddings=False)
    space, then = tokenizer.convert_tokens_to_ids(["▁", after_space])
    with torch.no_grad():
        for layer in lm.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        lm.model.embed_tokens.weight[:, 0] = 1.0
        lm.model.embed_tokens.weight[space, 0] = -1.0
        lm.lm_head.weight.mul_(0.01)
        lm.lm_head.weight[space, 0], lm.lm_head.weight[then, 0] = 9.0, -9.0
    return EditableModel(lm, tokenizer, name="tiny")


def fact(answer: str, prompt: str = "The year of Paris is") -> KnownFact:
    return KnownFact(fact_id=answer, prompt=prompt, subject="Paris", answer=answer)


def test_a_year_is_not_answered_by_a_space() -> None:
    asked = [fact("1985"), fact("2001"), fact("Paris")]
    assert sweep._answered(gemma("1"), asked) == [True, False, False]
    assert sweep._answered(gemma("2"), asked) == [False, True, False]
    assert sweep._answered(gemma("▁Paris"), asked) == [False, False, False]


def test_each_token_up_to_the_answer_must_be_the_likeliest() -> None:
    """A model that says the digit at once, without the space, does not answer as it is asked."""
    model = gemma("1")
    seen: list[list[str]] = []

    def digit(_model: EditableModel, rows: list[tuple[int, ...]]) -> list[int]:
        seen.extend(tiny_tokenizers.pieces(model, row) for row in rows)
        return [model.tokenizer.convert_tokens_to_ids("1")] * len(rows)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep, "next_tokens", digit)
        assert sweep._answered(model, [fact("1985"), fact("19", "The year of Paris is $")]) == [False, True]
    asked = ["<bos>", "The", "▁year", "▁of", "▁Paris", "▁is"]
    assert seen == [asked, [*asked, "▁"], [*asked, "▁", "$"]]


def test_the_trace_is_of_the_digit_after_the_space() -> None:
    model = gemma("1")
    result = trace_fact(model, "The year of Paris is", "Paris", **SETTINGS)  # type: ignore[arg-type]
    ids = model.tokenizer.convert_tokens_to_ids(["<bos>", "The", "▁year", "▁of", "▁Paris", "▁is", "▁"])
    assert (result.answer, len(result.tokens), result.subject_range) == ("1", 7, (4, 5))
    with torch.no_grad():
        likely = model.lm(input_ids=torch.tensor([ids])).logits[0, -1].softmax(-1)
    assert result.clean == pytest.approx(float(likely[model.tokenizer.convert_tokens_to_ids("1")]), rel=1e-4)
    found = {f.fact_id: t for f, t in trace_facts(model, [fact("1985"), fact("2001")], **SETTINGS)}  # type: ignore[arg-type]
    assert found == {"1985": result, "2001": None}


def test_white_space_at_the_end_of_the_prompt_traces_the_same() -> None:
    bare = trace_fact(gemma("1"), "The year of Paris is", "Paris", **SETTINGS)  # type: ignore[arg-type]
    ended = trace_fact(gemma("1"), "The year of Paris is ", "Paris", **SETTINGS)  # type: ignore[arg-type]
    assert (ended.tokens, ended.answer, ended.clean, ended.scores) == (bare.tokens, "1", bare.clean, bare.scores)


def test_the_subject_is_the_whole_word() -> None:
    result = trace_fact(gemma("1"), "Catherine was in Cat of", "Cat", **SETTINGS)  # type: ignore[arg-type]
    assert result.tokens[slice(*result.subject_range)] == (" Cat",)


def test_an_answer_that_the_tokenizer_joins_with_the_prompt_is_not_answered() -> None:
    joined = tiny_tokenizers.model_with(tiny_tokenizers.joining("東京"))
    asked = KnownFact(fact_id="1", prompt="法国東", subject="法国", answer="京")
    assert sweep._answered(joined, [asked]) == [False]


def test_subjects_without_an_embedding_are_named() -> None:
    small = gemma("1")
    larger = EditableModel(small.lm, tiny_tokenizers.gemma_like(), name="tiny")
    larger.tokenizer.add_tokens(["Atlantis"])
    with pytest.raises(RequestError, match="The token 'Atlantis' has number"):
        embedding_sigma(larger, ["Atlantis"])
