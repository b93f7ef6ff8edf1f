"""Work that is done by several processes: what they are told, what they answer, and whom the driver believes.

An order names a job (`jobs.py`) and what a worker needs to make it: names, files and numbers, as JSON. Every worker
loads the model itself, makes the job by the same code as a single process does, and tells its key: what decides its
numbers. A worker of another key (other weights, other versions of a library) is refused. Then it is given items one at
a time. Items are cut by what is asked, never by who is there, so that no number depends on how many workers there are
(docs/decisions/0027-where-work-runs.md). Only the driver writes.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, Protocol

from factedit import __version__, errors
from factedit.errors import FacteditError, ResourceError, UsageError

DEATHS = 3  # of workers on one item, or before one of them is ready, until the job is stopped


@dataclass(frozen=True)
class ModelPlace:
    """Which model, and how it computes: what another process needs to load it.

    Attributes:
        source, dtype, device: see `factedit.load`.
        threads: of the processor, per worker; the last bits of numbers depend on it.
    """

    source: str
    dtype: str = "float32"
    device: str = "cpu"
    threads: int = 1


class Order(NamedTuple):
    """What workers are to do.

    Attributes:
        job: its name, see `jobs.py`.
        model: which one.
        asked: what else the job is made of, as JSON values.
    """

    job: str
    model: ModelPlace
    asked: Mapping[str, Any]

    def written(self) -> bytes:
        """Return it as bytes."""
        order = {"version": __version__, "job": self.job, "model": asdict(self.model), "asked": self.asked}
        return json.dumps(order).encode()

    @classmethod
    def read(cls, content: bytes) -> Order:
        """Return what `written` gave.

        Raises:
            UsageError: another version wrote it, whose orders may say other things.
        """
        fields = json.loads(content)
        if fields.get("version") != __version__:
            raise UsageError(
                f"A worker has factedit {__version__}, and the process that gives out the work has "
                f"{fields.get('version', 'an earlier one')}. Install the same version everywhere."
            )
        return cls(fields["job"], ModelPlace(**fields["model"]), fields["asked"])


class WorkItem(NamedTuple):
    """A part of a job.

    Attributes:
        name: for messages, e.g. `records 3, 4, 5`.
        content: for the worker, as JSON values.
    """

    name: str
    content: Any


class Worker(Protocol):
    """One of a crew, ready for items."""

    def give(self, item: WorkItem) -> None:
        """Let it work on an item."""
        ...

    def end(self) -> None:
        """End it, whatever it does."""
        ...


class Lost(Exception):
    """A worker died."""


class Crew(Protocol):
    """Workers somewhere."""

    @property
    def places(self) -> int:
        """How many workers there may be now."""
        ...

    def hire(self, order: Order) -> Worker:
        """Return a worker that begins to prepare for an order."""
        ...

    def wait(self, workers: Iterable[Worker]) -> list[tuple[Worker, bytes | Lost]]:
        """Return what workers answered, after at least one did; nothing after a while without an answer."""
        ...


# -- answers ---------------------------------------------------------------------------------------

READY, RESULT, FAILED = b"k", b"r", b"e"


def failed(error: Exception) -> bytes:
    """Return an error as a worker's answer."""
    kind = type(error).__name__ if isinstance(error, FacteditError) else ""
    text = str(error) if kind else f"{type(error).__name__}: {error}"
    return FAILED + json.dumps([kind, text]).encode()


def _raise(content: bytes) -> None:
    """Raise a worker's error as what it was."""
    name, text = json.loads(content)
    kind = getattr(errors, name, None) if name else None
    if isinstance(kind, type) and issubclass(kind, FacteditError):
        error = kind.__new__(kind)
        FacteditError.__init__(error, text)
        raise error
    raise ResourceError(f"A worker failed: {text}. Try it in one process, without --workers and --cluster.")


def check_key(theirs: Any, key: Any) -> None:
    """Refuse a worker that would compute other numbers.

    Raises:
        UsageError: naming what differs.
    """
    wanted = json.loads(json.dumps(key, default=str))
    if theirs == wanted:
        return
    differs = sorted(_differing(theirs, wanted))
    raise UsageError(
        f"A worker computes something else than this process: its {', '.join(differs[:4]) or 'key'} "
        f"{'are others' if len(differs) > 1 else 'is another'}. Workers need the same versions, model files and data."
    )


