"""A randomly initialised GPT-2 XL on an accelerator: edits per second, evaluation, second moments, share of peak.

python benchmarks/accelerator.py --device cuda --peak-tflops 67 [--out benchmarks/results/NAME.json]
python benchmarks/accelerator.py --small          a dry run of the same code on the processor
"""

from __future__ import annotations

import argparse
import functools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import floor
import shapes
import torch

from factedit.edit.method import make_method
from factedit.edit.value import find_values
from factedit.evaluate.case import questions
from factedit.evaluate.probability import score
from factedit.stats.collect import collect
from factedit.stats.second_moment import SecondMoment

ALL = 1 << 30  # tokens: whatever the batch is, it runs at once
CONTEXTS = ["{}", *(f"w{n} w{n + 1} w{n + 2} w{n + 3} w{n + 4}. {{}}" for n in range(10, 20))]


def seconds(work: Callable[[], Any]) -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    began = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--small", action="store_true", help="a small model and few records")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--peak-tflops", type=float, help="of the device in this type, for the share of peak")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    model = shapes.gpt2_xl(asked.device, small=asked.small)
    model.lm.to(getattr(torch, asked.dtype))
    batches, cases, tokens = ([1, 4], 8, 2_000) if asked.small else ([1, 8, 32, 64, 128], 1000, 100_000)
    layer, layers = (2, [1, 2]) if asked.small else (17, list(range(13, 21)))
    moments = lambda m, _layer: SecondMoment(torch.eye(m.d_mlp))  # noqa: E731
    method: Any = make_method("rome", model, moments, layer=layer, context_templates=CONTEXTS, stop_loss=0.0)
    records = shapes.records(max(cases, max(batches)))
    rows: list[dict[str, Any]] = []

    def note(job: str, took: float, items: int, work: floor.Work) -> None:
        row = {"job": job, "seconds": took, "per_second": items / took, "tflops": work.flops / took / 1e12}
        if asked.peak_tflops:
            row["share_of_peak"] = row["tflops"] / asked.peak_tflops
        rows.append(row)
        print(json.dumps(row), flush=True)

    for batch in batches:
        requests = [r.request for r in records[:batch]]
        edit = functools.partial(
            find_values, model, layer, requests, method.contexts, method.settings, tokens_at_once=ALL
        )
        edit()
        note(
            f"ROME edits, {batch} at once", seconds(edit), batch, floor.edit_work(model, method, requests, [20] * batch)
        )
    part = records[:cases]
    edits = method.compute(model, [r.request for r in part])
    asks = [questions(r) for r in part]
    work = floor.Work(sum(floor.case_work(model, r, layer).flops for r in part), 0.0)
    note(f"{cases} cases, before and after", seconds(lambda: score(model, asks, [None, edits])), cases, work)
    text = [[n % shapes.WORDS for n in range(begin, begin + 512)] for begin in range(0, tokens, 512)]
    took = seconds(lambda: collect(model, layers, text, tokens=tokens))
    note(
        f"second moments, {tokens} tokens, {len(layers)} layers", took, tokens, floor.moment_work(model, layers, tokens)
    )
    name = torch.cuda.get_device_name() if asked.device.startswith("cuda") else "processor"
    result = {"device": name, "torch": torch.__version__, "model": model.name, "dtype": asked.dtype, "jobs": rows}
    if asked.out:
        asked.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
