"""A process that does jobs on demand, so that two programs are timed in turn: one runs, the other waits.

Jobs have names; per job there are its items and the work, which gives a number to compare.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence

Jobs = Mapping[str, tuple[int, Callable[[], float]]]


def serve(jobs: Jobs) -> None:
    """Do the jobs named on standard input, one a line, and say the seconds per item and the number."""
    print("ready", flush=True)
    for line in sys.stdin:
        count, job = jobs[line.strip()]
        began = time.perf_counter()
        number = job()
        print(json.dumps([(time.perf_counter() - began) / count, number]), flush=True)


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

    def do(self, job: str) -> tuple[float, float]:
        """Seconds per item and the number."""
        assert self._process.stdin is not None
        self._process.stdin.write(job + "\n")
        self._process.stdin.flush()
        seconds, number = json.loads(self._line())
        return seconds, number

    def end(self) -> None:
        """End the process."""
        self._process.terminate()
