"""Keys that are nothing: what a joint solve makes of them, and a sequence's past at a layer."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from conftest import random_moment, tiny
from factedit.edit.many.history import History, write_exactly
from factedit.edit.many.make import check_layers
from factedit.edit.many.settings import (
    MemitSettings,
    RomeJointSettings,
    default_layers,
    joint_settings,
)
from factedit.edit.many.solver import LayerPast, Solver, state_after, with_values
from factedit.edit.presets import Preset
from factedit.edit.state import State
from factedit.errors import EditError, UsageError
from factedit.models.adapter import EditableModel
from factedit.stats.penalty import MomentPenalty
from factedit.stats.preserved import Preserved

SIZE = 6


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(scope="module")
def model() -> EditableModel:
    return tiny("gpt2")


def penalty() -> MomentPenalty:
    return MomentPenalty(random_moment(SIZE), 2.0)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("before", [0, 2, 9])
def test_keys_of_zeros_change_nothing(count: int, before: int) -> None:
    """By Woodbury and by the whole matrix; before, a batch of such keys was an error of the linear algebra's own."""
    history = History.of(penalty(), drawn(before, SIZE, seed=1))
    solve, after = history.write(torch.zeros(count, SIZE))
    assert not solve.directions.any()
    assert not solve.reach.any()
    assert solve.condition == 1.0, "the batch's own system is the identity"
    assert len(after.keys) == before + count
    key = drawn(1, SIZE, seed=2)
    torch.testing.assert_close(after.solve(key), history.solve(key))


def test_one_key_of_zeros_among_others_leaves_them_as_they_are() -> None:
    keys = drawn(2, SIZE, seed=3)
    alone, _ = History.of(penalty(), keys[:0]).write(keys)
    with_nothing = torch.cat([keys[:1], torch.zeros(1, SIZE, dtype=torch.float64), keys[1:]])
    both, _ = History.of(penalty(), keys[:0]).write(with_nothing)
    torch.testing.assert_close(both.directions[[0, 2]], alone.directions)
    assert not both.directions[1].any()


def test_a_key_of_zeros_cannot_be_given_a_value_exactly() -> None:
    keys = torch.cat([drawn(1, SIZE, seed=4), torch.zeros(1, SIZE, dtype=torch.float64)])
    with pytest.raises(EditError, match="depend on each other"):
        write_exactly(keys, penalty().solve(keys))


# -- the past of a layer ----------------------------------------------------------------------------


def past(model: EditableModel, facts: int) -> LayerPast:
    return LayerPast(
        drawn(facts, model.d_mlp).float(), drawn(facts, model.d_model, seed=1).float(),
        drawn(2, model.d_mlp, seed=2).float(), 3.5,
    )  # fmt: skip


def test_a_past_comes_back_from_the_state_it_left(model: EditableModel) -> None:
    own, other = past(model, 3), past(model, 1)
    state = state_after("base", {1: own, 2: other})
    assert sorted(state.tensors) == [
        f"{n}.{layer}" for n in ("batches", "keys", "left_out", "names", "scale", "values") for layer in (1, 2)
    ]
    for layer, expected in ((1, own), (2, other)):
        found = LayerPast.of(model, layer, state)
        assert found.scale == 3.5
        for name in ("keys", "values", "left_out"):
            assert torch.equal(getattr(found, name), getattr(expected, name))


def test_without_a_state_there_is_no_past(model: EditableModel) -> None:
    for state in (None, State("base")):
        found = LayerPast.of(model, 1, state)
        assert (found.keys.shape, found.values.shape, found.scale) == ((0, model.d_mlp), (0, model.d_model), None)
        assert len(found.left_out) == 0
    assert LayerPast.of(model, 1, None).tensors(1)["scale.1"].tolist() == [0.0], "none was chosen yet"


@pytest.mark.parametrize("broken", ["other layer", "no scale", "narrow keys", "wide values", "flat"])
def test_a_past_of_something_else_is_refused(model: EditableModel, broken: str) -> None:
    tensors = dict(state_after("base", {1: past(model, 2)}).tensors)
    layer = 2 if broken == "other layer" else 1
    if broken == "no scale":
        del tensors["scale.1"]
    if broken == "narrow keys":
        tensors["keys.1"] = tensors["keys.1"][:, :-1]
    if broken == "wide values":
        tensors["values.1"] = torch.zeros(2, model.d_model + 1)
    if broken == "flat":
        tensors["left_out.1"] = torch.zeros(model.d_mlp)
    with pytest.raises(
        EditError, match=rf"no history of layer {layer} \(keys of width 128, values of width 32\); it ho"
    ):
        LayerPast.of(model, layer, State("base", tensors))


