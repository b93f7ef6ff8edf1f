"""Jobs: what touches the model, one after the other, with progress, time left and cancel."""

from __future__ import annotations

import secrets
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from factedit.errors import FacteditError, ResourceError
from factedit.memory import is_out_of_memory, out_of_memory

WAITING, KEPT = 8, 40  # jobs that wait at most; finished ones that are remembered
QUEUED, RUNNING, DONE, FAILED, CANCELLED = "queued", "running", "done", "failed", "cancelled"


class Cancelled(BaseException):
    """A job was asked to stop; not an `Exception`, so that nothing on its way takes it for a failure."""


@dataclass
class QueuedJob:
    """One job.

    Attributes:
        name: by which it is asked for.
        what: what it does, in words.
        state: `queued`, `running`, `done`, `failed` or `cancelled`.
        part, fraction: what it is at, and how much of that is done (0 to 1).
        trail: what it told on its way (losses).
        result: JSON values.
        error: why it failed, one message.
    """

    what: str
    work: Callable[[QueuedJob], Any] = field(repr=False)
    name: str = field(default_factory=lambda: secrets.token_hex(8))
    state: str = QUEUED
    part: str = ""
    fraction: float | None = None
    trail: list[Any] = field(default_factory=list)
    result: Any = None
    error: str = ""
    stop: threading.Event = field(default_factory=threading.Event, repr=False)
    begun: float = 0.0
    part_begun: float = 0.0
    ended: float = 0.0

    def check(self) -> None:
        """Stop here if the job was cancelled.

        Raises:
            Cancelled: it was.
        """
        if self.stop.is_set():
            raise Cancelled

    def tell(self, what: str, done: float, total: float) -> None:
        """Tell how far it is; see `work.progress.Progress`. A cancelled job ends here."""
        self.check()
        if what != self.part:
            self.part, self.part_begun = what, time.monotonic()
        self.fraction = min(1.0, done / total) if total else None

    def note(self, value: Any) -> None:
        """Keep something that the page shows while the job runs."""
        self.check()
        self.trail.append(value)

    @property
    def seconds(self) -> float:
        """How long it has run."""
        return (self.ended or time.monotonic()) - self.begun if self.begun else 0.0

    @property
    def seconds_left(self) -> float | None:
        """How long its part will take at the speed so far; None where that is not known yet."""
        if self.state != RUNNING or not self.fraction:
            return None
        return (time.monotonic() - self.part_begun) * (1 - self.fraction) / self.fraction

    def as_json(self) -> dict[str, Any]:
        """Return what the page is told."""
        return {
            "job": self.name, "what": self.what, "state": self.state, "part": self.part, "fraction": self.fraction,
            "seconds": self.seconds, "seconds_left": self.seconds_left, "trail": list(self.trail),
            "result": self.result, "error": self.error,
        }  # fmt: skip


class TooMany(ResourceError):
    """More jobs than may wait."""


class Jobs:
    """The queue and its one worker.

    Args:
        unforeseen: gives the message of an error that nobody foresaw.
    """

    def __init__(
        self, unforeseen: Callable[[BaseException], str] = lambda error: f"{type(error).__name__}: {error}"
    ) -> None:
        self._unforeseen = unforeseen
        self._lock = threading.Condition()
        self._jobs: dict[str, QueuedJob] = {}
        self._waiting: deque[QueuedJob] = deque()
        self._open = True
        self._thread = threading.Thread(target=self._run, name="factedit jobs", daemon=True)
        self._thread.start()

    def add(self, what: str, work: Callable[[QueuedJob], Any]) -> QueuedJob:
        """Put a job at the end of the queue.

        Raises:
            TooMany: so many wait already.
        """
        with self._lock:
            if len(self._waiting) >= WAITING:
                raise TooMany(f"{WAITING} jobs wait already. Wait for one of them, or cancel one.")
            job = QueuedJob(what, work)
            self._jobs[job.name] = job
            over = [older.name for older in self._jobs.values() if older.state not in (QUEUED, RUNNING)][:-KEPT]
            for name in over:
                del self._jobs[name]
            self._waiting.append(job)
            self._lock.notify()
            return job

    def get(self, name: str) -> QueuedJob | None:
        """Return the job of this name."""
        with self._lock:
            return self._jobs.get(name)

    def live(self) -> list[QueuedJob]:
        """Return jobs that run or wait, in order."""
        with self._lock:
            return [job for job in self._jobs.values() if job.state in (QUEUED, RUNNING)]

    def cancel(self, name: str) -> QueuedJob | None:
        """Stop a job: one that waits at once, one that runs where it next tells its progress."""
        with self._lock:
            job = self._jobs.get(name)
            if job is None:
                return None
            job.stop.set()
            if job.state == QUEUED:
                self._waiting.remove(job)
                job.state = CANCELLED
            return job

    def close(self) -> None:
        """Stop what runs, and take no more."""
        with self._lock:
            self._open = False
            for job in self._jobs.values():
                job.stop.set()
            self._lock.notify_all()

    def _run(self) -> None:
        while True:
            with self._lock:
                while self._open and not self._waiting:
                    self._lock.wait()
                if not self._open:
                    return
                job = self._waiting.popleft()
                job.state = RUNNING
            self._work(job)

    def _work(self, job: QueuedJob) -> None:
        job.begun = job.part_begun = time.monotonic()
        try:
            job.result, state = job.work(job), DONE
        except Cancelled:
            state = CANCELLED
        except FacteditError as error:
            job.error, state = str(error), FAILED
        except BaseException as error:  # also SystemExit of a library: the queue's one worker goes on
            told = str(out_of_memory(error)) if is_out_of_memory(error) else self._unforeseen(error)
            job.error, state = told, FAILED
        job.ended = time.monotonic()
        job.state = state
