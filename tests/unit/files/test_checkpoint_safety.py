"""What could run code, leave its folder, or not be edited soundly is refused before it is read."""

from __future__ import annotations

import json
import logging
import os
import pickle
import shutil
from pathlib import Path

import pytest
from transformers import GPT2LMHeadModel

from conftest import tiny_lm, tiny_tokenizer
from factedit.errors import ModelError, UnsafeFile, UnsupportedModel
from factedit.files.checkpoint import load_checkpoint
from tiny_folder import change, refuse, same, save, save_sharded, write


@pytest.fixture
def folder(tmp_path) -> Path:
    return save(tmp_path / "model")


@pytest.fixture
def sharded(tmp_path) -> Path:
    return save_sharded(tmp_path / "sharded")


class Payload:
    """A pickle that leaves a mark when it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth", "model.ckpt"])
def test_pickles_alone_are_refused_and_not_opened(folder, tmp_path, name):
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(pickle.dumps(Payload(tmp_path / "ran")))
    refuse(folder, UnsafeFile, rf"has its weights as pickles only \({name}\), and loading one can run code")
    assert not (tmp_path / "ran").exists()


AUTO_MAP = {"AutoConfig": "mine.C", "AutoModelForCausalLM": "mine.M", "AutoTokenizer": ["mine.T", None]}


def own_code(folder: Path, file: str, mark: Path, **values) -> None:
    """Code beside the model that leaves a mark when it is run, and a configuration that names it."""
    (folder / "mine.py").write_text(f"open({str(mark)!r}, 'w')\n")
    change(folder / file, auto_map=AUTO_MAP, **values)


@pytest.mark.parametrize("inside", [False, True])
def test_a_models_own_code_is_refused_and_not_run(folder, tmp_path, inside):
    own_code(folder, "config.json", tmp_path / "ran", model_type="mine")
    if inside:
        change(folder / "config.json", auto_map=None, text_config={"auto_map": AUTO_MAP})
    refuse(folder, UnsafeFile, r"wants to run its own code \(auto_map in its configuration\)")
    assert not (tmp_path / "ran").exists()


def test_a_tokenizers_own_code_is_refused_where_there_is_no_tokenizer_json(folder, tmp_path):
    own_code(folder, "tokenizer_config.json", tmp_path / "ran")
    (folder / "tokenizer.json").rename(folder / "vocab.json")
    refuse(folder, UnsafeFile, r"wants to run its own code \(auto_map in its configuration\)")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_code_beside_a_model_that_transformers_knows_is_not_run_nor_needed(folder, tmp_path, file, caplog):
    """Phi-3's own configuration names code, and transformers has its own for it."""
    own_code(folder, file, tmp_path / "ran")
    with caplog.at_level(logging.WARNING, "factedit"):
        model, tokenizer = load_checkpoint(str(folder))
    assert not (tmp_path / "ran").exists()
    assert type(model) is GPT2LMHeadModel
    assert same(model, tiny_lm("gpt2", n_layer=2))
    assert tokenizer("The Space Needle")["input_ids"] == tiny_tokenizer()("The Space Needle")["input_ids"]
    assert ("brings code of its own (auto_map), which is not run" in caplog.text) == (file == "config.json")


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation", "experts_implementation"])
def test_kernels_from_elsewhere_are_refused(folder, key):
    change(folder / "config.json", **{key: "someone/kernel"})
    refuse(folder, UnsafeFile, f"names a kernel to be downloaded and run \\({key}: 'someone/kernel'\\)")


@pytest.mark.parametrize(
    "name", ["../outside.safetensors", "/tmp/x.safetensors", "a/b.safetensors", "..", "a\\b.safetensors"]
)
def test_shards_that_leave_the_folder_are_refused(sharded, name):
    shutil.copy(sharded / "model-1.safetensors", sharded.parent / "outside.safetensors")
    index = sharded / "model.safetensors.index.json"
    shards = json.loads(index.read_text())["weight_map"]
    write(
        index, {"weight_map": {key: name if shard == "model-1.safetensors" else shard for key, shard in shards.items()}}
    )
    refuse(
        sharded, UnsafeFile, r"names the shard '.*'; only plain names of .safetensors files in the folder are followed"
    )


