"""A `forward` that somebody else put on a module acts in every run and is there afterwards, the very same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from conftest import random_moment, tiny
from factedit.edit.method import make_method
from factedit.engine import products
from factedit.engine.resume import Segment, align, embed, read_out
from factedit.facts import EditRequest
from factedit.models.adapter import EditableModel
from factedit.trace.sweep import trace_fact
from plain import edits_of

IDS = [5, 17, 99, 40]


class Patched:
    """Somebody else's `forward` on the layer, a linear module and the head of a model."""

    def __init__(self, model: EditableModel) -> None:
        layer = model.layers[1]
        linear = next(m for m in layer.modules() if type(m) in (nn.Linear, Conv1D))
        self.modules = [layer, linear, model.lm.get_output_embeddings()]
        self.calls = [0, 0, 0]
        self.forwards = [self._counted(n, module) for n, module in enumerate(self.modules)]
        for module, forward in zip(self.modules, self.forwards, strict=True):
            module.forward = forward

    def _counted(self, n: int, module: Any) -> Callable[..., Any]:
        own = module.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            self.calls[n] += 1
            return own(*args, **kwargs)

        return forward

    def are_back(self) -> bool:
        """Each module has exactly the function that was put on it."""
        return all(m.__dict__.get("forward") is f for m, f in zip(self.modules, self.forwards, strict=True))


@pytest.fixture(params=["gpt2", "llama", "gptj"])
def model(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> EditableModel:
    monkeypatch.setattr(products, "SMALL", 1)  # so that matrices as small as these get products of our own
    return tiny(request.param)


@torch.no_grad()
def test_a_patched_forward_acts_in_a_resumed_run_and_is_put_back(model: EditableModel) -> None:
    patched = Patched(model)
    batch = align([IDS])
    with model.frozen():
        segment = Segment(model, batch.mask, embeddings=embed(model, batch.ids))
        assert patched.are_back(), "after the layers' arguments were recorded"
        final = segment.run(segment.start, range(model.n_layer))
        logits = read_out(model, final[0])
    assert all(patched.calls), patched.calls
    assert patched.are_back()
    torch.testing.assert_close(logits, model.lm(input_ids=torch.tensor([IDS])).logits[0], rtol=1e-4, atol=1e-4)


def test_a_patched_forward_is_put_back_after_an_exception(model: EditableModel) -> None:
    patched = Patched(model)

    def fail(*_args: object) -> None:
        raise RuntimeError("stop")

    batch = align([IDS])
    segment = Segment(model, batch.mask, embeddings=embed(model, batch.ids))
    with pytest.raises(RuntimeError, match="stop"), model.on_output("mlp", 2, fail):
        segment.run(segment.start, range(model.n_layer))
    with pytest.raises(Exception):  # noqa: B017 - any failure while the arguments are recorded
        Segment(model, batch.mask, embeddings=torch.zeros(2, 4, 5))
    assert patched.are_back()


def test_a_patched_forward_is_there_after_a_trace_and_an_edit(model: EditableModel) -> None:
    patched = Patched(model)
    trace_fact(model, "Paris is in", "Paris", noise=0.5, samples=2)
    assert all(patched.calls), patched.calls
    assert patched.are_back()
    method = make_method(
        "rome", model, lambda m, _l: random_moment(m.d_mlp), layer=1, steps=2, context_templates=["{}"]
    )
    edits_of(method, model, [EditRequest(subject="Paris", prompt="{} is in", target_new="France")])
    assert patched.are_back()


def test_a_module_that_nobody_patched_has_no_forward_of_its_own_afterwards(model: EditableModel) -> None:
    patched = Patched(model)
    trace_fact(model, "Paris is in", "Paris", noise=0.5, samples=2)
    others = [m for m in model.lm.modules() if all(m is not own for own in patched.modules)]
    assert not [type(m).__name__ for m in others if "forward" in m.__dict__]