def test_what_was_written_joins_the_past(model: EditableModel) -> None:
    own = past(model, 2)
    values = drawn(1, model.d_model, seed=9)
    found = with_values(own, values)
    assert torch.equal(found.values, torch.cat([own.values, values.float()]))
    assert len(own.values) == 2, "the past that was stays"


def test_the_first_batch_chooses_the_weight_for_the_whole_sequence(model: EditableModel) -> None:
    """λ of later, shorter keys would be another one; what a sequence weighs must not change on its way."""
    kept = Preserved(model, 1, random_moment(model.d_mlp))
    solver = Solver(kept, kept.penalty(), None, 0.5)
    keys, residual = drawn(2, model.d_mlp, seed=5), drawn(2, model.d_model, seed=6)
    first = solver.solve(keys, residual, ["a", "b"], LayerPast.of(model, 1, None))
    strength = (keys * torch.linalg.solve(kept.moment.matrix, keys.T).T).sum(1)
    assert first.notes["scale"] == pytest.approx(float(strength.mean()), rel=1e-6), "κ (1 − ½) / ½"
    assert (first.notes["history"], first.past.scale) == (0, first.notes["scale"])
    second = solver.solve(0.1 * keys.flip(0), residual, ["c", "d"], first.past)
    assert second.notes["scale"] == first.notes["scale"]
    assert second.notes["history"] == 2
    fixed = Solver(kept, kept.penalty(), 7.0, 0.5).solve(keys, residual, ["a", "b"], LayerPast.of(model, 1, None))
    assert fixed.notes["scale"] == 7.0, "one that is given is taken"


# -- layers -----------------------------------------------------------------------------------------


class Deep:
    """As deep as a test asks; what presets look at."""

    def __init__(self, n_layer: int) -> None:
        self.n_layer, self.d_model, self.vocab = n_layer, 8, 320
        self.family = type("Family", (), {"name": "gpt2"})


@pytest.mark.parametrize(
    ("n_layer", "layers"),
    [
        (48, (13, 14, 15, 16, 17)),
        (1, (0,)),
        (2, (1,)),
        (4, (1,)),
        (12, (3, 4)),
        (18, (5, 6)),
        (96, tuple(range(26, 35))),
    ],
)
def test_layers_scale_with_the_depth(n_layer: int, layers: tuple[int, ...]) -> None:
    assert default_layers(Deep(n_layer)) == layers  # type: ignore[arg-type]


def test_settings_are_the_presets_with_changes() -> None:
    preset = Preset(model="Deep", family="gpt2", n_layer=12, d_model=8, settings={"layers": (2, 5), "kl": 0.5})
    deep: EditableModel = Deep(12)  # type: ignore[assignment]
    found = joint_settings(MemitSettings, "memit", (preset,), deep, {"kl": None, "clamp": 2})
    assert (found.layers, found.kl, found.clamp) == ((2, 5), 0.5, 2.0)
    assert joint_settings(MemitSettings, "memit", (), deep, {}).layers == (3, 4)
    assert joint_settings(MemitSettings, "memit", (), deep, {}, one_layer=True).layers == (4,)
    assert joint_settings(MemitSettings, "memit", (preset,), deep, {"layers": "7,3-4"}).layers == (3, 4, 7)
    with pytest.raises(UsageError, match="settings of memit do not hold: speed 1"):
        joint_settings(MemitSettings, "memit", (), deep, {"speed": 1})


@pytest.mark.parametrize(
    ("given", "found"), [(3, (3,)), ("3", (3,)), ("1,3-5", (1, 3, 4, 5)), ([4, 2], (4, 2)), (None, None), ((), ())]
)
def test_layers_as_they_may_be_written(given: object, found: tuple[int, ...] | None) -> None:
    assert MemitSettings(layers=given).layers == found  # type: ignore[arg-type]
    assert RomeJointSettings(layers=given).layers == found  # type: ignore[arg-type]


@pytest.mark.parametrize("given", ["", "a", "3-", "1.5", 1.5, [1.5], {"a": 1}])
def test_layers_that_are_none_are_refused(given: object, model: EditableModel) -> None:
    with pytest.raises(UsageError, match="settings of memit do not hold: layers"):
        joint_settings(MemitSettings, "memit", (), model, {"layers": given})


@pytest.mark.parametrize("layers", [(), (1, 1), (2, 1)])
def test_edited_layers_ascend(layers: tuple[int, ...], model: EditableModel) -> None:
    with pytest.raises(UsageError, match=r"The edited layers must ascend, each named once; found \["):
        check_layers(model, layers)
    assert check_layers(model, [0, 3]) == (0, 3)
    with pytest.raises(UsageError, match="Layer -1 was asked for"):
        check_layers(model, [-1])
