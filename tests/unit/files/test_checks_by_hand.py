"""What is looked at in a model's folder before anything is loaded: names, counts, indices, headers, each by hand."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from factedit.errors import DataError, FacteditError, ModelError, UnsafeFile, UnsupportedModel
from factedit.files.checkpoint_checks import (
    INDEX,
    WEIGHTS,
    advice,
    check_config,
    found_in,
    hub_blobs,
    is_plain_weights,
    read_json,
)
from factedit.files.checkpoint_weights import (
    MOST_LABELS,
    StoredTensor,
    check_counts,
    check_safetensors,
    check_weights,
    read_index,
    stored_dtype,
)
from factedit.files.classes import class_of
from factedit.files.gguf_config import GEMMA3_PATTERN, config_of, shape_of
from factedit.files.gguf_reader import GgufFile, GgufTensor

TENSORS = {"a": StoredTensor("f", "F32", (40, 7)), "b": StoredTensor("f", "F32", (3,))}


# -- names -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["model.safetensors", "a b.safetensors", "x.safetensors.index.json", "ä.safetensors"])
def test_plain_names_of_weights(name: str) -> None:
    assert is_plain_weights(name)


@pytest.mark.parametrize(
    "name",
    ["", "model.bin", "../m.safetensors", "/m.safetensors", "a\\m.safetensors", "c:m.safetensors", ".m.safetensors",
     "m.safetensors\0", "m.safetensors ", "m.SAFETENSORS", "m.safetensors.json", None, 3, ["m.safetensors"],
     "..safetensors"],
)  # fmt: skip
def test_other_names_are_not_followed(name: Any) -> None:
    assert not is_plain_weights(name)


def test_what_a_folder_holds_is_told_in_five_names(tmp_path: Path) -> None:
    assert found_in(tmp_path) == "the folder is empty"
    (tmp_path / ".git").mkdir()
    assert found_in(tmp_path) == "the folder is empty", "hidden files are nobody's model"
    for name in "gabcdef":
        (tmp_path / name).write_text("")
    assert found_in(tmp_path) == "found: a, b, c, d, e, …"
    assert advice(tmp_path) == "Give a folder as transformers' save_pretrained writes it."
    (tmp_path / "m.gguf").write_text("")
    assert advice(tmp_path) == f"Give the .gguf file itself: {tmp_path / 'm.gguf'}"


def test_a_name_with_codes_is_written_out(tmp_path: Path) -> None:
    from factedit.safe import safe_text

    evil = "\x1b[2Jevil\u202egnp.json"
    (tmp_path / evil).write_text("{}")
    with pytest.raises(ModelError) as found:
        check_config(tmp_path, what="It")
    shown = safe_text(str(found.value))
    assert "It has no config.json; found: \\x1b[2Jevil\\u202egnp.json" in shown


# -- JSON ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[]", "holds a list, not an object"), (b"3", "holds a int, not an object"), (b"null", "holds a NoneType"),
        (b"", "is not readable JSON"), (b"{'a': 1}", "is not readable JSON"), (b"\xff{}", "is not readable JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "is not readable JSON"),
        (b'{"a":' * 70 + b"1" + b"}" * 70, "nested more than 64"),
        (b'{"a": "\\ud800"}', "holds text that is not Unicode"), (b'{"\\udfff": 1}', "holds text that is not Unicode"),
        (b'{"a": [[["\\ud83d"]]]}', "holds text that is not Unicode"),
    ],
)  # fmt: skip
def test_json_that_is_no_object_of_text_is_refused(content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ModelError, match=r"a\.json of It") as found:
        read_json(tmp_path / "a.json", "It")
    assert said in str(found.value)


def test_json_of_many_languages_and_a_mark_at_its_beginning(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"東京": "\\ud83d\\ude00", "n": [1, {"x": null}]}', encoding="utf-8")
    assert read_json(tmp_path / "a.json", "It") == {"東京": "😀", "n": [1, {"x": None}]}
    (tmp_path / "a.json").write_bytes(b"\xef\xbb\xbf{}")
    with pytest.raises(ModelError, match="is not readable JSON"):
        read_json(tmp_path / "a.json", "It")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{}")
    (tmp_path / "a.json").chmod(0)
    with pytest.raises(ModelError, match="Permission denied"):
        read_json(tmp_path / "a.json", "It")


def test_a_folder_that_is_only_laid_out_like_the_hubs_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "models--a--b" / "snapshots" / "c"
    folder.mkdir(parents=True)
    assert hub_blobs(folder) is None
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert hub_blobs(folder) == tmp_path / "models--a--b" / "blobs"
    assert hub_blobs(folder / "inner") is None


# -- kinds and classes -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "kind", "said"),
    [
        ({}, UnsupportedModel, "gives no model_type"), ({"model_type": ""}, UnsupportedModel, "gives no model_type"),
        ({"model_type": 7}, ModelError, "gives 7 as model_type, which is no name"),
        ({"model_type": "gpt3"}, UnsupportedModel, "which transformers does not know. Did you mean "),
        ({"model_type": "zzzzzz"}, UnsupportedModel, "Update transformers if the model is new"),
        ({"model_type": "vit"}, UnsupportedModel, "which is not a causal language model"),
        ({"model_type": "gpt2", "transformers_weights": "x.safetensors"}, UnsupportedModel, "Rename them to"),
        ({"model_type": "gpt2", "transformers_weights": ["x"]}, UnsafeFile, "which is not a file in its folder"),
        ({"model_type": "gpt2", "a": {"attn_implementation": "owner/kernel"}}, UnsafeFile, "names a kernel"),
        ({"model_type": "gpt2", "x": [{"moe_implementation": {"all": "o/k"}}]}, UnsafeFile, "names a kernel"),
    ],
)  # fmt: skip
def test_configurations_are_refused_before_anything_is_loaded(
    config: dict[str, Any], kind: type[FacteditError], said: str, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(FacteditError) as found:
        check_config(tmp_path, what="It")
    assert (type(found.value), said in str(found.value)) == (kind, True), str(found.value)


def test_a_configuration_that_asks_for_nothing_passes(tmp_path: Path) -> None:
    config = {"model_type": "gpt2", "attn_implementation": "eager", "auto_map": {}, "transformers_weights": WEIGHTS}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"It has no tokenizer: none of tokenizer.json, .* is there"):
        check_config(tmp_path, what="It")
    (tmp_path / "vocab.txt").write_text("a")
    assert check_config(tmp_path, what="It") == config


def test_a_configuration_of_something_else_holds_no_text_model() -> None:
    from transformers import CONFIG_MAPPING

    with pytest.raises(UnsupportedModel, match="A model of the kind 'vit' holds no text model"):
        class_of(CONFIG_MAPPING["vit"]())
    assert class_of(CONFIG_MAPPING["gpt2"]()).__name__ == "GPT2LMHeadModel"


# -- counts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "config",
    [{"num_hidden_layers": 3}, {"n_layer": -3}, {"text_config": {"num_layers": 10**9}}, {"num_labels": MOST_LABELS + 1},
     {"num_attention_heads": 41}, {"n_routed_experts": 10**30}, {"attn_layers": [1, [2, 99]]}, {"sizes": [41]}],
)  # fmt: skip
def test_counts_beyond_the_files_are_refused(config: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match=r"gives \w+ = -?[\d,]+, and its files hold 2 tensors of at most 40 rows"):
        check_counts(config, TENSORS, what="It")


@pytest.mark.parametrize(
    "config",
    [{"num_hidden_layers": 2}, {"num_attention_heads": 40}, {"vocab_size": 10**9}, {"num_labels": MOST_LABELS},
     {"experts": True}, {"num_experts": 2.5}, {"max_position_embeddings": 10**9}, {"eos_token_id": 10**9}, {}],
)  # fmt: skip
def test_counts_within_them_and_sizes_that_are_looked_at_later_pass(config: dict[str, Any]) -> None:
    check_counts(config, TENSORS, what="It")


def test_the_stored_type_is_the_one_of_all_weights() -> None:
    def of(*kinds: str) -> str:
        return stored_dtype({str(n): StoredTensor("f", kind, (1,)) for n, kind in enumerate(kinds)})

    assert (of("BF16"), of("F16", "F16"), of("F32")) == ("bfloat16", "float16", "float32")
    assert of("BF16", "I64", "BOOL") == "bfloat16", "whole numbers have no say"
    assert of("F16", "BF16") == of("F64") == of("F8_E4M3") == of() == "float32"


# -- weights on disk -------------------------------------------------------------------------------


def index(folder: Path, **shards: Any) -> None:
    (folder / INDEX).write_text(json.dumps({"weight_map": shards}))


@pytest.mark.parametrize(
    "shard", ["../x.safetensors", "/etc/x.safetensors", "x.bin", ".x.safetensors", INDEX, 3, None, "a/b.safetensors"]
)
def test_an_index_names_plain_files_of_its_own_folder(shard: Any, tmp_path: Path) -> None:
    index(tmp_path, a=shard)
    with pytest.raises(UnsafeFile, match=r"only plain names of \.safetensors files in the folder are followed"):
        read_index(tmp_path, "It")


@pytest.mark.parametrize("found", [{}, [], None, "x"])
def test_an_index_that_names_nothing(found: Any, tmp_path: Path) -> None:
    assert read_index(tmp_path, "It") == {}
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": found}))
    with pytest.raises(ModelError, match="names no shards"):
        read_index(tmp_path, "It")


def test_a_name_that_no_file_can_have_is_refused_as_one(tmp_path: Path) -> None:
    index(tmp_path, a="x" * 300 + ".safetensors")
    with pytest.raises(UnsafeFile, match="which no file can be called"):
        check_weights(tmp_path, what="It")


def test_shards_are_read_as_their_index_says(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(2, 3)}, tmp_path / "1.safetensors")
    save_file({"b": torch.zeros(4).half(), "c": torch.zeros(())}, tmp_path / "2.safetensors")
    index(tmp_path, a="1.safetensors", b="2.safetensors", c="2.safetensors")
    assert check_weights(tmp_path, what="It") == {
        "a": StoredTensor("1.safetensors", "F32", (2, 3)), "b": StoredTensor("2.safetensors", "F16", (4,)),
        "c": StoredTensor("2.safetensors", "F32", ()),
    }  # fmt: skip
    index(tmp_path, a="1.safetensors", b="2.safetensors", c="1.safetensors")
    with pytest.raises(ModelError, match=r"says that 'c' is in 1.safetensors; it is in 2.safetensors"):
        check_weights(tmp_path, what="It")


def test_links_inside_a_folder_are_followed_and_others_are_not(tmp_path: Path) -> None:
    folder, outside = tmp_path / "m", tmp_path / "other.safetensors"
    folder.mkdir()
    save_file({"a": torch.zeros(1)}, outside)
    save_file({"a": torch.zeros(2)}, folder / "real.safetensors")
    (folder / "in.safetensors").symlink_to("real.safetensors")
    assert check_safetensors(folder / "in.safetensors")["a"].shape == (2,)
    (folder / "out.safetensors").symlink_to(outside)
    with pytest.raises(UnsafeFile, match="outside its folder, and is not followed"):
        check_safetensors(folder / "out.safetensors")
    assert check_safetensors(folder / "out.safetensors", blobs=tmp_path)["a"].shape == (1,), "where it may lead"
    (folder / "round.safetensors").symlink_to("round.safetensors")
    with pytest.raises(FacteditError):
        check_safetensors(folder / "round.safetensors")
    (folder / "gone.safetensors").symlink_to("nothing")
    with pytest.raises(ModelError, match=r"gone.safetensors are missing"):
        check_safetensors(folder / "gone.safetensors")


# -- what a .gguf file says of its model -----------------------------------------------------------

SAID: dict[str, Any] = {
    "embedding_length": 8, "attention.head_count": 2, "block_count": 1, "feed_forward_length": 16, "context_length": 64,
    "attention.layer_norm_rms_epsilon": 1e-5,
}  # fmt: skip


def gguf(architecture: str = "llama", **changes: Any) -> GgufFile:
    said = {**SAID, **changes}
    metadata = {f"{architecture}.{key}": value for key, value in said.items() if value is not None}
    table = {"token_embd.weight": GgufTensor("token_embd.weight", (32, 8), 0, 0, 0)}
    return GgufFile("m.gguf", {"general.architecture": architecture, **metadata}, table, (0, 0), b"")


def test_sizes_follow_from_the_header() -> None:
    shape = shape_of(gguf())
    assert (shape.layers, shape.sizes) == (1, {"v": 32, "d": 8, "m": 16, "h": 4, "q": 8, "k": 8})
    grouped = shape_of(gguf(**{"attention.head_count_kv": 1, "attention.key_length": 6}))
    assert (grouped.sizes["q"], grouped.sizes["k"], grouped.sizes["h"]) == (12, 6, 6)


@pytest.mark.parametrize("key", [key for key in SAID if key != "context_length"])
@pytest.mark.parametrize("value", [None, 0, -1, 1 << 31, "8", True, [8], float("nan"), float("inf")])
def test_a_number_that_is_missing_or_none_is_named(key: str, value: Any) -> None:
    match = rf"m.gguf (does not give|gives) llama\.{key}"
    with pytest.raises(DataError, match=match):
        config_of(gguf(**{key: value}))


def test_what_an_architecture_leaves_open_is_taken_from_its_makers() -> None:
    llama = config_of(gguf(**{"rope.scaling.type": "linear", "rope.scaling.factor": 4.0}))
    assert (llama.rope_parameters["rope_theta"], llama.rope_parameters["factor"]) == (10_000.0, 4.0)
    assert llama.tie_word_embeddings
    gemma = config_of(gguf("gemma3", **{"attention.sliding_window": 16, "block_count": 2 * GEMMA3_PATTERN}))
    kinds = ["sliding_attention"] * 5 + ["full_attention"]
    assert gemma.layer_types == kinds * 2, "every sixth layer sees all"
    assert gemma.query_pre_attn_scalar == 4, "the size of a head"
    assert gemma.rope_parameters["sliding_attention"]["rope_theta"] == 10_000.0
    assert gemma.rope_parameters["full_attention"]["rope_theta"] == 1_000_000.0


@pytest.mark.parametrize(
    ("changes", "kind", "said"),
    [
        ({"attention.value_length": 6}, UnsupportedModel, "gives llama.attention.value_length = 6 for heads of size 4"),
        ({"rope.dimension_count": 2}, UnsupportedModel, "gives llama.rope.dimension_count = 2 for heads of size 4"),
        ({"attention.head_count": 4, "attention.head_count_kv": 3}, DataError, "4 heads of size 2 and 3 key heads"),
        ({"attention.key_length": 3}, DataError, "2 heads of size 3 and 2 key heads, which cannot be"),
        ({"expert_count": 8}, UnsupportedModel, "holds a mixture of 8 experts"),
        ({"rope.scaling.type": "yarn"}, UnsupportedModel, "by the rule 'yarn'; 'linear' is read"),
        ({"ssm.conv_kernel": 4}, UnsupportedModel, "sets llama.ssm.conv_kernel, which is not known here"),
        ({"expert_count": np.array([0, 8])}, UnsupportedModel, "holds a mixture of array([0, 8]) experts"),
        ({"expert_count": "none"}, UnsupportedModel, "holds a mixture of 'none' experts"),
        (
            {"rope.scaling.type": np.array([1, 2])},
            DataError,
            "gives llama.rope.scaling.type = array([1, 2]), not a name",
        ),
        ({"rope.scaling.type": ["linear"]}, DataError, "gives llama.rope.scaling.type = ['linear'], not a name"),
    ],
)
def test_what_would_compute_something_else_is_refused(
    changes: dict[str, Any], kind: type[FacteditError], said: str
) -> None:
    with pytest.raises(kind) as found:
        config_of(gguf(**changes))
    assert said in str(found.value)


@pytest.mark.parametrize("value", ["1", 1.0, True, np.array([1, 2]), ["<s>"]])
@pytest.mark.parametrize("role", ["bos", "eos", "padding", "unknown"])
def test_a_tokens_number_is_a_number(role: str, value: Any) -> None:
    file = gguf()
    file.metadata[f"tokenizer.ggml.{role}_token_id"] = value
    with pytest.raises(DataError, match=rf"gives tokenizer\.ggml\.{role}_token_id = .*, not a token's number"):
        config_of(file)


def test_an_architecture_that_is_no_name_is_refused() -> None:
    """Before: lists where a name or a number was expected ended in tracebacks."""
    for architecture in (None, 7, ["llama"], np.array([1, 2]), "qwen2"):
        file = SimpleNamespace(name="m.gguf", metadata={"general.architecture": architecture}, tensors={})
        with pytest.raises(UnsupportedModel, match=r"m\.gguf holds a model of architecture"):
            shape_of(file)  # type: ignore[arg-type]
