"""Experts as matrices, in every way that transformers calls them; the oracle is the model with its tensors changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from conftest import tiny, tiny_lm, tiny_tokenizer
from factedit.edit.effects.low_rank import LowRank
from factedit.edit.effects.weights import weights_changed
from factedit.errors import UnsupportedModel, UsageError
from factedit.models.adapter import EditableModel
from factedit.models.experts import Mixture, Routed
from factedit.models.family_table import family_of

IDS = torch.tensor([[5, 9, 200, 41], [7, 8, 11, 40]])
FAMILIES = ("mixtral", "qwen3_moe", "gpt_oss", "deepseek_v3", "qwen2_moe")
WAYS = ("eager", "grouped_mm", "batched_mm")
LAYER = 2


@pytest.fixture(scope="module", params=[(name, way) for name in FAMILIES for way in WAYS], ids=lambda p: "-".join(p))
def model(request: pytest.FixtureRequest) -> EditableModel:
    """Families with experts of every kind, in every way; see test_families.py of all."""
    name, way = request.param
    return tiny(name, experts_implementation=way)


def mixture_of(model: EditableModel) -> Mixture:
    found = model.mixture(LAYER)
    assert found is not None
    return found


@torch.no_grad()
def logits(model: EditableModel) -> Tensor:
    found: Tensor = model.lm(input_ids=IDS).logits
    return found


def routes(model: EditableModel) -> Routed:
    seen: list[Routed] = []
    with mixture_of(model).routed(seen.append):
        logits(model)
    return seen[0]


def stack(model: EditableModel) -> torch.nn.Parameter:
    found: torch.nn.Parameter = model.layers[LAYER].mlp.experts.down_proj
    return found


@contextmanager
def by_hand(model: EditableModel, change: Callable[[Tensor], Tensor], expert: int) -> Iterator[None]:
    """One expert's part of the stack changed as the model stores it, `[d_in, d_out]` seen by the change."""
    whole = stack(model).data
    turned = whole[expert] if model.family.name == "gpt_oss" else whole[expert].T
    kept = turned.clone()
    turned.copy_(change(kept))
    try:
        yield
    finally:
        turned.copy_(kept)


