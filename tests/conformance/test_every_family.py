"""Every row of the family table on a tiny random model: one combined check each, so that a hundred stay cheap.

Trace = the definition on the whole model; an edit changes the states it should and no other; undone, the bits are back;
resumed at a layer and a token, the numbers are those of whole passes of `transformers`. That the row fits, and that no
state depends on a later token, is proven by making the model.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from conftest import randomised, tiny_tokenizer
from factedit.edit.many.value_space import into_value_space
from factedit.engine.resume import Segment, align, embed, read_out
from factedit.errors import EditError
from factedit.models.adapter import EditableModel
from factedit.models.family_table import FAMILIES
from factedit.trace.sweep import trace_fact
from tiny_families import tiny_config, tiny_family_lm
from trace_definition import NOISE, PROMPT, SAMPLES, SUBJECT, Definition

TOKENIZER = tiny_tokenizer()
ROWS = [[5, 17, 99, 40, 7, 203, 11], [8, 9, 301, 12]]
SPLITS = [4, 2]
LAYER = 2  # resumed from here
REFUSED_CHANGES = {("dbrx", "tie_word_embeddings")}  # by its own configuration
SEEDS = {"phi": 1}  # where another model would answer with a space, which traces treat in a way of their own


@torch.no_grad()
@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_every_family(name: str) -> None:
    _check_family(name)


@torch.no_grad()
def test_experts_and_an_mlp_whose_sum_goes_through_a_norm() -> None:
    """Gemma 4's larger models: the MLP is edited, what stands beside it is left; a residual through it is refused."""
    model = _check_family(
        "gemma4_text", enable_moe_block=True, num_experts=4, top_k_experts=2, moe_intermediate_size=16
    )
    assert all(places.matrices and not places.whole for places in model.places)
    with pytest.raises(EditError, match="has experts beside its matrix"):
        into_value_space(model, 1, torch.ones(1, 32), torch.ones(1, 32))


