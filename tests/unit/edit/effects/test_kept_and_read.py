"""What a file holds of an effect: fields, tensors, and the effect back from both; what does not fit is refused."""

from __future__ import annotations

import json

import pytest
import torch
from pydantic import ValidationError

from conftest import tiny
from factedit.edit.effects.dense import Dense
from factedit.edit.effects.effect import Effect, WeightEffect
from factedit.edit.effects.low_rank import LowRank
from factedit.edit.effects.table import kind_named, on_rows
from factedit.edit.effects.weights import places_of, weight_effects
from factedit.errors import EditError, UnknownName
from throwaway.said import Prefix

LOW = LowRank(2, torch.randn(6, 3, generator=torch.Generator().manual_seed(1)), torch.ones(3, 4), "in")
WHOLE = Dense(1, torch.arange(24.0).reshape(6, 4), "gate")


@pytest.mark.parametrize("effect", [LOW, WHOLE], ids=lambda effect: effect.kind)
def test_an_effect_comes_back_from_its_fields_and_tensors(effect: LowRank | Dense) -> None:
    fields, tensors = json.loads(json.dumps(effect.fields())), effect.tensors()
    kind = kind_named(effect.kind)
    assert kind is type(effect)
    assert kind.shapes(fields) == {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    again = kind.read(fields, tensors)
    assert (again.place, again.shape, again.rank) == (effect.place, effect.shape, effect.rank)
    assert torch.equal(again.delta(), effect.delta())
    assert again.first_layer() == effect.layer
    assert again.on_prompt("as it is") == "as it is"
    assert isinstance(effect, WeightEffect)


def test_what_is_kept_is_float32_and_its_own(tmp_path: object) -> None:
    half = LowRank(0, torch.ones(5, 2, dtype=torch.bfloat16), torch.ones(2, 3, dtype=torch.float64))
    assert {tensor.dtype for tensor in half.tensors().values()} == {torch.float32}
    assert half.delta().dtype == torch.float32
    turned = Dense(0, torch.arange(6.0).reshape(2, 3).T)
    assert turned.tensors()["change"].is_contiguous()


@pytest.mark.parametrize(
    "change",
    [
        {"layer": -1},
        {"matrix": "up"},
        {"shape": [1]},
        {"rank": -2},
        {"more": 1},
        {"layer": None},
        {"shape": ["a", "b"]},
    ],
    ids=str,
)
@pytest.mark.parametrize("effect", [LOW, WHOLE], ids=lambda effect: effect.kind)
def test_fields_of_something_else_are_refused(effect: LowRank | Dense, change: dict[str, object]) -> None:
    with pytest.raises((ValidationError, ValueError, TypeError)):
        type(effect).shapes({**effect.fields(), **change})


def test_a_product_needs_its_rank() -> None:
    with pytest.raises(ValueError, match="needs its rank"):
        LowRank.shapes(WHOLE.fields())


def test_an_unknown_kind_is_named() -> None:
    with pytest.raises(UnknownName, match=r"Unknown kind of effect 'low-rnk'.*low-rank.*may need a package"):
        kind_named("low-rnk")


def test_only_changes_of_weights_can_be_written_into_weights() -> None:
    assert weight_effects([LOW, WHOLE]) == [LOW, WHOLE]
    prefix = Prefix("So. ")
    assert isinstance(prefix, Effect)
    assert not isinstance(prefix, WeightEffect)
    with pytest.raises(EditError, match="acts by 'prefix', which is no change of weights"):
        weight_effects([LOW, prefix])


def test_places_are_in_order_and_each_once() -> None:
    effects = [
        LowRank(2, LOW.left, LOW.right),
        LOW,
        WHOLE,
        LowRank(2, LOW.left, LOW.right),
        LowRank(0, LOW.left, LOW.right),
    ]
    assert places_of(effects) == [(0, "out"), (1, "gate"), (2, "in"), (2, "out")]


@torch.no_grad()
def test_rows_with_the_very_same_effects_hold_them_once() -> None:
    model = tiny("gpt2")
    effect = LowRank(1, 0.3 * torch.randn(model.d_mlp, 2), torch.randn(2, model.d_model))
    ids = torch.tensor([[5, 9, 200], [7, 8, 11]])
    calls: list[str] = []

    class Watched(LowRank):
        def on_batch(self, model):
            calls.append("batch")
            return super().on_batch(model)

        @classmethod
        def on_rows(cls, model, rows):
            calls.append("rows")
            return super().on_rows(model, rows)

    own = Watched(effect.layer, effect.left, effect.right)
    with on_rows(model, [[own], [own]]):
        shared = model.lm(input_ids=ids).logits
    with on_rows(model, [[own], [Watched(effect.layer, effect.left, effect.right)]]):
        apart = model.lm(input_ids=ids).logits
    assert calls == ["batch", "rows"]
    torch.testing.assert_close(shared, apart, rtol=1e-4, atol=1e-5)
    with model.with_weight(1, model.weight(1) + effect.delta()):
        torch.testing.assert_close(shared, model.lm(input_ids=ids).logits, rtol=1e-3, atol=1e-4)
