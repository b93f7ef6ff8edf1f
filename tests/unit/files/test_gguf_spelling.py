"""How tokens are spelled: the tokenizers library is the oracle for bytes."""

from __future__ import annotations

import pytest
from tokenizers import pre_tokenizers

from factedit.files.gguf_spelling import byte_alphabet, spelled_bytes, spelled_spaces


def test_the_alphabet_of_bytes_is_the_librarys() -> None:
    alphabet, characters = byte_alphabet()
    assert sorted(alphabet) == list(range(256))
    assert characters == set(pre_tokenizers.ByteLevel.alphabet())
    assert len(characters) == 256


@pytest.mark.parametrize("text", [" Paris", " Zürich", "東京", "\n\t", "\x00\x7f", "don't  stop"])
def test_plain_text_is_spelled_as_the_library_does(text: str) -> None:
    library = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(text)
    assert spelled_bytes(text) == "".join(part for part, _ in library)


@pytest.mark.parametrize("token", ["Ġthe", "Ã¼", "abc", "Ċ"])
def test_what_is_spelled_already_stays(token: str) -> None:
    assert spelled_bytes(token) == token


@pytest.mark.parametrize(
    ("token", "expected"),
    [("  ", "▁▁"), ("    ", "▁▁▁▁"), (" ", " "), (" a", " a"), ("", ""), ("▁▁", "▁▁"), ("\t\t", "\t\t")],
)
def test_runs_of_spaces_alone_are_spelled_anew(token: str, expected: str) -> None:
    assert spelled_spaces(token) == expected
