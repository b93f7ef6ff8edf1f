"""A crew of processes on this machine: `--workers N`."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as wait_for
from typing import IO

from factedit.errors import ResourceError
from factedit.work.crew import Lost, Order, Worker, WorkItem

PATIENCE = 5.0  # seconds of waiting at a time
LAST_WORDS = 300  # characters of what a dead worker wrote


@dataclass(frozen=True)
class Processes:
    """So many processes, each of which holds the model.

    A worker is a fresh interpreter in a session of its own: Ctrl-C reaches the driver alone, which ends its workers;
    one whose driver is gone ends by itself.

    Attributes:
        count: at most.
    """

    count: int

    @property
    def places(self) -> int:
        """How many workers there may be."""
        return self.count

    def hire(self, order: Order) -> Process:
        """Return a worker that begins to prepare for an order.

        Raises:
            ResourceError: the system has no room for another process, or for its files.
        """
        try:
            return Process(order)
        except OSError as error:
            raise ResourceError(
                f"A worker cannot be started ({error.strerror or error}). What was stored before is safe. Try fewer "
                f"than {self.count} (--workers), or free some room, and repeat the command."
            ) from error

    def wait(self, workers: Iterable[Worker]) -> list[tuple[Worker, bytes | Lost]]:
        """Return what workers answered."""
        by_pipe = {worker.pipe: worker for worker in workers if isinstance(worker, Process)}
        ready = wait_for(list(by_pipe), PATIENCE)
        return [(by_pipe[pipe], by_pipe[pipe].answer()) for pipe in ready]  # type: ignore[index]


def started(pipe: socket.socket, threads: int, said: IO[bytes]) -> subprocess.Popen[bytes]:
    """Return a fresh interpreter that serves the other end of a pipe."""
    paths = os.pathsep.join(path for path in sys.path if path)
    return subprocess.Popen(
        [sys.executable, "-m", "factedit.work.worker", str(pipe.fileno())], pass_fds=[pipe.fileno()],
        stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True,
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": str(threads)},
    )  # fmt: skip


class Process:
    """One worker."""

    def __init__(self, order: Order) -> None:
        mine, theirs = socket.socketpair()
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the worker
        with theirs:
            self._process = started(theirs, order.model.threads, self._said)
        self.pipe = Connection(mine.detach())
        with suppress(Lost):  # who is dead already is found so where answers are waited for
            self._send(order.written())

    def give(self, item: WorkItem) -> None:
        """Let it work on an item."""
        self._send(json.dumps(item.content).encode())

    def _send(self, content: bytes) -> None:
        try:
            self.pipe.send_bytes(content)
        except OSError as error:
            raise self._lost() from error

    def answer(self) -> bytes | Lost:
        """Return what it answered, or that it died."""
        try:
            return self.pipe.recv_bytes()
        except (EOFError, OSError):
            return self._lost()

    def _lost(self) -> Lost:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(PATIENCE)
        self._said.seek(0)
        words = self._said.read().decode(errors="replace").strip().splitlines()
        return Lost(f"exit code {self._process.poll()}" + (f": {words[-1][:LAST_WORDS]}" if words else ""))

    def end(self) -> None:
        """End it, whatever it does."""
        self.pipe.close()
        with suppress(OSError):
            self._process.kill()
        self._process.wait()
        self._said.close()