@pytest.mark.parametrize("name", ["pytorch_model-1.bin", 7, None, ".hidden.safetensors"])
def test_shards_that_are_no_safetensors_are_refused(sharded, name):
    write(sharded / "model.safetensors.index.json", {"weight_map": {"a": name}})
    refuse(sharded, UnsafeFile, "names the shard")


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_links_out_of_a_folder_are_refused(folder, tmp_path, name):
    (folder / name).rename(tmp_path / name)
    (folder / name).symlink_to(tmp_path / name)
    refuse(folder, UnsafeFile, f"{name} of .* is a link to .*, outside its folder")


@pytest.mark.parametrize(
    "name", ["vocab.txt", "chat_template.jinja", "tokenizer_config.json", "generation_config.json"]
)
@pytest.mark.parametrize("kind", ["pipe", "folder", "loop", "nothing"])
def test_what_is_no_file_is_refused_before_anything_waits_for_it(folder, name, kind):
    """Reading a named pipe would wait forever."""
    (folder / name).unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(folder / name)
    elif kind == "folder":
        (folder / name).mkdir()
    else:
        (folder / name).symlink_to(name if kind == "loop" else "none")
    match = {"pipe": "is a named pipe", "folder": "is a folder", "loop": "There is no file", "nothing": "There is no"}
    refuse(folder, ModelError if kind in ("loop", "nothing") else UnsafeFile, match[kind])


def test_a_linked_folder_of_templates_is_refused(folder, tmp_path):
    (tmp_path / "templates").mkdir()
    (folder / "additional_chat_templates").symlink_to(tmp_path / "templates")
    refuse(folder, UnsafeFile, "additional_chat_templates of .* is a link to")


def test_a_folder_laid_out_like_the_hubs_cache_is_not_trusted_for_it(folder, tmp_path):
    snapshot = tmp_path / "models--a--b" / "snapshots" / "0"
    (tmp_path / "models--a--b" / "blobs").mkdir(parents=True)
    shutil.copytree(folder, snapshot)
    (snapshot / "model.safetensors").rename(tmp_path / "models--a--b" / "blobs" / "1")
    (snapshot / "model.safetensors").symlink_to("../../blobs/1")
    refuse(snapshot, UnsafeFile, "give the model's hub id if this is the hub's cache")


@pytest.mark.parametrize("name", ["../x.safetensors", "adapter_model.bin", "/x.safetensors"])
def test_weights_named_elsewhere_are_refused(folder, name):
    change(folder / "config.json", transformers_weights=name)
    refuse(folder, UnsafeFile, "names its weights '.*', which is not a file in its folder")


def test_a_tokenizer_file_named_elsewhere_is_refused(folder):
    change(folder / "tokenizer_config.json", fast_tokenizer_files=["../tokenizer.4.0.0.json"])
    refuse(folder, UnsafeFile, r"names the tokenizer file '../tokenizer.4.0.0.json'")


# What cannot be edited soundly


@pytest.mark.parametrize("method", ["hqq", "aqlm", "torchao", "quanto", "no such"])
@pytest.mark.parametrize("inside", [False, True])
def test_weights_quantised_by_an_unknown_method_are_refused(folder, method, inside):
    said = {"quantization_config": {"quant_method": method}}
    change(folder / "config.json", **({"text_config": said} if inside else said))
    refuse(folder, UnsupportedModel, rf"are quantised by '{method}', which is not read. Read are awq, bitsandbytes")


@pytest.mark.parametrize("said", [{"bits": 4}, "gptq", ["gptq"], {"quant_method": ["gptq"]}, 8])
def test_weights_quantised_in_an_unnamed_way_are_refused(folder, said):
    change(folder / "config.json", compression_config=said)
    refuse(folder, UnsupportedModel, "are quantised by (an unnamed method|'gptq'|\\['gptq'\\]|8)|is a quantised gpt2")


def test_quantised_weights_of_two_minds_are_refused(folder):
    change(folder / "config.json", quantization_config={"quant_method": "fp8"}, part={"compression_config": {"x": 1}})
    refuse(folder, UnsupportedModel, r"speaks of quantised weights in several places \(compression_config\)")


def test_adapters_are_refused(folder):
    write(folder / "adapter_config.json", {"base_model_name_or_path": "someone/else"})
    refuse(folder, UnsupportedModel, r"is an adapter \(adapter_config.json\), not a model. Merge it")
