"""The formulas of `--dry-run` against torch's own counter of operations, on what the engine really runs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from conftest import random_moment, tiny
from factedit.edit.methods.rome import rome
from factedit.edit.value import find_values
from factedit.edit.value_rows import request_rows
from factedit.engine import cost
from factedit.engine.cost import ModelShape, ValueRow
from factedit.engine.resume import Segment, align, embed, read_out
from factedit.facts import EditRequest
from factedit.models.adapter import EditableModel
from factedit.models.positions import locate
from factedit.stats.collect import collect
from factedit.trace.sweep import KINDS, starts_of, trace_fact

PROMPT, SUBJECT = "The Space Needle is in downtown", "The Space Needle"


@pytest.fixture(scope="module")
def model() -> EditableModel:
    """With attention written out, whose products torch counts on every device."""
    return tiny("gpt2", attn_implementation="eager")


@pytest.fixture(autouse=True)
def _counted_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """The output matrix by torch's own product, which its counter knows; oneDNN's it does not."""
    monkeypatch.setattr("factedit.engine.head.has_onednn", lambda _weight: False)
    monkeypatch.setattr("factedit.edit.value_rows.TOKENS_PER_FETCH", -1)  # and rows of unlike length are not padded


def counted(work: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def test_a_pass_by_hand_and_by_the_counter(model: EditableModel) -> None:
    shape = ModelShape.of(model)
    d, m, layer = 32, 128, 4 * 32 * 32 + 2 * 32 * 128  # q k v o; in and out of GPT-2's MLP, four times as wide
    assert (shape.layer, shape.width, shape.d_mlp, shape.n_layer) == (layer, d, m, 4)
    by_hand = 7 * 4 * (2 * layer + 4 * d * 7) + 2 * 2 * 320 * d
    assert shape.forward(7, 7, 4, reads=2).flops == by_hand

    def run() -> None:
        batch = align([[5, 6, 7, 8, 9, 10, 11]])
        segment = Segment(model, batch.mask, embeddings=embed(model, batch.ids))
        with torch.no_grad():
            read_out(model, segment.run(segment.start, range(4))[0, -2:])

    assert counted(run) == by_hand


@pytest.mark.parametrize("name", ["llama", "gemma3_text", "gpt_neox", "mixtral"])
def test_the_shapes_of_other_families(name: str) -> None:
    model = tiny(name, attn_implementation="eager", experts_implementation="eager")
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    with torch.no_grad():
        found = counted(lambda: model.body(input_ids=ids, use_cache=False))
    formula = ModelShape.of(model).forward(5, 5, 4).flops
    assert found == pytest.approx(formula, rel=0.02)  # rotary frequencies and the router's choice are not counted


def test_a_trace(model: EditableModel) -> None:
    found = locate(model, "{} is in downtown", SUBJECT)
    starts = starts_of(KINDS, 4, 2)
    formula = cost.trace_work(ModelShape.of(model), len(found.ids), found.subject_range[0], 3, starts).flops
    run = lambda: trace_fact(model, PROMPT, SUBJECT, window=2, noise=0.1, samples=3)  # noqa: E731
    assert counted(run) == pytest.approx(formula, rel=0.02)


def test_a_value(model: EditableModel) -> None:
    contexts = ("{}", "So it was. {}", "Then there is this: {}")
    method = rome(model, lambda _m, _l: random_moment(128), layer=1, steps=5, stop_loss=0.0, context_templates=contexts)
    request = EditRequest(subject="Seattle", prompt="{} is in", target_new="France")
    rows = [
        ValueRow(row.subject_last, len(row.ids) - row.subject_last, len(row.reads))
        for row in request_rows(model, 0, request, contexts)
    ]
    own = cost.values_work(ModelShape.of(model), rows, 1, 5, stems=sum(row.before for row in rows)).flops
    run = lambda: find_values(model, 1, [request], contexts, method.settings)  # noqa: E731
    assert counted(run) == pytest.approx(own, rel=0.06)  # contexts of unlike length are padded


def test_second_moments(model: EditableModel) -> None:
    rows = [[5 + (7 * n + i) % 300 for i in range(32)] for n in range(32)]
    formula = cost.moments_work(ModelShape.of(model), [1, 2], 1024, piece=32).flops
    run = lambda: [own.mean() for own in collect(model, [1, 2], rows, tokens=1024).values()]  # noqa: E731
    assert counted(run) == pytest.approx(formula, rel=0.02)


def test_a_solve_and_weights_that_pass_by(model: EditableModel) -> None:
    assert cost.solve_work(30, 2).flops == 30**3 / 3 + 2 * 30 * 30 * 2
    shape = ModelShape.of(model)
    layers = sum(p.numel() for layer in model.layers for p in layer.parameters())
    assert shape.forward(1, 1, 4, batches=3).read == pytest.approx(3 * 4 * layers)
    assert shape.weights == 4 * sum(p.numel() for p in model.lm.parameters())
