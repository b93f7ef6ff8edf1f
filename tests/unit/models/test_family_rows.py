"""The table of architectures: every row's places are in a model of that family, and are the ones they are called."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from conftest import EDITABLE, randomised, tiny, tiny_tokenizer
from factedit.errors import UnknownName, UnsupportedModel, UsageError
from factedit.models.adapter import EditableModel
from factedit.models.families import MATRICES
from factedit.models.family_table import FAMILIES, family_of
from factedit.models.propose import propose
from factedit.models.refused import REFUSED
from tiny_families import tiny_family_lm

ENCODERS = ("bert", "camembert", "megatron-bert", "roberta-prelayernorm", "roformer", "xlm-roberta-xl")
PROVEN_NOT_TO_FIT = (
    *ENCODERS, "openai-gpt", "doge", "gemma3n_text", "gpt_neox_japanese", "mamba", "bart", "beam", "inkling_text",
    "minimax_m3_vl_text", "xlnet", "zaya",
)  # fmt: skip
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


@pytest.mark.parametrize("name", PROVEN_NOT_TO_FIT)
def test_what_is_refused_fails_a_proof(name: str) -> None:
    """A row that probing proposes, or the plainest one, is not proven."""
    assert name in REFUSED
    lm = randomised(tiny_family_lm(name, **({"is_decoder": True} if name in ENCODERS else {})))
    with pytest.raises(UnsupportedModel):
        EditableModel(lm, tiny_tokenizer(), family=propose(lm))
    with pytest.raises(UnsupportedModel, match=f"{name} cannot be traced or edited: .*. Choose another model"):
        family_of(name)


@torch.no_grad()
def test_gemma_3n_adds_something_else_to_each_of_its_streams() -> None:
    """The figures of docs/decisions/0021-families.md: the sum holds of no stream, and a change reaches all of them."""
    lm = randomised(tiny_family_lm("gemma3n_text"))
    [layer, seen] = lm.model.layers[1], dict[str, torch.Tensor]()

    def run(change: float = 0.0) -> torch.Tensor:
        hooks = [
            layer.register_forward_hook(lambda _m, args, out: seen.update(before=args[0].clone(), after=out.clone())),
            layer.post_attention_layernorm.register_forward_hook(lambda _m, _a, out: seen.update(attn=out.clone())),
            layer.post_feedforward_layernorm.register_forward_hook(
                lambda _m, _a, out: seen.update(mlp=out + change) or out + change
            ),
        ]
        lm.model(input_ids=IDS)
        for hook in hooks:
            hook.remove()
        return seen["after"]

    streams = run()
    added = streams - seen["before"]
    assert len(added) == 4
    both = seen["attn"] + seen["mlp"]
    assert all(float((own - both).norm() / own.norm()) > 0.4 for own in added)
    moved = (run(0.5) - streams).flatten(1).norm(dim=1) / torch.full_like(both, 0.5).norm()
    assert float(moved.min()) > 0.9, "each stream moves by about the whole of what the MLP gives more"


def test_rows_and_refusals_are_apart() -> None:
    assert not set(FAMILIES) & set(REFUSED)
    assert set(REFUSED) <= set(CONFIG_MAPPING)
    assert len(FAMILIES) >= 80


def test_every_causal_architecture_of_transformers_is_read_or_refused_with_a_reason() -> None:
    """By its own name, or as a multimodal wrapper by that of its text model, whichever that is."""
    known = {*FAMILIES, *REFUSED}

    def is_known(name: str) -> bool:
        text = getattr(CONFIG_MAPPING[name], "sub_configs", {}).get("text_config")
        kind = getattr(text, "model_type", "")
        return name in known or kind in known or (text is not None and not kind)

    assert [name for name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES if not is_known(name)] == ["emu3"], "probing is for it"
    assert known <= set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES), "whatever is not there any more"


def test_an_unknown_architecture_is_offered_the_nearest() -> None:
    with pytest.raises(UnknownName, match=r"Unknown architecture 'llamma'.*llama") as error:
        family_of("llamma")
    assert "one row in factedit/models/family_table.py" in str(error.value)
    assert all(family_of(name).name == name for name in FAMILIES)
