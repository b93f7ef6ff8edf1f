"""A .gguf file becomes the model it holds, or is refused with the place where it breaks."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from gguf.constants import GGMLQuantizationType as Kind
from transformers import AutoModelForCausalLM
from transformers.utils import logging

import tiny_gguf
from factedit.errors import DataError, ModelError, UnsupportedModel
from factedit.files.gguf_config import config_of
from factedit.files.gguf_file import load_gguf
from factedit.files.gguf_reader import open_gguf

BOTH = {"gemma3": tiny_gguf.gemma3_lm, "llama": tiny_gguf.llama_lm}
IDS = torch.arange(3, 23).unsqueeze(0)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FACTEDIT_CACHE", str(tmp_path / "cache"))


@pytest.fixture(params=BOTH)
def lm(request):
    return BOTH[request.param]()


@pytest.fixture
def talkative() -> Iterator[tuple[int, bool]]:
    """transformers tells all it has to tell: its level and whether its bars are on."""
    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_info()
    logging.enable_progress_bar()
    yield logging.INFO, True
    logging.set_verbosity(before[0])
    if not before[1]:
        logging.disable_progress_bar()


# The way there and back


@torch.no_grad()
def test_a_model_comes_back_as_it_was_written(lm, tmp_path):
    found, tokenizer = load_gguf(tiny_gguf.write(tmp_path / "m.gguf", lm))
    if lm.config.model_type == "llama":
        assert tiny_gguf.same_tensors(found, lm)
    else:  # storing a norm's weight plus 1 rounds it; what comes back is what was stored
        stored = tiny_gguf.stored_tensors(lm)
        assert torch.equal(found.model.norm.weight, torch.from_numpy(stored["output_norm.weight"]) - 1)
        assert torch.equal(found.model.layers[3].mlp.down_proj.weight, lm.model.layers[3].mlp.down_proj.weight)
    torch.testing.assert_close(found(IDS).logits, lm(IDS).logits, rtol=1e-4, atol=1e-4)
    assert not found.training
    assert {parameter.dtype for parameter in found.parameters()} == {torch.float32}
    assert tokenizer.is_fast


def test_the_configuration_is_the_written_one(lm, tmp_path):
    found, _ = load_gguf(tiny_gguf.write(tmp_path / "m.gguf", lm))
    said = lm.config.to_dict()
    differs = {key: (value, said.get(key)) for key, value in found.config.to_dict().items() if said.get(key) != value}
    special = {"bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id"}
    assert differs.keys() <= {*special, "_name_or_path", "dtype", "use_cache", "architectures", "pretraining_tp"}


def test_rotary_buffers_and_the_tied_output_matrix_are_right(lm, tmp_path):
    found, _ = load_gguf(tiny_gguf.write(tmp_path / "m.gguf", lm))
    expected = dict(lm.named_buffers())
    assert expected.keys() == dict(found.named_buffers()).keys()
    assert all(torch.equal(value, expected[name]) for name, value in found.named_buffers())
    tied = found.get_output_embeddings().weight is found.get_input_embeddings().weight
    assert tied == lm.config.tie_word_embeddings


def test_a_tied_llama_has_one_matrix(tmp_path):
    lm = tiny_gguf.llama_lm(tie_word_embeddings=True)
    found, _ = load_gguf(tiny_gguf.write(tmp_path / "m.gguf", lm))
    assert found.config.tie_word_embeddings
    assert found.get_output_embeddings().weight is found.get_input_embeddings().weight


@pytest.mark.parametrize("kind", [Kind.F32, Kind.Q8_0], ids=lambda kind: kind.name)
def test_tensors_equal_those_of_transformers_own_path(lm, kind, tmp_path):
    path = tiny_gguf.write(tmp_path / "m.gguf", lm, kind=kind)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="m.gguf", dtype=torch.float32)
    ours, _ = load_gguf(path)
    assert tiny_gguf.same_tensors(ours, theirs)


def test_linear_position_scaling_touches_the_full_attention_layers_only(tmp_path):
    scaling = {"rope.scaling.type": "linear", "rope.scaling.factor": 8.0}
    config = config_of(open_gguf(tiny_gguf.write(tmp_path / "g.gguf", tiny_gguf.gemma3_lm(), settings=scaling)))
    assert config.rope_parameters["full_attention"]["rope_type"] == "linear"
    assert config.rope_parameters["full_attention"]["factor"] == 8.0
    assert config.rope_parameters["sliding_attention"] == {"rope_type": "default", "rope_theta": 10_000.0}
    config = config_of(open_gguf(tiny_gguf.write(tmp_path / "l.gguf", tiny_gguf.llama_lm(), settings=scaling)))
    assert config.rope_parameters["factor"] == 8.0


def test_what_a_gemma3_file_says_beyond_the_usual_is_kept(tmp_path):
    said = {"attention.sliding_window_pattern": 3, "rope.freq_base_swa": 20_000.0, "final_logit_softcapping": 30.0}
    config = config_of(open_gguf(tiny_gguf.write(tmp_path / "g.gguf", tiny_gguf.gemma3_lm(), settings=said)))
    assert [kind == "full_attention" for kind in config.layer_types] == [False, False, True, False, False, True, False]
    assert config.rope_parameters["sliding_attention"]["rope_theta"] == 20_000.0
    assert config.final_logit_softcapping == 30.0


def test_loading_is_quiet_and_leaves_the_settings_as_they_were(lm, tmp_path, capfd, talkative):
    path = tiny_gguf.write(tmp_path / "m.gguf", lm)
    filters = list(warnings.filters)
    capfd.readouterr()
    load_gguf(path)
    assert capfd.readouterr() == ("", "")
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == talkative
    assert warnings.filters == filters


# Refusals


def refuse(path: Path, kind: type[Exception], match: str) -> None:
    with pytest.raises(kind, match=match):
        load_gguf(path)


def test_a_missing_file_is_named(tmp_path):
    refuse(tmp_path / "none.gguf", ModelError, r"There is no file .*none\.gguf")


def test_a_folder_is_not_a_file(tmp_path):
    (tmp_path / "m.gguf").mkdir()
    refuse(tmp_path / "m.gguf", ModelError, "There is no file")


def test_an_unknown_architecture_is_refused(tmp_path):
    path = tmp_path / "m.gguf"
    writer = gguf.GGUFWriter(path, "rwkv7")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    refuse(path, UnsupportedModel, "architecture 'rwkv7'; of .gguf files, gemma3 and llama are read")


@pytest.mark.parametrize(
    ("settings", "kind", "match"),
    [
        ({"attention.head_count": None}, DataError, "does not give llama.attention.head_count"),
        ({"block_count": 0}, DataError, "llama.block_count = 0, not a positive number"),
        ({"block_count": 4_000_000_000}, DataError, "not a positive number"),
        ({"block_count": 2_000_000}, DataError, r"promises 2,000,000 layers and holds 39 tensors"),
        ({"block_count": 5}, DataError, "holds no tensor 'blk.4.attn_norm.weight'"),
        ({"block_count": 3}, UnsupportedModel, "holds 9 tensors that a plain llama model does not have"),
        ({"attention.head_count_kv": [2, 2, 2, 2]}, DataError, "attention.head_count_kv = .*, not a positive number"),
        ({"attention.head_count_kv": 3}, DataError, "4 heads of size 8 and 3 key heads, which cannot be"),
        ({"attention.key_length": 7, "attention.value_length": 7, "rope.dimension_count": 7}, DataError, "of size 7"),
        ({"attention.value_length": 4}, UnsupportedModel, "attention.value_length = 4 for heads of size 8"),
        ({"rope.dimension_count": 4}, UnsupportedModel, "rope.dimension_count = 4 for heads of size 8"),
        ({"feed_forward_length": 1_000_000}, DataError, r"'blk.0.ffn_gate.weight' .* \[48, 32\]; its header asks for"),
        ({"attention.layer_norm_rms_epsilon": "x"}, DataError, "layer_norm_rms_epsilon = 'x'"),
        ({"rope.scaling.type": "yarn"}, UnsupportedModel, "scales its positions by the rule 'yarn'"),
        ({"expert_count": 8}, UnsupportedModel, "a mixture of 8 experts"),
        ({"logit_scale": 2.0}, UnsupportedModel, "sets llama.logit_scale, which is not known here"),
    ],
)
def test_a_header_that_does_not_fit_is_refused(settings, kind, match, tmp_path):
    refuse(tiny_gguf.write(tmp_path / "m.gguf", tiny_gguf.llama_lm(), settings=settings), kind, match)


def test_a_tensor_that_would_be_skipped_is_refused(tmp_path):
    extra = {"rope_freqs.weight": np.ones(4, dtype=np.float32)}
    path = tiny_gguf.write(tmp_path / "m.gguf", tiny_gguf.llama_lm(), tensors=extra)
    refuse(path, UnsupportedModel, "holds 1 tensors that a plain llama model does not have, e.g. 'rope_freqs.weight'")


@pytest.mark.parametrize("name", ["token_embd.weight", "output_norm.weight", "blk.2.ffn_down.weight"])
def test_a_missing_tensor_is_named(name, tmp_path):
    path = tiny_gguf.write(tmp_path / "m.gguf", tiny_gguf.llama_lm(), tensors={name: None})
    refuse(path, DataError, f"holds no tensor '{name}'")


# Split files


def test_a_part_of_a_split_file_is_called_what_it_is(tmp_path):
    def part(writer):
        writer.add_uint16("split.no", 1)
        writer.add_uint16("split.count", 3)

    path = tiny_gguf.write(tmp_path / "m-00002-of-00003.gguf", tiny_gguf.llama_lm(), change=part)
    with pytest.raises(UnsupportedModel, match=r"is part 2 of 3 of a split GGUF file\. Join the parts with llama\.cpp"):
        load_gguf(path)

    def whole(writer):
        writer.add_uint16("split.count", 1)

    load_gguf(tiny_gguf.write(tmp_path / "whole.gguf", tiny_gguf.llama_lm(), change=whole))
