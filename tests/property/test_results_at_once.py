"""Two processes at once on one store of results: each case is computed once, and no lock outlives a killed process."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from conftest import tiny
from factedit.data.records import RecordSet
from factedit.edit.method_table import make_method
from factedit.errors import ResourceError
from factedit.evaluate.benchmarks.table import find_benchmark
from factedit.evaluate.measures import Measures
from factedit.evaluate.run import Evaluation
from factedit.evaluate.store import ResultStore
from factedit.facts import EditRequest, FactRecord
from factedit.locks import locked
from factedit.models.adapter import EditableModel
from factedit.stats.moment_places import moment_path
from factedit.stats.second_moment import SecondMoment
from factedit.stats.store import second_moments
from factedit.work.evaluate import STORE, evaluate_into
from factedit.work.locate import STORE as locate_store
from factedit.work.locate import locate_facts
from factedit.work.trace import STORE as traces_store
from factedit.work.trace import trace_known
from processes import end, start, wait_for

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
RECORDS = tuple(
    FactRecord(
        case_id=str(n), request=EditRequest(subject=s, prompt="{} is in", target_new="a", target_true="the"),
        paraphrases=(f"So {s} is in",), neighborhood=("Basketball is in",),
    )
    for n, s in enumerate(("Paris", "Seattle", "France"))
)  # fmt: skip


@pytest.fixture(scope="module")
def model() -> EditableModel:
    return tiny("gpt2", n_layer=2, n_embd=16, n_head=2, n_inner=24)


def evaluated(model: EditableModel, folder: Path, progress: Any) -> Evaluation:
    import torch

    moments = lambda m, _layer: SecondMoment(torch.eye(m.d_mlp))  # noqa: E731
    method = make_method("rome", model, moments, layer=1, steps=2, context_templates=["{}"])
    data = RecordSet("three", RECORDS, 0, "here", "0" * 64)
    measures = Measures(metrics=(), chunk=1)
    return evaluate_into(
        folder, model, data, RECORDS, [method], find_benchmark("counterfact"), measures, progress=progress
    )


def held_up(tmp_path: Path) -> Any:
    """A progress that says that the evaluation began, and lets it go on when the test says so."""

    def progress(*_of: object) -> None:
        if not (tmp_path / "begun").exists():
            (tmp_path / "begun").write_text("")
            wait_for(tmp_path / "go on")

    return progress


def test_the_second_takes_what_the_first_computed(model: EditableModel, tmp_path: Path) -> None:
    one = start(lambda: evaluated(model, tmp_path / "out", held_up(tmp_path)))
    wait_for(tmp_path / "begun")

    def second() -> None:
        found = evaluated(model, tmp_path / "out", lambda *_of: None)
        assert found.stored == (2 * len(RECORDS), 2 * len(RECORDS)), found.stored

    two = start(second)
    time.sleep(0.1)
    (tmp_path / "go on").write_text("")
    assert [end(one), end(two)] == [0, 0]
    with ResultStore(tmp_path / "out" / STORE) as store:
        assert {len(store.results(run)) for run in store.runs()} == {len(RECORDS)}
    assert sorted(_left(tmp_path / "out")) == [STORE]


def test_who_comes_second_is_told_and_a_killed_process_holds_nothing(
    model: EditableModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = start(lambda: evaluated(model, tmp_path / "out", held_up(tmp_path)))
    wait_for(tmp_path / "begun")
    monkeypatch.setattr("factedit.locks.WAIT", 0.0)
    with pytest.raises(ResourceError, match=rf"results\.sqlite is being changed by another process \({child}\)"):
        evaluated(model, tmp_path / "out", lambda *_of: None)
    os.kill(child, signal.SIGKILL)
    assert end(child) == -signal.SIGKILL
    found = evaluated(model, tmp_path / "out", lambda *_of: None)
    assert found.summary["rome"]["ES"].n == len(RECORDS)


@contextmanager
def held_by_another(path: Path) -> Iterator[None]:
    """Inside, another thread holds the lock of a path, as another driver would."""
    has, done = threading.Event(), threading.Event()

    def hold() -> None:
        with locked(path):
            has.set()
            done.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        assert has.wait(60)
        yield
    finally:
        done.set()
        thread.join()


@pytest.mark.parametrize("job", ["trace", "locate", "moments"])
def test_a_second_driver_of_other_jobs_is_told_too(
    job: str, model: EditableModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FACTEDIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("factedit.locks.WAIT", 0.0)
    facts, known = tmp_path / "facts.jsonl", tmp_path / "known.json"
    row = {"subject": "Paris", "prompt": "{} is in", "target_new": "a", "target_true": "the"}
    facts.write_text(json.dumps(row) + "\n")
    known.write_text(json.dumps([{"known_id": 0, "subject": "Paris", "attribute": "the", "prompt": "Paris is in"}]))
    moment = moment_path(model, "a", 9, 1)
    store, work = {
        "trace": (tmp_path / traces_store, lambda: trace_known(model, str(known), tmp_path, noise="0.5")),
        "locate": (tmp_path / locate_store, lambda: locate_facts(model, str(facts), tmp_path, noise="0.5")),
        "moments": (moment.parent, lambda: second_moments(model, [1], lambda: ["a"], corpus="a", tokens=9)),
    }[job]
    with (
        held_by_another(store),
        pytest.raises(ResourceError, match=rf"{store.name} is being changed by another thread"),
    ):
        work()


def _left(folder: Path) -> Sequence[str]:
    return [path.name for path in folder.iterdir() if not path.name.endswith(("-wal", "-shm"))]
