"""What could run code, leave its folder, or not be edited soundly is refused before it is read."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import pytest

from factedit.errors import UnsafeFile, UnsupportedModel
from tiny_folder import change, refuse, save, save_sharded, write


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


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_a_models_own_code_is_refused_and_not_run(folder, tmp_path, file):
    (folder / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    change(
        folder / file,
        auto_map={"AutoConfig": "mine.C", "AutoModelForCausalLM": "mine.M", "AutoTokenizer": ["mine.T", None]},
    )
    refuse(folder, UnsafeFile, r"wants to run its own code \(auto_map in its configuration\)")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation", "experts_implementation"])
def test_kernels_from_elsewhere_are_refused(folder, key):
    change(folder / "config.json", **{key: "someone/kernel"})
    refuse(folder, UnsafeFile, f"names a kernel to be downloaded and run \\({key}: someone/kernel\\)")


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


@pytest.mark.parametrize("method", ["bitsandbytes", "gptq", "awq", "fp8", "mxfp4"])
@pytest.mark.parametrize("inside", [False, True])
def test_weights_quantised_in_place_are_refused(folder, method, inside):
    said = {"quantization_config": {"quant_method": method}}
    change(folder / "config.json", **({"text_config": said} if inside else said))
    refuse(folder, UnsupportedModel, rf"are quantised in place \({method}\), and cannot be edited soundly")


def test_weights_quantised_in_an_unnamed_way_are_refused(folder):
    change(folder / "config.json", compression_config={"bits": 4})
    refuse(folder, UnsupportedModel, "quantised in place \\(by an unnamed method\\)")


def test_adapters_are_refused(folder):
    write(folder / "adapter_config.json", {"base_model_name_or_path": "someone/else"})
    refuse(folder, UnsupportedModel, r"is an adapter \(adapter_config.json\), not a model. Merge it")
