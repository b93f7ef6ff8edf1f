"""What factedit writes, as actions that can be killed or run out of disk halfway, each with what must hold afterwards.

`make test` tries a few moments of each, `make fuzz` (FACTEDIT_TRIALS=all) many; the moments are drawn by seed.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from conftest import TEXT, tiny
from factedit.cache import read_entry, settled, sha256_file, write_entry
from factedit.cli.common import write_json
from factedit.data.records import RecordSet
from factedit.edit.artefact import Edit
from factedit.edit.method_table import make_method
from factedit.evaluate.benchmarks.table import find_benchmark
from factedit.evaluate.measures import Measures
from factedit.evaluate.store import ResultStore
from factedit.export.notes import RECORD, note_export
from factedit.export.ship import ship
from factedit.facts import EditRequest, FactRecord
from factedit.models.adapter import EditableModel
from factedit.stack.check import verify
from factedit.stack.folder import StackFolder
from factedit.stack.work import apply, revert
from factedit.stats.moment_places import moment_path
from factedit.stats.second_moment import SecondMoment
from factedit.stats.store import cached_moment, second_moments
from factedit.work.evaluate import STORE, evaluate_into
from stack_cases import random_edit

ALL = os.environ.get("FACTEDIT_TRIALS") == "all"
MINE = {"notes.txt": "mine", ".git/HEAD": "ref: mine", "inner/diary.md": "mine too"}


@dataclass(frozen=True)
class Trial:
    """Something that is written.

    Attributes:
        name: of the trial.
        prepare: what lies there before; called with an empty folder.
        act: writes; can be called again after it was interrupted.
        state: what a user finds, read as factedit reads it: `old`, `new`, or for a sequence any step in between;
            raises where it finds something else.
        mine: the folder where files of the user lie beside, which must stay.
        steps: whether it is done in steps, each of which counts.
    """

    name: str
    prepare: Callable[[Path], object]
    act: Callable[[Path], object]
    state: Callable[[Path], str]
    mine: str = ""
    steps: bool = False


@cache
def model() -> EditableModel:
    """The model of all trials."""
    return tiny("gpt2", n_layer=2, n_embd=16, n_head=2, n_inner=24)


@cache
def edits() -> tuple[Edit, ...]:
    """Edits of different matrices."""
    return tuple(random_edit(model(), n, layer=n % 2) for n in range(3))


RECORDS = tuple(
    FactRecord(
        case_id=str(n), request=EditRequest(subject=s, prompt="{} is in", target_new="a", target_true="the"),
        paraphrases=(f"So {s} is in",), neighborhood=("Basketball is in",),
    )
    for n, s in enumerate(("Paris", "Seattle", "France"))
)  # fmt: skip


def nothing(_place: Path) -> None:
    """Nothing lies there before."""


def with_mine(prepare: Callable[[Path], object], folder: str) -> Callable[[Path], object]:
    """The same with files of the user in the folder."""

    def both(place: Path) -> None:
        prepare(place)
        for name, text in MINE.items():
            (place / folder / name).parent.mkdir(parents=True, exist_ok=True)
            (place / folder / name).write_text(text)

    return both


# -- edits and exports -------------------------------------------------------------------------------


def edit_in(place: Path) -> str:
    if not (settled(place / "e") / "edit.json").exists():
        assert not (place / "e").exists() or not list((place / "e").glob("edit.*"))
        return "none"
    found = Edit.load(place / "e")
    number = next(n for n, edit in enumerate(edits()) if edit.identity == found.identity)
    return f"{'old' if number == 0 else 'new'}{' noted' if found.exports else ''}"


def export_in(place: Path) -> str:
    record = settled(place / "out") / RECORD
    if not record.exists():
        there = {p.name for p in (place / "out").iterdir()} if (place / "out").exists() else set()
        assert there <= {name.split("/")[0] for name in MINE}
        return "none"
    said = json.loads(record.read_text())
    for name, sha256 in said["files"].items():
        assert sha256_file(place / "out" / name) == sha256, name
    own = {p.relative_to(place / "out").as_posix() for p in (place / "out").rglob("*") if p.is_file()}
    assert own - set(MINE) == {*said["files"], RECORD}, "files of two exports"
    return "old" if said["edits"] == [edits()[0].identity] else "new"


def shipped(number: int, form: str) -> Callable[[Path], object]:
    return lambda place: ship(model(), [edits()[number]], place / "out", form, overwrite=True)


# -- folders of edits ----------------------------------------------------------------------------------


def stack_in(place: Path) -> str:
    if not (place / "m").exists():
        return "none"
    verify(place / "m", model())
    standing = [standing.identity for standing in StackFolder(place / "m").head.standing]
    return "+".join(str(n) for n, edit in enumerate(edits()) if edit.identity in standing) or "base"


def put_on(*numbers: int) -> Callable[[Path], object]:
    def act(place: Path) -> None:
        source: Any = place / "m" if (place / "m").exists() else model()
        there = stack_in(place).split("+")
        new = [edits()[n] for n in numbers if str(n) not in there]
        if new:
            apply(source, new, place / "m")

    return act


def take_off(place: Path) -> None:
    if "0" in stack_in(place).split("+"):
        revert(place / "m", edits()[0])


def to_another(place: Path) -> None:
    if not (place / "n").exists():
        apply(place / "m", [edits()[1]], place / "n")


def another_in(place: Path) -> str:
    assert stack_in(place) == "0"
    if not (place / "n").exists():
        return "none"
    assert verify(place / "n", model()).edits == 2
    return "new"


# -- the cache, results, single files ------------------------------------------------------------------


def moments(place: Path) -> None:
    os.environ["FACTEDIT_CACHE"] = str(place / "cache")
    second_moments(model(), [0, 1], lambda: [TEXT] * 4, corpus="t", tokens=300)


def moments_in(place: Path) -> str:
    os.environ["FACTEDIT_CACHE"] = str(place / "cache")
    own = [
        cached_moment(moment_path(model(), "t", 300, n), d_mlp=24, model=model().fingerprint(), layer=n) for n in (0, 1)
    ]
    assert not list((place / "cache").rglob("*.damaged")), "a half-written entry"
    return str(sum(moment is not None for moment in own))


@cache
def method() -> Any:
    return make_method(
        "rome", model(), lambda m, _layer: SecondMoment(torch.eye(m.d_mlp)), layer=1, steps=2, context_templates=["{}"]
    )


def evaluated(place: Path) -> None:
    data = RecordSet("three", RECORDS, 0, "here", "0" * 64)
    benchmark, measures = find_benchmark("counterfact"), Measures(metrics=(), chunk=1)
    evaluate_into(place / "runs", model(), data, RECORDS, [method()], benchmark, measures)


def rows_in(place: Path) -> str:
    if not (place / "runs" / STORE).exists() or not (place / "runs" / STORE).stat().st_size:
        return "0"
    with ResultStore(place / "runs" / STORE) as store:
        rows = sorted(len(store.results(run)) for run in store.runs())
    with closing(sqlite3.connect(place / "runs" / STORE)) as raw:
        assert raw.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    return str(sum(rows))


def one_of(path: str, *contents: str) -> Callable[[Path], str]:
    def state(place: Path) -> str:
        if not (place / path).exists():
            return "none"
        found = hashlib.sha256((place / path).read_bytes()).hexdigest()
        return next(content for content in contents if hashlib.sha256(as_json(content)).hexdigest() == found)

    return state


def as_json(content: str) -> bytes:
    return (json.dumps({"a": [content] * 400}, indent=1) + " \n").encode()


def json_of(content: str) -> Callable[[Path], object]:
    return lambda place: write_json(place / "x.json", {"a": [content] * 400})


def entry_in(place: Path) -> str:
    found = read_entry(place / "entry")
    assert not list(place.glob("*.damaged")), "a half-written entry"
    return "none" if found is None else found.decode()[:3]


def noted(place: Path) -> None:
    if said := note_export(place / "e", edits()[0], {"form": "peft"}):
        raise OSError(28, said)


OLD_EDIT = lambda place: edits()[0].save(place / "e")  # noqa: E731
NEW_EDIT = lambda place: edits()[1].save(place / "e", force=True)  # noqa: E731
TRIALS = (
    Trial("an edit", nothing, OLD_EDIT, edit_in),
    Trial("an edit over another", OLD_EDIT, NEW_EDIT, edit_in),
    Trial("an edit over another, beside files of the user", with_mine(OLD_EDIT, "e"), NEW_EDIT, edit_in, mine="e"),
    Trial("the proof of an export", with_mine(OLD_EDIT, "e"), noted, edit_in, mine="e"),
    Trial("an export", nothing, shipped(0, "peft"), export_in),
    Trial("an export over another", shipped(0, "llama-lora"), shipped(1, "merged"), export_in),
    Trial("an export beside .git", with_mine(shipped(0, "merged"), "out"), shipped(1, "peft"), export_in, mine="out"),
    Trial("a folder of edits", nothing, put_on(0, 1), stack_in),
    Trial("a further edit", put_on(0), put_on(1), stack_in),
    Trial("a further edit beside .git", with_mine(put_on(0), "m"), put_on(1), stack_in, mine="m"),
    Trial("an edit taken off", put_on(0, 1), take_off, stack_in),
    Trial("a further folder", put_on(0), to_another, another_in),
    Trial("second moments", nothing, moments, moments_in, steps=True),
    Trial("results", nothing, evaluated, rows_in, steps=True),
    Trial("JSON over older JSON", json_of("old"), json_of("new"), one_of("x.json", "old", "new")),
    Trial("an entry of the cache", lambda p: write_entry(p / "entry", b"old" * 999),
          lambda p: write_entry(p / "entry", b"new" * 999), entry_in),
)  # fmt: skip


def check_mine(trial: Trial, place: Path) -> None:
    """The user's files are as they were."""
    if trial.mine:
        assert {name: (place / trial.mine / name).read_text() for name in MINE} == MINE
