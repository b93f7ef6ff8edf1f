"""This state of factedit against an earlier one: the same jobs in two processes, alternately, and their ratios.

git worktree add /tmp/earlier COMMIT
FACTEDIT_DATA=FOLDER python benchmarks/before.py --before /tmp/earlier [--jobs trace,edit] [--out FILE.json]
python benchmarks/before.py --before /tmp/earlier --random     a random Llama of 12 layers, which needs no data: minutes

Both edit with `rome-original`, the same contexts, C and number of evaluations, whatever their presets; what the two
compute is compared. Beside the clock stands the processor's time of each process (`processor_ratio`), which a busy
machine changes less.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from worker import Worker, serve

HERE = Path(__file__).resolve().parent
FACTS, TOKENS, LAYERS = 16, 6_000, range(1, 9)
SETTINGS: dict[str, Any] = {
    "layer": 3, "steps": 12, "stop_loss": 0.0, "clamp": 4.0, "learning_rate": 0.5,
    "context_templates": ["{}", *(f"{text} {{}}" for text in (
        "The first time that we met was in the summer of the year when they came.",
        "It was one of the best known places of the whole country at that time.",
        "He said that there was nothing more to be done about it before the end.",
        "In the years after the war many of the people here went to the city.",
        "They have been among the first to say so, and nobody believed them then."))],
}  # fmt: skip


def random_inputs() -> tuple[Any, list[Any]]:
    """A random Llama of 50 million numbers, and made-up records."""
    import shapes

    return shapes.llama(d_model=512, n_layer=12, vocab=8192), shapes.records(FACTS)


def gemma_inputs() -> tuple[Any, list[Any]]:
    """Gemma 3 270M and CounterFact's records."""
    from factedit import load, load_dataset, select

    try:
        from factedit.work.demo import RECORD
    except ImportError:  # an earlier state
        from factedit.report.story import RECORD
    drawn = select(load_dataset("counterfact").records, limit=2 * FACTS, ids=None, seed=0, split="all")
    # a file that every state reads alike; a number's space belonged to the prompt once, and its probability is another
    words = [r for r in drawn if not any(c.isdigit() for c in f"{r.request.target_new} {r.request.target_true}")]
    return load("gemma3-270m"), [RECORD, *words[: FACTS - 1]]


def traced_text(record: Any) -> tuple[str, str]:
    """What is traced: the demo's prompt where the demo's record is edited."""
    try:
        from factedit.work.demo import RECORD, SUBJECT, TRACE_PROMPT
    except ImportError:  # an earlier state
        from factedit.report.story import RECORD, SUBJECT, TRACE_PROMPT
    return (TRACE_PROMPT, SUBJECT) if record is RECORD else (record.request.text, record.request.subject)


