"""Speed and memory of factedit against the published way, as ratios in one run, and over the floor.

Asserts agreement of the two ways, never a time.

python benchmarks/run.py [--model gemma3-270m] [--jobs trace,edit] [--dtype bfloat16] [--out FILE.json]

With `--dtype` factedit computes in that type, the published way in float32 as ever, and how far the two are apart
is noted instead of asserted.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import floor
import torch

import plain
from factedit import Moments, __version__, load, load_dataset, make_method, select
from factedit.edit.methods.rome import Rome
from factedit.edit.value import find_values
from factedit.evaluate.benchmarks.counterfact import COUNTERFACT
from factedit.evaluate.probability import score
from factedit.facts import FactRecord
from factedit.memory import PeakMemory, ask_for_huge_pages, release
from factedit.stats.collect import collect, token_pieces
from factedit.trace.sweep import KINDS, default_window, trace_fact
from factedit.work.demo import RECORD, SUBJECT, TRACE_PROMPT

NOISE = 2.0
STATES = 24  # restored states the plain trace is timed on; its cost per state is the same for all
FACTS = 32
PLAIN_FACTS, PLAIN_CASES = 2, 4  # of the batch, evenly spread, done plainly one by one
MOMENT_LAYERS, MOMENT_TOKENS = range(1, 9), 6_000


@dataclass(frozen=True)
class Bench:
    """What the jobs share: the model twice where factedit computes in another type than the published way."""

    model: Any
    theirs: Any
    method: Rome
    records: list[FactRecord]
    repeats: int
    machine: floor.Machine

    def agreed(self, gap: float, most: float) -> float:
        """The gap between the two ways, which in float32 must be small."""
        assert self.model is not self.theirs or gap < most, f"the two ways differ by {gap}"
        return gap


def timed(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def pairs(
    bench: Bench, name: str, ours: Callable[[], Any], theirs: Callable[[], Any], work: floor.Work, *,
    of_ours: int = 1, of_theirs: float = 1, **more: Any,
) -> dict[str, Any]:  # fmt: skip
    """Time the two alternately, per item; the ratio of each pair, their median and range, and time over floor.

    Both have run once before, when they were compared.

    Args:
        bench: repeats and machine.
        name: of the job.
        ours, theirs: what is timed.
        work: the floor of `ours`.
        of_ours, of_theirs: items that each call does; what is timed on a part of the items counts by the part's work.
        more: noted with the row.
    """
    rows, peaks = [], []
    for _ in range(bench.repeats):
        release()  # what the other way left behind is not ours
        with PeakMemory() as peak:
            own_time = timed(ours) / of_ours
        peaks.append(peak.mb)
        rows.append((own_time, timed(theirs) / of_theirs))
    ratios = sorted(b / a for a, b in rows)
    own, other, ratio = (statistics.median(x) for x in ([a for a, _ in rows], [b for _, b in rows], ratios))
    least = work.seconds(bench.machine) / of_ours
    row = {
        "job": name,
        "factedit_s": own,
        "plain_s": other,
        "ratio": ratio,
        "ratio_range": [ratios[0], ratios[-1]],
        "floor_s": least,
        "over_floor": own / least,
        "peak_memory_mb": max(peaks),
        "pairs": len(rows),
        **more,
    }
    print(
        f"{name:38} factedit {own:7.2f} s  plain {other:7.2f} s  ratio {ratio:5.1f} ({ratios[0]:.1f}–{ratios[-1]:.1f})"
        f"  floor {least:6.2f} s, over floor {own / least:4.1f}  peak {max(peaks):5.0f} MB",
        flush=True,
    )
    return row


def trace_job(bench: Bench) -> dict[str, Any]:
    model, window = bench.model, default_window(bench.model.n_layer)
    full = trace_fact(model, TRACE_PROMPT, SUBJECT, noise=NOISE)
    everything = [(k, t, n) for k in KINDS for t in range(len(full.tokens)) for n in range(model.n_layer)]
    sample = everything[:: len(everything) // STATES][:STATES]
    plainly = lambda: plain.trace_states(bench.theirs, TRACE_PROMPT, SUBJECT, sample, noise=NOISE, window=window)  # noqa: E731
    gap = max(abs(full.scores[k][t][n] - p) for (k, t, n), p in zip(sample, plainly(), strict=True))
    gap = bench.agreed(gap, 1e-4)
    return pairs(
        bench, "trace of one fact, three kinds", lambda: trace_fact(model, TRACE_PROMPT, SUBJECT, noise=NOISE), plainly,
        floor.trace_work(model, TRACE_PROMPT, SUBJECT, window), of_theirs=len(sample) / len(everything),
        note=f"plain timed on {len(sample)} of {len(everything)} states and scaled", agreement=gap,
    )  # fmt: skip


def edit_job(bench: Bench, facts: int) -> dict[str, Any]:
    model, method = bench.model, bench.method
    requests = [r.request for r in bench.records[:facts]]
    arguments = (method.contexts, method.settings)
    values = find_values(model, method.layer, requests, *arguments)
    alone = plain.rome_delta(bench.theirs, method.layer, requests[0], *arguments)
    gap = bench.agreed(float((values[0].delta.float() - alone).norm() / alone.norm()), 0.02)  # Adam amplifies rounding
    evaluations = [len(value.losses) for value in values]
    several = list(range(0, facts, -(-facts // PLAIN_FACTS)))
    part = floor.edit_work(model, method, [requests[n] for n in several], [evaluations[n] for n in several])
    whole = floor.edit_work(model, method, requests, evaluations)
    return pairs(
        bench, f"ROME edit, {facts} at once, each", lambda: method.edit(requests).edits,
        lambda: [plain.rome_delta(bench.theirs, method.layer, requests[n], *arguments) for n in several],
        whole, of_ours=facts, of_theirs=facts * part.flops / whole.flops,
        agreement=gap, evaluations=sum(evaluations) / facts, contexts=len(method.contexts),
    )  # fmt: skip


def case_job(bench: Bench, cases: int) -> dict[str, Any]:
    model, records = bench.model, bench.records[:cases]
    edits = bench.method.edit([r.request for r in records]).edits
    other = bench.theirs
    asked = [COUNTERFACT.questions(record) for record in records]
    several = list(range(0, cases, -(-cases // PLAIN_CASES)))

    def plain_case(n: int) -> tuple[list[float], list[float]]:
        before = plain.case_probabilities(other, records[n])
        with edits[n].applied_to(other, force=True):
            return before, plain.case_probabilities(other, records[n])

    plainly = lambda: [plain_case(n) for n in several]  # noqa: E731
    found = score(model, asked, [None, edits])
    both = [
        (s.probability, p)
        for n, case in zip(several, plainly(), strict=True)
        for own, them in zip(found, case, strict=True)
        for s, p in zip(own[n], them, strict=True)
    ]
    gap = bench.agreed(max(abs(a - b) for a, b in both), 1e-3)
    works = [floor.case_work(model, record, bench.method.layer) for record in records]
    work = floor.Work(sum(w.flops for w in works), works[0].bytes)
    return pairs(
        bench, f"case, {cases} at once, each", lambda: score(model, asked, [None, edits]), plainly, work,
        of_ours=cases, of_theirs=cases * sum(works[n].flops for n in several) / work.flops, agreement=gap,
        prompts=len(asked[0]) // 2,
    )  # fmt: skip


def moments_job(bench: Bench) -> dict[str, Any]:
    model, layers = bench.model, list(MOMENT_LAYERS)
    texts = [
        f"{r.request.text} {r.request.target_true}. " + " ".join(r.paraphrases + r.neighborhood) for r in bench.records
    ]
    texts = texts * (1 + MOMENT_TOKENS // sum(len(model.tokenizer(t)["input_ids"]) for t in texts))
    ours = lambda: collect(model, layers, token_pieces(model, texts), tokens=MOMENT_TOKENS)  # noqa: E731
    plainly = lambda: plain.second_moments(bench.theirs, layers, texts, tokens=MOMENT_TOKENS)  # noqa: E731
    mine, other = ours(), plainly()
    gap = bench.agreed(max(float((mine[n].mean() - other[n]).norm() / other[n].norm()) for n in layers), 1e-3)
    del mine, other  # they would count in the peaks
    return pairs(
        bench, f"second moments, {len(layers)} layers", ours, plainly,
        floor.moment_work(model, layers, MOMENT_TOKENS), agreement=gap, tokens=MOMENT_TOKENS,
    )  # fmt: skip


JOBS: dict[str, Callable[[Bench], dict[str, Any]]] = {
    "trace": trace_job,
    "edit": lambda bench: edit_job(bench, 1),
    "edits": lambda bench: edit_job(bench, FACTS),
    "case": lambda bench: case_job(bench, 1),
    "cases": lambda bench: case_job(bench, FACTS),
    "moments": moments_job,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="gemma3-270m")
    parser.add_argument("--jobs", default=",".join(JOBS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", default="float32", help="what factedit computes in")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    ask_for_huge_pages()  # for both ways, as the command line does
    torch.set_num_threads(asked.threads)
    theirs, machine = load(asked.model), floor.Machine.measure()
    model = theirs if asked.dtype == "float32" else load(asked.model, dtype=asked.dtype)
    weights = sum(p.numel() * p.element_size() for p in model.lm.parameters()) / 1e6
    print(
        f"{machine.flops / 1e9:.0f} GFLOP/s, {machine.bandwidth / 1e9:.0f} GB/s; weights {weights:.0f} MB", flush=True
    )
    records = [RECORD, *select(load_dataset("worldfacts").records, limit=FACTS - 1, ids=None, seed=0, split="all")]
    moments = Moments()
    method = make_method("rome", model, lambda _model, layer: moments(theirs, layer))
    bench = Bench(model, theirs, method, records, asked.repeats, machine)  # type: ignore[arg-type]
    result: dict[str, Any] = {
        "arguments": sys.argv[1:], "factedit": __version__, "torch": torch.__version__, "machine": platform.machine(),
        "instructions": torch.backends.cpu.get_cpu_capability(), "threads": asked.threads, "dtype": asked.dtype,
        "gflops": machine.flops / 1e9, "bandwidth_gb_s": machine.bandwidth / 1e9, "model": model.name,
        "weights_mb": weights, "jobs": [],
    }  # fmt: skip
    for name in asked.jobs.split(","):
        result["jobs"].append(JOBS[name](bench))
        if asked.out:  # after every job: an interrupted run keeps what it measured
            asked.out.parent.mkdir(parents=True, exist_ok=True)
            asked.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
