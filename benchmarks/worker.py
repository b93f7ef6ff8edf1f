"""A process that does jobs on demand, so that two programs are timed in turn: one runs, the other waits.

Jobs have names; per job there are its items and the work, which gives a number to compare.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

Jobs = Mapping[str, tuple[int, Callable[[], float]]]


class Done(NamedTuple):
    """A job that was done.

    Attributes:
        seconds: per item, by the clock.
        number: that the work gave.
        processor: seconds per item of all the process's threads, in programs and in the system for them: a busy
            machine changes these less than the clock's.
    """

    seconds: float
    number: float
    processor: float


def serve(jobs: Jobs) -> None:
    """Do the jobs named on standard input, one a line, and say what a `Done` holds."""
    print("ready", flush=True)
    for line in sys.stdin:
        count, job = jobs[line.strip()]
        began, used = time.perf_counter(), time.process_time()
        number = job()
        took, processor = time.perf_counter() - began, time.process_time() - used
        print(json.dumps(Done(took / count, number, processor / count)), flush=True)


class Worker:
    """A process that serves jobs.

    Args:
        command: starts it.
        environment: of the process; None: this one's.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        self._process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._line()

    @property
    def pid(self) -> int:
        """The process."""
        return self._process.pid

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            sys.exit("a worker ended; its error is above")
        return line

    def do(self, job: str) -> Done:
        """Do a job there."""
        assert self._process.stdin is not None
        self._process.stdin.write(job + "\n")
        self._process.stdin.flush()
        return Done(*json.loads(self._line()))

    def end(self) -> None:
        """End the process."""
        self._process.terminate()
