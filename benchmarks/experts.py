"""What experts cost beside one MLP per layer: ratios of times in one run, on random weights of one shape.

python benchmarks/experts.py [--experts 8] [--per-token 1] [--width 256] [--rounds 5] [--out FILE.json]

Measured, each the median of `--rounds` that take turns with what they are compared with:

- `edit`: rome of one fact in a layer of experts, each of the MLP's shape, over the same of one MLP;
- `edit, one expert`: the same of a mixture of one expert, which is the dense one: what the experts' path costs;
- `edit, all of one width`: the same over one MLP as wide as all experts together, the shape of their joined matrix;
- `moments`: C of all experts of a layer in one pass, over C of one MLP; and over one pass for every expert;
- `plain forward`: a forward pass as transformers makes it, over the dense one's: what is not factedit's;
- `forward`: a forward pass with the change of one expert added beside it, over the same of one MLP;
- `loading`: proving a model on loading, over the dense one's.

A dense model is not touched by any of this; that its path is as fast as before is what `benchmarks/run.py` shows.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedTokenizerFast

from factedit.edit.effects.low_rank import LowRank
from factedit.edit.methods.rome import rome
from factedit.facts import EditRequest
from factedit.models.adapter import EditableModel
from factedit.stats.collect import collect
from factedit.stats.experts_moment import ExpertsMoment
from factedit.stats.second_moment import SecondMoment

LAYER, TOKENS = 2, 2048
FACT = EditRequest(subject="ab cd", prompt="{} ef", target_new="gh")


def letters() -> PreTrainedTokenizerFast:
    """Every byte is a token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bpe = Tokenizer(models.BPE(vocab={sign: n for n, sign in enumerate(alphabet)}, merges=[]))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, pad_token=alphabet[0])


def model_of(kind: str, width: int, experts: int, per_token: int, *, wider: int = 1) -> EditableModel:
    """A random model; of experts each is as wide as the dense one's MLP, unless that is made wider."""
    torch.manual_seed(0)
    config = CONFIG_MAPPING[kind](
        vocab_size=256, hidden_size=width, intermediate_size=2 * width * wider, moe_intermediate_size=2 * width,
        num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=4, head_dim=width // 4, num_experts=experts,
        num_experts_per_tok=per_token, max_position_embeddings=512,
    )  # fmt: skip
    return EditableModel(AutoModelForCausalLM.from_config(config).eval(), letters(), name=kind)


def identity(model: EditableModel, layer: int) -> Any:
    """C = I, of every expert."""
    mixture = model.mixture(layer)
    if mixture is None:
        return SecondMoment(torch.eye(model.mlp(layer).width))
    blocks = {name: SecondMoment(torch.eye(own.stop - own.start)) for name, own in mixture.slices.items()}
    return ExpertsMoment(blocks, mixture.slices, layer, TOKENS)


def editing(model: EditableModel) -> Callable[[], object]:
    """One fact, twenty evaluations of its loss."""
    method = rome(model, identity, layer=LAYER, stop_loss=0.0, context_templates=["{}", "ij. {}", "kl mn. {}"])
    return lambda: method.edit([FACT])


def reading(model: EditableModel, rows: list[list[int]]) -> Callable[[], object]:
    """C of a layer."""
    return lambda: collect(model, [LAYER], rows, tokens=TOKENS)


def passing(model: EditableModel, ids: torch.Tensor) -> Callable[[], object]:
    """A forward pass as transformers makes it."""

    def run() -> object:
        with torch.no_grad():
            return model.lm(input_ids=ids)

    return run


def running(model: EditableModel, ids: torch.Tensor) -> Callable[[], object]:
    """A forward pass with a change of rank one beside a matrix."""
    name = "out" if model.mixture(LAYER) is None else "out.0"
    d_in, d_out = model.weight(LAYER, name).shape
    effect = LowRank(LAYER, torch.ones(d_in, 1), torch.ones(1, d_out), name)

    def run() -> object:
        with torch.no_grad(), effect.on_batch(model):
            return model.lm(input_ids=ids)

    return run


def ratio(first: Callable[[], object], second: Callable[[], object], rounds: int) -> dict[str, float]:
    """Median times of two jobs that take turns, and their ratio."""
    times: tuple[list[float], list[float]] = [], []
    for turn in range(rounds + 1):
        for job, own in zip((first, second), times, strict=True):
            begin = time.process_time()
            job()
            if turn:  # the first warms up
                own.append(time.process_time() - begin)
    seconds = [statistics.median(own) for own in times]
    return {"seconds": seconds[0], "against": seconds[1], "ratio": seconds[0] / seconds[1]}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--experts", type=int, default=8)
    parser.add_argument("--per-token", type=int, default=1, help="experts that a token is sent to")
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    mixed, dense = (model_of(kind, asked.width, asked.experts, asked.per_token) for kind in ("qwen3_moe", "qwen3"))
    one = model_of("qwen3_moe", asked.width, 1, 1)
    joined = model_of("qwen3", asked.width, asked.experts, asked.per_token, wider=asked.experts)
    random = torch.Generator().manual_seed(0)
    ids = torch.randint(256, (TOKENS // 128, 128), generator=random)
    rows = ids.tolist()
    one_each = lambda: [reading(mixed, rows)() for _ in range(asked.experts)]  # noqa: E731
    again = lambda model: lambda: EditableModel(model.lm, model.tokenizer)  # noqa: E731
    found = {
        "edit": ratio(editing(mixed), editing(dense), asked.rounds),
        "edit, one expert": ratio(editing(one), editing(dense), asked.rounds),
        "edit, all of one width": ratio(editing(mixed), editing(joined), asked.rounds),
        "moments": ratio(reading(mixed, rows), reading(dense, rows), asked.rounds),
        "moments, a pass for every expert": ratio(reading(mixed, rows), one_each, max(1, asked.rounds // 3)),
        "plain forward": ratio(passing(mixed, ids[:4]), passing(dense, ids[:4]), asked.rounds),
        "forward": ratio(running(mixed, ids[:4]), running(dense, ids[:4]), asked.rounds),
        "loading": ratio(again(mixed), again(dense), asked.rounds),
    }
    about = {name: getattr(asked, name) for name in ("experts", "per_token", "width", "rounds")}
    report = {**about, "torch": torch.__version__, **found}
    print(json.dumps(report, indent=1))
    if asked.out:
        asked.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
