"""Small tokenizers of every kind, with vocabularies written out, so that a test can say each token by hand."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from conftest import TEXT, tiny_lm
from factedit.models.adapter import EditableModel

BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
WORDS = ("Catherine", "answer", "Paris", "year", "cost", "gift", "The", "was", "Cat", "say", "is", "in", "of")
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,:;!?()[]\"'«»“”$€%-_/\n"
HAN = "東京首都は日本答案是法国巴黎。：「」"
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def model_with(tokenizer: PreTrainedTokenizerFast, **changes: Any) -> EditableModel:
    """A tiny random model whose tokenizer this is."""
    lm = tiny_lm("gpt2", vocab_size=len(tokenizer), **{"n_layer": 2, **changes})
    return EditableModel(lm, tokenizer, name="tiny")


def pieces(model: EditableModel, ids: Iterable[int]) -> list[str]:
    """Tokens as the vocabulary writes them."""
    return model.tokenizer.convert_ids_to_tokens(list(ids))


def _bpe(special: Sequence[str], words: Sequence[str], letters: str, **settings: Any) -> Tokenizer:
    """A BPE whose merges build each word from its left."""
    tokens = dict.fromkeys([*special, *BYTES, *letters])
    merges = {}
    for word in words:
        for cut in range(1, len(word)):
            merges[(word[:cut], word[cut])] = None
            tokens[word[: cut + 1]] = None
    vocabulary = {token: number for number, token in enumerate(tokens)}
    return Tokenizer(models.BPE(vocabulary, list(merges), **settings))


def _special(tokenizer: Tokenizer, *tokens: str) -> None:
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in tokens])


def gemma_like() -> PreTrainedTokenizerFast:
    """As Gemma: a space is a token before a digit and part of a word's; unknown characters are written as bytes."""
    words = [*(f"▁{word}" for word in WORDS), "▁東京", *WORDS, "東京"]
    bpe = _bpe(["<pad>", "<eos>", "<bos>", "<unk>"], words, LETTERS + HAN + "▁", unk_token="<unk>", byte_fallback=True)
    bpe.normalizer = normalizers.Replace(" ", "▁")
    bpe.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    bpe.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    bpe.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    _special(bpe, "<start_of_turn>", "<end_of_turn>")
    named = {"bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>", "pad_token": "<pad>"}
    return PreTrainedTokenizerFast(tokenizer_object=bpe, **named)


def llama_like() -> PreTrainedTokenizerFast:
    """As Llama 2: a space is put before the text, and decoding drops it again."""
    words = [f"▁{word}" for word in WORDS]
    bpe = _bpe(["<unk>", "<s>", "</s>"], words, LETTERS + HAN + "▁", unk_token="<unk>", byte_fallback=True)
    bpe.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False)
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    bpe.decoder = decoders.Sequence(steps)
    bpe.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def _byte_level(words: Sequence[str], special: Sequence[str]) -> Tokenizer:
    spelled = [word.replace(" ", "Ġ") for word in words]
    tokens = dict.fromkeys([*special, *sorted(pre_tokenizers.ByteLevel.alphabet())])
    merges = {}
    for word in spelled:
        for cut in range(1, len(word)):
            merges[(word[:cut], word[cut])] = None
            tokens[word[: cut + 1]] = None
    bpe = Tokenizer(models.BPE({token: number for number, token in enumerate(tokens)}, list(merges)))
    bpe.decoder = decoders.ByteLevel()
    return bpe


def spelling(*words: str) -> PreTrainedTokenizerFast:
    """Byte-level, with a token for each of these words."""
    spell = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe = _byte_level([spell.pre_tokenize_str(word)[0][0] for word in words], ["</s>"])
    bpe.pre_tokenizer = spell
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="</s>", eos_token="</s>")


def digits_apart(*, trim: bool = False) -> PreTrainedTokenizerFast:
    """As SmolLM: byte-level, digits one by one, so that the space before a number stands alone.

    Args:
        trim: leave the space out of a token's characters, as RoBERTa does; a space alone then covers none.
    """
    bpe = _byte_level([*(f" {word}" for word in WORDS), *WORDS, "  "], ["<|endoftext|>"])
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    bpe.post_processor = processors.ByteLevel(trim_offsets=trim)
    _special(bpe, "<|endoftext|>", "<|im_start|>", "<|im_end|>")
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|endoftext|>", bos_token="<|endoftext|>")


