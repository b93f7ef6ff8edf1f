"""Several processes: the same bits as one, whatever the number of workers and whoever of them dies."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch

from factedit.errors import DataError, ResourceError, UsageError
from factedit.evaluate.store import ResultStore
from factedit.models.load import load
from factedit.stats.second_moment import SecondMoment
from factedit.stats.store import write_moment
from factedit.work import processes
from factedit.work.crew import FAILED, READY, RESULT, ModelPlace, Order, WorkItem, mapped
from factedit.work.evaluate import STORE, Evaluated, evaluate_dataset
from factedit.work.jobs import CrewJob
from factedit.work.processes import Processes
from factedit.work.stats import compute_moments
from factedit.work.sweep_layers import sweep_layers
from factedit.work.team import Team, team_of
from factedit.work.trace import trace_known
from factedit.work.worker import answer_items
from processes import end, held_at, start, wait_for, wait_until
from tiny_folder import save
from tiny_records import counterfact_rows

SUBJECTS = ("Paris", "Seattle", "France", "LeBron")
KEPT = 250  # the one file that a forked worker keeps
TIMES = ("seconds_per_edit", "peak_memory_mb", "seconds")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("workers") / "model")


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Six records of CounterFact's form and as many known facts, where data sets are looked for."""
    place = tmp_path / "data"
    place.mkdir()
    (place / "counterfact.json").write_text(json.dumps(counterfact_rows(SUBJECTS)))
    monkeypatch.setenv("FACTEDIT_DATA", str(place))
    monkeypatch.setenv("FACTEDIT_CACHE", str(tmp_path / "cache"))
    write_moment(tmp_path / "c.safetensors", SecondMoment(torch.eye(128)))
    return place


class Forked:
    """A worker without the seconds that a fresh interpreter takes to import torch."""

    def __init__(self, pipe: socket.socket, _threads: int, _said: object) -> None:
        self.pid = os.fork()
        if not self.pid:
            try:
                os.dup2(pipe.fileno(), KEPT)
                os.closerange(3, KEPT)  # the driver's ends, whose closing tells that it is gone
                answer_items(Connection(KEPT))
            finally:
                os._exit(0)
        self.code: int | None = None

    def poll(self) -> int | None:
        return self.code

    def kill(self) -> None:
        if self.code is None:
            os.kill(self.pid, signal.SIGKILL)

    def wait(self, _timeout: float = 0) -> None:
        if self.code is None:
            self.code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


@pytest.fixture
def _forked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "started", Forked)


forked = pytest.mark.usefixtures("_forked")


def team(folder: Path, workers: int) -> Team | None:
    return team_of(workers, str(folder)) if workers else None


def evaluated(folder: Path, out: Path, workers: int = 0, **asked: Any) -> Evaluated:
    own = {"methods": "ft,ft-l", "batch": 1, "settings": ["steps=2"], "metrics": (), **asked}
    return evaluate_dataset(
        lambda: load(str(folder)), "counterfact", out, split="all", second_moment=out.parent / "c.safetensors",
        team=team(folder, workers), **own,
    )  # fmt: skip


def rows(out: Path) -> dict[tuple[str, str], Any]:
    """Everything stored, but for times and memory."""
    with sqlite3.connect(out / STORE) as store:
        found = {(run, case): json.loads(row) for run, case, row in store.execute("SELECT * FROM cases")}
    for row in found.values():
        for name in TIMES:
            row.pop(name, None)
    return found


@forked
def test_an_evaluation_is_the_same_to_the_bit(folder: Path, tmp_path: Path) -> None:
    evaluated(folder, tmp_path / "one")
    evaluated(folder, tmp_path / "many", 2)
    assert rows(tmp_path / "one") == rows(tmp_path / "many")
    assert len(rows(tmp_path / "one")) == 3 * len(SUBJECTS)
    again = evaluated(folder, tmp_path / "many", 1)
    assert again.evaluation.stored == (12, 12), "and nothing is computed twice"


