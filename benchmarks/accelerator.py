"""GPT-2 XL's shape on an accelerator: edits per second, a whole evaluation, a trace, second moments, share of peak.

python benchmarks/accelerator.py --device cuda --records 7500 [--dtype bfloat16] [--out benchmarks/results/NAME.json]
python benchmarks/accelerator.py --small          a dry run of the same code on the processor

Latency of one edit (with the step captured as a CUDA graph, and without), 32 and 128 at once, a trace, each with its
share of the measured peak, in under ten minutes:
for shape in gemma3-270m llama-8b; do
  python benchmarks/accelerator.py --device cuda --dtype bfloat16 --shape $shape --jobs trace,edits,graph \\
    --batches 1,32,128 --records 128 --out benchmarks/results/$shape-accelerator.json
done

The weights are random, so only times mean anything: no fact is found early, and all twenty evaluations of every v* are
made. The records are CounterFact's where `FACTEDIT_DATA` holds them (else made up), read by a byte-level BPE of GPT-2's
size that is trained here on their text and on `--text`. The second moment is that of the model over the same text.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import floor
import shapes
import torch

from factedit.data.corpus import open_corpus
from factedit.data.registry import load_facts, select
from factedit.edit.method_table import make_method
from factedit.engine.graphs import steps_captured
from factedit.errors import DataError, ResourceError
from factedit.evaluate.measures import Measures
from factedit.evaluate.run import evaluate_methods
from factedit.evaluate.store import ResultStore
from factedit.facts import FactRecord
from factedit.memory import PeakMemory
from factedit.models.adapter import EditableModel
from factedit.models.load import load
from factedit.stats.collect import collect, token_pieces
from factedit.stats.second_moment import SecondMoment
from factedit.trace.sweep import default_window, trace_fact

EVALUATIONS = 20  # of the loss, per edit
COUNTED = 200  # records of a table whose work is counted, and scaled to all
DATASET = "counterfact-reconstructed"


@dataclass
class Bench:
    """What the jobs share, and what they found."""

    model: EditableModel
    machine: floor.Machine
    records: list[FactRecord]
    texts: list[str]
    small: bool
    batch: int
    batches: list[int]
    rows: list[dict[str, Any]] = field(default_factory=list)

    @property
    def layers(self) -> list[int]:
        return [1, 2] if self.small else [n for n in range(13, 21) if n < self.model.n_layer]

    @cached_property
    def rome(self) -> Any:
        """ROME with the published settings and C of the benchmark's text; stopped by no loss."""

        def moments(model: EditableModel, layer: int) -> SecondMoment:
            running = collect(model, [layer], token_pieces(model, self.texts), tokens=10 * model.d_mlp)[layer]
            return SecondMoment(running.mean(), layer, running.tokens)

        settings = {"layer": 2} if self.small else {}
        method: Any = make_method("rome", self.model, moments, stop_loss=0.0, **settings)
        method.preserved.moment.condition  # noqa: B018 - factored once, before anything is timed
        return method

    def note(self, job: str, work: Callable[[], object], items: int, least: floor.Work, **more: Any) -> None:
        """Run and time the work; note what it took per item, over the floor, and its share of the measured peak."""
        with PeakMemory(self.model.device) as peak:
            took = floor.seconds(work)
        row = {
            "job": job,
            "seconds": took,
            "per_second": items / took,
            "over_floor": took / least.seconds(self.machine),
            "tflops": least.flops / took / 1e12,
            "share_of_peak": least.flops / took / self.machine.flops,
            "peak_memory_mb": peak.mb,
            **more,
        }
        self.rows.append(row)
        print(json.dumps(row), flush=True)


