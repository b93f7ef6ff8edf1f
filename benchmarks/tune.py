"""The sweep behind a preset: a method's scores on tuning records for a grid of settings.

python benchmarks/tune.py gemma3-270m --records 48 --grid "layer=2;3" --grid "clamp=1.25;2" [--out sweep.jsonl]
python benchmarks/tune.py gemma3-270m --method ft --records 16 --chunk 8 --grid "layer=0;1"

Only records with case_id divisible by 4 are used, which no reported figure uses.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from pathlib import Path
from typing import Any

import torch

from factedit import Moments, load, load_dataset, make_method, select
from factedit.evaluate.benchmarks.counterfact import COUNTERFACT
from factedit.evaluate.estimates import summarise
from factedit.evaluate.probability import score

SHOWN = ("S", "ES", "EM", "PS", "PM", "NS", "NM")


def grid(words: list[str]) -> list[dict[str, Any]]:
    """Every combination of the values, each read as JSON where it is some."""

    def value(text: str) -> Any:
        try:
            return json.loads(text)
        except ValueError:
            return text

    axes = [[(name, value(v)) for v in values.split(";")] for name, _, values in (w.partition("=") for w in words)]
    return [dict(point) for point in itertools.product(*axes)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--method", default="rome")
    parser.add_argument("--records", type=int, default=48)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--chunk", type=int, default=32, help="records edited and scored together")
    parser.add_argument("--grid", action="append", default=[], help="setting=value[;value…], values as JSON")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--second-moment", type=Path)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    model = load(asked.model)
    records = select(load_dataset("counterfact").records, limit=asked.records, ids=None, seed=asked.seed, split="tune")
    parts = [records[n : n + asked.chunk] for n in range(0, len(records), asked.chunk)]
    for point in [None, *grid(asked.grid)]:
        source = Moments(file=asked.second_moment)
        method = None if point is None else make_method(asked.method, model, source, **point)
        rows, seconds = [], 0.0
        for part in parts:
            began = time.perf_counter()
            edits = None if method is None else method.edit([record.request for record in part]).edits
            seconds += time.perf_counter() - began
            after = score(model, [COUNTERFACT.questions(record) for record in part], [edits])[0]
            rows += [COUNTERFACT.numbers(r, s) for r, s in zip(part, after, strict=True)]
        name = "unedited" if point is None else asked.method
        report({"method": name, "settings": point, "seconds_per_edit": round(seconds / len(rows), 2)}, rows, asked.out)


def report(line: dict[str, Any], rows: list[dict[str, float]], out: Path | None) -> None:
    found = summarise(rows, [COUNTERFACT.headline])
    line = {**line, "n": len(rows), **{key: round(found[key].value, 1) for key in SHOWN}}
    line |= {"S_half_width": round(found["S"].half_width, 1)}
    print(json.dumps(line), flush=True)
    if out:
        with out.open("a") as file:
            file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