@forked
def test_facts_on_one_model_are_shared_out_by_method(folder: Path, tmp_path: Path) -> None:
    asked: dict[str, Any] = {"methods": "ft-l,ft", "at_once": 2, "records": 4}
    evaluated(folder, tmp_path / "one", **asked)
    evaluated(folder, tmp_path / "many", 2, **asked)
    assert rows(tmp_path / "one") == rows(tmp_path / "many")


@forked
def test_moments_and_a_sweep(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("factedit.engine.budget.PARTS_SUMMED", 1)  # several parts, whose order counts
    (tmp_path / "text.txt").write_text("\n\n".join(f"Paris is the capital of {s}. " * 9 for s in SUBJECTS * 12))
    found = []
    for workers in (0, 2):
        monkeypatch.setenv("FACTEDIT_CACHE", str(tmp_path / f"cache{workers}"))
        own = compute_moments(
            lambda: load(str(folder)), layers=[0, 1], corpus=str(tmp_path / "text.txt"), tokens=6000,
            team=team(folder, workers),
        )  # fmt: skip
        sweep_layers(
            lambda: load(str(folder)), "counterfact", tmp_path / f"sweep{workers}", records=2, layers=[1],
            tokens=["subject_last"], batch=1, corpus=str(tmp_path / "text.txt"), team=team(folder, workers),
        )  # fmt: skip
        found.append((own.moments, rows(tmp_path / f"sweep{workers}")))
    (one, swept), (many, swept_by_many) = found
    assert all(torch.equal(one[n].matrix, many[n].matrix) for n in (0, 1))
    assert swept == swept_by_many
    assert len(swept) == 4


@forked
def test_traces(folder: Path, tmp_path: Path) -> None:
    model = load(str(folder))
    from factedit.engine.resume import next_token

    facts = []
    for n, subject in enumerate(SUBJECTS * 3):
        prompt = f"{subject} is number {n} ("
        answer = model.tokenizer.decode([next_token(model, model.tokenizer(prompt)["input_ids"])])
        facts.append({"known_id": n, "subject": subject, "attribute": answer, "prompt": prompt})
    (tmp_path / "known.json").write_text(json.dumps(facts))
    asked: dict[str, Any] = {"samples": 2, "noise": "0.5"}
    out = []
    for workers in (0, 2):
        place = tmp_path / f"traces{workers}"
        found = trace_known(
            lambda: load(str(folder)), str(tmp_path / "known.json"), place, team=team(folder, workers), **asked
        )
        out.append(found.traces)
    assert out[0]
    assert out[0] == out[1]


@forked
def test_a_worker_that_is_killed_is_replaced(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluated(folder, tmp_path / "one")
    given: list[Any] = []
    give = processes.Process.give

    def kill(self: processes.Process, item: WorkItem) -> None:
        give(self, item)
        given.append(item.content["ids"])
        if len(given) == 2:
            self._process.kill()

    monkeypatch.setattr(processes.Process, "give", kill)
    evaluated(folder, tmp_path / "many", 1)
    assert rows(tmp_path / "one") == rows(tmp_path / "many")
    assert given[1] == given[2], "what it had in hand was done by another"


@forked
def test_workers_that_die_each_time_stop_the_job_with_the_records_name(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    give = processes.Process.give

    def kill(self: processes.Process, item: WorkItem) -> None:
        give(self, item)
        if item.content["ids"] == ["3"]:
            self._process.kill()

    monkeypatch.setattr(processes.Process, "give", kill)
    with pytest.raises(ResourceError, match=r"died 3 times on records 3 \(exit code -9"):
        evaluated(folder, tmp_path / "many", 1)
    monkeypatch.undo()
    monkeypatch.setenv("FACTEDIT_DATA", str(tmp_path / "data"))
    done = {case for _, case in rows(tmp_path / "many")}
    assert done == {"1", "2"}, "what was finished before is kept"


class Bare:
    """A worker that answers an item with its content; all but the first wait for room for ever."""

    def __init__(self, ready: bool) -> None:
        self.answers = [READY + b"{}"] if ready else []
        self.ended = False

    def give(self, item: WorkItem) -> None:
        self.answers.append(RESULT + item.content)

    def end(self) -> None:
        self.ended = True


class Crowded:
    """A cluster with room for one."""

    places = 3

    def __init__(self) -> None:
        self.hired: list[Bare] = []
        self.waits = 0

    def hire(self, _order: Order) -> Bare:
        self.hired.append(Bare(not self.hired))
        return self.hired[-1]

    def wait(self, workers: Any) -> list[tuple[Any, bytes]]:
        self.waits += 1
        assert self.waits < 20, "it waits for workers that nobody needs"
        return [(one, one.answers.pop(0)) for one in workers if one.answers]


def test_workers_that_find_no_room_are_not_waited_for_when_all_is_done() -> None:
    crew = Crowded()
    order = Order("moments", ModelPlace("x"), {})
    found = list(mapped(crew, order, [WorkItem(str(n), b"%d" % n) for n in range(5)], {}))  # type: ignore[arg-type]
    assert sorted(found) == [(n, b"%d" % n) for n in range(5)]
    assert len(crew.hired) == 3
    assert all(one.ended for one in crew.hired)


@pytest.mark.parametrize("when", ["begin", "compute"])
def test_a_file_that_a_worker_misses_is_said_and_not_taken_for_a_driver_that_is_gone(
    when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: Any) -> Any:
        raise FileNotFoundError("no such file: facts.jsonl")

    own = missing if when == "begin" else lambda _order: CrewJob({}, missing)
    monkeypatch.setattr("factedit.work.jobs.begin", own)
    mine, theirs = Pipe()
    Thread(target=answer_items, args=(theirs,), daemon=True).start()
    mine.send_bytes(Order("moments", ModelPlace("x"), {}).written())
    if when == "compute":
        assert mine.recv_bytes() == READY + b"{}"
        mine.send_bytes(b"[]")
    assert mine.poll(10)
    assert mine.recv_bytes() == FAILED + b'["", "FileNotFoundError: no such file: facts.jsonl"]'


def test_workers_that_cannot_begin_say_why(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("factedit.work.processes.sys.executable", "/bin/false")
    with pytest.raises(ResourceError, match="died 3 times on the beginning of the job"):
        evaluated(folder, tmp_path / "out", 2)


@forked
def test_a_worker_of_other_weights_is_refused(folder: Path, tmp_path: Path) -> None:
    from tiny_folder import change

    other = save(tmp_path / "other")
    change(other / "config.json", layer_norm_epsilon=1e-3)
    with pytest.raises(UsageError, match="computes something else than this process: its setup is another"):
        evaluate_dataset(
            lambda: load(str(folder)), "counterfact", tmp_path / "out", split="all", methods="ft", records=2, batch=1,
            team=team(other, 1),
        )  # fmt: skip


def test_what_a_worker_refuses_is_said_as_it_is() -> None:
    order = Order("moments", ModelPlace("no/such/folder"), {"layers": [0]})
    with pytest.raises(Exception, match="There is no folder no/such/folder") as found:
        list(mapped(Processes(1), order, [WorkItem("x", [])], {}))
    assert type(found.value).__name__ == "ModelError"
    assert not isinstance(found.value, DataError)


@forked
def test_a_driver_that_is_killed_goes_on_and_leaves_no_worker(folder: Path, tmp_path: Path) -> None:
    def held() -> None:
        held_at(ResultStore, "add", tmp_path / "stored")
        evaluated(folder, tmp_path / "many", 2)

    driver = start(held)
    wait_for(tmp_path / "stored")
    children = _children(driver)
    assert children
    os.kill(driver, signal.SIGKILL)
    assert end(driver) == -signal.SIGKILL
    wait_until(lambda: all(_is_gone(child) for child in children), "a worker outlives its driver")
    assert len(rows(tmp_path / "many")) > 0
    evaluated(folder, tmp_path / "many", 2)
    evaluated(folder, tmp_path / "one")
    assert rows(tmp_path / "one") == rows(tmp_path / "many")


def _children(pid: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(words[1]) == pid:
                found.append(int(entry.name))
    return found


def _is_gone(pid: int) -> bool:
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True
