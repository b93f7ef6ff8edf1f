"""Two local nodes of one worker each against one process: an evaluation's seconds, and what giving out a part costs.

FACTEDIT_DATA=FOLDER python benchmarks/cluster.py [--records 64] [--pairs 1] [--out FILE.json]
python benchmarks/cluster.py --small              a dry run on a random model of 20 MB and made-up facts
python benchmarks/cluster.py --local              the same with `--workers`, without Ray
python benchmarks/cluster.py --small --parts      what giving out a part costs alone, with `--workers` and with Ray

Needs the extra `cluster` and a core for each of the two workers: the ratio means nothing on a machine that is busy.
Both sides run `factedit evaluate --method rome` in a new process of their own with one thread, from loading the model
to the table, alternately; the workers' starts are counted. What they store is compared, to the bit.
C is a matrix of ones on the diagonal, whose values do not change how long an edit takes. The cost of a part
is the mean of parts in which nothing is computed, one after the other with one worker that is ready.
"""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

TIMES = ("seconds_per_edit", "peak_memory_mb")
EMPTY = 200  # parts of nothing


@contextmanager
def two_nodes() -> Iterator[list[str]]:
    """A cluster of two nodes with a processor each, as words of the command line."""
    import ray
    from ray.cluster_utils import Cluster

    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 - so Ray reads it; the other side is not nice either
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    nodes.add_node(num_cpus=1)
    try:
        yield ["--cluster", nodes.address]
    finally:
        ray.shutdown()
        nodes.shutdown()


def evaluated(where: list[str], asked: list[str], out: Path) -> float:
    """Run the command; its seconds."""
    command = [sys.executable, "-m", "factedit", "evaluate", *asked, "--out", str(out), "--threads", "1", "-q", *where]
    began = time.perf_counter()
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def stored(out: Path) -> dict[Any, Any]:
    """What it stored, but for times and memory."""
    with sqlite3.connect(out / "results.sqlite") as store:
        rows = {(run, case): json.loads(row) for run, case, row in store.execute("SELECT * FROM cases")}
    return {key: {name: v for name, v in row.items() if name not in TIMES} for key, row in rows.items()}


def cost_of_a_part(where: list[str], model: str, folder: Path) -> float:
    """Seconds of a part of nothing."""
    from factedit.evaluate.circumstances import circumstances
    from factedit.models.load import load
    from factedit.work.crew import Order, WorkItem, mapped
    from factedit.work.team import team_of

    facts = folder / "known.json"
    facts.write_text(json.dumps([{"known_id": 0, "subject": "w1", "attribute": "w3", "prompt": "w1 w2"}]))
    how: dict[str, Any] = {"cluster": where[1]} if where[0] == "--cluster" else {}
    team = team_of(1, model, threads=1, **how)
    assert team is not None
    settings = {"facts": str(facts), "noise": 0.1, "kinds": ["hidden"], "window": 1, "samples": 1, "seed": 1}
    items = (WorkItem(f"nothing {n}", []) for n in range(EMPTY))
    times = [time.perf_counter() for _ in mapped(team.crew, Order("traces", team.model, settings), items,
                                                 circumstances(load(model)))]  # fmt: skip
    return (times[-1] - times[0]) / (EMPTY - 1)


def parts_alone(asked: argparse.Namespace) -> None:
    """What a part costs with local workers and with Ray: a run each, the machine's load beside them."""
    result: dict[str, Any] = {"parts": EMPTY, "model": "random, 20 MB" if asked.small else asked.model}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = small(folder)[0] if asked.small else asked.model
        for kind, place in (("workers", _local), ("ray", two_nodes)):
            with place() as where:
                result[kind] = {"part_s": cost_of_a_part(where, model, folder), "load": os.getloadavg()[0]}
            print(json.dumps(result), flush=True)
    if asked.out:
        asked.out.write_text(json.dumps(result, indent=1) + "\n")


def any_moment(model: str, folder: Path) -> Path:
    """A second moment of the model's width: computing its own would take minutes, of the first run alone."""
    import torch

    from factedit.models.outline import outline
    from factedit.stats.second_moment import SecondMoment
    from factedit.stats.store import write_moment

    return write_moment(folder / "c.safetensors", SecondMoment(torch.eye(outline(model).d_mlp)))


def small(folder: Path) -> list[str]:
    """A random model, made-up facts, and how they are evaluated."""
    import torch
    from shapes import records
    from stream import make

    from factedit.stats.second_moment import SecondMoment
    from factedit.stats.store import write_moment

    make(folder / "model", 0.02)
    d_mlp = json.loads((folder / "model" / "config.json").read_text())["intermediate_size"]
    write_moment(folder / "c.safetensors", SecondMoment(torch.eye(d_mlp)))
    rows = [
        {"case_id": n, "requested_rewrite": {
            "prompt": r.request.prompt, "subject": r.request.subject, "target_new": {"str": r.request.target_new},
            "target_true": {"str": r.request.target_true}},
         "paraphrase_prompts": list(r.paraphrases), "neighborhood_prompts": list(r.neighborhood)}
        for n, r in enumerate(records(16))
    ]  # fmt: skip
    (folder / "facts.json").write_text(json.dumps(rows))
    return [
        str(folder / "model"), "--dataset", str(folder / "facts.json"), "--split", "all", "--batch", "2", "--no-free",
        "--method", "rome", "--second-moment", str(folder / "c.safetensors"),
        "--set", "contexts=[]", "--set", "steps=5",
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--records", type=int, default=64)
    parser.add_argument("--batch", type=int, default=8, help="records of a part")
    parser.add_argument("--pairs", type=int, default=1)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--local", action="store_true")
    parser.add_argument("--parts", action="store_true", help="only what a part costs, by workers and by Ray")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    if asked.parts:
        parts_alone(asked)
        return
    with tempfile.TemporaryDirectory() as name, two_nodes() if not asked.local else _local() as where:
        folder = Path(name)
        counterfact = ["--dataset", "counterfact", "--method", "rome", "--records", str(asked.records), "--seed", "0"]
        command = small(folder) if asked.small else [asked.model, *counterfact, "--batch", str(asked.batch)]
        command += [] if asked.small else ["--second-moment", str(any_moment(asked.model, folder))]
        result: dict[str, Any] = {"command": command[1:], "model": asked.model, "pairs": []}
        for n in range(asked.pairs):
            one, two = folder / f"one{n}", folder / f"two{n}"
            row = {"one_s": evaluated([], command, one), "two_s": evaluated(where, command, two)}
            row |= {"ratio": row["one_s"] / row["two_s"], "same_bits": stored(one) == stored(two)}
            row["rows"] = len(stored(one))
            result["pairs"].append(row)
            print(json.dumps(row), flush=True)
        result["part_s"] = cost_of_a_part(where, command[0], folder)
        result["workers"] = where[0]
    print(json.dumps({"part_s": result["part_s"]}))
    if asked.out:
        asked.out.write_text(json.dumps(result, indent=1) + "\n")


@contextmanager
def _local() -> Iterator[list[str]]:
    yield ["--workers", "2"]


if __name__ == "__main__":
    main()
