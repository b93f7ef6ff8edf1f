"""How the cost of a job grows with the work: facts, prompt length, layers, width and vocabulary.

Random Llama-like models; every axis is varied alone. Printed is the time per point and the exponent p of
time ~ size^p, fitted by least squares on logarithms over the larger half of the points.

python benchmarks/curves.py [--out benchmarks/results/NAME.json]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import floor
import numpy as np
import shapes
import torch

from factedit.edit.method import make_method
from factedit.evaluate.case import questions
from factedit.evaluate.probability import score
from factedit.facts import template_of
from factedit.stats.second_moment import SecondMoment
from factedit.trace.sweep import trace_fact

BASE = {"d_model": 256, "n_layer": 8, "vocab": 8000}
CONTEXTS = ["{}", "w1 w2 w3 w4. {}", "w5 w6 w7 w8. {}"]


def edit(model: Any, records: Sequence[Any]) -> None:
    moments = lambda m, _layer: SecondMoment(torch.eye(m.d_mlp))  # noqa: E731
    method = make_method("rome", model, moments, layer=2, steps=5, stop_loss=0, context_templates=CONTEXTS)
    method.compute(model, [r.request for r in records])


def case(model: Any, records: Sequence[Any]) -> None:
    score(model, [questions(r) for r in records], [None])


def trace(model: Any, records: Sequence[Any]) -> None:
    request = records[0].request
    assert template_of(request.text, request.subject)
    trace_fact(model, request.text, request.subject, noise=0.1, samples=3)


def seconds(work: Callable[[], None]) -> float:
    work()
    return floor.best(work, repeats=3)


def exponent(sizes: Sequence[int], times: Sequence[float]) -> float:
    """p of time ~ size^p over the larger half of the sizes."""
    half = len(sizes) // 2
    return float(np.polyfit(np.log(sizes[half:]), np.log(times[half:]), 1)[0])


def curves() -> list[dict[str, Any]]:
    base = shapes.llama(**BASE)
    plans: list[tuple[str, str, list[int], Callable[[int], tuple[Any, list[Any]]], Callable[..., None]]] = [
        ("ROME edits", "facts", [1, 4, 16, 64, 256], lambda n: (base, shapes.records(n)), edit),
        ("cases scored", "facts", [1, 4, 16, 64, 256], lambda n: (base, shapes.records(n)), case),
        ("ROME edits", "prompt words", [8, 32, 128, 512], lambda n: (base, shapes.records(4, words=n)), edit),
        ("trace", "prompt words", [8, 16, 32, 64], lambda n: (base, shapes.records(1, words=n)), trace),
        ("ROME edits", "layers", [6, 12, 24, 48],
         lambda n: (shapes.llama(**BASE | {"n_layer": n}), shapes.records(8)), edit),
        ("trace", "layers", [6, 12, 24, 48],
         lambda n: (shapes.llama(**BASE | {"n_layer": n}), shapes.records(1)), trace),
        ("ROME edits", "d_model", [128, 256, 512, 1024],
         lambda n: (shapes.llama(**BASE | {"d_model": n}), shapes.records(8)), edit),
        ("ROME edits", "vocabulary", [4_000, 16_000, 64_000, 256_000],
         lambda n: (shapes.llama(**BASE | {"vocab": n}), shapes.records(8)), edit),
    ]  # fmt: skip
    found = []
    for job, axis, sizes, make, work in plans:
        times = []
        for size in sizes:
            model, records = make(size)
            times.append(seconds(lambda m=model, r=records, w=work: w(m, r)))
        found.append({"job": job, "axis": axis, "sizes": sizes, "seconds": times, "exponent": exponent(sizes, times)})
        shown = "  ".join(f"{size}: {t:.2f} s" for size, t in zip(sizes, times, strict=True))
        print(f"{job:14} {axis:13} exponent {found[-1]['exponent']:.2f}   {shown}", flush=True)
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
