"""One edit on a randomly initialised model of GPT-2 XL's or GPT-J's shape: that it runs, in what time and memory.

python benchmarks/xl_shape.py --shape gpt2-xl --method rome-original --method ft [--out benchmarks/results/NAME.json]

GPT-2 XL takes 6.5 GB in float32, GPT-J 24 GB (half in bfloat16). The weights are random, so only time and memory mean
anything; the second moment is diagonal, its values from 0.001 to 10, and costs as much as a real one.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, GPT2Config, GPTJConfig, PreTrainedTokenizerFast

from factedit import EditRequest, make_method
from factedit.memory import PeakMemory
from factedit.models.adapter import EditableModel
from factedit.stats.second_moment import SecondMoment

SHAPES: dict[str, Any] = {
    "gpt2-xl": lambda: GPT2Config(n_layer=48, n_embd=1600, n_head=25),
    "gpt-j": lambda: GPTJConfig(n_layer=28, n_embd=4096, n_head=16, rotary_dim=64),
}
REQUEST = EditRequest(
    subject="The Space Needle", prompt="{} is located in the city of", target_new="Paris", target_true="Seattle"
)


def tokenizer() -> PreTrainedTokenizerFast:
    """A small byte-level tokenizer: a model of random weights needs no better one."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )  # fmt: skip
    bpe.train_from_iterator([REQUEST.text + " Paris Seattle"] * 4, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="</s>", eos_token="</s>")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=sorted(SHAPES), default="gpt2-xl")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--method", action="append", default=[])
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    began = time.perf_counter()
    with PeakMemory() as peak:
        lm = AutoModelForCausalLM.from_config(SHAPES[asked.shape](), dtype=getattr(torch, asked.dtype))
    model = EditableModel(lm, tokenizer(), name=f"random {asked.shape}")
    weights = sum(p.numel() * p.element_size() for p in lm.parameters()) / 1e6
    row: dict[str, Any] = {
        "shape": asked.shape, "dtype": asked.dtype, "threads": asked.threads, "torch": torch.__version__,
        "weights_mb": round(weights), "seconds_to_build": round(time.perf_counter() - began, 1),
        "peak_mb_of_building": round(peak.mb), "edits": [],
    }  # fmt: skip
    print(json.dumps(row), flush=True)
    for name in asked.method or ["rome-original", "ft"]:
        row["edits"].append(one_edit(model, name))
        print(json.dumps(row["edits"][-1]), flush=True)
    if asked.out:
        asked.out.parent.mkdir(parents=True, exist_ok=True)
        asked.out.write_text(json.dumps(row, indent=1) + "\n")


def one_edit(model: EditableModel, name: str) -> dict[str, Any]:
    """Time, memory and losses of an edit."""
    method = make_method(name, model, lambda m, _layer: SecondMoment(torch.logspace(-3, 1, m.d_mlp).diag()))
    began = time.perf_counter()
    with PeakMemory(model.device) as peak:
        [edit] = method.edit([REQUEST]).edits
    losses = [losses[0] for losses in edit.told_of(0)["losses"]]
    return {
        "method": name, "layer": edit.effects[0].layer, "seconds": round(time.perf_counter() - began, 1),
        "peak_mb": round(peak.mb), "losses": [round(losses[0], 3), round(losses[-1], 3), len(losses)],
    }  # fmt: skip


if __name__ == "__main__":
    main()