def llama3_like() -> PreTrainedTokenizerFast:
    """As Llama 3: byte-level, numbers in threes, a start token."""
    words = [*(f" {word}" for word in WORDS), *WORDS, "198", "19", "5"]
    bpe = _byte_level(words, ["<|begin_of_text|>", "<|end_of_text|>"])
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA3), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    _special(bpe, "<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
    start = ("<|begin_of_text|>", 0)
    bpe.post_processor = processors.TemplateProcessing(single=f"{start[0]} $A", special_tokens=[start])
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token=start[0], eos_token="<|end_of_text|>")


def roberta_like() -> PreTrainedTokenizerFast:
    """As RoBERTa: a space is put before the text, `<s>` and `</s>` around it, and spaces belong to no token."""
    bpe = _byte_level([*(f" {word}" for word in WORDS), *WORDS], ["<s>", "<pad>", "</s>", "<unk>"])
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    bpe.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), trim_offsets=True, add_prefix_space=True)
    named = {"bos_token": "<s>", "eos_token": "<|end|>", "unk_token": "<unk>", "pad_token": "<pad>"}
    return PreTrainedTokenizerFast(tokenizer_object=bpe, **named)


def wordpiece() -> PreTrainedTokenizerFast:
    """As BERT: lower case, no accents, no spaces, `[CLS]` and `[SEP]` around the text, `[UNK]` for unknown words."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    words = [*(word.lower() for word in WORDS), *"0123456789abcdeinors.,?()$", "##85", "##s", "cafe", "19"]
    vocabulary = {token: number for number, token in enumerate(dict.fromkeys([*special, *words]))}
    whole = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    whole.normalizer = normalizers.BertNormalizer()
    whole.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    whole.decoder = decoders.WordPiece()
    around = [("[CLS]", 2), ("[SEP]", 3)]
    whole.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=around)
    named = {"cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]", "pad_token": "[PAD]"}
    return PreTrainedTokenizerFast(tokenizer_object=whole, **named)


def unigram(*, byte_fallback: bool = False) -> PreTrainedTokenizerFast:
    """As T5 or XLM-R: SentencePiece's Unigram after NFKC, an end token; unknown characters as `<unk>` or as bytes."""
    parts = [("<unk>", 0.0), ("</s>", 0.0), *((byte, -20.0) for byte in (BYTES if byte_fallback else ()))]
    letters = dict.fromkeys("▁" + LETTERS + "é")
    parts += [(f"▁{word}", -3.0) for word in WORDS] + [(letter, -9.0) for letter in letters]
    whole = Tokenizer(models.Unigram(parts, unk_id=0, byte_fallback=byte_fallback))
    whole.normalizer = normalizers.NFKC()
    whole.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    whole.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="always")])
    whole.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=whole, eos_token="</s>", unk_token="<unk>")


def joining(*joined: str) -> PreTrainedTokenizerFast:
    """One that has tokens across words: no split at all before its merges."""
    return PreTrainedTokenizerFast(
        tokenizer_object=_bpe(["<s>"], [*WORDS, *joined], LETTERS + HAN + " "), bos_token="<s>", eos_token="<s>"
    )


def trained() -> PreTrainedTokenizerFast:
    """A byte-level BPE trained on a few sentences, lower case after NFKC: its text is not the text that was given."""
    from tokenizers import trainers

    bpe = Tokenizer(models.BPE())
    bpe.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=["</s>"], initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator([TEXT] * 4, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="</s>", eos_token="</s>")


KINDS = {
    "gemma": gemma_like, "llama": llama_like, "digits": digits_apart, "trimmed": lambda: digits_apart(trim=True),
    "llama3": llama3_like, "roberta": roberta_like, "bytes-unigram": lambda: unigram(byte_fallback=True),
    "lower": trained,
}  # fmt: skip
"""Tokenizers that know every character."""
