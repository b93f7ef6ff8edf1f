"""Weights with NaN, and neurons that nobody shares: refused, the model as it was."""

from __future__ import annotations

import pytest
import torch

from conftest import tiny
from factedit.edit.method_table import make_method
from factedit.edit.methods.kn import shared_neurons
from factedit.errors import EditError, RequestError, UsageError
from factedit.facts import EditRequest

REQUEST = EditRequest(subject="Paris", prompt="{} is in", target_new="Seattle")


@pytest.mark.parametrize(
    ("name", "said"), [("ft", "loss of the fact 'Paris is in.*' is not finite at step 0"), ("kn", "not finite")]
)
def test_nan_weights_are_refused(name: str, said: str) -> None:
    model = tiny("gpt2")
    with torch.no_grad():
        model.layers[2].mlp.c_proj.bias[0] = float("nan")
    before = model.fingerprint()
    with pytest.raises(EditError, match=f"{said}.*The model is unchanged.*NaN"):
        make_method(name, model, lambda *_: None).edit([REQUEST])  # type: ignore[arg-type, return-value]
    assert model.fingerprint() == before


def test_a_bound_is_the_other_method() -> None:
    with pytest.raises(UsageError, match="is the method ft-l"):
        make_method("ft", tiny("gpt2"), lambda *_: None, epsilon=5e-4)  # type: ignore[arg-type, return-value]


def test_a_text_longer_than_the_context_is_refused() -> None:
    model = tiny("gpt2")
    long = EditRequest(subject="Paris", prompt="word " * 90 + "{} is in", target_new="Seattle")
    for name in ("ft", "kn"):
        with pytest.raises(RequestError, match="Shorten it"):
            make_method(name, model, lambda *_: None).edit([long])  # type: ignore[arg-type, return-value]


def test_sharing() -> None:
    """A neuron counts where it is above a share of its prompt's largest, and is kept where enough prompts count it."""
    scores = torch.zeros(5, 2, 3)
    scores[:, 0, 0] = torch.tensor([10.0, 1.0, 5.0, 8.0, 2.0])  # the largest everywhere
    scores[:2, 1, 2] = torch.tensor([2.1, 0.21])  # above a fifth in two of five
    scores[0, 1, 1] = 9.0  # in one of five
    scores[:, 0, 2] = torch.tensor([1.9, 0.19, 0.9, 1.5, 0.3])  # below a fifth everywhere
    assert shared_neurons(scores, threshold=0.2, shared=0.4).tolist() == [[0, 0], [1, 2]]
    assert shared_neurons(scores, threshold=0.2, shared=0.2).tolist() == [[0, 0], [1, 1], [1, 2]]


def test_nobody_shares() -> None:
    model = tiny("gpt2")
    settings = {"contexts": ((3, 6),), "shared": 1.0, "threshold": 0.9, "steps": 4}
    with pytest.raises(
        EditError, match=r"No neuron is shared by 100% of 4 prompts.*--set shared=… or --set threshold=…"
    ):
        make_method("kn", model, lambda *_: None, **settings).edit([REQUEST])  # type: ignore[arg-type, return-value]
