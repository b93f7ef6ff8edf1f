"""The mean of a text's hidden states, against whole passes of one text each."""

from __future__ import annotations

import pytest
import torch

from conftest import tiny
from factedit.engine.mean_states import mean_states
from factedit.models.adapter import EditableModel

TEXTS = ["Paris is in France", "Seattle", "The mother tongue of Danielle Darrieux is French", "東京"]


@torch.no_grad()
def spelled_out(model: EditableModel, text: str) -> torch.Tensor:
    """The states that the last layer gives, without that of the start token, each text alone."""
    ids = model.tokenizer(text, add_special_tokens=False)["input_ids"]
    seen: list[torch.Tensor] = []
    hook = model.layers[-1].register_forward_hook(
        lambda _module, _inputs, output: seen.append(output[0] if isinstance(output, tuple) else output)
    )
    model.lm(input_ids=torch.tensor([[1, *ids]]))
    hook.remove()
    return seen[0][0, 1:].mean(0)


@pytest.mark.parametrize("family", ["gpt2", "gemma3_text"])
@pytest.mark.parametrize("start", [False, True])
@pytest.mark.parametrize("columns", [8, 2048])
def test_the_mean_leaves_out_the_start_token_and_padding(
    family: str, start: bool, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("factedit.engine.budget.COLUMNS_SCORED", columns)
    model = tiny(family, start=start)
    found = mean_states(model, TEXTS)
    assert found.shape == (4, model.d_model)
    for text, own in zip(TEXTS, found, strict=True):
        torch.testing.assert_close(own, spelled_out(model, text), atol=1e-4, rtol=1e-4)
