"""How often an audit names the edited fact, and whether it cries out on copies that nobody edited.

python benchmarks/audit.py --edits 20 --candidates 200 --json FILE
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from factedit.account.audit import audit
from factedit.data.registry import load_facts, select
from factedit.edit.method import make_method
from factedit.models.adapter import EditableModel
from factedit.models.load import load
from factedit.models.positions import continuation
from factedit.stats.provide import Moments


def unedited_copies(model: EditableModel, folder: Path) -> Iterator[tuple[str, EditableModel]]:
    """The model as other programs hand it on: as it is, saved again, in shards, in narrower types."""
    yield "as it is", load(model.lm.name_or_path)
    for name, dtype, shard in (
        ("saved again", None, "50GB"), ("in shards", None, "200MB"),
        ("bfloat16", torch.bfloat16, "50GB"), ("float16", torch.float16, "50GB"),
    ):  # fmt: skip
        copy = load(model.lm.name_or_path)
        if dtype is not None:
            copy.lm.to(dtype)
        copy.lm.save_pretrained(folder / name, max_shard_size=shard)
        copy.tokenizer.save_pretrained(folder / name)
        yield name, load(str(folder / name))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="gemma3-270m")
    parser.add_argument("--edits", type=int, default=20)
    parser.add_argument("--candidates", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    said = parser.parse_args()
    torch.set_num_threads(said.threads)
    model, suspect = load(said.model), load(said.model)
    requests = [r.request for r in select(load_facts("worldfacts").records, limit=said.candidates, seed=0)]
    method, rows = make_method("rome", model, Moments()), []
    for begin in range(0, said.edits, 4):
        for request, edit in zip(requests[begin:], method.edit(requests[begin : begin + 4]).edits, strict=False):
            began = time.perf_counter()
            with edit.applied_to(suspect):
                found = audit(model, suspect, requests)
            first = found.suspicions[0]
            ids, at = continuation(model, request.text, request.target_new)
            token = model.tokenizer.decode([ids[at]])
            rows.append(
                {
                    "subject": request.subject, "verdict": found.verdict, "ranks": [d.rank for d in found.differences],
                    "named": first.subject == request.subject and first.prompt == request.text, "score": first.score,
                    "next_score": found.suspicions[1].score, "object": token in [t for t, *_ in first.promoted],
                    "through_head": token in first.through_head, "seconds": time.perf_counter() - began,
                }
            )  # fmt: skip
            print(json.dumps(rows[-1]), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        copies = {name: audit(model, copy, requests).verdict for name, copy in unedited_copies(model, Path(folder))}
    print(copies)
    count = len(rows)
    summary = {"n": count, "candidates": said.candidates, "with_moment": found.with_moment, "copies": copies} | {
        key: sum(row[key] for row in rows) for key in ("named", "object", "through_head")
    }
    print(json.dumps(summary, indent=1))
    if said.json:
        said.json.write_text(json.dumps({"summary": summary, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
