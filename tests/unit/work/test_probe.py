"""`factedit models --probe`: rows that are found are those of the table; what cannot be proven is refused by name."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import pytest
import torch

from conftest import randomised, tiny_tokenizer
from factedit.engine.resumed import prove_resumed
from factedit.errors import UnsupportedModel
from factedit.models.adapter import EditableModel
from factedit.models.families import Family
from factedit.models.family_table import FAMILIES
from factedit.models.propose import propose
from factedit.work.probe import probe, row_text
from run_command import ok
from tiny_families import tiny_family_lm

# one of every way in which rows differ
FOUND = (
    "llama", "gpt2", "gptj", "phi3", "opt", "bloom", "mpt", "gemma2", "granite", "phi", "olmo_hybrid", "jamba",
    "deepseek_v3", "qwen2_moe", "granitemoe",
)  # fmt: skip


def folder_of(lm: object, path: Path) -> str:
    lm.save_pretrained(path)  # type: ignore[attr-defined]
    tiny_tokenizer().save_pretrained(path)
    return str(path)


@pytest.mark.parametrize("name", FOUND)
def test_a_row_is_found_that_the_table_has(name: str) -> None:
    """The oracle is the table, whose rows were written by hand and are proven."""
    found, known = propose(randomised(tiny_family_lm(name))), FAMILIES[name]
    for field in fields(Family):
        if field.name not in ("gguf", "attn_out"):
            assert getattr(found, field.name) == getattr(known, field.name), field.name
    assert set(found.attn_out.split("|")) == set(known.attn_out.split("|")), "in whatever order tells layers apart"


def test_an_unknown_architecture_is_proposed_and_proven(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = folder_of(randomised(tiny_family_lm("olmo3")), tmp_path / "m")
    assert probe(source).is_known
    monkeypatch.delitem(FAMILIES, "olmo3")
    found = json.loads(ok("models", "--probe", source, "--json", "-").partition("{")[2].join(["{", ""]) or "{}")
    assert not found["is_known"]
    assert "attn_out='post_attention_layernorm', mlp_out='post_feedforward_layernorm'" in found["row"]
    assert (found["layers"], found["dense"], found["experts"]) == (4, 4, 0)
    assert found["resumed_off"] < 1e-4


def test_what_is_not_a_sum_of_two_is_refused_with_figures(tmp_path: Path) -> None:
    """Doge multiplies the residual by weights of its own; the layers of OpenAI's GPT give lists."""
    with pytest.raises(UnsupportedModel, match="OpenAIGPTLMHeadModel cannot be probed"):
        propose(tiny_family_lm("openai-gpt"))
    source = folder_of(randomised(tiny_family_lm("doge")), tmp_path / "m")
    with pytest.raises(
        UnsupportedModel, match=r"'h\[l\] = h\[l-1\] \+ attn_out \+ mlp_out' cannot be shown.*off by \d"
    ):
        probe(source)


def test_experts_of_another_make_are_proposed_to_be_traced() -> None:
    """DBRX's experts are no block that is known; which of the two reads other tokens is seen all the same."""
    lm = randomised(tiny_family_lm("dbrx"))
    found, known = propose(lm), FAMILIES["dbrx"]
    assert (found.layers, found.attn_out, found.mlp_out) == (known.layers, known.attn_out, known.mlp_out)
    assert "none of stacked experts" in found.refused
    assert prove_resumed(EditableModel(lm, tiny_tokenizer(), family=found)) < 1e-4


def test_what_gives_the_sum_is_named_where_attention_and_mlp_cannot_be_told() -> None:
    """Before: 'the nearest are …, off by 5e-8', as if that were far."""
    lm = randomised(tiny_family_lm("megatron-bert", is_decoder=True))
    with pytest.raises(UnsupportedModel, match=r"attention.output.dense and output.dense give it, and which of them"):
        propose(lm)


def test_a_shared_expert_with_other_matrices_is_refused_and_not_a_traceback() -> None:
    """MiniMax M3's has one matrix for gate and input."""
    lm = randomised(tiny_family_lm("minimax_m3_vl_text"))
    with pytest.raises(UnsupportedModel, match=r"has no matrix 'in\.shared' of its own"):
        EditableModel(lm, tiny_tokenizer(), family=propose(lm))


def test_a_row_that_fails_a_proof_is_refused_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = folder_of(randomised(tiny_family_lm("llama")), tmp_path / "m")
    monkeypatch.setattr("factedit.work.probe.propose", lambda _lm: Family(name="llama", mlp_out="self_attn"))
    wrong = Family(name="llama", matrix="self_attn.o_proj", matrix_in="self_attn.q_proj", matrix_gate="")
    monkeypatch.setattr("factedit.work.probe.family_of", lambda *_kinds: wrong)
    with pytest.raises(
        UnsupportedModel,
        match=r"The row of the table: .*'the norm reads the value' is off by \d.*'h\[l\] = h\[l-1\].* is off by \d",
    ):
        probe(source)


def test_what_cannot_be_resumed_is_told() -> None:
    """A row that forgets the state: what the convolution goes on from is missing."""
    lm = randomised(tiny_family_lm("qwen3_5_text"))
    assert prove_resumed(EditableModel(lm, tiny_tokenizer())) < 1e-4
    row = Family(name="qwen3_5_text", attn_out="self_attn|linear_attn")
    with pytest.raises(UnsupportedModel, match="cannot be resumed"):
        prove_resumed(EditableModel(lm, tiny_tokenizer(), family=row))


def test_a_row_is_written_as_the_table_has_it() -> None:
    assert row_text(FAMILIES["gpt2"]).startswith("Family(name='gpt2', layers='transformer.h', attn_out='attn', matrix=")
    assert row_text(Family(name="x")) == "Family(name='x')"
    assert torch.is_grad_enabled()


def test_a_model_that_is_no_folder_is_read_as_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """An embedded name: what reads it is asked, and its row proven."""
    monkeypatch.setattr(
        "factedit.files.embedded.load_embedded", lambda _name: (randomised(tiny_family_lm("gpt2")), tiny_tokenizer())
    )
    assert probe("smollm2-135m").row == FAMILIES["gpt2"]
