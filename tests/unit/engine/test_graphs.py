"""A step that is captured gives the numbers of one that is not; the capture here is torch's tracer, on the processor.

Like a CUDA graph it freezes shapes, what is read beside δ, and whatever Python decides on the way.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from conftest import tiny
from factedit.edit.presets import RomeSettings
from factedit.edit.value import Value, find_values, prompt_rows_of
from factedit.engine import graphs
from factedit.engine.differentiable import applied
from factedit.engine.graphs import captured, cuda_graph, steps_captured
from factedit.facts import EditRequest
from factedit.models.adapter import EditableModel

REQUESTS = [
    EditRequest(subject="LeBron James", prompt="{} plays the sport of", target_new="football"),
    EditRequest(subject="Paris", prompt="{} is the capital of", target_new="Seattle"),
]
CONTEXTS = ("{}", "So it was. {}")
SETTINGS = RomeSettings(layer=1, steps=5, stop_loss=0.0)


class Traced:
    """A capture: the step as a list of operations, there and back, made once; counts what it made and replayed."""

    def __init__(self) -> None:
        self.made = self.replayed = 0

    def __call__(self, step: graphs.Step, sample: Tensor) -> graphs.Step:
        def back(offsets: Tensor, slope: Tensor) -> Tensor:
            leaf = offsets.detach().requires_grad_()
            return torch.autograd.grad(step(leaf), leaf, slope)[0]

        given = sample.detach().clone()
        there, output = make_fx(lambda offsets: step(offsets))(given), step(given)
        again = make_fx(back)(given, torch.ones_like(output))
        self.made += 1

        class Replay(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, offsets: Tensor) -> Tensor:
                ctx.save_for_backward(offsets)
                with torch.no_grad():
                    return there(offsets)

            @staticmethod
            def backward(ctx: Any, *slopes: Tensor) -> Tensor:
                return again(*ctx.saved_tensors, *slopes)

        def replay(offsets: Tensor) -> Tensor:
            self.replayed += 1
            assert offsets.shape == given.shape
            return applied(Replay, offsets)

        return replay


def values(model: EditableModel, settings: RomeSettings = SETTINGS, **more: Any) -> list[Value]:
    return find_values(model, 1, REQUESTS, CONTEXTS, settings, **more)


def same(ones: list[Value], others: list[Value]) -> bool:
    return all(
        torch.equal(a.delta, b.delta) and a.losses == b.losses and torch.equal(a.key, b.key)
        for a, b in zip(ones, others, strict=True)
    )


@pytest.mark.parametrize("family", ["gpt2", "gemma3_text"])
def test_replayed_steps_give_the_same_bits(family: str) -> None:
    model, capture = tiny(family), Traced()
    plainly = values(model)
    with steps_captured(capture):
        replayed = values(model)
    assert same(plainly, replayed)
    assert capture.made >= 1
    assert capture.replayed == SETTINGS.steps * capture.made, "every evaluation of every batch"


def test_once_a_fact_stops_the_rest_run_call_by_call() -> None:
    """A captured step has the rows as they were; another capture would cost more than the steps that are left."""
    model, capture = tiny("gpt2"), Traced()
    first = [value.losses[0].total for value in values(model)]
    stopping = SETTINGS.model_copy(update={"stop_loss": sum(first) / 2})  # between the two
    plainly = values(model, stopping)
    lengths = sorted(len(value.losses) for value in plainly)
    assert lengths[0] < lengths[1], "one fact stops before the other"
    with steps_captured(capture):
        assert same(plainly, values(model, stopping))
    assert capture.replayed == capture.made > 0, "the first evaluation, before one of the two stopped"


def test_a_row_of_another_scale_is_captured_with_it() -> None:
    model = tiny("gpt2")
    rows = prompt_rows_of(model, REQUESTS, CONTEXTS, SETTINGS)
    scaled = [[row if row.context else row.__class__(**{**vars(row), "scale": 0.5}) for row in own] for own in rows]
    with steps_captured(Traced()):
        half, whole = values(model, rows=scaled), values(model, rows=rows)
    assert same(half, values(model, rows=scaled))
    assert not same(half, whole)


def test_a_failed_capture_is_said_and_the_step_is_run(caplog: pytest.LogCaptureFixture) -> None:
    def fails(_step: graphs.Step, _sample: Tensor) -> graphs.Step:
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    model = tiny("gpt2")
    with caplog.at_level(logging.WARNING, "factedit"), steps_captured(fails):
        assert same(values(model), values(model))
    assert "a step could not be captured (operation not permitted when stream is capturing)" in caplog.text
    assert "more" not in caplog.text


def test_on_a_processor_and_unasked_the_step_is_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    step: Callable[[Tensor], Tensor] = torch.neg
    assert captured(step, torch.ones(1)) is step
    with steps_captured():
        assert captured(step, torch.ones(1)) is step
    assert captured(step, torch.ones(1)) is step, "asked for inside alone"
    asked: list[Any] = []
    monkeypatch.setattr(
        torch.cuda, "make_graphed_callables", lambda *args, **how: asked.append((args, how)) or torch.abs
    )

    class There:
        """A tensor of an accelerator, as far as it is looked at."""

        device = torch.device("cuda")
        detach = clone = requires_grad_ = lambda self: self

    sample: Any = There()
    assert cuda_graph(step, sample) is torch.abs
    assert asked == [((step, (sample,)), {"num_warmup_iters": graphs.WARM_UP})]


def test_layers_that_come_and_go_or_hold_experts_are_not_captured() -> None:
    capture = Traced()
    with steps_captured(capture):
        values(tiny("mixtral"))
        assert capture.made == 0
        model = tiny("gpt2")
        model.streamed = True
        values(model)
    assert capture.made == 0
