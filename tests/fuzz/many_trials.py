"""Further actions that can be killed or run out of disk halfway: facts one after the other, and taken back."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch

from factedit.cache import publish_folder, settled
from factedit.data.records import RecordSet
from factedit.edit.artefact import Edit
from factedit.edit.method_table import make_method
from factedit.edit.standing import facts_on
from factedit.edit.state import state_of
from factedit.edit.trained import load_network
from factedit.errors import EditError, UsageError
from factedit.evaluate import harm
from factedit.evaluate.benchmarks.table import find_benchmark
from factedit.evaluate.measures import Measures
from factedit.evaluate.regime import Sequence
from factedit.stack.check import verify
from factedit.stack.folder import StackFolder
from factedit.stack.work import apply
from factedit.stats.second_moment import SecondMoment
from factedit.work.evaluate import evaluate_into
from factedit.work.facts_of import take_back_fact
from factedit.work.sequence import RunningSequence
from fuzz.study_trials import STUDIES
from fuzz.trials import ALL, RECORDS, TRIALS, Trial, model, nothing, rows_in
from tiny_training import train_tiny

FACTS = [record.request for record in RECORDS]


def moments(of: Any, _layer: int) -> SecondMoment:
    return SecondMoment(torch.eye(of.d_mlp))


@cache
def joint() -> Any:
    return make_method(
        "rome-joint", model(), moments, layer=1, steps=2, share=0.9, context_templates=("{}",), decay=0.0, kl=0.0
    )


@cache
def together() -> Edit:
    """One edit of all facts, with what it leaves for the next."""
    made = joint().edit(FACTS)
    [edit] = made.edits
    return edit.with_state(None, made.state)  # type: ignore[no-any-return]


# -- `edit --together --batch 1`, `revert --fact`, `evaluate --sequence` ---------------------------------


def batches(place: Path) -> None:
    running = RunningSequence.begin(model(), joint(), [])
    for number, request in enumerate(FACTS):
        running.batch([request], place / "edits" / f"{number:04d}")


def batches_in(place: Path) -> str:
    folders = [settled(place / "edits" / f"{number:04d}") for number in range(len(FACTS))]
    edits = [Edit.load(folder) for folder in folders if (folder / "edit.json").exists()]
    state = state_of(model().fingerprint(), [edit.state_change for edit in edits])
    assert len(edits) == (0 if state is None else len(state.tensors["keys.1"])), "a batch is missing in between"
    return str(len(edits))


def all_on(place: Path) -> None:
    apply(model(), [together()], place / "m")


def one_taken_back(place: Path) -> None:
    if facts_in(place) == "3":
        take_back_fact(place / "m", "Paris", moments)


def facts_in(place: Path) -> str:
    verify(place / "m", model())
    stack = StackFolder(place / "m")
    return str(len(facts_on([stack.edit(standing.identity) for standing in stack.head.standing])))


def in_sequence(place: Path) -> None:
    data, benchmark = RecordSet("three", RECORDS, 0, "here", "0" * 64), find_benchmark("counterfact")
    sizes = harm.PANEL, harm.TEXTS
    harm.PANEL, harm.TEXTS = 2, 1  # what becomes of the model elsewhere is no matter here
    try:
        evaluate_into(
            place / "runs", model(), data, RECORDS, [joint()], benchmark, Measures(metrics=(), chunk=1),
            regime=Sequence(checkpoints=(1, 2, 3)),
        )  # fmt: skip
    finally:
        harm.PANEL, harm.TEXTS = sizes


# -- networks, folders of the cache ----------------------------------------------------------------------


def network(place: Path) -> None:
    train_tiny(model(), "mend", place / "mend-zsre", steps=2, validate_every=1, validation=2)


def network_in(place: Path) -> str:
    try:
        load_network(model(), "mend-zsre", place / "mend-zsre")
    except (EditError, UsageError):
        return "none"
    return "new"


def published(place: Path) -> None:
    def build(folder: Path) -> None:
        for name in ("a", "b"):
            (folder / name).write_bytes(b"x" * 5000)

    publish_folder(build, place / "cache" / "entry", is_whole=lambda folder: (folder / "b").is_file())


def published_in(place: Path) -> str:
    folder = place / "cache" / "entry"
    assert not folder.exists() or {path.name for path in folder.iterdir()} == {"a", "b"}, "half a folder"
    return "new" if folder.exists() else "none"


LONG = (  # seconds each: in `make fuzz` alone
    Trial("facts one after the other", nothing, batches, batches_in, steps=True),
    Trial("results of a sequence", nothing, in_sequence, rows_in, steps=True),
    Trial("a network", nothing, network, network_in),
)
EVERY = (
    *TRIALS,
    Trial("a fact taken back", all_on, one_taken_back, facts_in),
    Trial("a folder of the cache", nothing, published, published_in),
    *((*LONG, *STUDIES) if ALL else ()),
)
