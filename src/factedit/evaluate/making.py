"""Making the edits that are evaluated, with what it took.

What methods have in common (ROME's v*, say) is computed once and its time told for each. A fact that a method cannot
edit is reported with the reason and left out (docs/decisions/0012-failed-records.md).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from factedit.edit.artefact import Edit
from factedit.edit.method import Made, Method, TwoStep, check_made
from factedit.edit.state import State
from factedit.errors import EditError, NoSolution, RequestError
from factedit.facts import EditRequest
from factedit.memory import PeakMemory, release
from factedit.models.adapter import EditableModel

OfFact = tuple[Edit, int] | str  # the edit that holds a fact and the fact's number in it, or why there is none


class Cost(NamedTuple):
    """What making edits took.

    Attributes:
        facts: how many facts were edited; those that could not be are not counted.
        seconds: what editing these took.
        peak_mb: the most memory that it took, in MB.
    """

    facts: int = 0
    seconds: float = 0.0
    peak_mb: float = 0.0

    def __add__(self, other: tuple[Any, ...]) -> Cost:
        facts, seconds, peak_mb = other
        return Cost(self.facts + facts, self.seconds + seconds, max(self.peak_mb, peak_mb))


class Edited(NamedTuple):
    """Facts that a method was given, edited.

    Attributes:
        places: per fact the edit that holds it and its number there, or why it could not be edited.
        cost: what it took.
        state: what the next edit of a sequence must be given.
    """

    places: tuple[OfFact, ...]
    cost: Cost
    state: State | None = None

    @property
    def edits(self) -> list[Edit]:
        """The edits, each once, in order."""
        by_id: dict[int, Edit] = {}
        for place in self.places:
            if not isinstance(place, str):
                by_id.setdefault(id(place[0]), place[0])
        return list(by_id.values())


def make_each(model: EditableModel, requests: Sequence[EditRequest], methods: Sequence[Method]) -> dict[str, Edited]:
    """Return each method's own edit of every fact, by the method's name; the model is not changed."""
    prepared: dict[str, _Timed] = {}
    return {
        method.name: _side_by_side(model, requests, method, prepared) or _one_by_one(model, requests, method)
        for method in methods
    }


def make(
    model: EditableModel,
    method: Method,
    requests: Sequence[EditRequest],
    *,
    chunk: int,
    state: State | None = None,
) -> Edited:
    """Return the edits that put facts on a model at once; the model is not changed.

    Args:
        model: that the method was made for, perhaps with earlier edits on it.
        method: makes one edit of all facts (scope `joint`), or one of each, a chunk at a time (scope `each`).
        requests: the facts.
        chunk: facts edited together where each is edited alone.
        state: what the edits before left.
    """
    if method.scope == "joint":
        return _joint(model, method, requests, state)
    places: list[OfFact] = []
    cost = Cost()
    for begin in range(0, len(requests), chunk):
        part = requests[begin : begin + chunk]
        made = _at_once(model, method, part, state) or _one_by_one(model, part, method, state)
        places, cost, state = [*places, *made.places], cost + made.cost, made.state
    return Edited(tuple(places), cost, state)


def _joint(model: EditableModel, method: Method, requests: Sequence[EditRequest], state: State | None) -> Edited:
    """Return one edit of all facts; where it fails, of those that can be edited alone. A solve without solution is no
    fact's fault, and fails for all.
    """
    try:
        return _all(model, method, requests, state)
    except NoSolution as error:
        return Edited(tuple(str(error) for _ in requests), Cost(), state)
    except (EditError, RequestError):
        pass
    places: list[OfFact | None] = [None] * len(requests)
    for n, request in enumerate(requests):
        try:
            check_made(method, [request], method.edit([request], state), model)
        except (EditError, RequestError) as error:
            places[n] = str(error)
    good = [n for n, place in enumerate(places) if place is None]
    cost = Cost()
    if good:
        try:
            made = _all(model, method, [requests[n] for n in good], state)
        except (EditError, RequestError) as error:
            for n in good:
                places[n] = f"It can be edited alone, but not together with the others: {error}"
        else:
            cost, state = made.cost, made.state
            for n, place in zip(good, made.places, strict=True):
                places[n] = place
    return Edited(tuple(place or "" for place in places), cost, state)


def _at_once(
    model: EditableModel, method: Method, requests: Sequence[EditRequest], state: State | None = None
) -> Edited | None:
    """Return all facts in one call of the method, or None where it fails on one of them."""
    try:
        return _all(model, method, requests, state)
    except (EditError, RequestError):
        return None


def _all(model: EditableModel, method: Method, requests: Sequence[EditRequest], state: State | None) -> Edited:
    timed = _timed(model, method.edit, requests, state)
    return _edited(model, method, requests, timed.result, timed.seconds, timed.peak_mb)


def _edited(
    model: EditableModel, method: Method, requests: Sequence[EditRequest], made: Made, seconds: float, peak_mb: float
) -> Edited:
    edits = check_made(method, requests, made, model).edits
    places = [(edit, number) for edit in edits for number in range(len(edit.requests))]
    return Edited(tuple(places), Cost(len(requests), seconds, peak_mb), made.state)


def _side_by_side(
    model: EditableModel, requests: Sequence[EditRequest], method: Method, prepared: dict[str, _Timed]
) -> Edited | None:
    """Return each fact's own edit, all computed together, or None where the method fails on one of them or works
    jointly.
    """
    if method.scope == "joint":
        return None
    if not isinstance(method, TwoStep):
        return _at_once(model, method, requests)
    try:
        key = method.preparation
        prepared[key] = before = prepared.get(key) or _timed(model, method.prepare, requests)
        last = _timed(model, method.finish, requests, before.result)
        seconds, peak_mb = before.seconds + last.seconds, max(before.peak_mb, last.peak_mb)
        return _edited(model, method, requests, last.result, seconds, peak_mb)
    except (EditError, RequestError):
        return None


def _one_by_one(
    model: EditableModel, requests: Sequence[EditRequest], method: Method, state: State | None = None
) -> Edited:
    """Return the facts' own edits, one after the other; time and memory are those of the edits that were made."""
    places: list[OfFact] = []
    cost = Cost()
    for request in requests:
        try:
            timed = _timed(model, method.edit, [request], state)
            made = _edited(model, method, [request], timed.result, timed.seconds, timed.peak_mb)
        except (EditError, RequestError) as error:
            places.append(str(error))
            continue
        places, cost, state = [*places, *made.places], cost + made.cost, made.state
    return Edited(tuple(places), cost, state)


class _Timed(NamedTuple):
    result: Any
    seconds: float
    peak_mb: float


def _timed(model: EditableModel, work: Callable[..., Any], *args: Any) -> _Timed:
    began = time.perf_counter()
    try:
        with PeakMemory(model.device) as peak:
            result = work(*args)
    finally:
        release()
    return _Timed(result, time.perf_counter() - began, peak.mb)
