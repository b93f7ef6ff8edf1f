"""How the cost of a job grows with the work: facts, prompt length, layers, width and vocabulary.

Random Llama-like models; every axis is varied alone. Printed is the time per point and the exponent p of
time ~ size^p, fitted by least squares on logarithms over the larger half of the points; beside it the exponent of the
work, the multiply-adds that `floor.py` counts.

python benchmarks/curves.py [--out benchmarks/results/NAME.json]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import floor
import numpy as np
import shapes
import torch

from factedit.edit.method import make_method
from factedit.evaluate.benchmarks.counterfact import COUNTERFACT
from factedit.evaluate.probability import score
from factedit.stats.second_moment import SecondMoment
from factedit.trace.sweep import default_window, trace_fact

BASE = {"d_model": 256, "n_layer": 8, "vocab": 8000}
CONTEXTS = ["{}", "w1 w2 w3 w4. {}", "w5 w6 w7 w8. {}"]
STEPS, SAMPLES = 5, 3


def method_of(model: Any) -> Any:
    moments = lambda m, _layer: SecondMoment(torch.eye(m.d_mlp))  # noqa: E731
    return make_method("rome", model, moments, layer=2, steps=STEPS, stop_loss=0, context_templates=CONTEXTS)


def edit(model: Any, records: Sequence[Any]) -> None:
    method_of(model).edit([r.request for r in records])


def edit_work(model: Any, records: Sequence[Any]) -> float:
    return floor.edit_work(model, method_of(model), [r.request for r in records], [STEPS] * len(records)).flops


def case(model: Any, records: Sequence[Any]) -> None:
    score(model, [COUNTERFACT.questions(r) for r in records], [None])


def case_work(model: Any, records: Sequence[Any]) -> float:
    return sum(floor.case_work(model, record, 0).flops for record in records) / 2  # of before and after, one


def trace(model: Any, records: Sequence[Any]) -> None:
    request = records[0].request
    trace_fact(model, request.text, request.subject, noise=0.1, samples=SAMPLES)


def trace_work(model: Any, records: Sequence[Any]) -> float:
    request = records[0].request
    return floor.trace_work(model, request.text, request.subject, default_window(model.n_layer), SAMPLES).flops


def seconds(work: Callable[[], None]) -> float:
    work()
    return floor.best(work, repeats=3)


def exponent(sizes: Sequence[int], costs: Sequence[float]) -> float:
    """p of cost ~ size^p over the larger half of the sizes."""
    half = len(sizes) // 2
    return float(np.polyfit(np.log(sizes[half:]), np.log(costs[half:]), 1)[0])


JOBS = {"ROME edits": (edit, edit_work), "cases scored": (case, case_work), "trace": (trace, trace_work)}


def curves() -> list[dict[str, Any]]:
    base = shapes.llama(**BASE)
    plans: list[tuple[str, str, list[int], Callable[[int], tuple[Any, list[Any]]]]] = [
        ("ROME edits", "facts", [1, 4, 16, 64, 256], lambda n: (base, shapes.records(n))),
        ("cases scored", "facts", [1, 4, 16, 64, 256], lambda n: (base, shapes.records(n))),
        ("ROME edits", "prompt words", [8, 32, 128, 512], lambda n: (base, shapes.records(4, words=n))),
        ("trace", "prompt words", [8, 16, 32, 64], lambda n: (base, shapes.records(1, words=n))),
        ("ROME edits", "layers", [6, 12, 24, 48],
         lambda n: (shapes.llama(**BASE | {"n_layer": n}), shapes.records(8))),
        ("trace", "layers", [6, 12, 24, 48], lambda n: (shapes.llama(**BASE | {"n_layer": n}), shapes.records(1))),
        ("ROME edits", "d_model", [128, 256, 512, 1024],
         lambda n: (shapes.llama(**BASE | {"d_model": n}), shapes.records(8))),
        ("ROME edits", "vocabulary", [4_000, 16_000, 64_000, 256_000],
         lambda n: (shapes.llama(**BASE | {"vocab": n}), shapes.records(8))),
    ]  # fmt: skip
    found = []
    for job, axis, sizes, make in plans:
        work, count = JOBS[job]
        times, flops = [], []
        for size in sizes:
            model, records = make(size)
            times.append(seconds(partial(work, model, records)))
            flops.append(count(model, records))
        of_time, of_work = exponent(sizes, times), exponent(sizes, flops)
        found.append(
            {"job": job, "axis": axis, "sizes": sizes, "seconds": times, "flops": flops, "exponent": of_time,
             "exponent_of_work": of_work}
        )  # fmt: skip
        shown = "  ".join(f"{size}: {t:.2f} s" for size, t in zip(sizes, times, strict=True))
        print(f"{job:14} {axis:13} exponent {of_time:.2f}, of the work {of_work:.2f}   {shown}", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    result = {"torch": torch.__version__, "threads": asked.threads, "base": BASE, "curves": curves()}
    if asked.out:
        asked.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
