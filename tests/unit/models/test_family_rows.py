"""The table of architectures: every row's places are in a model of that family, and are the ones they are called."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import CONFIG_MAPPING

from conftest import EDITABLE, randomised, tiny, tiny_tokenizer
from factedit.errors import UnknownName, UnsupportedModel, UsageError
from factedit.models.adapter import EditableModel
from factedit.models.families import MATRICES
from factedit.models.family_table import FAMILIES, family_of
from factedit.models.propose import propose
from factedit.models.refused import REFUSED
from tiny_families import tiny_family_lm

IDS = torch.tensor([[5, 9, 200, 41]])


def test_every_place_is_a_module_of_every_layer(any_family: EditableModel) -> None:
    family = any_family.family
    for layer in any_family.layers:
        for path in (family.attn_out, family.mlp_out):
            assert isinstance(layer.get_submodule(path), nn.Module)


@torch.no_grad()
def test_a_layer_adds_what_attention_and_the_mlp_are_said_to_add(any_family: EditableModel) -> None:
    model, added = any_family, {}
    for kind in ("attn", "mlp"):
        with model.on_output(kind, 1, lambda out, kind=kind: added.update({kind: out.clone()})):
            states = model.lm(input_ids=IDS, output_hidden_states=True).hidden_states
    torch.testing.assert_close(states[1] + added["attn"] + added["mlp"], states[2], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", EDITABLE)
def test_matrices_have_the_shapes_of_an_mlp(name: str) -> None:
    model = tiny(name)
    assert model.weight(0, "out").shape == (model.d_mlp, model.d_model)
    assert model.weight(0, "in").shape[0] == model.d_model
    assert model.weight(0, "in").shape[1] in (model.d_mlp, 2 * model.d_mlp), "fused with the gate, or not"
    there = [which for which in MATRICES if which != "gate" or model.family.matrix_gate]
    assert [matrix.place for matrix in model.matrices_of(2)] == [(2, which) for which in there]


def test_a_matrix_that_is_not_there_is_refused_with_those_that_are() -> None:
    with pytest.raises(UnsupportedModel, match=r"The MLP of gpt2 has no matrix 'gate' of its own\. It has out, in"):
        tiny("gpt2").weight(0, "gate")
    with pytest.raises(UsageError, match="an MLP's matrices are out, in, gate"):
        tiny("llama").weight(0, "up")


@pytest.mark.parametrize("name", ["openai-gpt", "doge", "gpt_neox_japanese", "mamba", "bert"])
def test_what_is_refused_fails_a_proof(name: str) -> None:
    """A row that probing proposes, or the plainest one, is not proven."""
    assert name in REFUSED
    lm = randomised(tiny_family_lm(name, **({"is_decoder": True} if name == "bert" else {})))
    with pytest.raises(UnsupportedModel):
        EditableModel(lm, tiny_tokenizer(), family=propose(lm))
    with pytest.raises(UnsupportedModel, match=f"{name} cannot be traced or edited: .*. Choose another model"):
        family_of(name)


def test_rows_and_refusals_are_apart() -> None:
    assert not set(FAMILIES) & set(REFUSED)
    assert set(REFUSED) <= set(CONFIG_MAPPING)
    assert len(FAMILIES) >= 80


def test_an_unknown_architecture_is_offered_the_nearest() -> None:
    with pytest.raises(UnknownName, match=r"Unknown architecture 'llamma'.*llama") as error:
        family_of("llamma")
    assert "one row in factedit/models/family_table.py" in str(error.value)
    assert all(family_of(name).name == name for name in FAMILIES)
