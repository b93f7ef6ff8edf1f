"""What a row says, looked up in layers made here; statements, finite numbers and storage by hand."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from conftest import tiny_tokenizer
from factedit.errors import UnknownName, UnsupportedModel, UsageError
from factedit.models.families import (
    MATRICES,
    Family,
    MatrixName,
    alternatives,
    matrix_name,
    no_matrix,
    split_name,
    terms,
)
from factedit.models.family_table import FAMILIES, family_of
from factedit.models.fingerprint import setup_of
from factedit.models.finite import all_finite, not_finite
from factedit.models.matrix import Matrix, first_of
from factedit.models.places import places_in, watched_terms
from factedit.models.propose import _alternatives, propose
from factedit.models.refused import REFUSED
from factedit.models.sound import refuse_settings, refuse_slow, refuse_unknown_storage, submodule
from factedit.models.statement import RELATIVE_TOLERANCE, check_statement

DENSE = Family(
    name="hand", attn_out="attn", mlp_out="mlp", matrix="mlp.down|mlp.out", matrix_in="mlp.up", matrix_gate=""
)


class Mlp(nn.Module):
    def __init__(self, last: str = "down") -> None:
        super().__init__()
        self.up = nn.Linear(2, 3, bias=False)
        setattr(self, last, nn.Linear(3, 2, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        last = self.down if hasattr(self, "down") else self.out
        return last(torch.relu(self.up(x)))


class Layer(nn.Module):
    """Adds what attention and the MLP give, each times a number of its own."""

    def __init__(self, last: str = "down", *, attn: str = "attn", scale: float = 1.0, gain: float = 1.0) -> None:
        super().__init__()
        setattr(self, attn, nn.Linear(2, 2, bias=False))
        self.mlp, self.scale, self.gain, self.attn_name = Mlp(last), scale, gain, attn

    def forward(self, hidden_states: Tensor) -> Tensor:
        attn = getattr(self, self.attn_name)
        return (hidden_states + attn(hidden_states) + self.scale * self.mlp(hidden_states)) * self.gain


# -- what a row says -------------------------------------------------------------------------------


def test_paths_of_a_row_are_alternatives_and_sums() -> None:
    assert alternatives("a.b|c") == ("a.b", "c")
    assert alternatives("") == ()
    assert terms("mamba*x+self_attn*y") == (("mamba", "x"), ("self_attn", "y"))
    assert terms("mlp") == (("mlp", ""),)


@pytest.mark.parametrize("name", ["out", "in.0", "gate.shared", "out.12"])
def test_a_matrix_has_a_kind_and_perhaps_an_expert(name: str) -> None:
    assert TypeAdapter(MatrixName).validate_python(name) == name
    kind, expert = split_name(name)
    assert (matrix_name(kind, expert) if expert else kind) == name
    assert kind in MATRICES


@pytest.mark.parametrize(
    "name", ["", "up", "out.", "out.01", "out.-1", "out.1.2", "OUT", "out.shared.1", "out\n", "out.٣"]
)
def test_other_names_are_no_matrix(name: str) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(MatrixName).validate_python(name)


def test_the_tensor_of_a_matrix_is_the_first_alternative_that_is_there() -> None:
    family = Family(name="hand", matrix="mlp.down|mlp.out", matrix_gate="")
    assert family.tensor(2, "out", {"model.layers.2.mlp.out"}) == "model.layers.2.mlp.out.weight"
    both = {"model.layers.2.mlp.out", "model.layers.2.mlp.down"}
    assert family.tensor(2, "out", both) == "model.layers.2.mlp.down.weight"
    with pytest.raises(UnsupportedModel, match="Layer 3 of hand has no matrix 'out' of its own: it has experts"):
        family.tensor(3, "out", both)
    with pytest.raises(UnsupportedModel, match=r"The MLP of hand has no matrix 'gate' of its own. It has out, in\."):
        family.tensor(2, "gate", both)
    with pytest.raises(UsageError, match="The matrix 'down' was asked for; an MLP's matrices are out, in, gate"):
        family.paths("down")
    assert "It can be traced; edit another layer" in str(no_matrix(family, 1, "in"))


def test_the_tensor_of_an_expert_is_the_stack_of_all() -> None:
    family = Family(name="hand", experts="mlp.experts", shared="mlp.shared", matrix_gate="mlp.gate_proj")
    there = {f"model.layers.1.mlp.{n}" for n in ("experts.down_proj", "experts.up_proj", "shared.down_proj.weight")}
    assert family.expert_tensor(1, "out.5", there) == "model.layers.1.mlp.experts.down_proj"
    assert family.expert_tensor(1, "in.0", there) == "model.layers.1.mlp.experts.up_proj"
    fused = there | {"model.layers.1.mlp.experts.gate_up_proj"}
    assert family.expert_tensor(1, "in.0", fused) == "model.layers.1.mlp.experts.gate_up_proj", "gate and first in one"
    assert family.expert_tensor(1, "out.shared", there) == "model.layers.1.mlp.shared.down_proj.weight"
    with pytest.raises(
        UnsupportedModel, match=r"Layer 2 has no expert's matrix 'out.5': the edit was made for another"
    ):
        family.expert_tensor(2, "out.5", there)


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_is_refused_says_why(name: str) -> None:
    with pytest.raises(UnsupportedModel) as found:
        family_of(name)
    assert REFUSED[name] in str(found.value)
    assert name in str(found.value)
    assert not name[0].isspace()
    assert REFUSED[name][0].islower(), "it goes on after a colon"
    assert not REFUSED[name].endswith("."), "the sentence goes on"


def test_every_row_reads_what_its_own_words_say() -> None:
    for name, family in FAMILIES.items():
        assert family.name == name
        for which in MATRICES:
            if which == "gate" and not family.matrix_gate:
                continue
            assert all(path and not path.startswith(".") for path in family.paths(which)), name
        assert all(path for path, _ in terms(family.attn_out.partition("|")[0])), name
        assert (not family.shared_gate) or family.shared, "a gate of nothing"
        assert all(len(row) == 2 and row[1] and not row[1].endswith(".") for row in family.refused_settings), name
    with pytest.raises(UnknownName, match="Unknown architecture 'no-such'"):
        family_of("no-such")


# -- looked up in a layer --------------------------------------------------------------------------


@pytest.mark.parametrize("last", ["down", "out"])
def test_a_layer_has_the_first_alternative_that_is_in_it(last: str) -> None:
    layer = Layer(last)
    found = places_in(DENSE, layer)
    assert found.matrices == {"out": f"mlp.{last}", "in": "mlp.up"}
    assert found.giver is layer.mlp
    assert (found.norm, found.state, found.whole, found.mlp_gain, found.gain) == (None, None, True, 1.0, 1.0)
    assert found.contributions["attn"] == ((layer.attn, 1.0),)


def test_numbers_that_a_layer_keeps_are_multiplied_by() -> None:
    family = Family(
        name="hand",
        attn_out="attn",
        mlp_out="mlp*scale",
        matrix="mlp.down",
        matrix_in="mlp.up",
        matrix_gate="",
        gain="gain",
    )
    found = places_in(family, Layer(scale=0.5, gain=3.0))
    assert found.contributions["mlp"][0][1] == 0.5
    assert (found.mlp_gain, found.gain) == (1.5, 3.0)


def test_a_layer_without_what_gives_a_contribution_is_refused() -> None:
    with pytest.raises(UnsupportedModel, match="A layer of hand has no attn, which gives what attn adds: the model is"):
        places_in(DENSE, Layer(attn="other"))


def test_a_family_that_is_refused_has_no_matrices_to_look_up() -> None:
    from dataclasses import replace

    found = places_in(replace(DENSE, refused="it is woven"), Layer())
    assert (found.matrices, found.giver) == ({}, None)
    assert found.contributions["mlp"], "it can be traced"


@torch.no_grad()
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_a_contribution_is_seen_with_its_factor_and_replaced_as_a_whole(scale: float) -> None:
    layer, x = Layer(scale=scale), torch.tensor([[[1.0, -2.0], [0.5, 3.0]]])
    parts = ((layer.attn, 1.0), (layer.mlp, scale))
    attn, mlp = layer.attn(x), layer.mlp(x)
    seen: list[Tensor] = []
    with watched_terms(layer, parts, lambda own: seen.append(own.clone())):
        assert torch.equal(layer(x), x + attn + scale * mlp)
    torch.testing.assert_close(seen[0], attn + scale * mlp)
    new = torch.full_like(x, 7.0)
    with watched_terms(layer, parts, lambda _own: new):
        torch.testing.assert_close(layer(x), x + new, msg="whatever the first of the two gives")
    assert torch.equal(layer(x), x + attn + scale * mlp)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in layer.modules())


def test_the_hidden_states_are_the_first_of_a_tuple() -> None:
    one = torch.ones(2)
    assert first_of((one, None)) is one
    assert first_of(one) is one


# -- a row from what one pass shows ----------------------------------------------------------------


class Lm(nn.Module):
    """A model of layers made here, with as much of a language model as is asked of it."""

    def __init__(self, layers: list[nn.Module], said: int | None = None) -> None:
        super().__init__()
        self.embed = nn.Embedding(16, 2)
        self.blocks = nn.ModuleList(layers)
        count = len(layers) if said is None else said
        self.config: Any = SimpleNamespace(model_type="hand", num_hidden_layers=count)
        self.config.get_text_config = lambda: self.config

    def get_input_embeddings(self) -> nn.Embedding:
        return self.embed

    def forward(self, input_ids: Tensor, use_cache: bool = False) -> Tensor:
        hidden: Tensor = self.embed(input_ids)
        for block in self.blocks:
            hidden = block(hidden_states=hidden)
        return hidden


class Mixing(nn.Module):
    """Takes the mean over tokens, so that it does not treat them one by one, as attention."""

    def __init__(self) -> None:
        super().__init__()
        self.o = nn.Linear(2, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        weight = torch.tril(torch.ones(x.shape[1], x.shape[1]))
        return self.o((weight / weight.sum(-1, keepdim=True)) @ x)


def mixing(last: str = "down") -> Layer:
    layer = Layer(last)
    layer.attn = Mixing()
    return layer


def test_a_row_is_found_from_what_modules_add() -> None:
    torch.manual_seed(0)
    found = propose(Lm([mixing(), mixing("out")]))
    assert (found.name, found.layers, found.attn_out, found.mlp_out) == ("hand", "blocks", "attn", "mlp")
    assert set(alternatives(found.matrix)) == {"mlp.down", "mlp.out"}
    assert (found.matrix_in, found.matrix_gate, found.stored_in_out, found.tuple_output) == ("mlp.up", "", False, False)


def test_alternatives_stand_in_an_order_in_which_each_layer_finds_its_own() -> None:
    """A layer that has both and uses the second of them: what the first layer uses cannot come first."""
    one, both = nn.Module(), nn.Module()
    one.x = nn.Identity()
    both.x, both.y = nn.Identity(), nn.Identity()
    assert _alternatives([one, both], ["x", "y"]) == "y|x"
    assert _alternatives([both, one], ["x", ""]) == "x"
    assert _alternatives([both, both], ["x", "y"]) == "x|y", "no order holds: as they came, and the proof refuses it"


def test_a_model_that_adds_something_else_is_refused_with_the_nearest() -> None:
    class Twice(Layer):
        def forward(self, hidden_states: Tensor) -> Tensor:
            return 2 * super().forward(hidden_states)

    with pytest.raises(
        UnsupportedModel, match=r"No two modules of a Twice give what it adds.*The nearest are .* and .*, off by"
    ):
        propose(Lm([Twice()]))


def test_layers_that_are_not_there_or_do_not_run_are_refused() -> None:
    with pytest.raises(
        UnsupportedModel, match=r"Lm has no list of 3 layers, as its configuration says. It cannot be probed"
    ):
        propose(Lm([mixing()], said=3))

    class Broken(nn.Module):
        def forward(self, hidden_states: Tensor) -> Tensor:
            raise ValueError("no such kernel\nand more")

    with pytest.raises(UnsupportedModel, match="Lm cannot be probed: ValueError: no such kernel"):
        propose(Lm([Broken()]))


# -- statements, numbers, storage ------------------------------------------------------------------


def named(dtype: torch.dtype) -> Any:
    return SimpleNamespace(name="m", family=SimpleNamespace(name="f"), dtype=dtype)


@pytest.mark.parametrize("dtype", RELATIVE_TOLERANCE)
def test_a_statement_holds_within_the_tolerance_of_its_type(dtype: torch.dtype) -> None:
    found = torch.tensor([3.0, 4.0], dtype=torch.float64)  # of length 5
    least = RELATIVE_TOLERANCE[dtype]
    off = torch.tensor([0.0, 5 * least], dtype=torch.float64)
    check_statement(named(dtype), 1, "a = b", found, found + 0.99 * off)
    with pytest.raises(UnsupportedModel, match=r"m \(f\) does not fit its family: at layer 1, 'a = b' is off by"):
        check_statement(named(dtype), 1, "a = b", found, found + 1.01 * off)


@pytest.mark.parametrize("expected", [math.nan, math.inf])
def test_what_is_not_finite_is_no_statement_that_holds(expected: float) -> None:
    with pytest.raises(UnsupportedModel, match="is off by"):
        check_statement(named(torch.float32), 0, "a = b", torch.ones(2), torch.tensor([1.0, expected]))


def test_finite_numbers_whose_sum_overflows_are_finite() -> None:
    large = torch.full((4,), 3e38)
    assert all_finite(large)
    assert all_finite(torch.tensor([2**62, -1]))
    assert not all_finite(torch.tensor([1.0, math.nan]))
    assert not all_finite(torch.tensor([math.inf, -math.inf]))
    assert all_finite(torch.zeros(0))
    tensors = [("large", large), ("whole", torch.ones(2).long()), ("bad", torch.tensor([math.inf])),
               ("empty", torch.zeros(0)), ("worse", torch.tensor([[1.0], [math.nan]]).half())]  # fmt: skip
    assert not_finite(tensors) == ["bad", "worse"]


def matrix_in(module: nn.Module, name: str) -> Matrix:
    return Matrix((0, "out"), module, name, False, module)


def test_matrices_that_overlap_in_memory_are_named() -> None:
    model, room = nn.Module(), torch.zeros(10)
    model.a, model.b = nn.Linear(2, 2, bias=False), nn.Linear(2, 3, bias=False)
    model.a.weight = nn.Parameter(room[:4].view(2, 2))
    model.b.weight = nn.Parameter(room[4:].view(3, 2))
    matrices = [matrix_in(model.a, "a.weight"), matrix_in(model.b, "b.weight")]
    refuse_unknown_storage(model, matrices)  # one behind the other
    model.b.weight = nn.Parameter(room[3:9].view(3, 2))
    with pytest.raises(UnsupportedModel, match=r"a\.weight and b\.weight share memory, so an edit of one would change"):
        refuse_unknown_storage(model, matrices)
    refuse_unknown_storage(model, [])  # nothing of them is edited


def test_a_matrix_that_is_computed_from_others_is_named() -> None:
    model = nn.Module()
    model.a = nn.utils.parametrizations.weight_norm(nn.Linear(2, 2, bias=False))
    with pytest.raises(UnsupportedModel, match=r"a\.weight is no plain parameter: .* computes it from others"):
        refuse_unknown_storage(model, [matrix_in(model.a, "a.weight")])


def test_a_setting_that_cannot_be_followed_is_named() -> None:
    family = Family(name="hand", refused_settings=(("use_x", "its layers are turned"),))
    config = SimpleNamespace(use_x=False)
    config.get_text_config = lambda: config
    refuse_settings(config, family)
    config.use_x = 3
    with pytest.raises(UnsupportedModel, match=r"sets use_x to 3: its layers are turned. Choose a model without it"):
        refuse_settings(config, family)


def test_a_tokenizer_is_needed_and_a_fast_one() -> None:
    with pytest.raises(UsageError, match=r"A model in memory needs its tokenizer: load\(model, tokenizer\)"):
        refuse_slow(None)
    with pytest.raises(UnsupportedModel, match="SimpleNamespace gives no character offsets"):
        refuse_slow(SimpleNamespace(is_fast=False))
    refuse_slow(tiny_tokenizer())


def test_a_part_that_is_not_there_is_named_with_what_to_do() -> None:
    with pytest.raises(UnsupportedModel, match=r"Layer has no mlp\.gate, which a model of its kind has: it is wrapped"):
        submodule(Layer(), "mlp.gate")


def test_what_decides_nothing_is_left_out_of_the_setup() -> None:
    def said(**values: Any) -> str:
        return setup_of(SimpleNamespace(to_dict=lambda: {"rope": 1, **values}), tiny_tokenizer())

    assert said() == said(transformers_version="9", architectures=["X"], _name_or_path="/somewhere")
    assert said() != said(rope=2)
    assert said(a=1, b=2) == said(b=2, a=1)
