"""Speed and memory of factedit against the published way, as ratios in one run. Asserts agreement, never a time.

python benchmarks/run.py [--model gemma3-270m] [--out benchmarks/results/NAME.json]
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import plain
import torch

from factedit import Moments, __version__, load, make_method
from factedit.edit.methods.rome import Rome
from factedit.edit.value import find_values
from factedit.evaluate.case import questions
from factedit.evaluate.probability import score
from factedit.report.story import RECORD, SUBJECT, TRACE_PROMPT
from factedit.trace.sweep import KINDS, default_window, trace_fact

NOISE = 2.0
STATES = 24  # restored states the plain trace is timed on; its cost per state is the same for all


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    began = time.perf_counter()
    result = work()
    return time.perf_counter() - began, result


def pairs(name: str, ours: Callable[[], float], theirs: Callable[[], float], repeats: int) -> dict[str, Any]:
    """Time the two alternately; the ratio of each pair, their median and range."""
    rows = [(ours(), theirs()) for _ in range(repeats)]
    ratios = sorted(b / a for a, b in rows)
    row = {
        "job": name,
        "factedit_s": statistics.median(a for a, _ in rows),
        "plain_s": statistics.median(b for _, b in rows),
        "ratio": statistics.median(ratios),
        "ratio_range": [ratios[0], ratios[-1]],
        "pairs": repeats,
    }
    times = f"factedit {row['factedit_s']:8.2f} s   plain {row['plain_s']:8.2f} s"
    print(f"{name:34} {times}   ratio {row['ratio']:5.1f} ({ratios[0]:.1f}–{ratios[-1]:.1f})", flush=True)
    return row


def trace_job(model: Any, repeats: int) -> dict[str, Any]:
    window = default_window(model.n_layer)
    full = trace_fact(model, TRACE_PROMPT, SUBJECT, noise=NOISE)
    everything = [(k, t, n) for k in KINDS for t in range(len(full.tokens)) for n in range(model.n_layer)]
    sample = everything[:: len(everything) // STATES][:STATES]
    plainly = plain.trace_states(model, TRACE_PROMPT, SUBJECT, sample, noise=NOISE, window=window)
    gap = max(abs(full.scores[k][t][n] - p) for (k, t, n), p in zip(sample, plainly, strict=True))
    assert gap < 1e-4, f"the two traces differ by {gap}"

    def ours() -> float:
        return timed(lambda: trace_fact(model, TRACE_PROMPT, SUBJECT, noise=NOISE))[0]

    def theirs() -> float:
        seconds, _ = timed(lambda: plain.trace_states(model, TRACE_PROMPT, SUBJECT, sample, noise=NOISE, window=window))
        return seconds * len(everything) / len(sample)

    row = pairs("trace of one fact, three kinds", ours, theirs, repeats)
    return row | {"note": f"plain timed on {len(sample)} of {len(everything)} states and scaled", "agreement": gap}


def edit_job(model: Any, method: Rome, repeats: int) -> dict[str, Any]:
    request = RECORD.request
    arguments = (model, method.layer, request, method.contexts, method.settings)
    [value] = find_values(model, method.layer, [request], method.contexts, method.settings)
    gap = float((value.delta - plain.rome_delta(*arguments)).norm() / value.delta.norm())
    row = pairs(
        "ROME edit", lambda: timed(lambda: method.compute(model, [request]))[0],
        lambda: timed(lambda: plain.rome_delta(*arguments))[0], repeats,
    )  # fmt: skip
    return row | {"agreement": gap, "evaluations": len(value.losses), "contexts": len(method.contexts)}


def case_job(model: Any, method: Rome, repeats: int) -> dict[str, Any]:
    [edit] = method.compute(model, [RECORD.request])
    asked = [questions(RECORD)]

    def plainly() -> tuple[list[float], list[float]]:
        before = plain.case_probabilities(model, RECORD)
        with edit.applied_to(model):
            return before, plain.case_probabilities(model, RECORD)

    found = score(model, asked, [None, [edit]])
    gap = max(
        abs(s.probability - p)
        for own, other in zip(found, plainly(), strict=True)
        for s, p in zip(own[0], other, strict=True)
    )
    assert gap < 1e-3, f"the two evaluations differ by {gap}"
    row = pairs(
        "one case, before and after", lambda: timed(lambda: score(model, asked, [None, [edit]]))[0],
        lambda: timed(plainly)[0], repeats,
    )  # fmt: skip
    return row | {"agreement": gap, "prompts": len(asked[0]) // 2}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="gemma3-270m")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    model = load(asked.model)
    weights = sum(p.numel() * p.element_size() for p in model.lm.parameters()) / 1e6
    method = make_method("rome", model, Moments())
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    rows = []
    for job in (
        lambda: trace_job(model, asked.repeats),
        lambda: edit_job(model, method, asked.repeats),
        lambda: case_job(model, method, asked.repeats),
    ):  # type: ignore[arg-type]
        rows.append(job())
    result = {
        "factedit": __version__,
        "torch": torch.__version__,
        "machine": platform.machine(),
        "threads": asked.threads,
        "model": model.name,
        "weights_mb": weights,
        "peak_mb_after_loading": base,
        "jobs": rows,
    }
    if asked.out:
        asked.out.parent.mkdir(parents=True, exist_ok=True)
        asked.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
