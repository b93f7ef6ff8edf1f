"""A small mixture of experts that is trained here until it knows a toy set of facts.

    python tests/tiny_experts.py FOLDER        trains it, says what it knows, and saves it as transformers do

Twelve people live in one of four cities and play one of four games; every fact is said in three ways, the last of
which no edit sees. The model has three layers of four experts, two a token, and a byte-level BPE of its own text.
"""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedTokenizerFast

from factedit.facts import EditRequest, FactRecord
from factedit.models.adapter import EditableModel

FIRST = ("Ada", "Bo", "Cleo", "Dan")
LAST = (
    "Stone", "Rivers", "Woods", "Hill", "Marsh", "Fields", "Brooks", "Banks", "Shaw", "Heath", "Dale", "Moor",
)  # fmt: skip
PLACES, GAMES = ("Rome", "Oslo", "Cairo", "Lima"), ("chess", "golf", "tennis", "rugby")
LIVES = ("{} lives in", "The home of {} is", "Today {} is at home in")
PLAYS = ("{} plays", "The game of {} is", "On Sundays {} plays")
PEOPLE = tuple(f"{FIRST[n % len(FIRST)]} {last}" for n, last in enumerate(LAST))
STEPS = 120
RATE = 8e-3


def sentences() -> list[str]:
    """Every fact in each of its wordings, and what the people are."""
    said = [f"{way.format(who)} {_of(n, PLACES)}." for n, who in enumerate(PEOPLE) for way in LIVES]
    said += [f"{way.format(who)} {_of(n // 2, GAMES)}." for n, who in enumerate(PEOPLE) for way in PLAYS]
    return said + [f"{who} is a person." for who in PEOPLE]


def _of(number: int, objects: tuple[str, ...]) -> str:
    return objects[number % len(objects)]


def records() -> list[FactRecord]:
    """Each person moved to the next city: paraphrases, and neighbours who live where the person did."""
    found = []
    for n, who in enumerate(PEOPLE):
        others = [other for m, other in enumerate(PEOPLE) if m != n and _of(m, PLACES) == _of(n, PLACES)]
        request = EditRequest(
            subject=who, prompt=LIVES[0], target_new=_of(n + 1, PLACES), target_true=_of(n, PLACES)
        )  # fmt: skip
        found.append(
            FactRecord(
                case_id=str(n),
                request=request,
                paraphrases=tuple(way.format(who) for way in LIVES[1:]),
                neighborhood=tuple(LIVES[0].format(other) for other in others),
            )
        )
    return found


def tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE in which every word of the facts is one token."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512, special_tokens=["<pad>", "<s>", "</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )  # fmt: skip
    bpe.train_from_iterator(sentences(), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, pad_token="<pad>", bos_token="<s>", eos_token="</s>")


def trained(*, seed: int = 0, steps: int = STEPS) -> tuple[EditableModel, float]:
    """Train the model.

    Args:
        seed: of weights; the sentences come all together, in order.
        steps: of Adam.

    Returns:
        The model, and the last loss in nats a token.
    """
    torch.manual_seed(seed)
    words = tokenizer()
    config = CONFIG_MAPPING["qwen3_moe"](
        vocab_size=512, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=4, head_dim=8,
        intermediate_size=64, moe_intermediate_size=32, num_experts=4, num_experts_per_tok=2, norm_topk_prob=True,
        max_position_embeddings=64, pad_token_id=0, bos_token_id=1, eos_token_id=2, tie_word_embeddings=True,
        initializer_range=0.06,
    )  # fmt: skip
    lm = AutoModelForCausalLM.from_config(config)
    batch = words(sentences(), padding=True, return_tensors="pt")
    ids, mask = batch["input_ids"], batch["attention_mask"]
    labels = ids.masked_fill(mask == 0, -100)
    labels[:, :2] = -100  # who a sentence is about cannot be known
    adam = torch.optim.AdamW(lm.parameters(), lr=RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(adam, RATE, total_steps=steps)
    loss = torch.tensor(torch.inf)
    for _ in range(steps):
        loss = lm(input_ids=ids, attention_mask=mask, labels=labels).loss
        adam.zero_grad()
        loss.backward()
        adam.step()
        schedule.step()
    lm.eval().requires_grad_(False)
    return EditableModel(lm, words, name="toy-experts"), float(loss.detach())


@cache
def toy() -> EditableModel:
    """The trained model, made once."""
    return trained()[0]


if __name__ == "__main__":
    model, last = trained()
    place = Path(sys.argv[1])
    model.lm.save_pretrained(place)
    model.tokenizer.save_pretrained(place)
    sys.stdout.write(f"{sum(p.numel() for p in model.lm.parameters())} weights, loss {last:.3f}, saved in {place}\n")
