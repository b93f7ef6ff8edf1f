"""How many of the edited subjects an audit names, with 1, 10 and 100 facts edited at once, and what it names besides.

    python docs/checks/audit_many.py gemma3-270m --edits 1,10,100 --candidates 400 --out DIR

The candidates' keys are compared with what ΔW reads in the metric of C (arXiv 2602.10134 reads edited subjects off an
update in the same way). Every draw edits other facts of the candidates, none with a subject twice; a candidate that is
named and was not edited is a false alarm. Untouched copies come last: as it is, and through narrower types. Edits are
kept in DIR; the same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from tell import asks, tell

from factedit.account.audit import audit
from factedit.account.outcome import Audit
from factedit.data.registry import load_facts, select
from factedit.edit.artefact import Edit
from factedit.edit.manifest import MANIFEST
from factedit.edit.method import Method
from factedit.edit.method_table import make_method
from factedit.facts import EditRequest, one_spelling
from factedit.models.adapter import EditableModel
from factedit.work.inputs import load_model, moments_from
from factedit.work.settings import read_settings

DRAWS = {1: 10, 10: 3}  # how often so many facts are drawn; others once


def candidates_of(dataset: str, count: int, seed: int) -> list[EditRequest]:
    """Facts to choose from, one of each subject."""
    by_subject: dict[str, EditRequest] = {}
    for record in select(load_facts(dataset).records, seed=seed):
        by_subject.setdefault(one_spelling(record.request.subject), record.request)
    chosen = list(by_subject.values())
    return chosen[:: max(1, len(chosen) // count)][:count]


def drawn(candidates: Sequence[EditRequest], count: int, draw: int) -> list[EditRequest]:
    """The facts of a draw: every so many-th, each draw beginning one further."""
    step = max(1, len(candidates) // count)
    return [candidates[(draw + n * step) % len(candidates)] for n in range(count)]


def planted(method: Method, requests: Sequence[EditRequest], folder: Path) -> Edit:
    """One edit of these facts, kept in a folder or found there."""
    if (folder / MANIFEST).is_file():
        return Edit.load(folder)
    [edit] = method.edit(requests).edits
    edit.save(folder)
    return edit


def row_of(count: int, edited: Sequence[EditRequest], found: Audit, candidates: int) -> dict[str, Any]:
    """What was named of the edited subjects, and besides."""
    wanted, named = {request.subject for request in edited}, {subject for subject, *_ in found.excited}
    scores = {subject: score for subject, _, score in found.excited}
    return {
        "edited": count, "verdict": found.verdict, "recall": len(wanted & named) / len(wanted),
        "false alarms": len(named - wanted), "of": candidates - len(wanted),
        "highest of another": max((scores[s] for s in named - wanted), default=None),
        "ranks": ", ".join(str(d.rank) for d in found.differences), "in the metric of C": found.with_moment,
    }  # fmt: skip


def copies(model: EditableModel, again: Callable[[], EditableModel]) -> Iterator[tuple[str, EditableModel]]:
    """Copies that nobody edited."""
    yield "as it is", again()
    for dtype in (torch.bfloat16, torch.float16):
        copy = again()
        for own, of in zip(copy.lm.parameters(), model.lm.parameters(), strict=True):
            own.data.copy_(of.to(dtype))
        yield f"through {str(dtype).removeprefix('torch.')}", copy


def run(model: EditableModel, again: Callable[[], EditableModel], asked: argparse.Namespace) -> str:
    """Plant, audit and tell."""
    source = moments_from(asked.second_moment)
    settings = read_settings(asked.set or (), [asked.method])[asked.method]
    method = make_method(asked.method, model, source, **settings)
    candidates, suspect = candidates_of(asked.dataset, asked.candidates, asked.seed), again()
    rows = []
    for count in map(int, asked.edits.split(",")):
        for draw in range(DRAWS.get(count, 1)):
            facts = drawn(candidates, count, draw)
            edit = planted(method, facts, asked.out / "edits" / f"{count}-{draw}")
            with edit.applied_to(suspect):
                found = audit(model, suspect, candidates, moment=source)
            rows.append(row_of(count, facts, found, len(candidates)))
    for name, copy in copies(model, again):
        found = audit(model, copy, candidates, moment=source)
        rows.append({"edited": f"0, {name}", "verdict": found.verdict, "false alarms": len(found.excited),
                     "of": len(candidates)})  # fmt: skip
    about = {"check": "audit of many", **{k: v for k, v in vars(asked).items() if k not in ("out", "second_moment")}}
    return tell(asked.out, "audit-many", about, rows)


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """What was asked on the command line."""
    parser = asks(__doc__)
    parser.add_argument("--edits", default="1,10,100")
    parser.add_argument("--candidates", type=int, default=400)
    parser.add_argument("--method", default="rome-joint")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    chosen = parsed()
    load = lambda: load_model(chosen.model, threads=chosen.threads)  # noqa: E731
    run(load(), load, chosen)