def _check_family(name: str, **changes: Any) -> EditableModel:
    lm = randomised(tiny_family_lm(name, seed=SEEDS.get(name, 0), **changes))
    model = EditableModel(lm, TOKENIZER, name=f"tiny-{name}")
    assert model.n_layer == 4
    states = _states(model)
    _check_contributions(model, states)
    _check_resumed(model)
    _check_traced(model)
    dense = [layer for layer in range(model.n_layer) if model.places[layer].matrices]
    mixed = [layer for layer in range(model.n_layer) if model.mixture(layer)]
    assert bool(dense or mixed) == (not FAMILIES[name].refused)
    assert bool(mixed) == bool(FAMILIES[name].experts)
    for layer in (*dense[len(dense) // 2 :][:1], *mixed[:1]):
        _check_edited(model, states, layer, _expert(model, layer))
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in model.layers)
    assert all("forward" not in m.__dict__ for layer in model.layers for m in layer.modules())
    return model


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_tied_or_not_and_with_biases_or_without(name: str) -> None:
    """The same proofs with every switch of this kind that its configuration has turned over."""
    plain = tiny_config(name)
    switches = [s for s in ("tie_word_embeddings", "attention_bias", "mlp_bias", "use_bias") if hasattr(plain, s)]
    changes = {switch: not getattr(plain, switch) for switch in switches if (name, switch) not in REFUSED_CHANGES}
    model = EditableModel(randomised(tiny_family_lm(name, **changes)), TOKENIZER)
    head, words = model.lm.get_output_embeddings(), model.lm.get_input_embeddings()
    if "tie_word_embeddings" in changes and model.lm._tied_weights_keys:
        assert (head.weight is words.weight) == changes["tie_word_embeddings"]


def _states(model: EditableModel) -> tuple[Tensor, ...]:
    """What every layer receives and what the last one gives, as each layer's own call shows it; then the logits."""
    seen: list[Tensor] = []
    hooks = [
        module.register_forward_pre_hook(
            lambda _m, args, kwargs: seen.append((args[0] if args else kwargs["hidden_states"]).clone()),
            with_kwargs=True,
        )
        for module in model.layers
    ]
    last = model.layers[-1].register_forward_hook(
        lambda _m, _a, output: seen.append((output[0] if isinstance(output, tuple) else output).clone())
    )
    logits = model.lm(input_ids=torch.tensor(ROWS[:1])).logits
    for hook in (*hooks, last):
        hook.remove()
    return (*seen, logits)


def _check_contributions(model: EditableModel, states: tuple[Tensor, ...]) -> None:
    """h[l] = h[l-1] + attn_out + mlp_out; and what is put in an output's place is what the next layer receives."""
    added: dict[str, Tensor] = {}

    def doubled(out: Tensor) -> Tensor:
        added["mlp"] = out.clone()
        return 2 * out

    with (
        model.on_output("attn", 1, lambda out: added.update(attn=out.clone())),
        model.on_output("mlp", 1, doubled),
    ):
        changed = _states(model)
    gain = model.places[1].gain
    torch.testing.assert_close(gain * (states[1] + added["attn"] + added["mlp"]), states[2], rtol=1e-3, atol=1e-4)
    if model.places[1].gain == 1.0:
        torch.testing.assert_close(changed[2] - states[2], added["mlp"], rtol=1e-3, atol=1e-4)
    assert torch.equal(changed[1], states[1])
    assert not torch.equal(changed[-1], states[-1])


def _check_resumed(model: EditableModel) -> None:
    batch = align(ROWS, SPLITS)
    segment = Segment(model, batch.mask, embeddings=embed(model, batch.ids))
    below = segment.run(segment.start, range(LAYER), keep=True)
    segment.run(below, range(LAYER, model.n_layer), keep=True)
    again = Segment(model, batch.mask, past=segment.past().until(batch.split))
    final = again.run(below[:, batch.split :], range(LAYER, model.n_layer))
    for i, row in enumerate(ROWS):
        logits = read_out(model, final[i, : len(row) - SPLITS[i]])
        whole = model.lm(input_ids=torch.tensor([row])).logits[0]
        torch.testing.assert_close(logits, whole[SPLITS[i] :], atol=2e-4, rtol=1e-4)


def _check_traced(model: EditableModel) -> None:
    plain = Definition(model)
    found = trace_fact(model, PROMPT, SUBJECT, kinds=("hidden", "attn", "mlp"), window=2, noise=NOISE, samples=SAMPLES)
    token = found.subject_range[1] - 1
    assert found.clean == pytest.approx(plain.clean, rel=1e-4)
    assert found.corrupted == pytest.approx(plain.run([]), rel=1e-4)
    for kind, layer in (("hidden", 1), ("attn", 2), ("mlp", 2)):
        expected = plain.restored(kind, token, layer, 2)
        assert found.scores[kind][token][layer] == pytest.approx(expected, rel=2e-3, abs=1e-6), kind


def _expert(model: EditableModel, layer: int) -> str:
    """The matrix to edit: of experts that of one that the last token is sent to."""
    mixture, found = model.mixture(layer), []
    if mixture is None:
        return "out"
    with mixture.routed(lambda routed: found.append(int(routed.experts[0, -1, 0]))):
        _states(model)
    return f"out.{found[0]}"


def _check_edited(model: EditableModel, before: tuple[Tensor, ...], layer: int, which: str) -> None:
    """Adding to W adds key · change to the value; states below stay to the bit; undone, all do."""
    pairs: list[tuple[Tensor, Tensor]] = []
    kept = {name: tensor.clone() for name, tensor in model.lm.state_dict().items()}
    weight = model.weight(layer, which).clone()
    change = 0.3 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))

    def states() -> tuple[Tensor, ...]:
        with model.on_matrix(layer, lambda key, value: pairs.append((key.clone(), value.clone())), which):
            return _states(model)

    states()
    with model.with_weight(layer, weight + change, which):
        after = states()
    (key, old), (_, new) = pairs
    torch.testing.assert_close(new - old, key @ change, atol=1e-3, rtol=1e-3)
    assert all(torch.equal(after[n], before[n]) for n in range(layer + 1))
    assert all(not torch.equal(after[n], before[n]) for n in range(layer + 1, len(before)))
    assert all(torch.equal(tensor, kept[name]) for name, tensor in model.lm.state_dict().items())
    assert all(torch.equal(a, b) for a, b in zip(states(), before, strict=True))
