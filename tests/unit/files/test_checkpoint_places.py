"""Every tensor of a folder finds its one place in the model, or the folder is refused by the tensor's name."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from conftest import tiny_lm, tiny_tokenizer
from factedit.errors import ModelError, UnsupportedModel
from factedit.files.checkpoint import load_checkpoint
from tiny_folder import change, refuse, same, save_sharded

Change = Callable[[dict[str, Tensor]], dict[str, Tensor]]
NEVER = torch.tensor(-1e9)
MASK = torch.ones(64, 64).tril().view(1, 1, 64, 64)


def write(folder: Path, kind: str, changed: Change | None = None, **settings: Any) -> Any:
    """A tiny model's folder with changed weights, and the model."""
    lm = tiny_lm(kind, **settings)
    lm.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    if changed is not None:
        path = folder / "model.safetensors"
        save_file(changed(load_file(path)), path, metadata={"format": "pt"})
    return lm


def refuse_tensor(folder: Path, name: str) -> None:
    refuse(folder, ModelError, rf"has \d+ tensors that the model of its config.json has no place for, e.g. '{name}'")


# What is left over


def test_biases_under_attention_bias_false(tmp_path):
    write(tmp_path, "llama", lambda t: {**t, "model.layers.0.self_attn.q_proj.bias": torch.ones(32)})
    refuse_tensor(tmp_path, "model.layers.0.self_attn.q_proj.bias")


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gpt_neox", "opt", "bloom"])
def test_a_fourth_layer_under_a_configuration_of_three(tmp_path, kind):
    write(tmp_path, kind)
    config = json.loads((tmp_path / "config.json").read_text())
    key = next(key for key in ("num_hidden_layers", "n_layer") if key in config)
    change(tmp_path / "config.json", **{key: 3})
    refuse(tmp_path, ModelError, r"has \d+ tensors that the model of its config.json has no place for, e.g. .*\.3\.")


def test_a_part_of_a_layer_beyond_that_transformers_does_not_even_mention(tmp_path):
    """GPT-2's class drops whatever is called attn.bias, and c_attn.bias with it."""
    write(tmp_path, "gpt2", lambda t: {**t, "transformer.h.9.attn.c_attn.bias": torch.ones(96)})
    refuse_tensor(tmp_path, "transformer.h.9.attn.c_attn.bias")


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("gpt_neox", "gpt_neox.layers.9.attention.bias_correction"),
        ("gpt2", "transformer.h.0.crossattention.bias.scale"),
        ("llama", "model.layers.0.rotary_emb.inv_freq_scale"),
        ("llama", "lm_head.bias"),
        ("llama", "score.weight"),
        ("gpt2", "transformer.h.0.attn.bias"),  # the name of a mask and the shape of a bias
    ],
)
def test_names_that_only_look_like_those_of_old_buffers(tmp_path, kind, name):
    write(tmp_path, kind, lambda t: {**t, name: torch.ones(96)})
    refuse_tensor(tmp_path, name)


def test_a_further_head_is_no_way_to_leave_out_a_layer(tmp_path):
    write(tmp_path, "llama")
    change(tmp_path / "config.json", num_hidden_layers=3, num_nextn_predict_layers=1)
    refuse(tmp_path, ModelError, "has no place for, e.g. 'model.layers.3")


# What may be left over: buffers that the models of today compute themselves


@pytest.mark.parametrize(
    ("kind", "extra"),
    [
        ("gpt2", {"transformer.h.0.attn.bias": MASK, "transformer.h.1.attn.masked_bias": NEVER}),
        ("gptj", {"transformer.h.0.attn.bias": MASK.bool(), "transformer.h.0.attn.masked_bias": NEVER}),
        ("gpt_neo", {f"transformer.h.0.attn.attention.{n}": t for n, t in (("bias", MASK), ("masked_bias", NEVER))}),
        ("gpt_neox", {"gpt_neox.layers.0.attention.bias": MASK.byte()}),
    ],
)  # fmt: skip
def test_masks_that_older_versions_saved(tmp_path, kind, extra):
    lm = write(tmp_path, kind, lambda t: {**t, **extra})
    assert same(load_checkpoint(str(tmp_path))[0], lm)


