"""The tokenizer of a .gguf file gives transformers' own ids, quickly, and is refused where it would not."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer

import tiny_gguf
from factedit.cache import write_entry
from factedit.errors import DataError, ModelError, UnsupportedModel
from factedit.files import gguf_tokenizer
from factedit.files.gguf_reader import open_gguf
from factedit.files.gguf_tokenizer import derive_merges, load_gguf_tokenizer, read_vocabulary

TEXTS = [
    "", " ", "  ", "\n", "\n\n", "\t", "\r\n", " \n ", "a", " a", "a ", "  a  ", "the Space Needle",
    " the  Space   Needle", "The Space Needle is in downtown Seattle.",
    "LeBron James plays the sport of", "Café Zürich", "Cafe\u0301 Zu\u0308rich",
    "東京は日本の首都です。", "北京", "Москва — столица России", "القاهرة عاصمة مصر", "ירושלים",
    "नई दिल्ली", "กรุงเทพมหานคร", "Ελλάδα", "한국의 수도는 서울", "🗼 Tokyo Tower 🇯🇵", "👩‍👩‍👧",
    "\u200bzero\u200bwidth", "\u00a0no-break\u00a0space", "\ufeffmark", "in 1962, 15 men",
    "3.14159", "10²", "x=1;y+=2", "def f(x):\n    return x\n", "<bos>", "<bos><eos>", "a<eos>b",
    "<|im_end|>", "<unused7>", "<0x41>", "<user>", "don't I'll we've", "DON'T", "a_b-c/d\\e",
    "http://example.com/?q=1&r=2", "…–—“”‘’", "▁", "▁▁the", "Ġthe", "tab\tand\nline",
    "line\n\n\nline", "\x00\x01\x7f", "ﬁ ﬂ Å Å", "ß ẞ ı İ", "𝕳𝖊𝖑𝖑𝖔", "\U0010ffff", "the" * 50,
]  # fmt: skip


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FACTEDIT_CACHE", str(tmp_path / "cache"))


@pytest.fixture(params=["gemma3-llama", "llama-llama", "llama-gpt2"])
def path(request, tmp_path):
    architecture, kind = request.param.split("-")
    lm = tiny_gguf.gemma3_lm() if architecture == "gemma3" else tiny_gguf.llama_lm()
    return tiny_gguf.write(tmp_path / "m.gguf", lm, tokenizer=kind, change=_as_llama(request.param))


def _as_llama(case: str):
    """Llama's own names and spelling; transformers' path adds its names and a first space whatever the file says."""

    def change(writer):
        if case == "llama-llama":
            writer.kv_data[0].pop("tokenizer.ggml.add_space_prefix")
            tokens = writer.kv_data[0]["tokenizer.ggml.tokens"]
            names = {"<bos>": "<s>", "<eos>": "</s>"}
            tokens.value = [names.get(token, token.replace(" ", "▁")) for token in tokens.value]

    return change


def changed(key: str, value):
    def change(writer):
        if value is None:
            writer.kv_data[0].pop(f"tokenizer.ggml.{key}")
        else:
            writer.kv_data[0][f"tokenizer.ggml.{key}"].value = value

    return change


def compare(ours, theirs) -> None:
    for text in TEXTS:
        found = ours(text, return_offsets_mapping=True)
        assert found["input_ids"] == theirs(text)["input_ids"], text
        assert ours.decode(found["input_ids"]) == theirs.decode(found["input_ids"]), text
    assert ours.special_tokens_map == theirs.special_tokens_map


def test_ids_equal_those_of_transformers_own_path(path):
    assert len(set(TEXTS)) >= 50
    compare(load_gguf_tokenizer(open_gguf(path)), AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name))


def test_ids_survive_saving_and_loading(path, tmp_path):
    ours = load_gguf_tokenizer(open_gguf(path))
    ours.save_pretrained(tmp_path / "saved")
    compare(ours, AutoTokenizer.from_pretrained(tmp_path / "saved"))


def test_the_start_token_is_added_where_the_file_says_so(tmp_path):
    gemma = load_gguf_tokenizer(open_gguf(tiny_gguf.write(tmp_path / "g.gguf", tiny_gguf.gemma3_lm())))
    assert gemma("the")["input_ids"][0] == gemma.bos_token_id == 2
    bpe = load_gguf_tokenizer(open_gguf(tiny_gguf.write(tmp_path / "l.gguf", tiny_gguf.llama_lm())))
    assert bpe.bos_token_id not in bpe("the")["input_ids"]


@pytest.mark.parametrize(
    ("tokenizer", "pre", "added"), [("llama", "default", True), ("gpt2", "gpt-2", False), ("gpt2", "llama-bpe", True)]
)
def test_the_start_token_of_files_that_do_not_say(tokenizer, pre, added, tmp_path):
    def change(writer):
        writer.kv_data[0].pop("tokenizer.ggml.add_bos_token")
        writer.kv_data[0]["tokenizer.ggml.pre"].value = pre

    path = tiny_gguf.write(tmp_path / "m.gguf", tiny_gguf.llama_lm(), tokenizer=tokenizer, change=change)
    assert read_vocabulary(open_gguf(path)).add_bos is added


def test_llama3_splits_numbers_into_threes(tmp_path):
    def change(writer):
        writer.kv_data[0]["tokenizer.ggml.pre"].value = "llama-bpe"

    tokenizer = load_gguf_tokenizer(
        open_gguf(tiny_gguf.write(tmp_path / "m.gguf", tiny_gguf.llama_lm(), change=change))
    )
    pieces = tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str("in 123456 Space")
    assert [piece for piece, _ in pieces] == ["in", "Ġ", "123", "456", "ĠSpace"]


@pytest.mark.parametrize(
    ("rule", "text", "expected"),
    [
        ("gpt-2", "in  123, ½ don't", ["in", "Ġ", "Ġ123", ",", "ĠÂ½", "Ġdon", "'t"]),
        ("smollm", "in  123, ½ don't", ["in", "ĠĠ", "1", "2", "3", ",", "Ġ", "Â½", "Ġdon", "'t"]),
        ("smollm", "year\n\n1985", ["year", "ĊĊ", "1", "9", "8", "5"]),
        ("default", "in 12345, Space's a+b", ["in", "Ġ", "123", "45", ",", "ĠSpace", "'", "s", "Ġa", "+", "b"]),
    ],
)
def test_text_is_split_as_llama_cpp_splits_it(rule, text, expected, tmp_path):
    """Worked out by hand from its rules: each is applied to the pieces that the one before left."""
    path = tiny_gguf.write(tmp_path / "m.gguf", tiny_gguf.llama_lm(), change=changed("pre", rule))
    tokenizer = load_gguf_tokenizer(open_gguf(path))
    pieces = tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str(text)
    assert [piece for piece, _ in pieces] == expected
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_control_tokens_stay_whole(tmp_path):
    tokenizer = load_gguf_tokenizer(open_gguf(tiny_gguf.write(tmp_path / "g.gguf", tiny_gguf.gemma3_lm())))
    assert tokenizer("<eos><user>", add_special_tokens=False)["input_ids"] == [1, 5]


# Merges and their cache


def test_merges_follow_the_rank_and_the_longest_left_part():
    tokens = ["a", "b", "c", "ab", "abc", "bc"]
    in_order = [tuple(tokens[i] for i in pair) for pair in derive_merges(tokens, None).tolist()]
    assert in_order == [("a", "b"), ("ab", "c"), ("a", "bc"), ("b", "c")]
    scored = derive_merges(tokens, [0.0, 0.0, 0.0, -3.0, -2.0, -1.0])
    assert [tuple(tokens[i] for i in pair) for pair in scored.tolist()] == [
        ("b", "c"),
        ("ab", "c"),
        ("a", "bc"),
        ("a", "b"),
    ]


def test_merges_are_derived_once(tmp_path, monkeypatch):
    file = open_gguf(tiny_gguf.write(tmp_path / "g.gguf", tiny_gguf.gemma3_lm()))
    first = load_gguf_tokenizer(file).backend_tokenizer.to_str()
    kept = list((tmp_path / "cache" / "tokenizers").iterdir())
    assert [path.name for path in kept] == [f"{file.metadata_sha256()}.merges"]

    def again(*_):
        raise RuntimeError("must not be derived again")

    monkeypatch.setattr(gguf_tokenizer, "derive_merges", again)
    assert load_gguf_tokenizer(file).backend_tokenizer.to_str() == first


def write_array(path: Path, array: np.ndarray) -> None:
    """An entry with its hash, of another array."""
    raw = io.BytesIO()
    np.save(raw, array, allow_pickle=True)
    write_entry(path, raw.getvalue())


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b"no array"),
        lambda path: path.write_bytes(path.read_bytes()[:-1] + bytes([path.read_bytes()[-1] ^ 1])),
        lambda path: path.write_bytes(path.read_bytes()[:-7]),
        lambda path: write_array(path, np.full((3, 2), 10**6, dtype=np.int32)),
        lambda path: write_array(path, np.zeros((3, 3), dtype=np.int32)),
        lambda path: write_array(path, np.zeros((3, 2))),
        lambda path: write_array(path, np.array([["a", None]], dtype=object)),
    ],
)
def test_damaged_merges_in_the_cache_are_derived_again(damage, tmp_path):
    file = open_gguf(tiny_gguf.write(tmp_path / "g.gguf", tiny_gguf.gemma3_lm()))
    first = load_gguf_tokenizer(file).backend_tokenizer.to_str()
    (path,) = (tmp_path / "cache" / "tokenizers").glob("*.merges")
    whole = path.read_bytes()
    damage(path)
    assert load_gguf_tokenizer(file).backend_tokenizer.to_str() == first
    assert path.read_bytes() == whole


def test_a_cache_that_cannot_be_written_does_not_matter(tmp_path, monkeypatch):
    (tmp_path / "in the way").write_text("")
    monkeypatch.setenv("FACTEDIT_CACHE", str(tmp_path / "in the way" / "cache"))
    file = open_gguf(tiny_gguf.write(tmp_path / "g.gguf", tiny_gguf.gemma3_lm()))
    assert load_gguf_tokenizer(file)("the")["input_ids"]


def test_another_vocabulary_has_another_key(tmp_path):
    def change(writer):
        writer.kv_data[0]["tokenizer.ggml.tokens"].value[-1] = "another"

    one = open_gguf(tiny_gguf.write(tmp_path / "a.gguf", tiny_gguf.gemma3_lm()))
    other = open_gguf(tiny_gguf.write(tmp_path / "b.gguf", tiny_gguf.gemma3_lm(), change=change))
    weights = open_gguf(tiny_gguf.write(tmp_path / "c.gguf", tiny_gguf.gemma3_lm(seed=1)))
    assert one.metadata_sha256() == weights.metadata_sha256() != other.metadata_sha256()


# Refusals


@pytest.mark.parametrize(
    ("tokenizer", "change", "kind", "match"),
    [
        ("gpt2", changed("model", "rwkv"), UnsupportedModel, "is of kind 'rwkv'; 'llama' and 'gpt2' are built"),
        ("gpt2", changed("model", None), UnsupportedModel, "is of kind None"),
        ("gpt2", changed("pre", "unheard-of"), UnsupportedModel, "by the rule 'unheard-of', which is not known"),
        ("gpt2", changed("pre", None), UnsupportedModel, "splits text by a rule that it does not name"),
        ("gpt2", changed("tokens", None), DataError, "holds no tokens"),
        ("gpt2", changed("merges", None), DataError, "holds no merges"),
        ("gpt2", changed("merges", ["a b c"]), DataError, "the merge 'a b c', which is not two tokens"),
        ("gpt2", changed("merges", ["ab"]), DataError, "the merge 'ab', which is not two tokens"),
        ("gpt2", changed("merges", ["qqq zzz"]), DataError, r"is not sound \(.*qqq"),
        ("gpt2", changed("bos_token_id", 320), DataError, "gives 320 as its bos token id, and it has 320 tokens"),
        ("llama", changed("scores", None), DataError, "has 320 tokens and none of their scores"),
        ("llama", changed("scores", [1.0, 2.0]), DataError, "has 320 tokens and 2 of their scores"),
    ],
)
def test_an_unsound_tokenizer_is_refused(tokenizer, change, kind, match, tmp_path):
    path = tiny_gguf.write(tmp_path / "m.gguf", tiny_gguf.llama_lm(), tokenizer=tokenizer, change=change)
    with pytest.raises(kind, match=match):
        load_gguf_tokenizer(open_gguf(path))


# The embedded models


@pytest.mark.real
def test_the_embedded_smollms_ids_are_the_published_tokenizers():
    """transformers' own path does not take its numbers apart, so the ids are those others have noted."""
    file = packaged("smollm2-135m")
    assert file.metadata["tokenizer.ggml.pre"] == "smollm"
    ours = load_gguf_tokenizer(file)
    assert ours("Hello world! 123")["input_ids"] == [19556, 905, 17, 216, 33, 34, 35]
    assert ours("Café déjà vu.")["input_ids"] == [51, 1939, 2756, 32564, 90, 16739, 386, 101, 30]
    assert ours("  multiple   spaces")["input_ids"] == [216, 2701, 256, 5600]
    assert ours.convert_ids_to_tokens(ours("the  1985\n\n12")["input_ids"]) == [
        "the", "ĠĠ", "1", "9", "8", "5", "ĊĊ", "1", "2",
    ]  # fmt: skip


def packaged(name: str):
    from factedit.files.embedded import EMBEDDED, packaged_file

    try:
        return packaged_file(EMBEDDED[name])
    except ModelError as error:
        pytest.skip(str(error))