@torch.no_grad()
def test_a_change_of_an_expert_acts_on_its_tokens_alone_and_is_gone_to_the_bit(model: EditableModel) -> None:
    plain, before, went = logits(model), model.fingerprint(), routes(model)
    expert = int(went.experts[0, 1, 0])
    random = torch.Generator().manual_seed(1)
    d_in, d_out = model.weight(LAYER, f"out.{expert}").shape
    left, right = torch.randn(d_in, 1, generator=random), 0.1 * torch.randn(1, d_out, generator=random)
    effect = LowRank(LAYER, left, right, f"out.{expert}")
    others = [e for e in range(4) if e != expert]
    kept = stack(model).detach()[others].clone()
    with by_hand(model, lambda w: w + left @ right, expert):
        right_one = logits(model)
    with weights_changed(model, [effect]):
        assert torch.equal(stack(model).detach()[others], kept)
        assert model.fingerprint() != before
        written = logits(model)
    with effect.on_batch(model):
        shared = logits(model)
    with LowRank.on_rows(model, [[effect], []]):
        own = logits(model)
    torch.testing.assert_close(written, right_one)
    torch.testing.assert_close(shared, right_one, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(own[0], right_one[0], rtol=1e-4, atol=1e-5)
    assert torch.equal(own[1], plain[1])
    assert not torch.allclose(written, plain, atol=1e-3)
    assert model.fingerprint() == before
    assert torch.equal(logits(model), plain)


@torch.no_grad()
def test_an_expert_that_gets_no_token_changes_nothing(model: EditableModel) -> None:
    went, plain = routes(model), logits(model)
    silent = sorted(set(range(4)) - set(went.experts[:, :2].flatten().tolist()))
    for expert in silent:
        gone = lambda _key, value: torch.zeros_like(value)  # noqa: E731
        with model.on_matrix(LAYER, gone, f"out.{expert}"):
            torch.testing.assert_close(logits(model)[:, :2], plain[:, :2], rtol=0, atol=0)


@torch.no_grad()
def test_the_first_matrix_of_an_expert_is_watched_and_replaced_alike(model: EditableModel) -> None:
    expert = int(routes(model).experts[0, 0, 0])
    name, out = f"in.{expert}", f"out.{expert}"
    with model.with_weight(LAYER, 2 * model.weight(LAYER, name), name):
        written = logits(model)
        with model.on_matrix(LAYER, lambda _key, value: 2 * value, out):
            both_written = logits(model)
    matrix = model.matrix(LAYER, name)
    again = lambda key, value: value + key @ matrix.values  # noqa: E731
    with model.on_matrix(LAYER, again, name):
        watched = logits(model)
        with model.on_matrix(LAYER, lambda _key, value: 2 * value, out):
            both_watched = logits(model)
    torch.testing.assert_close(watched, written, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(both_watched, both_written, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(both_watched, watched, atol=1e-3)
    assert not model.layers[LAYER].mlp.experts._forward_hooks


@torch.no_grad()
def test_all_experts_together_are_one_matrix(model: EditableModel) -> None:
    """The block gives joined key times joined matrix (and biases); the key is zero where a token is not sent."""
    mixture, went = mixture_of(model), routes(model)
    with mixture.noted((slice(None), 1)) as seen:
        logits(model)
    [(keys, values)] = seen
    bias = mixture.bias(went.at((slice(None), 1)))
    torch.testing.assert_close(mixture.product(keys) + (0 if bias is None else bias), values, rtol=1e-4, atol=1e-5)
    for row in range(2):
        sent = {f"out.{e}" for e in went.experts[row, 1].tolist()} | ({"out.shared"} if mixture.shared else set())
        assert set(mixture.parts(keys[row])) == sent


def test_a_dense_layer_between_them_is_edited_like_any_other() -> None:
    model = tiny("deepseek_v3")
    assert model.mixture(0) is None
    assert model.weight(0).shape == (48, 32)
    assert [m.place[1] for m in model.matrices_of(0)] == ["out", "in", "gate"]
    with pytest.raises(UsageError, match=r"'out\.1' was asked for; layer 0 of tiny-deepseek_v3 has no experts"):
        model.weight(0, "out.1")


@pytest.mark.parametrize("name", ["out", "out.4", "out.shared", "out.x", "in"])
def test_a_matrix_of_no_expert_is_refused_with_those_there_are(name: str) -> None:
    with pytest.raises(UsageError, match=r"a mixture of 4 experts: name one, (out|in)\.0 to (out|in)\.3\."):
        tiny("mixtral").weight(1, name)


def test_the_gate_of_an_expert_is_in_its_first_matrix() -> None:
    with pytest.raises(UnsupportedModel, match="have no matrix 'gate' of their own: see 'in'"):
        tiny("mixtral").weight(1, "gate.0")
    assert tiny("deepseek_v3").weight(1, "gate.shared").shape[0] == 32


def test_experts_that_do_something_else_are_found_out() -> None:
    lm = tiny_lm("mixtral")
    experts = lm.model.layers[1].mlp.experts
    plain = type(experts).forward
    experts.forward = lambda *args, **kwargs: 1.01 * plain(experts, *args, **kwargs)
    with pytest.raises(UnsupportedModel, match="at layer 1, 'value = Σ weight · key · W over its experts' is off by"):
        EditableModel(lm, tiny_tokenizer())


def test_experts_that_are_stored_the_other_way_round_are_found_out() -> None:
    lm = tiny_lm("mixtral")
    with pytest.raises(UnsupportedModel, match="experts of layer 0 are not stored as mixtral stores them"):
        EditableModel(lm, tiny_tokenizer(), family=replace(family_of("mixtral"), stored_in_out=True))