def moments_job(bench: Bench) -> None:
    tokens, layers = (2_000, bench.layers) if bench.small else (100_000, bench.layers)
    rows: list[list[int]] = []
    source = token_pieces(bench.model, itertools.cycle(bench.texts))
    while sum(map(len, rows)) < tokens:
        rows.append(next(source))
    collect(bench.model, layers, rows, tokens=tokens // 10)
    least = floor.moment_work(bench.model, layers, tokens)
    work = lambda: [sums.blocks for sums in collect(bench.model, layers, rows, tokens=tokens).values()]  # noqa: E731
    bench.note(f"second moments, {tokens} tokens, {len(layers)} layers", work, tokens, least)


def edits_job(bench: Bench) -> None:
    method = bench.rome
    for batch in bench.batches:
        requests = [record.request for record in bench.records[:batch]]
        least = floor.edit_work(bench.model, method, requests, [EVALUATIONS] * len(requests))
        work = lambda requests=requests: method.edit(requests).edits  # noqa: E731
        if batch <= 8:
            work()  # what is set up at the first call is not of the edit
        bench.note(f"ROME edits, {batch} at once", work, len(requests), least, contexts=len(method.contexts))


def table_job(bench: Bench) -> None:
    """Edited, scored before and after, continued freely, stored: everything that `factedit evaluate` does."""
    method = bench.rome
    counted = bench.records[:: max(1, len(bench.records) // COUNTED)]
    flops = floor.edit_work(bench.model, method, [r.request for r in counted], [EVALUATIONS] * len(counted)).flops
    flops += sum(floor.case_work(bench.model, record, method.layer).flops for record in counted)
    least = floor.Work(flops * len(bench.records) / len(counted), 0.0)
    measures = Measures(chunk=bench.batch)
    with tempfile.TemporaryDirectory() as folder, ResultStore(Path(folder) / "results.sqlite") as store:
        work = lambda: evaluate_methods(bench.model, bench.records, [method], store, dataset=DATASET, measures=measures)  # noqa: E731
        bench.note(f"{len(bench.records)} records, {bench.batch} at once", work, len(bench.records), least)


def trace_job(bench: Bench) -> None:
    request = bench.records[0].request
    work = lambda: trace_fact(bench.model, request.text, request.subject, noise=0.1)  # noqa: E731
    work()
    least = floor.trace_work(bench.model, request.text, request.subject, default_window(bench.model.n_layer))
    bench.note("trace of one fact, three kinds", work, 1, least)


def graph_job(bench: Bench) -> None:
    """One edit with its step captured: the first pays for what is set up once, as without."""
    method, requests = bench.rome, [bench.records[0].request]
    least = floor.edit_work(bench.model, method, requests, [EVALUATIONS])
    plain = method.edit(requests).edits[0].effects[0].delta()
    with steps_captured():
        replayed = method.edit(requests).edits[0].effects[0].delta()
        gap = float((replayed - plain).norm() / plain.norm())
        bench.note("ROME edit, 1, step captured", lambda: method.edit(requests).edits, 1, least, difference=gap)


JOBS: dict[str, Callable[[Bench], None]] = {
    "trace": trace_job,
    "moments": moments_job,
    "edits": edits_job,
    "graph": graph_job,
    "table": table_job,
}


def found_records(count: int) -> list[FactRecord]:
    """CounterFact's, drawn with seed 0 from those that no preset was tuned on; made up where there are none."""
    try:
        return select(load_facts(DATASET).records, limit=count, ids=None, seed=0, split="report")
    except (DataError, ResourceError) as error:
        print(f"made-up records: {error}")
        return shapes.records(count)


def texts_of(records: Sequence[FactRecord], text: str | None) -> list[str]:
    """The text that the tokenizer and the second moments see."""
    own = [" ".join((r.request.text, *r.paraphrases, *r.neighborhood)) for r in records]
    return own + ([] if text is None else list(open_corpus(text).texts()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--small", action="store_true", help="a small model and few records")
    parser.add_argument("--shape", default="gpt2-xl", choices=["gpt2-xl", "llama-8b", "gemma3-270m"])
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--tf32", action="store_true", help="let float32 products lose digits (off in factedit)")
    parser.add_argument("--jobs", default=",".join(JOBS))
    parser.add_argument("--records", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=256, help="records edited and scored together")
    parser.add_argument("--batches", help="of edits that are timed; default: 1,8,32,128, of the dry run 1,4")
    parser.add_argument("--text", help="a corpus, as factedit stats takes it")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = asked.tf32
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    dtype = getattr(torch, asked.dtype)
    machine = floor.Machine.measure(asked.device, dtype)
    records = found_records(8 if asked.small else asked.records)
    texts = texts_of(records, asked.text)
    if asked.shape == "gemma3-270m":
        model = load(asked.shape, device=asked.device, dtype=asked.dtype)
    else:
        make = {"gpt2-xl": shapes.gpt2_xl, "llama-8b": shapes.llama_8b}[asked.shape]
        model = make(asked.device, small=asked.small, tokenizer=shapes.byte_tokenizer(texts), dtype=dtype)
    batches = [int(n) for n in (asked.batches or ("1,4" if asked.small else "1,8,32,128")).split(",")]
    bench = Bench(model, machine, records, texts, asked.small, asked.batch, batches)
    name = torch.cuda.get_device_name() if asked.device.startswith("cuda") else "processor"
    result = {
        "device": name, "torch": torch.__version__, "model": model.name, "dtype": asked.dtype, "tf32": asked.tf32,
        "tflops": machine.flops / 1e12, "bandwidth_gb_s": machine.bandwidth / 1e9, "records": len(records),
        "text": bool(asked.text),
        "weights_mb": sum(p.numel() * p.element_size() for p in model.lm.parameters()) / 1e6, "jobs": bench.rows,
    }  # fmt: skip
    print(json.dumps({k: v for k, v in result.items() if k != "jobs"}), flush=True)
    for job in asked.jobs.split(","):
        JOBS[job](bench)
        if asked.out:  # after every job: an interrupted run keeps what it measured
            asked.out.parent.mkdir(parents=True, exist_ok=True)
            asked.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
