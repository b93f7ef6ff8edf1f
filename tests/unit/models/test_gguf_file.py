"""A .gguf file becomes the model it holds, or is refused with the place where it breaks."""

from __future__ import annotations

import random
import struct
import warnings
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from gguf.constants import GGMLQuantizationType as Kind
from transformers import AutoModelForCausalLM
from transformers.utils import logging

import tiny_gguf
from factedit.errors import DataError, FacteditError, ModelError, UnsupportedModel
from factedit.models import gguf_reader
from factedit.models.gguf_config import config_of
from factedit.models.gguf_file import load_gguf
from factedit.models.gguf_reader import open_gguf, parse_gguf

BOTH = {"gemma3": tiny_gguf.gemma3_lm, "llama": tiny_gguf.llama_lm}
IDS = torch.arange(3, 23).unsqueeze(0)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FACTEDIT_CACHE", str(tmp_path / "cache"))


@pytest.fixture(params=BOTH)
def lm(request):
    return BOTH[request.param]()


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


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
@pytest.mark.parametrize("chunk", [1, 96, 1 << 19])
def test_stored_types_are_read_as_the_gguf_package_reads_them(kind, chunk, tmp_path, monkeypatch):
    monkeypatch.setattr(gguf_reader, "_CHUNK", chunk)
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    raw = gguf.quants.quantize(np.random.RandomState(0).randn(6, 64).astype(np.float32), Kind[kind])
    writer.add_tensor("a", raw, raw_dtype=Kind[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = open_gguf(tmp_path / "m.gguf").read("a")
    expected = gguf.quants.dequantize(raw, Kind[kind])
    assert found.dtype == np.float32
    assert np.array_equal(found, expected)
    assert len(np.unique(found)) > 5


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


def test_loading_is_quiet_and_leaves_the_settings_as_they_were(lm, tmp_path, capfd):
    path = tiny_gguf.write(tmp_path / "m.gguf", lm)
    level, bars, filters = logging.get_verbosity(), logging.is_progress_bar_enabled(), list(warnings.filters)
    capfd.readouterr()
    load_gguf(path)
    assert capfd.readouterr() == ("", "")
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == (level, bars)
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


@pytest.mark.parametrize(
    ("start", "kind", "match"),
    [
        (b"", DataError, "it has 0 bytes, and a header takes 24"),
        (b"version https://git-lfs.github.com/spec/v1\n", DataError, r"begins with b'vers', not with b'GGUF'"),
        (struct.pack(">4sIQQ", b"GGUF", 3, 0, 0), UnsupportedModel, "big-endian"),
        (struct.pack("<4sIQQ", b"GGUF", 1, 0, 0), UnsupportedModel, "GGUF version 1; versions 2 and 3 are read"),
        (struct.pack("<4sIQQ", b"GGUF", 3, 1 << 60, 0), DataError, r"promises 1,152,921,504,606,846,976 tensors"),
        (struct.pack("<4sIQQ", b"GGUF", 3, 0, 1 << 60), DataError, r"promises [\d,]+ metadata pairs"),
        (struct.pack("<4sIQQ", b"GGUF", 3, 0, 1), DataError, "would take 8 bytes and 0 are left"),
    ],
)
def test_a_bad_start_is_refused(start, kind, match, tmp_path):
    (tmp_path / "m.gguf").write_bytes(start)
    refuse(tmp_path / "m.gguf", kind, match)


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def tensor(name: str, shape: tuple[int, ...] = (32,), kind: int = 0, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


@pytest.mark.parametrize(
    ("pairs", "match"),
    [
        ([struct.pack("<Q", 1 << 40)], r"a metadata key is [\d,]+ bytes long, and 65,535 are allowed"),
        ([text("a") + struct.pack("<IQ", 8, 1 << 50)], r"the value of 'a' would take [\d,]+ bytes"),
        ([text("a") + struct.pack("<I", 77)], "of type 77, which does not exist"),
        ([text("a") + struct.pack("<IIQ", 9, 9, 1)], "an array of type 9, which is not read"),
        ([text("a") + struct.pack("<IIQ", 9, 4, 1 << 61)], r"the [\d,]+ values of 'a' would take"),
        ([text("a") + struct.pack("<IIQ", 9, 8, 1 << 61)], r"the [\d,]+ values of 'a' would take"),
        ([text("a") + struct.pack("<IIQQ", 9, 8, 1, 1 << 61)], "ends in the middle of the 1 values of 'a'"),
        ([text("a") + struct.pack("<IIQQ", 9, 8, 2, 0)], "would take 16 bytes and 8 are left"),
        ([text("a") + struct.pack("<IB", 0, 1)] * 2, "holds the metadata key 'a' twice"),
        ([text("a") + struct.pack("<IQ", 8, 2) + b"\xff\xfe"], "the value of 'a' is not UTF-8"),
        ([text("general.alignment") + struct.pack("<II", 4, 3)], "its alignment is 3, not a power of two"),
        ([text("general.alignment") + struct.pack("<II", 4, 0)], "its alignment is 0"),
        ([text("general.alignment") + struct.pack("<IQ", 8, 1) + b"x"], "its alignment is 'x'"),
    ],
)
def test_bad_metadata_is_refused(pairs, match):
    with pytest.raises(DataError, match=match):
        parse_gguf(struct.pack("<4sIQQ", b"GGUF", 3, 0, len(pairs)) + b"".join(pairs), "m.gguf")


@pytest.mark.parametrize(
    ("rows", "kind", "match"),
    [
        ([tensor("a", (1,) * 5)], DataError, "'a' has 5 dimensions, and 4 are allowed"),
        ([tensor("a", ())], DataError, r"'a' has the shape \[\]"),
        ([tensor("a", (0, 4))], DataError, r"'a' has the shape \[4, 0\]"),
        ([tensor("a", (33,), kind=8)], DataError, r"'a' has the shape \[33\], which its type cannot have"),
        ([tensor("a", (1 << 62, 1 << 62))], DataError, r"'a' would lie at bytes .* and the file has 512"),
        ([tensor("a", offset=1 << 63)], DataError, "would lie at bytes"),
        ([tensor("a", kind=999)], UnsupportedModel, "'a' of m.gguf is stored as type 999, which cannot be read"),
        ([tensor("a"), tensor("a", offset=128)], DataError, "holds the tensor 'a' twice"),
        ([tensor("a"), tensor("b", offset=64)], DataError, "'b' lies over another one"),
    ],
)
def test_a_bad_tensor_table_is_refused(rows, kind, match):
    data = struct.pack("<4sIQQ", b"GGUF", 3, len(rows), 0) + b"".join(rows)
    with pytest.raises(kind, match=match):
        parse_gguf(data.ljust(512, b"\0"), "m.gguf")


def test_a_type_that_the_gguf_package_cannot_dequantise_is_refused():
    data = struct.pack("<4sIQQ", b"GGUF", 3, 1, 0) + tensor("a", kind=int(Kind.I32))
    file = parse_gguf(data.ljust(512, b"\0"), "m.gguf")
    with pytest.raises(UnsupportedModel, match="stored as I32, which cannot be read"):
        file.read("a")


def test_a_file_cut_off_anywhere_is_refused(tmp_path):
    data = tiny_gguf.write(tmp_path / "m.gguf", tiny_gguf.llama_lm(num_hidden_layers=1)).read_bytes()
    parse_gguf(data, "whole.gguf")
    end_of_table = max(part.start for part in parse_gguf(data, "whole.gguf").tensors.values())
    for length in [*range(0, end_of_table, 97), len(data) - 1]:
        with pytest.raises(DataError):
            parse_gguf(data[:length], "cut.gguf")


def test_no_damage_of_the_header_escapes_our_errors(tmp_path):
    path = tiny_gguf.write(tmp_path / "m.gguf", tiny_gguf.llama_lm(num_hidden_layers=1))
    whole, chance = path.read_bytes(), random.Random(0)
    header = min(part.start for part in parse_gguf(whole, "m").tensors.values())
    refused = 0
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(chance.choice((1, 4, 16))):
            data[chance.randrange(header)] = chance.choice((0, 1, 127, 255, chance.randrange(256)))
        try:
            config_of(parse_gguf(bytes(data), "m"))
        except FacteditError:
            refused += 1
    assert refused > 100


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


# The embedded model


@pytest.mark.real
def test_the_real_gemma3_equals_transformers_own_path(tmp_path):
    from factedit.models.embedded import EMBEDDED, packaged_file

    try:
        data = packaged_file(EMBEDDED["gemma3-270m"]).data
    except ModelError as error:
        pytest.skip(str(error))
    (tmp_path / "m.gguf").write_bytes(data)
    ours, _ = load_gguf(tmp_path / "m.gguf")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="m.gguf", dtype=torch.float32)
    assert tiny_gguf.same_tensors(ours, theirs)
    buffers = dict(theirs.named_buffers())
    assert all(torch.equal(value, buffers[name]) for name, value in ours.named_buffers())
    said, found = theirs.config.to_dict(), ours.config.to_dict()
    names = {"_name_or_path", "_model_name_or_path", "quantization_config"}
    assert {key for key in {*said, *found} if said.get(key) != found.get(key)} <= names
