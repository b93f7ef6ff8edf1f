"""Weights as safetensors: read back by the safetensors package, tied ones once, the same bytes each time."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from conftest import tiny_lm, tiny_tokenizer
from factedit.files.save import (
    bytes_of,
    shards_of,
    tensors_of,
    write_index,
    write_rest,
    write_safetensors,
    write_shards,
)

TENSORS = {
    "b": torch.arange(6, dtype=torch.float32).reshape(2, 3),
    "a": torch.tensor([1.5, -2.25], dtype=torch.bfloat16),
    "half": torch.tensor([[0.5]], dtype=torch.float16),
    "whole": torch.tensor([1 << 40, -3]),
    "yes": torch.tensor([True, False]),
    "none": torch.zeros(0, 4),
    "one": torch.tensor(7, dtype=torch.uint8),
    "turned": torch.arange(6.0).reshape(2, 3).T,
}


def test_the_safetensors_package_reads_what_was_written(tmp_path: Path) -> None:
    digest = write_safetensors(tmp_path / "x.safetensors", TENSORS)
    found = load_file(tmp_path / "x.safetensors")
    assert found.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name
    assert digest == hashlib.sha256((tmp_path / "x.safetensors").read_bytes()).hexdigest()
    with safe_open(tmp_path / "x.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_the_same_tensors_give_the_same_bytes_in_whatever_order(tmp_path: Path) -> None:
    first = write_safetensors(tmp_path / "1.safetensors", TENSORS)
    assert write_safetensors(tmp_path / "2.safetensors", dict(reversed(TENSORS.items()))) == first
    header = (tmp_path / "1.safetensors").read_bytes()
    assert int.from_bytes(header[:8], "little") % 8 == 0, "tensors begin at a multiple of eight"


def test_a_file_that_is_there_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_text("mine")
    with pytest.raises(FileExistsError):
        write_safetensors(tmp_path / "x.safetensors", TENSORS)
    assert (tmp_path / "x.safetensors").read_text() == "mine"


@pytest.mark.parametrize("family", ["gpt2", "gemma3_text"])
def test_a_tied_matrix_is_stored_once(family: str, tmp_path: Path) -> None:
    lm = tiny_lm(family, tie_word_embeddings=True)
    assert lm.get_input_embeddings().weight.data_ptr() == lm.get_output_embeddings().weight.data_ptr()
    tensors = tensors_of(lm)
    assert "lm_head.weight" not in tensors
    assert set(tensors) == set(lm.state_dict()) - {"lm_head.weight"}
    assert bytes_of(tensors) == sum(t.numel() * t.element_size() for t in tensors.values())
    free = tiny_lm(family, tie_word_embeddings=False)
    assert set(tensors_of(free)) == set(free.state_dict())


def test_a_model_of_shards_is_written_in_the_same_ones(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    lm = tiny_lm("llama")
    lm.save_pretrained(tmp_path / "many", max_shard_size="20KB")
    tiny_tokenizer().save_pretrained(tmp_path / "many")
    stored = json.loads((tmp_path / "many" / "model.safetensors.index.json").read_text())["weight_map"]
    assert len(set(stored.values())) > 2
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "many")
    shards = shards_of(again)
    assert shards == {name: stored[name] for name in tensors_of(again)}
    (tmp_path / "out").mkdir()
    hashes = write_shards(tensors_of(again), shards, tmp_path / "out")
    assert set(hashes) == set(stored.values())
    write_index(tmp_path / "out", shards, bytes_of(tensors_of(again)), made="here")
    write_rest(again, tiny_tokenizer(), tmp_path / "out")
    read = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert all(torch.equal(t, read.state_dict()[name]) for name, t in lm.state_dict().items())
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert index["metadata"] == {"total_size": bytes_of(tensors_of(again)), "made": "here"}


def test_the_configuration_names_the_type_and_the_class_and_the_models_own_stays(tmp_path: Path) -> None:
    lm = tiny_lm("llama")
    before = lm.config.to_dict()
    write_rest(lm, tiny_tokenizer(), tmp_path, dtype=torch.bfloat16)
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["dtype"], config["architectures"]) == ("bfloat16", ["LlamaForCausalLM"])
    assert lm.config.to_dict() == before
    assert (tmp_path / "tokenizer.json").is_file()
