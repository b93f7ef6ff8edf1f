"""What rows of the family table promise of a matrix, and what is refused; every row: `test_every_family.py`."""

from __future__ import annotations

import pytest
import torch

from conftest import EDITABLE, tiny, tiny_lm, tiny_tokenizer
from factedit.errors import UnknownName, UnsupportedModel, UsageError
from factedit.models.adapter import EditableModel
from factedit.models.check import prove_family
from factedit.models.families import MatrixName
from factedit.models.family_table import FAMILIES


def test_row_holds(any_family: EditableModel) -> None:
    prove_family(any_family)  # raises where a statement does not hold
    assert any_family.n_layer == 4


@pytest.mark.parametrize("model_type", EDITABLE)
def test_editing_the_matrix_changes_the_value(model_type: str) -> None:
    """W [d_mlp, d_model] is the matrix the value is made with: adding to W adds key · change to the value."""
    model = tiny(model_type)
    ids, layer = torch.tensor([[5, 9, 200]]), 2
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def values() -> tuple[torch.Tensor, torch.Tensor]:
        with model.on_matrix(layer, lambda k, v: seen.append((k.clone(), v.clone()))), torch.no_grad():
            model.lm(input_ids=ids)
        return seen[-1]

    key, before = values()
    change = torch.randn(model.d_mlp, model.d_model)
    with model.with_weight(layer, model.weight(layer) + change):
        _, after = values()
    torch.testing.assert_close(after - before, key @ change, atol=1e-3, rtol=1e-3)
    _, restored = values()
    assert torch.equal(restored, before)


@pytest.mark.parametrize("model_type", EDITABLE)
@pytest.mark.parametrize("which", ["in", "gate"])
def test_the_other_matrices_of_the_mlp(model_type: str, which: MatrixName) -> None:
    """They read the hidden state `[d_model, …]`, and what is added to them is added to what they give."""
    model = tiny(model_type)
    if which == "gate" and not model.family.matrix_gate:
        with pytest.raises(UnsupportedModel, match="has no matrix 'gate' of its own"):
            model.weight(2, which)
        return
    ids, seen = torch.tensor([[5, 9, 200]]), []

    def values() -> tuple[torch.Tensor, torch.Tensor]:
        with model.on_matrix(2, lambda k, v: seen.append((k.clone(), v.clone())), which), torch.no_grad():
            model.lm(input_ids=ids)
        return seen[-1]

    key, before = values()
    weight = model.weight(2, which)
    fused = 2 if model.family.matrix_in == "mlp.gate_up_proj" else 1
    assert weight.shape == (model.d_model, fused * model.d_mlp)
    change = torch.randn(weight.shape)
    with model.with_weight(2, weight + change, which):
        _, after = values()
    torch.testing.assert_close(after - before, key @ change, atol=1e-3, rtol=1e-3)
    assert torch.equal(values()[1], before)
    assert model.lm.state_dict()[model.matrix(2, which).name].shape == model.matrix(2, which).turned(weight).shape


def test_in_and_gate_are_not_taken_for_each_other() -> None:
    """The activation stands on the gate: where the gate's output is 0, the key is 0, whatever `in` gives."""
    model = tiny("llama")
    keys: list[torch.Tensor] = []
    for which in ("in", "gate"):
        zero = lambda _key, value: torch.zeros_like(value)  # noqa: E731
        tripled = lambda _key, value: 3 * value  # noqa: E731
        for hook in (zero, tripled):
            with model.on_matrix(2, hook, which), model.on_matrix(2, lambda k, _v: keys.append(k.clone())):
                model.lm(input_ids=torch.tensor([[5, 9, 200]]))
    with model.on_matrix(2, lambda k, _v: keys.append(k.clone())):
        model.lm(input_ids=torch.tensor([[5, 9, 200]]))
    in_zero, in_tripled, gate_zero, gate_tripled, plain = keys
    assert not in_zero.any()
    assert not gate_zero.any()
    torch.testing.assert_close(in_tripled, 3 * plain)
    assert not torch.allclose(gate_tripled, 3 * plain)


def test_an_unknown_matrix_is_refused() -> None:
    with pytest.raises(UsageError, match="The matrix 'up' was asked for; an MLP's matrices are out, in, gate"):
        tiny("llama").weight(0, "up")  # type: ignore[arg-type]


def test_unknown_architecture_offers_the_nearest() -> None:
    lm = tiny_lm("llama")
    lm.config.__class__ = type("LamaConfig", (type(lm.config),), {"model_type": "lama"})
    with pytest.raises(UnknownName, match="Did you mean llama"):
        EditableModel(lm, tiny_tokenizer())


def test_a_variant_that_breaks_the_decomposition_is_refused() -> None:
    with pytest.raises(UnsupportedModel, match=r"h\[l\] = h\[l-1\] \+ attn_out \+ mlp_out"):
        tiny("opt", do_layer_norm_before=False)


def test_a_wrong_row_is_found_out() -> None:
    """Gemma 3 read with Llama's row (no norm after the matrix) does not pass."""
    model = tiny("gemma3_text")
    with pytest.raises(UnsupportedModel, match="does not fit its family"):
        EditableModel(model.lm, model.tokenizer, family=FAMILIES["llama"])


def test_bidirectional_attention_is_refused() -> None:
    """A later token would change an earlier state, on which resuming rests."""
    with pytest.raises(UnsupportedModel, match="no state depends on a later token"):
        tiny("gemma3_text", use_bidirectional_attention=True)


def test_nan_weights_are_refused() -> None:
    model = tiny("gpt2")
    with torch.no_grad():
        model.layers[1].mlp.c_fc.weight[0, 0] = float("nan")
    with pytest.raises(UnsupportedModel, match="not finite"):
        prove_family(model)


def test_quantised_and_offloaded_weights_are_refused() -> None:
    lm = tiny_lm("gpt2")
    lm.config.quantization_config = {"quant_method": "gptq"}
    with pytest.raises(UnsupportedModel, match="quantised in memory"):
        EditableModel(lm, tiny_tokenizer())
    lm = tiny_lm("gpt2")
    lm.transformer.h[0].mlp.c_proj.to("meta")
    with pytest.raises(UnsupportedModel, match="offloaded"):
        EditableModel(lm, tiny_tokenizer())


def test_fingerprint_follows_the_weights() -> None:
    model = tiny("gpt2")
    before = model.fingerprint()
    weight = model.weight(1).clone()
    weight[0, 0] += 1e-3
    with model.with_weight(1, weight):
        assert model.fingerprint() != before
    assert model.fingerprint() == before == tiny("gpt2").fingerprint()
