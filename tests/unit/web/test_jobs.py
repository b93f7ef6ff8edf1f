"""Jobs run one after the other, tell how far they are, and stop when they are asked to."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from factedit.errors import EditError
from factedit.web.jobs import WAITING, Jobs, QueuedJob, TooMany
from processes import PATIENCE, wait_until


@pytest.fixture
def jobs() -> Iterator[Jobs]:
    found = Jobs(lambda error: f"unforeseen: {error}")
    yield found
    found.close()


def ended(job: QueuedJob) -> QueuedJob:
    wait_until(lambda: job.state not in ("queued", "running"), job)
    return job


def test_in_order_and_one_at_a_time(jobs: Jobs) -> None:
    seen: list[tuple[int, int]] = []
    running = [0]

    def work(number: int) -> int:
        running[0] += 1
        time.sleep(0.01)
        seen.append((number, running[0]))
        running[0] -= 1
        return number

    found = [jobs.add("count", lambda _job, n=n: work(n)) for n in range(4)]
    assert [ended(job).result for job in found] == [0, 1, 2, 3]
    assert seen == [(n, 1) for n in range(4)]


def test_progress_and_time_left(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    go, told = threading.Event(), threading.Event()
    clock = [100.0]
    monkeypatch.setattr("factedit.web.jobs.time", SimpleNamespace(monotonic=lambda: clock[0]))

    def work(job: QueuedJob) -> None:
        job.tell("reading", 0, 4)
        clock[0] += 0.5
        job.tell("reading", 1, 4)
        told.set()
        go.wait(PATIENCE)

    job = jobs.add("read", work)
    assert told.wait(PATIENCE)
    found = job.as_json()
    assert (found["state"], found["part"], found["fraction"]) == ("running", "reading", 0.25)
    assert found["seconds_left"] == 1.5, "a quarter took half a second"
    go.set()
    assert ended(job).as_json()["seconds_left"] is None


@pytest.mark.parametrize(
    ("error", "said"),
    [(EditError("It cannot be done."), "It cannot be done."), (KeyError("x"), "unforeseen: 'x'"),
     (MemoryError(), "Memory ran out"), (SystemExit("x"), "unforeseen: x")],
)  # fmt: skip
def test_a_failure_is_told_and_the_next_job_runs(jobs: Jobs, error: BaseException, said: str) -> None:
    def fail(_job: QueuedJob) -> None:
        raise error

    job = ended(jobs.add("fail", fail))
    assert job.state == "failed"
    assert job.error.startswith(said)
    assert ended(jobs.add("go on", lambda _job: 7)).result == 7


def test_cancelled_where_it_tells_and_nobody_takes_it_for_a_failure(jobs: Jobs) -> None:
    begun = threading.Event()
    undone: list[str] = []

    def work(job: QueuedJob) -> None:
        try:
            while True:
                begun.set()
                try:
                    job.tell("working", 1, 2)
                except Exception:
                    undone.append("taken for a failure")
                time.sleep(0.002)
        finally:
            undone.append("undone")

    job, waiting = jobs.add("work", work), jobs.add("wait", lambda _job: 1)
    assert begun.wait(PATIENCE)
    jobs.cancel(waiting.name)
    assert waiting.state == "cancelled"
    jobs.cancel(job.name)
    assert ended(job).state == "cancelled"
    assert undone == ["undone"]
    assert waiting.result is None


def test_so_many_may_wait_and_no_more(jobs: Jobs) -> None:
    go, begun = threading.Event(), threading.Event()

    def hold(_job: QueuedJob) -> None:
        begun.set()
        go.wait(PATIENCE)

    first: Any = jobs.add("hold", hold)
    assert begun.wait(PATIENCE)
    for _ in range(WAITING):
        jobs.add("wait", lambda _job: None)
    with pytest.raises(TooMany, match=f"{WAITING} jobs wait already"):
        jobs.add("one more", lambda _job: None)
    go.set()
    ended(first)
