"""What a configuration asks for is compared with the files' headers before anything of that size is made."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from conftest import tiny_lm, tiny_tokenizer
from factedit.errors import ModelError, UnsafeFile
from factedit.files.checkpoint import load_checkpoint
from processes import bounded
from tiny_folder import refuse, save


def refuse_in_bounds(folder: Path, kind: type[Exception], match: str) -> None:
    """Refused within two gigabytes and a minute of processor time."""
    assert bounded(lambda: refuse(folder, kind, match)) == 0


def spoiled(folder: Path, model_type: str, values: dict[str, Any]) -> Path:
    tiny_lm(model_type).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **values}))
    return folder


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux")
@pytest.mark.parametrize(
    ("model_type", "values"),
    [
        ("gpt2", {"n_layer": 100_000}),
        ("llama", {"num_hidden_layers": 10**8}),
        ("llama", {"num_hidden_layers": 2**31}),
        ("llama", {"num_hidden_layers": -(2**31)}),
        ("llama", {"text_config": {"num_hidden_layers": 10**9}}),
        ("llama", {"hidden_size": 1_000_000}),
        ("llama", {"intermediate_size": 10**9}),
        ("llama", {"vocab_size": 10**10}),
        ("llama", {"num_attention_heads": 10**9}),
        ("llama", {"num_key_value_heads": 10**9}),
        ("gpt2", {"num_labels": 10**9}),
        ("gpt2", {"n_positions": 10**9}),
        ("gpt_neo", {"max_position_embeddings": 300_000}),
        ("gptj", {"n_positions": 10**9}),
        ("gpt_neo", {"attention_types": [[["global", "local"], 10**8]]}),
        ("mixtral", {"num_local_experts": 10**7}),
        ("deepseek_v3", {"n_routed_experts": 10**8}),
        ("gemma3_text", {"layer_types": None, "num_hidden_layers": 10**8}),
    ],
)
def test_sizes_beyond_the_files_are_refused(tmp_path, model_type, values):
    match = "do not belong together|asks for buffers of .* bytes"
    refuse_in_bounds(spoiled(tmp_path, model_type, values), ModelError, match)


def test_a_number_of_positions_that_costs_nothing_is_fine(tmp_path):
    """Llama keeps no table of positions."""
    load_checkpoint(str(spoiled(tmp_path, "llama", {"max_position_embeddings": 10**9})))


def test_the_largest_number_of_layers_is_that_of_the_tensors(tmp_path):
    """More layers than the file has, few enough to be built: named as what is lacking."""
    refuse(spoiled(tmp_path, "gpt2", {"n_layer": 5}), ModelError, "lacks 12 of its tensors, e.g. 'transformer.h.4")


@pytest.fixture
def folder(tmp_path) -> Path:
    return save(tmp_path / "model")


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
@pytest.mark.parametrize("depth", [65, 900, 100_000])
def test_json_nested_too_deep_is_refused(folder, file, depth):
    text = (folder / file).read_text().rstrip()
    (folder / file).write_text(f'{text[:-1]}, "deep": {"[" * depth}{"]" * depth}}}')
    refuse(folder, ModelError, "levels deep|is not readable JSON")


def test_an_index_nested_too_deep_is_refused(folder):
    (folder / "model.safetensors.index.json").write_text('{"weight_map":' + '{"a":' * 100_000 + "1" + "}" * 100_001)
    refuse(folder, ModelError, "index.json of .* is not readable JSON")


@pytest.mark.parametrize("text", ['"\\ud800"', '{"\\udfff": 1}', '["a", ["b\\ud9ff"]]'])
@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_text_that_is_not_unicode_is_refused(folder, text, file):
    said = (folder / file).read_text().rstrip()
    (folder / file).write_text(f'{said[:-1]}, "odd": {text}}}')
    refuse(folder, ModelError, rf"{file} of .* holds text that is not Unicode")


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "chat_template.jinja"])
def test_a_file_beyond_all_size_is_refused_unread(folder, name):
    with (folder / name).open("ab") as file:
        os.truncate(file.fileno(), 1 << 40)  # takes no space
    refuse_in_bounds(folder, UnsafeFile, "Get a sound copy")


def test_a_header_that_promises_more_than_the_file_has_is_refused(folder):
    tensors = load_file(folder / "model.safetensors")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    raw = (folder / "model.safetensors").read_bytes()
    size = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + size])
    header["transformer.wte.weight"]["shape"] = [10**12, 10**12]
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + raw[8 + size :])
    refuse_in_bounds(folder, ModelError, "is cut off or damaged")
