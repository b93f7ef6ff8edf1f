"""Two processes at once on one store of results: each case is computed once, and no lock outlives a killed process."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
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
from factedit.models.adapter import EditableModel
from factedit.stats.second_moment import SecondMoment
from factedit.work.evaluate import STORE, evaluate_into
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


def _left(folder: Path) -> Sequence[str]:
    return [path.name for path in folder.iterdir() if not path.name.endswith(("-wal", "-shm"))]
