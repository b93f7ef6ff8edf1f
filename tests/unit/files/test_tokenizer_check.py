"""A tokenizer that cuts texts otherwise than its tokenizer.json is replaced by the file, or the model is refused."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

import tiny_folder
import tiny_tokenizers
from conftest import tiny_lm
from factedit.errors import ModelError, UnsupportedModel
from factedit.files import tokenizer_check
from factedit.files.checkpoint import load_checkpoint
from factedit.files.tokenizer_check import checked_tokenizer
from factedit.models.load import load

TEXTS = ("The year is 1985", " two  spaces", "Café 東京 👍", "a\n\nb", "don't")


def save(folder: Path, tokenizer: PreTrainedTokenizerFast, **said: object) -> Path:
    """A model with this tokenizer, whose tokenizer_config.json says this."""
    tiny_lm("llama", num_hidden_layers=2, vocab_size=len(tokenizer) + 8).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    tiny_folder.change(folder / "tokenizer_config.json", **said)
    return folder


def file_ids(folder: Path, text: str, *, added: bool = True) -> list[int]:
    return Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text, add_special_tokens=added).ids


@pytest.mark.parametrize(
    ("kind", "label", "probe"),
    [
        ("digits", "GPT2Tokenizer", "the  1985"),  # the label has no rule for digits
        ("trimmed", "GPT2Tokenizer", "the  1985"),
        ("llama", "GPT2Tokenizer", " 1985"),
        ("llama3", "Qwen2Tokenizer", " 1985"),
        ("gemma", "LlamaTokenizer", "in 1985, 15 men"),
        ("llama", "GemmaTokenizer", "in 1985, 15 men"),
    ],
)
def test_a_mislabelled_tokenizer_is_replaced_by_the_file(
    kind: str, label: str, probe: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = save(tmp_path / "m", tiny_tokenizers.KINDS[kind](), tokenizer_class=label)
    theirs = AutoTokenizer.from_pretrained(folder)
    assert theirs(probe)["input_ids"] != file_ids(folder, probe), "transformers takes the label's word"
    with caplog.at_level(logging.WARNING, "factedit"):
        _, tokenizer = load_checkpoint(str(folder))
    assert f"names {label} as its tokenizer, which cuts {probe!r} otherwise than its tokenizer.json" in caplog.text
    for text in (*TEXTS, probe):
        assert tokenizer(text)["input_ids"] == file_ids(folder, text)
    assert tokenizer.decode(tokenizer("The year is", add_special_tokens=False)["input_ids"]) == "The year is"
    kept = tiny_tokenizers.KINDS[kind]()
    assert (tokenizer.bos_token, tokenizer.eos_token) == (kept.bos_token, kept.eos_token)
    assert load(str(folder)).tokenizer(probe)["input_ids"] == file_ids(folder, probe)


@pytest.mark.parametrize("kind", [*tiny_tokenizers.KINDS, "wordpiece", "unigram"])
def test_a_tokenizer_that_agrees_is_left_as_it_is(kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made = {**tiny_tokenizers.KINDS, "wordpiece": tiny_tokenizers.wordpiece, "unigram": tiny_tokenizers.unigram}[kind]()
    made.save_pretrained(tmp_path)
    with caplog.at_level(logging.WARNING, "factedit"):
        assert checked_tokenizer(made, tmp_path, "it") is made
    assert not caplog.records


def test_a_chat_template_and_settings_stay(tmp_path: Path) -> None:
    made = tiny_tokenizers.digits_apart()
    made.chat_template = "{{ messages }}"
    folder = save(tmp_path / "m", made, tokenizer_class="GPT2Tokenizer", add_bos_token=True)
    _, tokenizer = load_checkpoint(str(folder))
    assert tokenizer.chat_template == "{{ messages }}"
    start = tokenizer.bos_token_id
    assert tokenizer("The year")["input_ids"] == [start, *file_ids(folder, "The year")], (
        "the configuration decides that"
    )


def test_start_tokens_that_the_file_adds_are_added(tmp_path: Path) -> None:
    made = tiny_tokenizers.llama3_like()
    made.save_pretrained(tmp_path)
    without = PreTrainedTokenizerFast(tokenizer_object=made.backend_tokenizer, bos_token=made.bos_token)
    without.add_bos_token = False
    assert without("The")["input_ids"] != file_ids(tmp_path, "The")
    assert checked_tokenizer(without, tmp_path, "it")("The")["input_ids"] == file_ids(tmp_path, "The")
    tiny_folder.change(tmp_path / "tokenizer_config.json", add_bos_token=False)
    assert checked_tokenizer(without, tmp_path, "it") is without


def test_a_tokenizer_without_a_file_is_taken(tmp_path: Path) -> None:
    made = tiny_tokenizers.digits_apart()
    assert checked_tokenizer(made, tmp_path, "it") is made


def test_padding_and_truncation_in_the_file_are_no_difference(tmp_path: Path) -> None:
    made = tiny_tokenizers.digits_apart()
    made.save_pretrained(tmp_path)
    file = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    file.enable_padding(length=64)
    file.enable_truncation(2)
    file.save(str(tmp_path / "tokenizer.json"))
    assert checked_tokenizer(made, tmp_path, "it") is made


def test_what_cannot_be_mended_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save(tmp_path / "m", tiny_tokenizers.digits_apart(), tokenizer_class="GPT2Tokenizer")
    monkeypatch.setattr(tokenizer_check, "_from_file", lambda tokenizer, *_: tokenizer)
    with pytest.raises(
        UnsupportedModel, match=r"GPT2Tokenizer, which .* names as its tokenizer, cuts 'the  1985' otherwise"
    ):
        load_checkpoint(str(folder))


@pytest.mark.parametrize("label", ["GPT2Tokenizer", "PreTrainedTokenizerFast"])
def test_dropout_in_the_file_is_refused_whatever_class_reads_it(label: str, tmp_path: Path) -> None:
    folder = save(tmp_path / "m", tiny_tokenizers.digits_apart(), tokenizer_class=label)
    file = json.loads((folder / "tokenizer.json").read_text())
    file["model"]["dropout"] = 0.1
    tiny_folder.write(folder / "tokenizer.json", file)
    with pytest.raises(UnsupportedModel, match=r"cuts a text at random \(dropout = 0.1\)"):
        load_checkpoint(str(folder))


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    made = tiny_tokenizers.digits_apart()
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match=r"tokenizer.json of it is damaged"):
        checked_tokenizer(made, tmp_path, "it")