def test_names_without_the_bodys_prefix(tmp_path):
    """As the published GPT-2 has them."""
    lm = write(
        tmp_path,
        "gpt2",
        lambda t: {n.removeprefix("transformer."): v for n, v in t.items()} | {"h.0.attn.bias": MASK},
    )
    assert same(load_checkpoint(str(tmp_path))[0], lm)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_rotary_frequencies_that_are_the_models_own(tmp_path, dtype):
    own = tiny_lm("llama").model.rotary_emb.inv_freq.to(dtype)
    names = ("model.layers.0.self_attn.rotary_emb.inv_freq", "model.rotary_emb.inv_freq")
    lm = write(tmp_path, "llama", lambda t: {**t, **{name: own.clone() for name in names}})
    assert same(load_checkpoint(str(tmp_path))[0], lm)


@pytest.mark.parametrize("scale", [0.25, 1.05, float("nan")])
def test_rotary_frequencies_that_were_scaled(tmp_path, scale):
    """The model would compute its own, of other positions."""
    own = tiny_lm("llama").model.rotary_emb.inv_freq
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    write(tmp_path, "llama", lambda t: {**t, name: own * scale})
    refuse_tensor(tmp_path, name)


# Twice, or stored as something else


def test_one_place_under_two_names(tmp_path):
    write(tmp_path, "gpt2", lambda t: {**t, "wte.weight": torch.zeros(320, 32)})
    refuse(tmp_path, ModelError, "has 'transformer.wte.weight' twice, as '.*wte.weight' and '.*wte.weight'")


@pytest.mark.parametrize("dtype", [torch.int32, torch.int8, torch.uint8, torch.float8_e4m3fn, torch.bool])
def test_weights_that_are_no_numbers_of_half_or_full_precision(tmp_path, dtype):
    name = "transformer.h.1.mlp.c_fc.weight"
    write(tmp_path, "gpt2", lambda t: {**t, name: t[name].to(dtype)})
    refuse(tmp_path, UnsupportedModel, f"The weights '{name}' of .* are stored as .*: quantised in place")


# Indexes that are not what they should be


@pytest.fixture
def sharded(tmp_path) -> Path:
    return save_sharded(tmp_path / "sharded")


def test_a_tensor_in_two_shards(sharded):
    first, second = (load_file(sharded / f"model-{n}.safetensors") for n in (1, 2))
    name = next(iter(first))
    save_file(
        {**second, name: torch.zeros_like(first[name])}, sharded / "model-2.safetensors", metadata={"format": "pt"}
    )
    refuse(sharded, ModelError, f"has the tensor '{name}' in model-1.safetensors and in model-2.safetensors")


def test_an_index_that_names_another_shard(sharded):
    path = sharded / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"]["transformer.ln_f.bias"] = {"model-1.safetensors": "model-2.safetensors"}.get(
        index["weight_map"]["transformer.ln_f.bias"], "model-1.safetensors"
    )
    path.write_text(json.dumps(index))
    refuse(sharded, ModelError, r"says that 'transformer.ln_f.bias' is in model-\d.safetensors; it is in model-\d.safe")


@pytest.mark.parametrize("changed", [{"transformer.ln_f.bias": None}, {"extra": "model-1.safetensors"}])
def test_an_index_that_leaves_out_a_tensor_or_invents_one(sharded, changed):
    path = sharded / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"] = {n: s for n, s in {**index["weight_map"], **changed}.items() if s}
    path.write_text(json.dumps(index))
    refuse(sharded, ModelError, rf"says that '{next(iter(changed))}' is in .*; it is in .*They do not belong together")


def test_a_shard_that_nothing_names(sharded):
    save_file({"more": torch.ones(2)}, sharded / "model-00003-of-00003.safetensors")
    refuse(sharded, ModelError, "holds the shard model-00003-of-00003.safetensors, which no index names")


def test_a_single_file_beside_an_index(sharded):
    whole = {n: t for k in (1, 2) for n, t in load_file(sharded / f"model-{k}.safetensors").items()}
    save_file(whole, sharded / "model.safetensors", metadata={"format": "pt"})
    load_checkpoint(str(sharded))  # the same tensors: either will do
    whole.pop("transformer.ln_f.bias")
    save_file(whole, sharded / "model.safetensors", metadata={"format": "pt"})
    refuse(sharded, ModelError, "has both model.safetensors and model.safetensors.index.json, and they do not hold")


def test_what_is_whole_is_said_nothing_about(tmp_path, caplog):
    write(tmp_path, "llama")
    with caplog.at_level(logging.INFO, "factedit"):
        load_checkpoint(str(tmp_path))
    assert caplog.text == ""
