"""Keys and hidden states of facts after contexts of several types, against plain forward passes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from conftest import tiny
from factedit.edit.many.prompts import Prompts, check_types
from factedit.errors import UsageError
from factedit.facts import EditRequest
from factedit.models.adapter import EditableModel

FACTS = [
    EditRequest(subject="LeBron James", prompt="{} plays the sport of", target_new="football"),
    EditRequest(subject="Paris", prompt="The capital is {}", target_new="Seattle"),
]
TYPES = [["{}"], ["In downtown. {}", "So. {}"], ["The mother tongue. {}"]]


def plain(model: EditableModel, text: str, subject: str, layer: int, last: int) -> tuple[Tensor, Tensor, Tensor]:
    """Key and value at a layer, and the hidden state at the last, at the subject's last token."""
    encoded = model.tokenizer(text, return_offsets_mapping=True)
    end = text.index(subject) + len(subject) - 1
    at = next(n for n, (b, e) in enumerate(encoded["offset_mapping"]) if b <= end < e)
    seen: list[tuple[Tensor, Tensor]] = []
    with torch.no_grad(), model.on_matrix(layer, lambda key, value: seen.append((key[0, at], value[0, at]))):
        out = model.lm(input_ids=torch.tensor([encoded["input_ids"]]), output_hidden_states=True)
    return (*seen[0], out.hidden_states[last + 1][0, at])


def text_after(context: str, fact: EditRequest) -> str:
    return context.replace("{}", fact.prompt).replace("{}", fact.subject)


@pytest.mark.parametrize("family", ["gpt2", "llama", "gptj"])
def test_the_bare_prompt_is_a_type_of_its_own(family: str) -> None:
    """MEMIT: the mean over types of the mean inside a type."""
    model = tiny(family)
    found = Prompts(model, FACTS, TYPES, 1).see(1, 2)
    for n, fact in enumerate(FACTS):
        means = [
            torch.stack([plain(model, text_after(c, fact), fact.subject, 1, 2)[0] for c in own]).mean(0)
            for own in TYPES
        ]
        torch.testing.assert_close(found.keys[n], torch.stack(means).mean(0), rtol=1e-3, atol=1e-5)
        _, value, hidden = plain(model, fact.text, fact.subject, 1, 2)
        torch.testing.assert_close(found.values[n], value, rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(found.reached[n], hidden, rtol=1e-3, atol=1e-4)


def test_what_the_last_matrix_gives_may_be_read_instead() -> None:
    model = tiny("gpt2")
    prompts = Prompts(model, FACTS, TYPES, 1)
    seen = prompts.see(1, 2, "value")
    for n, fact in enumerate(FACTS):
        _, value, _ = plain(model, fact.text, fact.subject, 2, 2)
        torch.testing.assert_close(seen.reached[n], value, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(prompts.reached(2, "value"), seen.reached)


@pytest.mark.parametrize("waiting", [True, False])
def test_rows_go_on_through_the_layers_as_these_are_written(waiting: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether states wait at a layer or rows are run from the beginning, keys are those of the weights as they are."""
    monkeypatch.setattr("factedit.engine.budget.tokens_waiting", lambda _model: 1 << 40 if waiting else 0)
    model = tiny("llama")
    prompts = Prompts(model, FACTS, TYPES, 1)
    prompts.see(1, 2)
    changed = model.weight(1) + 0.1 * torch.randn(model.weight(1).shape, generator=torch.Generator().manual_seed(1))
    with model.with_weight(1, changed, "out"):
        found = prompts.see(2, 2)
        for n, fact in enumerate(FACTS):
            bare = plain(model, fact.text, fact.subject, 2, 2)
            torch.testing.assert_close(found.values[n], bare[1], rtol=1e-3, atol=1e-5)
            torch.testing.assert_close(found.reached[n], bare[2], rtol=1e-3, atol=1e-4)


def test_facts_do_not_depend_on_which_are_run_together(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("gpt2")
    together = Prompts(model, FACTS, TYPES, 1).see(1, 2)
    monkeypatch.setattr("factedit.engine.budget.tokens_of_prompts", lambda _model: 1)
    apart = Prompts(model, FACTS, TYPES, 1).see(1, 2)
    for one, other in zip(together, apart, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "types", [[], [["So. {}"]], [["{}", "So. {}"]], [["{}"], []], [["{}"], ["no place"]], [["{}"], ["{} and {}"]]]
)
def test_what_are_no_types_is_refused(types: list[list[str]]) -> None:
    with pytest.raises(UsageError, match="ype"):
        check_types(types)
    check_types(TYPES)
