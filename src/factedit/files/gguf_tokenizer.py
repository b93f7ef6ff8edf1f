"""Build the tokenizer that a .gguf file describes.

A GGUF file has no tokenizer.json: its metadata holds the tokens, their types, and either the merges (byte-level
BPE, `tokenizer.ggml.model` = `gpt2`) or none (SentencePiece BPE, `llama`). In the second case the merges follow from
the vocabulary: every way of cutting a token into two tokens, the best-ranked token first and its longest left part
first. That takes a second or two for 262 144 tokens, so the merges are kept in the cache as pairs of token numbers,
keyed by the sha256 of the metadata; everything else is read anew, which is faster than a tokenizer.json of 33 MB.

Ids are those of transformers' own (slow) GGUF path, but for what that path passes over: how a byte-level tokenizer
splits a text (`tokenizer.ggml.pre`) is done as llama.cpp does it, and an unknown or missing rule is refused (there a
missing one is guessed, with a warning). Llama 3 files that do not say whether to add the start token get it.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from factedit.cache import cache_dir, read_entry, write_entry
from factedit.errors import DataError, ResourceError, UnsupportedModel, first_line, shown
from factedit.files.gguf_reader import GgufFile
from factedit.files.gguf_spelling import spelled_bytes, spelled_spaces

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Merges = list[tuple[str, str]]

_CONTROL, _USER_DEFINED = 3, 4  # ggml's token types
_SPECIAL = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "unk_token": "unknown_token_id",
    "pad_token": "padding_token_id",
}
_LLAMA3_SPLITS = ("llama-bpe", "llama3", "llama-v3")
# The published splits of GPT-2 and of Llama 3.
_GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# By the name of the rule, what a text is split by, one after the other; as llama.cpp does.
_SPLITS = {
    "gpt-2": (_GPT2_PATTERN,),
    "smollm": (r"\p{N}", _GPT2_PATTERN),
    "default": (r"[\p{P}$+<=>^~|]+", _GPT2_PATTERN, r"\p{N}+", "[0-9][0-9][0-9]"),
    **dict.fromkeys(_LLAMA3_SPLITS, (_LLAMA3_PATTERN,)),
}


@dataclass(frozen=True)
class Vocabulary:
    """What a GGUF file says about its tokenizer.

    Attributes:
        kind: `llama` (SentencePiece BPE) or `gpt2` (byte-level BPE).
        split: the name of the pre-tokenizer.
        tokens: by number, spelled as the tokenizers library spells them.
        control: tokens that stay whole in a text and are no text themselves.
        user_defined: tokens that stay whole in a text.
        special: start, end, unknown and padding token, by transformers' names.
        add_bos: whether a text gets the start token.
        add_eos: whether a text gets the end token.
        prefix_space: whether a text gets a space in front (SentencePiece only).
        chat_template: as a Jinja template, or None.
    """

    kind: str
    split: str | None
    tokens: list[str]
    control: list[str]
    user_defined: list[str]
    special: dict[str, str]
    add_bos: bool
    add_eos: bool
    prefix_space: bool
    chat_template: str | None


def load_gguf_tokenizer(file: GgufFile) -> PreTrainedTokenizerBase:
    """Return the fast tokenizer that a GGUF file describes.

    Args:
        file: a checked file; its tensors are not needed.

    Raises:
        DataError: the metadata does not describe a tokenizer.
        UnsupportedModel: a kind of tokenizer that is not built here.
    """
    vocabulary = read_vocabulary(file)
    merges = _merges(file, vocabulary)
    try:
        if vocabulary.kind == "gpt2":
            return _byte_level(vocabulary, merges)
        return _sentencepiece(vocabulary, merges, gemma=_is_gemma(file))
    except (DataError, MemoryError):
        raise
    except Exception as error:  # the tokenizers library raises bare exceptions
        raise DataError(
            f"The tokenizer of {file.name} is not sound ({first_line(error)}). Download the file again."
        ) from error


def read_vocabulary(file: GgufFile) -> Vocabulary:
    """Return what the metadata says about the tokenizer.

    Raises:
        DataError: tokens are missing, or a special token's number is not one of theirs.
        UnsupportedModel: a kind of tokenizer or pre-tokenizer that is not built here.
    """
    said = {key.removeprefix("tokenizer.ggml."): value for key, value in file.metadata.items()}
    kind, split, tokens = said.get("model"), said.get("pre"), said.get("tokens")
    if kind not in ("llama", "gpt2"):
        raise UnsupportedModel(
            f"The tokenizer of {file.name} is of kind {shown(kind)}; 'llama' and 'gpt2' are built. "
            "Use the model's folder with its tokenizer.json instead."
        )
    if kind == "gpt2" and split not in _SPLITS:
        rule = f"by the rule {shown(split)}, which is not known here" if split else "by a rule that it does not name"
        raise UnsupportedModel(
            f"The tokenizer of {file.name} splits text {rule}, so its tokens would be wrong. "
            "Use the model's folder with its tokenizer.json instead."
        )
    if not isinstance(tokens, list) or not tokens:
        raise DataError(f"{file.name} holds no tokens (tokenizer.ggml.tokens). Use a file made with its tokenizer.")
    spell = spelled_bytes if kind == "gpt2" else spelled_spaces if _is_gemma(file) else str
    spelled = [spell(token) for token in tokens]
    types = np.asarray(said.get("token_type", ())).tolist()
    whole = [(t, type_) for t, raw, type_ in zip(spelled, tokens, types, strict=False) if t == raw]
    return Vocabulary(
        kind=kind,
        split=split,
        tokens=spelled,
        control=[token for token, type_ in whole if type_ == _CONTROL],
        user_defined=[token for token, type_ in whole if type_ == _USER_DEFINED],
        special=_special(file.name, said, tokens),
        add_bos=bool(said.get("add_bos_token", kind == "llama" or split in _LLAMA3_SPLITS)),
        add_eos=bool(said.get("add_eos_token", False)),
        prefix_space=bool(said.get("add_space_prefix", True)),
        chat_template=file.metadata.get("tokenizer.chat_template"),
    )


def _special(name: str, said: dict[str, Any], tokens: list[str]) -> dict[str, str]:
    special = {}
    for role, key in _SPECIAL.items():
        number = said.get(key)
        if number is None:
            continue
        if not isinstance(number, int) or not 0 <= number < len(tokens):
            raise DataError(
                f"{name} gives {number!r} as its {key.replace('_', ' ')}, and it has {len(tokens):,} tokens. "
                "Download or convert it again."
            )
        special[role] = tokens[number]
    return special


def _is_gemma(file: GgufFile) -> bool:
    return file.metadata.get("general.architecture") == "gemma3"


def _merges(file: GgufFile, vocabulary: Vocabulary) -> Merges:
    """The merges in their order: from the file, from the cache, or from the vocabulary."""
    listed = file.metadata.get("tokenizer.ggml.merges")
    if listed is not None:
        return [_pair(file.name, merge) for merge in listed]
    if vocabulary.kind == "gpt2":
        raise DataError(f"{file.name} holds no merges (tokenizer.ggml.merges). Download or convert it again.")
    tokens, path = vocabulary.tokens, cache_dir() / "tokenizers" / f"{file.metadata_sha256()}.merges"
    pairs = _cached_pairs(path, len(tokens))
    if pairs is None:
        scores = None if _is_gemma(file) else _scores(file, len(tokens))
        pairs = derive_merges(tokens, scores)
        raw = io.BytesIO()
        np.save(raw, pairs, allow_pickle=False)
        with suppress(ResourceError):  # the cache saves time; without it the merges are derived each time
            write_entry(path, raw.getvalue())
    left, right = (map(tokens.__getitem__, column) for column in pairs.T.tolist())
    return list(zip(left, right, strict=True))


def derive_merges(tokens: Sequence[str], scores: Sequence[float] | None) -> np.ndarray:
    """Return the merges that a SentencePiece BPE vocabulary implies.

    Args:
        tokens: by number.
        scores: the higher, the earlier a token is made; None where the order of the file is the rank (Gemma 3).

    Returns:
        Pairs of token numbers in the order of merging `[merges, 2]`, int32.
    """
    number = {token: place for place, token in enumerate(tokens)}
    find = number.get
    pairs, ranks = [], []
    for token, place in number.items():
        for cut in range(len(token) - 1, 0, -1):
            left = find(token[:cut])
            if left is not None:
                right = find(token[cut:])
                if right is not None:
                    pairs.append((left, right))
                    if scores is not None:
                        ranks.append((-scores[place], -cut, cut - len(token)))
    if scores is not None:
        pairs = [pairs[place] for place in sorted(range(len(pairs)), key=ranks.__getitem__)]
    return np.array(pairs, dtype=np.int32).reshape(-1, 2)


def _cached_pairs(path: Any, tokens: int) -> np.ndarray | None:
    content = read_entry(path)
    if content is None:
        return None
    try:
        pairs = np.load(io.BytesIO(content), allow_pickle=False)
    except (ValueError, EOFError):
        return None
    sound = pairs.ndim == 2 and pairs.shape[1] == 2 and pairs.dtype == np.int32
    return pairs if sound and (not pairs.size or (pairs.min() >= 0 and pairs.max() < tokens)) else None


def _scores(file: GgufFile, tokens: int) -> list[float]:
    scores = file.metadata.get("tokenizer.ggml.scores")
    if scores is None or len(scores) != tokens:
        count = "none" if scores is None else f"{len(scores):,}"
        raise DataError(f"{file.name} has {tokens:,} tokens and {count} of their scores. Download or convert it again.")
    return [float(score) for score in scores]


def _pair(name: str, merge: str) -> tuple[str, str]:
    left, space, right = str(merge).partition(" ")
    if not (left and space and right) or " " in right:
        raise DataError(
            f"{name} holds the merge {shown(merge)}, which is not two tokens. Download or convert it again."
        )
    return left, right


def _sentencepiece(vocabulary: Vocabulary, merges: Merges, *, gemma: bool) -> PreTrainedTokenizerBase:
    from transformers.models.gemma.tokenization_gemma import GemmaTokenizer
    from transformers.models.llama.tokenization_llama import LlamaTokenizer

    numbers = {token: number for number, token in enumerate(vocabulary.tokens)}
    settings: dict[str, Any] = {"vocab": numbers, "merges": merges, **_settings(vocabulary)}
    if gemma:
        tokenizer: GemmaTokenizer | LlamaTokenizer = GemmaTokenizer(**settings)
    else:
        tokenizer = LlamaTokenizer(add_prefix_space=vocabulary.prefix_space, **settings)
    _add_whole_tokens(tokenizer.backend_tokenizer, vocabulary)
    return tokenizer


def _byte_level(vocabulary: Vocabulary, merges: Merges) -> PreTrainedTokenizerBase:
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    numbers = {token: number for number, token in enumerate(vocabulary.tokens)}
    parts = {"continuing_subword_prefix": "", "end_of_word_suffix": "", "fuse_unk": False}
    whole_first = vocabulary.split in _LLAMA3_SPLITS
    bpe = Tokenizer(models.BPE(vocab=numbers, merges=merges, ignore_merges=whole_first, **parts))
    gpt2 = vocabulary.split == "gpt-2"  # the library has its split
    splits = [pre_tokenizers.Split(Regex(part), behavior="isolated") for part in _SPLITS[str(vocabulary.split)]]
    by_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=gpt2)
    bpe.pre_tokenizer = by_bytes if gpt2 else pre_tokenizers.Sequence([*splits, by_bytes])
    bpe.decoder = decoders.ByteLevel()
    _add_whole_tokens(bpe, vocabulary)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, **_settings(vocabulary))


def _settings(vocabulary: Vocabulary) -> dict[str, Any]:
    settings: dict[str, Any] = {**dict.fromkeys(_SPECIAL), **vocabulary.special}
    settings |= {"add_bos_token": vocabulary.add_bos, "add_eos_token": vocabulary.add_eos}
    if vocabulary.chat_template is not None:
        settings["chat_template"] = vocabulary.chat_template
    return settings


def _add_whole_tokens(backend: Any, vocabulary: Vocabulary) -> None:
    from tokenizers import AddedToken

    backend.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in vocabulary.control])
    backend.add_tokens([AddedToken(token, normalized=False) for token in vocabulary.user_defined])
