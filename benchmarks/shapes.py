"""Randomly initialised models of any shape, with a tokenizer of words or of bytes: for cost, not for knowledge."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from factedit.facts import EditRequest, FactRecord
from factedit.models.adapter import EditableModel

WORDS = 400


def words_tokenizer() -> PreTrainedTokenizerFast:
    """A word `w7` is one token, number 10; a text has as many tokens as words."""
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2, **{f"w{n}": n + 3 for n in range(WORDS)}}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def byte_tokenizer(texts: Iterable[str], vocab: int = 50_257) -> PreTrainedTokenizerFast:
    """A byte-level BPE of GPT-2's size, trained on texts."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab, special_tokens=["<|endoftext|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )  # fmt: skip
    bpe.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<|endoftext|>", eos_token="<|endoftext|>")


def gpt2_xl(
    device: str = "cpu",
    *,
    tokenizer: PreTrainedTokenizerFast,
    small: bool = False,
    dtype: torch.dtype = torch.float32,
) -> EditableModel:
    """The shape of GPT-2 XL (1.5 B parameters), or a small one of the same kind for a dry run."""
    shape: dict[str, Any] = {"n_layer": 48, "n_embd": 1600, "n_head": 25}
    if small:
        shape = {"n_layer": 6, "n_embd": 128, "n_head": 4}
    torch.manual_seed(0)
    with torch.device(device):
        lm = GPT2LMHeadModel(GPT2Config(bos_token_id=0, eos_token_id=0, **shape)).to(dtype)
    return EditableModel(lm, tokenizer, name="small random GPT-2" if small else "random GPT-2 XL shape")


def llama_8b(
    device: str = "cpu",
    *,
    tokenizer: PreTrainedTokenizerFast,
    small: bool = False,
    dtype: torch.dtype = torch.float32,
) -> EditableModel:
    """The shape of Llama 3 8B, or a small one of the same kind for a dry run."""
    shape: dict[str, Any] = {"hidden_size": 4096, "intermediate_size": 14_336, "num_hidden_layers": 32}
    heads: dict[str, Any] = {"num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128_256}
    if small:
        shape = {"hidden_size": 128, "intermediate_size": 448, "num_hidden_layers": 6}
        heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 50_257}
    torch.manual_seed(0)
    config = LlamaConfig(**shape, **heads, max_position_embeddings=2048, bos_token_id=0, eos_token_id=0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)  # made in it: twice the size would not fit on smaller cards
    try:
        with torch.device(device):
            lm = LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(before)
    return EditableModel(lm, tokenizer, name="small random Llama" if small else "random Llama 3 8B shape")


def llama(*, d_model: int, n_layer: int, vocab: int) -> EditableModel:
    """A Llama-like model with an MLP of four times its width."""
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=d_model, intermediate_size=4 * d_model, num_hidden_layers=n_layer, vocab_size=vocab,
        num_attention_heads=8, num_key_value_heads=8, max_position_embeddings=2048, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    return EditableModel(LlamaForCausalLM(config), words_tokenizer(), name=f"random {d_model}x{n_layer}")


def records(count: int, *, words: int = 8, seed: int = 0) -> list[FactRecord]:
    """Records in CounterFact's form: prompts of `words` words with a subject of two, one-word objects."""
    draw = random.Random(seed)
    word = lambda: f"w{draw.randrange(WORDS)}"  # noqa: E731
    text = lambda n: " ".join(word() for _ in range(n))  # noqa: E731
    found = []
    for number in range(count):
        subject, new, true = text(2), f"w{2 * number % WORDS}", f"w{(2 * number + 1) % WORDS}"
        prompt = "{} " + text(words - 2)
        found.append(
            FactRecord(
                case_id=str(number),
                request=EditRequest(subject=subject, prompt=prompt, target_new=new, target_true=true),
                paraphrases=tuple(f"{text(words)} {subject} {text(words // 2)}" for _ in range(2)),
                neighborhood=tuple(f"{text(2)} {text(words - 2)}" for _ in range(10)),
            )
        )
    return found
