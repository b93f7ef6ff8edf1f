"""A crew on many machines: actors of a Ray cluster, `--cluster auto|ADDRESS` (extra `cluster`)."""

from __future__ import annotations

import json
import logging
import os
import socket
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from factedit.errors import ResourceError, UsageError, first_line
from factedit.work.crew import READY, RESULT, Lost, Order, Worker, WorkItem, failed

PATIENCE = 5.0  # seconds of waiting at a time
PASSED_ON = ("FACTEDIT_DATA", "FACTEDIT_CACHE")  # to every node, where they are set here


class Serving:
    """What runs in an actor: one job, made once; see `jobs.py`."""

    def __init__(self, order: bytes) -> None:
        self._order, self._job = order, None  # type: bytes, Any

    def begin(self) -> bytes:
        """Load the model, make the job, and tell its key, or why that failed."""
        from factedit.work.jobs import begin

        try:
            self._job = begin(Order.read(self._order))
            return READY + json.dumps(self._job.key, default=str).encode()
        except Exception as error:  # the driver raises it as what it is
            return failed(error)

    def compute(self, content: bytes) -> bytes:
        """Return the result of an item, or why there is none."""
        try:
            result: bytes = self._job.compute(json.loads(content))
            return RESULT + result
        except Exception as error:
            return failed(error)


class Actor:
    """One worker of a cluster."""

    def __init__(self, ray: Any, order: Order) -> None:
        self._ray = ray
        threads = order.model.threads
        passed = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        chips = 1 if order.model.device.startswith("cuda") else 0
        made = ray.remote(Serving).options(
            num_cpus=threads, num_gpus=chips, max_restarts=0,
            runtime_env={"env_vars": {**passed, "OMP_NUM_THREADS": str(threads)}},
        )  # fmt: skip
        self.actor = made.remote(order.written())
        self.answering = self.actor.begin.remote()

    def give(self, item: WorkItem) -> None:
        """Let it work on an item."""
        self.answering = self.actor.compute.remote(json.dumps(item.content).encode())

    def answer(self) -> bytes | Lost:
        """Return what it answered, or that it died."""
        try:
            content: bytes = self._ray.get(self.answering)
            return content
        except self._ray.exceptions.RayError as error:
            return Lost(f"{type(error).__name__}: {first_line(error)}")

    def end(self) -> None:
        """End it, whatever it does."""
        with suppress(Exception):  # it may be gone, or the cluster
            self._ray.kill(self.actor)


class Rays:
    """The workers of a cluster: as many as it has processors for, at every moment, so that a late node joins in.

    Args:
        address: `auto`, or as `ray.init` takes it.
        threads: processors of a worker.
        count: workers at most; None is all there is room for.

    Raises:
        UsageError: Ray is not installed.
        ResourceError: there is no cluster there.
    """

    def __init__(self, address: str, threads: int, count: int | None = None) -> None:
        try:
            import ray
        except ImportError as error:
            raise UsageError("--cluster needs Ray, which is not here. Get it: pip install factedit[cluster]") from error
        self._ray, self._threads, self._count = ray, threads, count
        try:
            _ask_for(address)
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, ignore_reinit_error=True)
        except Exception as error:  # ConnectionError, and errors of several of its libraries
            raise ResourceError(
                f"The cluster at {address!r} cannot be reached ({first_line(error)}). Start one with 'ray start "
                "--head', give its address, or use --workers on this machine."
            ) from error

    @property
    def places(self) -> int:
        """How many workers there may be now; one waits for room where there is none."""
        there: Any = self._ray
        room = int(there.cluster_resources().get("CPU", 0) // self._threads)
        return max(1, room if self._count is None else min(room, self._count))

    def hire(self, order: Order) -> Actor:
        """Return a worker that begins to prepare for an order."""
        return Actor(self._ray, order)

    def wait(self, workers: Iterable[Worker]) -> list[tuple[Worker, bytes | Lost]]:
        """Return what workers answered."""
        by_answer = {worker.answering: worker for worker in workers if isinstance(worker, Actor)}
        ready, _ = self._ray.wait(list(by_answer), num_returns=1, timeout=PATIENCE)
        return [(by_answer[one], by_answer[one].answer()) for one in ready]


def _ask_for(address: str) -> None:
    """Connect to `host:port` and hang up: where nobody listens Ray itself tries for minutes, and says so raw.

    Raises:
        OSError, OverflowError: nobody answers.
    """
    host, _, port = address.rpartition(":")
    if host and port.isdigit() and "/" not in host:
        socket.create_connection((host.strip("[]"), int(port)), timeout=PATIENCE).close()