def _differing(theirs: Any, wanted: Any, name: str = "key") -> set[str]:
    if isinstance(theirs, dict) and isinstance(wanted, dict):
        return {
            one
            for key in theirs.keys() | wanted.keys()
            for one in _differing(theirs.get(key), wanted.get(key), str(key))
        }
    return set() if theirs == wanted else {name}


# -- the driver ------------------------------------------------------------------------------------


def mapped(crew: Crew, order: Order, items: Iterable[WorkItem], key: Any) -> Iterator[tuple[int, bytes]]:
    """Yield each item's number and result as they come; an item whose worker dies is given to another one.

    Args:
        crew: who works.
        order: what is done.
        items: its parts; taken as workers become free.
        key: what decides the numbers, as JSON values; a worker must have the same.

    Raises:
        UsageError: a worker of another key.
        ResourceError: workers die again and again, on one item or before they are ready; the message names it.
        FacteditError: whatever a worker refuses.
    """
    driver = _Driver(crew, order, iter(enumerate(items)), key)
    try:
        yield from driver.run()
    finally:
        driver.end()


class _Driver:
    """Hires workers as there are items for them, and gives them out."""

    def __init__(self, crew: Crew, order: Order, items: Iterator[tuple[int, WorkItem]], key: Any) -> None:
        self.crew, self.order, self.key = crew, order, key
        self._items, self._again = items, deque[tuple[int, WorkItem]]()
        self._preparing: set[Worker] = set()
        self._idle: list[Worker] = []
        self._busy: dict[Worker, tuple[int, WorkItem]] = {}
        self._deaths: dict[int, int] = {}  # per item; of workers that were not ready under -1

    def run(self) -> Iterator[tuple[int, bytes]]:
        """Yield numbers and results until nothing is left."""
        while True:
            self._give_out()
            nothing_left = bool(self._idle) and not self._again  # else one who is idle were busy
            if not self._busy and (nothing_left or not self._preparing):
                return  # whoever still prepares, or waits for room in a cluster, is not needed
            for worker, answer in self.crew.wait([*self._busy, *self._preparing]):
                if isinstance(answer, Lost):
                    self._bury(worker, answer)
                elif answer[:1] == FAILED:
                    _raise(answer[1:])
                elif answer[:1] == READY:
                    check_key(json.loads(answer[1:]), self.key)
                    self._preparing.discard(worker)
                    self._idle.append(worker)
                else:
                    number, _ = self._busy.pop(worker)
                    self._idle.append(worker)
                    yield number, answer[1:]

    def _give_out(self) -> None:
        """Give items to those who are idle, and hire for what is left."""
        while self._idle:
            item = self._next()
            if item is None:
                break
            worker = self._idle.pop()
            self._busy[worker] = item
            try:
                worker.give(item[1])
            except Lost as lost:
                self._bury(worker, lost)
        while len(self._busy) + len(self._preparing) + len(self._idle) < self.crew.places:
            while len(self._again) <= len(self._preparing):  # one item waits for each of those who prepare
                item = next(self._items, None)
                if item is None:
                    return
                self._again.append(item)
            self._preparing.add(self.crew.hire(self.order))

    def _next(self) -> tuple[int, WorkItem] | None:
        return self._again.popleft() if self._again else next(self._items, None)

    def _bury(self, worker: Worker, lost: Lost) -> None:
        """Put a dead worker's item back, unless workers die on it each time."""
        worker.end()
        self._preparing.discard(worker)
        number, item = self._busy.pop(worker, (-1, WorkItem("the beginning of the job", None)))
        self._deaths[number] = self._deaths.get(number, 0) + 1
        if self._deaths[number] >= DEATHS:
            raise ResourceError(
                f"A worker died {DEATHS} times on {item.name} ({lost}). What was stored before is safe. Memory may be "
                "too little for so many workers; try fewer of them, or --batch 1."
            )
        if number >= 0:
            self._again.appendleft((number, item))

    def end(self) -> None:
        """End all workers."""
        for worker in [*self._busy, *self._preparing, *self._idle]:
            worker.end()


def in_order(results: Iterable[tuple[int, bytes]]) -> Iterator[bytes]:
    """Yield results by their numbers, whenever they come."""
    waiting: dict[int, bytes] = {}
    wanted = 0
    for number, result in results:
        waiting[number] = result
        while wanted in waiting:
            yield waiting.pop(wanted)
            wanted += 1
