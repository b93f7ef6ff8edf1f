"""Written answers of differently edited models in one batch, over one model at a time.

    python benchmarks/written.py --model gemma3-270m --edits 32 --json FILE

Every fact has a rank-one edit of its own, random and small, of the preset's matrix: what is written differs from fact
to fact, and costs what it costs under a real edit. Asked is what the metric `written` asks. Both ways are timed in turn
in one process; the share of texts that differ between them is told (rounding may part two texts that are nearly as
likely). `--tiny FOLDER` takes a random GPT-2 of four layers with the tokenizer of a folder, to try the program.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

from factedit.data.worldfacts import worldfacts
from factedit.edit.artefact import Edit
from factedit.edit.effects.low_rank import LowRank
from factedit.edit.presets import settings_for
from factedit.evaluate.asks import replies
from factedit.evaluate.metrics.written import WrittenAnswers
from factedit.facts import FactRecord
from factedit.models.adapter import EditableModel
from factedit.models.load import load

SIZE = 0.05  # of a random edit, as a share of the matrix's norm


def edits_of(model: EditableModel, records: list[FactRecord], layer: int) -> list[Edit]:
    """A random edit per record."""
    random = torch.Generator().manual_seed(0)
    d_in, d_out = model.weight(layer).shape
    made_for, norm = model.fingerprint(), float(model.weight(layer).float().norm())
    found = []
    for record in records:
        left, right = torch.randn(d_in, 1, generator=random), torch.randn(1, d_out, generator=random)
        left *= SIZE * norm / float(left.norm() * right.norm())
        found.append(
            Edit(method="random", requests=(record.request,), effects=(LowRank(layer, left, right),), made_for=made_for)
        )
    return found


def written(
    model: EditableModel, records: list[FactRecord], edits: list[Edit], at_once: int
) -> tuple[float, list[Any]]:
    """Seconds, and what was written of each record."""
    metric, found = WrittenAnswers(), []
    began = time.perf_counter()
    for begin in range(0, len(records), at_once):
        part = slice(begin, begin + at_once)
        [own] = replies(model, [metric.asks(record) for record in records[part]], [edits[part]], seed=0)
        found += own
    return time.perf_counter() - began, found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="gemma3-270m")
    parser.add_argument("--tiny", type=Path, help="folder with a tokenizer: a random GPT-2 instead of --model")
    parser.add_argument("--edits", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    said = parser.parse_args()
    torch.set_num_threads(said.threads)
    model = load(said.model) if said.tiny is None else tiny_of(said.tiny)
    layer = settings_for(model).layer or 0
    records = worldfacts(0)[: said.edits]
    edits = edits_of(model, records, layer)
    written(model, records[:2], edits[:2], 2)  # the weights are read, kernels are chosen
    times: dict[str, list[float]] = {"together": [], "alone": []}
    for _ in range(said.repeats):
        seconds, together = written(model, records, edits, len(records))
        times["together"].append(seconds)
        seconds, alone = written(model, records, edits, 1)
        times["alone"].append(seconds)
    texts = [(a, b) for own, other in zip(together, alone, strict=True) for a, b in zip(own, other, strict=True)]
    differ = sum(a != b for a, b in texts) / len(texts)
    best = {name: min(own) for name, own in times.items()}
    row = {
        "model": model.name, "edits": len(edits), "texts": len(texts), "threads": said.threads, "seconds": times,
        "ratio": best["alone"] / best["together"], "texts_that_differ": differ,
        "medians": {name: statistics.median(own) for name, own in times.items()},
    }  # fmt: skip
    print(json.dumps(row, indent=1))
    if said.json:
        said.json.write_text(json.dumps(row, indent=1) + "\n")


def tiny_of(folder: Path) -> EditableModel:
    """A random GPT-2 of four layers with the tokenizer of a folder."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=128, n_layer=4, n_head=4, n_positions=512)
    return EditableModel(GPT2LMHeadModel(config).eval(), tokenizer, name="tiny")


if __name__ == "__main__":
    main()