def jobs(threads: int, random: bool) -> dict[str, tuple[int, Callable[[], float]]]:
    """Per job its items and the work, which gives a number to compare."""
    import torch

    from factedit import make_method
    from factedit.edit.presets import RomeSettings
    from factedit.evaluate.probability import score
    from factedit.stats.collect import collect
    from factedit.stats.second_moment import SecondMoment
    from factedit.trace.sweep import trace_fact

    try:
        from factedit.stats.collect import token_pieces
    except ImportError:  # an earlier state
        from factedit.stats.collect import pieces as token_pieces
    try:
        from factedit.evaluate.benchmarks.counterfact import COUNTERFACT

        questions = COUNTERFACT.questions
    except ImportError:  # an earlier state
        from factedit.evaluate.case import questions
    torch.set_num_threads(threads)
    model, records = random_inputs() if random else gemma_inputs()
    own = {"relative_rate": False} if "relative_rate" in RomeSettings.model_fields else {}
    method: Any = make_method("rome-original", model, lambda m, _l: SecondMoment(torch.eye(m.d_mlp)), **SETTINGS, **own)
    asked = [questions(record) for record in records]
    first = records[0]
    prompt, subject = traced_text(first)
    texts = [" ".join([first.request.text, *first.paraphrases] * 8)] * 400  # the same in every state of the data

    def trace() -> float:
        found = trace_fact(model, prompt, subject, noise=2.0)
        return sum(p for table in found.scores.values() for row in table for p in row)

    def edited(count: int) -> Any:
        requests = [r.request for r in records[:count]]
        earlier = getattr(method, "compute", None)  # of a state whose methods were given the model each time
        return earlier(model, requests) if earlier else method.edit(requests).edits

    def edits(count: int) -> float:
        told = [edit.told_of(0) if hasattr(edit, "told_of") else edit.diagnostics for edit in edited(count)]
        return sum(own["losses"][-1][0] for own in told)

    @functools.cache
    def made() -> Any:
        return edited(len(records))

    def cases(count: int) -> float:
        found = score(model, asked[:count], [None, made()[:count]])
        return sum(s.probability for variant in found for case in variant for s in case)

    def moments() -> float:
        found = collect(model, list(LAYERS), token_pieces(model, texts), tokens=TOKENS)
        return sum(float(sums.mean().norm()) for sums in found.values())

    return {
        "trace": (1, trace),
        "edit": (1, lambda: edits(1)),
        "edits": (FACTS, lambda: edits(FACTS)),
        "case": (1, lambda: cases(1)),
        "cases": (FACTS, lambda: cases(FACTS)),
        "moments": (1, moments),
        "prepare": (1, lambda: float(len(made()))),
    }


def work(threads: int, random: bool) -> None:
    """Do the jobs named on standard input, one a line, and say the seconds per item and the number."""
    try:
        from factedit.memory import ask_for_huge_pages

        ask_for_huge_pages()
    except ImportError:
        pass  # a state from before it did
    serve(jobs(threads, random))


def worker_of(tree: Path, threads: int, random: bool) -> Worker:
    """A process with one state of factedit."""
    command = [sys.executable, str(HERE / "before.py"), "--worker", "--threads", str(threads)]
    command += ["--random"] * random
    return Worker(command, {**os.environ, "PYTHONPATH": str(tree / "src")})


def compared(times: list[tuple[float, float]]) -> dict[str, Any]:
    """Medians of the seconds of both states, now first, and of the pairs' ratios, above 1 where this one is faster."""
    ratios = sorted(before / now for now, before in times)
    return {
        "now_s": statistics.median(now for now, _ in times),
        "before_s": statistics.median(before for _, before in times),
        "ratio": statistics.median(ratios),
        "ratio_range": [ratios[0], ratios[-1]],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--before", type=Path, help="a checkout of the earlier state")
    parser.add_argument("--jobs", default="trace,edit,edits,case,cases,moments")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--random", action="store_true", help="a random Llama and made-up records")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.worker:
        work(asked.threads, asked.random)
        return
    commit = subprocess.run(["git", "-C", asked.before, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    now, before = (worker_of(tree, asked.threads, asked.random) for tree in (HERE.parent, asked.before))
    result: dict[str, Any] = {"before": commit.stdout.strip(), "threads": asked.threads, "random": asked.random}
    result["jobs"] = []
    for job in asked.jobs.split(","):
        if job in ("case", "cases"):
            now.do("prepare"), before.do("prepare")
        pairs = [(now.do(job), before.do(job)) for _ in range(asked.repeats)]
        gap = max(abs(own.number - other.number) / abs(other.number) for own, other in pairs)
        assert gap < 0.01, f"the two states differ in {job}: {pairs}"
        row = {"job": job, **compared([(own.seconds, other.seconds) for own, other in pairs])}
        used = compared([(own.processor, other.processor) for own, other in pairs])
        row |= {f"processor_{name}": value for name, value in used.items()}
        row |= {"agreement": gap, "pairs": len(pairs)}
        result["jobs"].append(row)
        print(json.dumps(row), flush=True)
        if asked.out:  # after every job: an interrupted run keeps what it measured
            asked.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
