"""A folder becomes a model, or is refused where it is not a whole one."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers.utils import logging

from conftest import tiny_lm, tiny_tokenizer
from factedit.errors import ModelError, ResourceError, UnknownName, UnsafeFile, UnsupportedModel, UsageError
from factedit.files.checkpoint import load_checkpoint
from tiny_folder import change, refuse, same, save, save_sharded, write


@pytest.fixture
def folder(tmp_path) -> Path:
    return save(tmp_path / "model")


@pytest.fixture
def sharded(tmp_path) -> Path:
    return save_sharded(tmp_path / "sharded")


# Folders that load


def test_a_folder_is_loaded_as_it_was_saved(folder):
    model, tokenizer = load_checkpoint(str(folder))
    assert same(model, tiny_lm("gpt2", n_layer=2))
    assert not model.training
    assert tokenizer("The Space Needle")["input_ids"] == tiny_tokenizer()("The Space Needle")["input_ids"]
    assert tokenizer.is_fast


def test_shards_are_loaded(sharded):
    assert same(load_checkpoint(str(sharded))[0], tiny_lm("gpt2", n_layer=2))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_weights_come_in_the_asked_type_whatever_the_configuration_says(folder, dtype):
    change(folder / "config.json", dtype="float16", torch_dtype="float16")
    model, _ = load_checkpoint(str(folder), dtype=dtype)
    assert {parameter.dtype for parameter in model.parameters()} == {getattr(torch, dtype)}


def test_a_link_to_the_folder_itself_and_links_inside_it_are_fine(folder, tmp_path):
    (folder / "model.safetensors").rename(folder / "weights")
    (folder / "model.safetensors").symlink_to("weights")
    (tmp_path / "link").symlink_to(folder)
    load_checkpoint(str(tmp_path / "link"))


def test_pickles_beside_safetensors_are_left_alone(folder):
    (folder / "pytorch_model.bin").write_bytes(b"not even a pickle")
    load_checkpoint(str(folder))


def test_loading_is_quiet_and_leaves_the_settings_as_they_were(folder, capfd):
    change(folder / "config.json", an_unknown_setting=1)
    before, filters = logging.get_verbosity(), list(warnings.filters)
    logging.set_verbosity_info()
    capfd.readouterr()
    load_checkpoint(str(folder))
    said, level = capfd.readouterr(), logging.get_verbosity()
    logging.set_verbosity(before)
    assert said == ("", "")
    assert level == logging.INFO
    assert warnings.filters == filters


# Sources that are none


@pytest.mark.parametrize("source", ["gemma3-270", "gpt2", "smollm"])
def test_a_bare_word_is_looked_up_among_the_embedded_names(source):
    message = refuse(source, UnknownName, f"Unknown model '{source}'")
    assert "gemma3-270m" in message or "smollm2-135m" in message
    assert "owner/name" in message


@pytest.mark.parametrize("source", ["/no/such/folder", "./model", "a/b/c", "~/none", "../no-such", "a/../b", "a/.b"])
def test_a_path_to_nothing_is_named(source):
    refuse(source, ModelError, re.escape(f"There is no folder {source}."))


def test_a_single_file_is_refused(folder):
    refuse(folder / "config.json", UnsupportedModel, "is a single file. Give the model's folder")
    (folder / "model.pt").write_bytes(b"")
    refuse(folder / "model.pt", UnsafeFile, "is a pickle, and loading one can run code")


def test_an_unknown_type_and_a_revision_of_a_folder_are_refused(folder):
    with pytest.raises(UsageError, match="The type 'float99' is not one of torch's"):
        load_checkpoint(str(folder), dtype="float99")
    with pytest.raises(UsageError, match="is a folder, which has no revision 'main'"):
        load_checkpoint(str(folder), revision="main")


# What is missing or broken


def test_an_empty_folder_is_refused(tmp_path):
    refuse(tmp_path, ModelError, "has no config.json; the folder is empty")


def test_a_folder_of_something_else_is_named(tmp_path):
    (tmp_path / "model.gguf").write_text("")
    message = refuse(tmp_path, ModelError, r"has no config.json; found: model.gguf\. Give the \.gguf file itself")
    assert message.endswith(str(tmp_path / "model.gguf"))


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("{", r"config.json of .* is not readable JSON \(Expecting"),
        ("", "is not readable JSON"),
        ("[" * 100_000, "is not readable JSON"),
        ("[1]", "holds a list, not an object"),
        ("{}", "gives no model_type"),
        ('{"model_type": 7}', "gives 7 as model_type, which is no name"),
    ],
)
def test_a_broken_configuration_is_refused(folder, text, match):
    (folder / "config.json").write_text(text)
    refuse(folder, UnsupportedModel if match == "gives no model_type" else ModelError, match)


def test_a_configuration_that_is_not_utf8_is_refused(folder):
    (folder / "config.json").write_bytes(b"\xff\xfe{}")
    refuse(folder, ModelError, "is not readable JSON")


def test_an_unknown_kind_is_refused_with_the_nearest(folder):
    change(folder / "config.json", model_type="gemma33_text")
    refuse(
        folder, UnsupportedModel, r"of the kind 'gemma33_text', which transformers does not know. Did you mean gemma3"
    )
    change(folder / "config.json", model_type="zzzzzzzz")
    refuse(folder, UnsupportedModel, "does not know. Update transformers if the model is new")


def test_a_kind_that_is_no_causal_model_is_refused(folder):
    change(folder / "config.json", model_type="vit")
    refuse(folder, UnsupportedModel, "of the kind 'vit', which is not a causal language model")


def test_values_that_fit_no_model_are_refused(folder):
    change(folder / "config.json", n_embd="many")
    refuse(folder, ModelError, "cannot be loaded: .* Its files are damaged or do not belong together")


def test_a_missing_tokenizer_is_named(folder):
    for path in folder.glob("*token*"):
        path.unlink()
    refuse(folder, ModelError, "has no tokenizer: none of tokenizer.json, .* is there")


def test_a_broken_tokenizer_is_refused(folder):
    (folder / "tokenizer.json").write_text('{"version": "1.0"')
    refuse(folder, ModelError, "cannot be loaded: ")


def test_missing_weights_are_named(folder):
    (folder / "model.safetensors").unlink()
    refuse(folder, ModelError, r"has no weights \(model.safetensors or .*\); found: config.json")


@pytest.mark.parametrize("cut", [0, 5, 200, -1])
def test_weights_that_are_cut_off_are_refused(folder, cut):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:cut])
    refuse(folder, ModelError, r"model.safetensors is cut off or damaged")


def test_weights_with_a_header_too_large_are_refused(folder):
    (folder / "model.safetensors").write_bytes(b"\xff" * 100)
    refuse(folder, ModelError, "is cut off or damaged")


def test_a_pointer_in_place_of_the_weights_is_recognised(folder):
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    refuse(folder, ModelError, "is a pointer to the weights, not the weights. Fetch them with 'git lfs pull'")


def test_a_missing_shard_is_named(sharded):
    (sharded / "model-2.safetensors").unlink()
    refuse(sharded, ModelError, "The weights model-2.safetensors are missing from")


def test_a_broken_index_is_refused(sharded):
    index = sharded / "model.safetensors.index.json"
    index.write_text("{")
    refuse(sharded, ModelError, "index.json of .* is not readable JSON")
    write(index, {"metadata": {}})
    refuse(sharded, ModelError, "index.json of .* names no shards")


def test_weights_that_lack_a_tensor_are_refused_instead_of_filled_at_random(folder):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    del tensors["transformer.h.1.mlp.c_proj.weight"]
    save_file(tensors, path, metadata={"format": "pt"})
    refuse(folder, ModelError, r"lacks 1 of its tensors, e.g. 'transformer.h.1.mlp.c_proj.weight'")


def test_weights_of_another_shape_are_refused(folder):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors["transformer.h.1.mlp.c_proj.weight"] = torch.zeros(3, 3)
    save_file(tensors, path, metadata={"format": "pt"})
    refuse(folder, ModelError, r"(cannot be loaded|lacks 1 of its tensors)")


def test_memory_that_runs_out_is_named(folder, monkeypatch):
    import transformers

    def no_room(*_, **__):
        raise MemoryError

    monkeypatch.setattr(transformers.GPT2LMHeadModel, "from_pretrained", no_room)
    refuse(folder, ResourceError, "does not fit into memory. Load it as bfloat16")
