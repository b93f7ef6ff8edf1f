"""A layer of experts small enough to be worked out by hand, in both orders of storage, with and without what is shared.

Two experts of two rows each: expert e gives w · (k Wₑ + bₑ) with k = relu of its first matrix; the shared one gets
every token, times the sigmoid of its gate.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from factedit.errors import UnsupportedModel
from factedit.models.expert_matrix import ExpertMatrix
from factedit.models.experts import Mixture, Routed
from factedit.models.families import Family

UP = torch.tensor([[[1.0, 0], [0, 1]], [[2.0, 0], [0, -1]]])  # [expert, d_model, d_in]
DOWN = torch.tensor([[[1.0, 2], [3, 4]], [[5.0, 6], [7, 8]]])  # [expert, d_in, d_model]
DOWN_BIAS = torch.tensor([[0.5, 0.0], [0.0, 0.25]])
SHARED = torch.tensor([[10.0, 0], [0, 20]])  # [d_in, d_model]
STATES = torch.tensor([[[1.0, 2.0], [3.0, -1.0], [0.5, 0.5]]])  # one row of three tokens
SENT = torch.tensor([[0, 1], [1, 0], [0, 1]])
WEIGHTS = torch.tensor([[1.0, 0.0], [0.5, 0.25], [0.75, 0.5]])


class Experts(nn.Module):
    """As transformers stores stacked experts; called with tokens one after the other."""

    def __init__(self, *, transposed: bool, bias: bool) -> None:
        super().__init__()
        self.is_transposed, self.has_gate, self.has_bias = transposed, False, bias
        self.act_fn = nn.ReLU()
        self.up_proj = nn.Parameter(UP.clone() if transposed else UP.transpose(1, 2).contiguous())
        self.down_proj = nn.Parameter(DOWN.clone() if transposed else DOWN.transpose(1, 2).contiguous())
        if bias:
            self.up_proj_bias = nn.Parameter(torch.zeros(2, 2))
            self.down_proj_bias = nn.Parameter(DOWN_BIAS.clone())

    def forward(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        total = torch.zeros_like(hidden_states)
        for token, (experts, weights) in enumerate(zip(top_k_index, top_k_weights, strict=True)):
            for e, weight in zip(experts.tolist(), weights, strict=True):
                value = torch.relu(hidden_states[token] @ UP[e]) @ DOWN[e] + (DOWN_BIAS[e] if self.has_bias else 0)
                total[token] += weight * value
        return total


class Block(nn.Module):
    """Router, experts and the shared one; it flattens its tokens as many families do."""

    def __init__(self, *, transposed: bool, bias: bool, shared: bool) -> None:
        super().__init__()
        self.experts = Experts(transposed=transposed, bias=bias)
        self.shared_expert, self.shared_expert_gate = nn.Module(), nn.Linear(2, 1, bias=False)
        self.shared_expert.down_proj = nn.Linear(2, 2, bias=False)
        self.shared_expert.down_proj.weight = nn.Parameter(SHARED.T.contiguous())
        self.shared_expert_gate.weight = nn.Parameter(torch.tensor([[1.0, 0.0]]))
        self.shares = shared

    def forward(self, hidden_states: Tensor) -> Tensor:
        flat = hidden_states.view(-1, 2)
        given = self.experts(flat, SENT, WEIGHTS)
        if self.shares:
            given = given + torch.sigmoid(self.shared_expert_gate(flat)) * self.shared_expert.down_proj(flat)
        return given.view_as(hidden_states)


class Layer(nn.Module):
    def __init__(self, **how: bool) -> None:
        super().__init__()
        self.mlp = Block(**how)

    def forward(self, hidden_states: Tensor) -> Tensor:
        return hidden_states + self.mlp(hidden_states)


def made(*, transposed: bool = False, bias: bool = False, shared: bool = False) -> tuple[Layer, Mixture]:
    layer = Layer(transposed=transposed, bias=bias, shared=shared)
    own = {"shared": "mlp.shared_expert", "shared_gate": "mlp.shared_expert_gate"} if shared else {}
    family = Family(name="by-hand", experts="mlp.experts", stored_in_out=transposed, **own)
    return layer, Mixture(3, layer, family, "model.layers.3")


BOTH = pytest.mark.parametrize("transposed", [False, True], ids=["out_in", "in_out"])


def keys() -> Tensor:
    """Joined keys of the three tokens, by hand: relu(h Uₑ) times the weight, zero where a token is not sent."""
    return torch.tensor([
        [1.0, 2.0, 0.0, 0.0],  # weight 0 of expert 1
        [0.75, 0.0, 3.0, 0.5],  # relu(3, -1)/4; relu(6, 1)/2
        [0.375, 0.375, 0.5, 0.0],  # (.5, .5) · .75; relu(1, -.5) · .5
    ])  # fmt: skip


@BOTH
def test_sizes_and_parts_are_those_of_the_stack(transposed: bool) -> None:
    _, mixture = made(transposed=transposed, shared=True)
    assert (mixture.count, mixture.width, mixture.layer) == (2, 6, 3)
    assert mixture.slices == {"out.0": slice(0, 2), "out.1": slice(2, 4), "out.shared": slice(4, 6)}
    for name, expected in (("out.0", DOWN[0]), ("out.1", DOWN[1]), ("out.shared", SHARED)):
        assert torch.equal(mixture.values(name), expected)
    squares = sum(n * n for n in range(1, 9)) + 10**2 + 20**2
    assert mixture.norm == pytest.approx(math.sqrt(squares))
    assert made(transposed=transposed)[1].norm == pytest.approx(math.sqrt(204))


@BOTH
def test_joined_keys_times_the_joined_matrix_is_what_the_block_gives(transposed: bool) -> None:
    layer, mixture = made(transposed=transposed)
    with mixture.noted((0, slice(None))) as seen:
        layer(STATES)
    [(key, value)] = seen
    assert torch.equal(key, keys())
    joined = torch.cat([DOWN[0], DOWN[1]])
    assert torch.equal(value, keys() @ joined)
    assert torch.equal(mixture.product(key), keys() @ joined)
    assert torch.equal(layer(STATES)[0] - STATES[0], keys() @ joined)
    assert not layer.mlp._forward_hooks
    assert not mixture.module._forward_pre_hooks


@BOTH
def test_the_shared_expert_gets_every_token_times_its_gate(transposed: bool) -> None:
    layer, mixture = made(transposed=transposed, shared=True)
    with mixture.noted((0, slice(None))) as seen:
        layer(STATES)
    [(key, value)] = seen
    gate = torch.tensor([[1 / (1 + math.exp(-h))] for h in (1.0, 3.0, 0.5)])
    assert torch.equal(key[:, :4], keys())
    torch.testing.assert_close(key[:, 4:], gate * STATES[0])
    torch.testing.assert_close(mixture.product(key), value)


@BOTH
def test_biases_are_weighed_as_values_are(transposed: bool) -> None:
    layer, mixture = made(transposed=transposed, bias=True)
    seen: list[Routed] = []
    with mixture.routed(seen.append), mixture.noted((0, slice(None))) as noted:
        layer(STATES)
    bias = mixture.bias(seen[0].at(0))
    expected = torch.tensor([[0.5, 0.0], [0.125, 0.125], [0.375, 0.125]])  # Σ w b, of both experts
    assert bias is not None
    assert torch.equal(bias, expected)
    torch.testing.assert_close(noted[0][1] - mixture.product(noted[0][0]), expected)
    assert made(transposed=transposed)[1].bias(seen[0]) is None


def test_routing_tells_rows_and_tokens_and_the_weight_of_each_expert() -> None:
    layer, mixture = made()
    seen: list[Routed] = []
    with mixture.routed(seen.append):
        layer(STATES)
    [routed] = seen
    assert (routed.states.shape, routed.experts.shape) == ((1, 3, 2), (1, 3, 2))
    assert routed.weight_of(0)[0, :, 0].tolist() == [1.0, 0.25, 0.75]
    assert routed.weight_of(1)[0, :, 0].tolist() == [0.0, 0.5, 0.5]
    assert routed.weight_of(7).abs().sum() == 0, "nobody is sent there"
    one = routed.at((0, 1))
    assert (one.states.tolist(), one.experts.tolist(), one.weights.tolist()) == ([3, -1], [1, 0], [0.5, 0.25])


@BOTH
def test_keys_are_seen_of_the_tokens_that_are_sent_and_count(transposed: bool) -> None:
    layer, mixture = made(transposed=transposed, shared=True)
    found: dict[str, Tensor] = {}
    real = torch.tensor([0, 2])  # the second token is padding
    with mixture.keys_seen(lambda name, own: found.update({name: own.clone()}), real):
        layer(STATES)
    assert found.keys() == {"out.0", "out.1", "out.shared"}
    assert torch.equal(found["out.0"], keys()[real, :2])
    assert torch.equal(found["out.1"], keys()[real, 2:])
    gate = torch.sigmoid(STATES[0, real, :1])
    torch.testing.assert_close(found["out.shared"], gate * STATES[0, real])


@BOTH
def test_one_matrix_of_one_expert_is_watched_and_what_takes_its_place_is_weighed(transposed: bool) -> None:
    layer, mixture = made(transposed=transposed)
    plain = layer(STATES)
    matrix = ExpertMatrix.of(mixture, "out.1", "model.layers.3.mlp.experts")
    shown: list[tuple[Tensor, Tensor]] = []

    def hook(key: Tensor, value: Tensor) -> Tensor:
        shown.append((key.clone(), value.clone()))
        return value + torch.tensor([100.0, 0.0])

    with matrix.watched(hook):
        changed = layer(STATES)
    [(key, value)] = shown
    assert key[0].tolist() == [[2, 0], [6, 1], [1, 0]], "also of a token that is not sent there; without its weight"
    assert torch.equal(value, key @ DOWN[1])
    assert (changed - plain)[0].tolist() == [[0, 0], [50, 0], [50, 0]], "100 times the weights 0, ½, ½"
    assert torch.equal(layer(STATES), plain)
    assert not mixture._watching


@BOTH
def test_a_first_matrix_that_gives_something_else_reaches_the_last(transposed: bool) -> None:
    layer, mixture = made(transposed=transposed)
    plain = layer(STATES)
    first, last = (ExpertMatrix.of(mixture, name, "p") for name in ("in.0", "out.0"))
    seen: list[Tensor] = []
    with first.watched(lambda _state, given: 2 * given), last.watched(lambda key, _value: seen.append(key.clone())):
        doubled = layer(STATES)
    assert torch.equal(seen[0][0], 2 * torch.relu(STATES[0]))
    own = keys()[:, :2] @ DOWN[0]
    torch.testing.assert_close((doubled - plain)[0], own, msg="relu(2 x) is 2 relu(x), so expert 0 counts twice")


@BOTH
def test_an_experts_matrix_is_a_view_and_the_others_stay(transposed: bool) -> None:
    _, mixture = made(transposed=transposed, bias=True)
    matrix = ExpertMatrix.of(mixture, "out.1", "model.layers.3.mlp.experts")
    assert (matrix.name, matrix.expert, matrix.shape) == ("model.layers.3.mlp.experts.down_proj", 1, (2, 2))
    assert torch.equal(matrix.values, DOWN[1])
    assert matrix.bias is not None
    assert torch.equal(matrix.bias, DOWN_BIAS[1])
    first = ExpertMatrix.of(mixture, "in.0", "p")
    assert (first.name, first.bias is not None) == ("p.up_proj", True)
    assert torch.equal(first.values, UP[0])
    before = matrix.parameter.detach().clone()
    new = torch.tensor([[0.0, 1.0], [2.0, 3.0]])
    with matrix.replaced(new):
        assert torch.equal(matrix.values, new)
        assert torch.equal(mixture.values("out.1"), new)
        assert torch.equal(mixture.values("out.0"), DOWN[0])
    assert torch.equal(matrix.parameter, before)
    with pytest.raises(ZeroDivisionError), matrix.replaced(new):
        raise ZeroDivisionError
    assert torch.equal(matrix.parameter, before)


def test_rows_that_are_all_zero_belong_to_nobody() -> None:
    _, mixture = made(shared=True)
    joined = torch.zeros(6, 4)
    assert mixture.parts(joined) == {}
    joined[3, 2] = -1e-30
    assert {name: own.tolist() for name, own in mixture.parts(joined).items()} == {"out.1": joined[2:4].tolist()}


def test_what_the_block_gives_may_be_replaced_in_the_shape_of_rows_and_tokens() -> None:
    layer, mixture = made()
    shapes: list[Any] = []

    def hook(value: Tensor) -> Tensor:
        shapes.append(tuple(value.shape))
        return torch.zeros_like(value)

    with mixture.valued(hook):
        assert torch.equal(layer(STATES), STATES), "the layer adds nothing"
    with mixture.valued(lambda _value: None):
        assert not torch.equal(layer(STATES), STATES)
    assert shapes == [(1, 3, 2)]


def test_half_precision_keys_are_joined_in_single(monkeypatch: pytest.MonkeyPatch) -> None:
    _, mixture = made()
    mixture.module.to(torch.bfloat16)
    routed = Routed(STATES[0].bfloat16(), SENT, WEIGHTS.bfloat16())
    joined = mixture._joined(routed, None)
    assert joined.dtype == torch.float32
    assert torch.equal(joined, keys()), "every number of them has few bits"


def test_experts_stored_otherwise_than_the_row_says_are_refused() -> None:
    layer = Layer(transposed=True, bias=False, shared=False)
    family = Family(name="by-hand", experts="mlp.experts", stored_in_out=False)
    with pytest.raises(UnsupportedModel, match="The experts of layer 5 are not stored as by-hand stores them"):
        Mixture(5, layer, family, "p")
