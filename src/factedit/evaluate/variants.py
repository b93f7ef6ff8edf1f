"""The edits of a chunk of records under every method, with what computing them took.

What methods have in common (ROME's v*, say) is computed once and its time told for each. A record that a method
cannot edit stays unedited and is told with the reason: it gets the unedited model's scores, so that no score is
gained by failing (docs/decisions/0012-failed-records.md).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from factedit.edit.artefact import Edit
from factedit.edit.method import Method, TwoStep, check_made
from factedit.errors import EditError, RequestError
from factedit.facts import EditRequest
from factedit.memory import PeakMemory, release
from factedit.models.adapter import EditableModel


@dataclass(frozen=True)
class Variant:
    """A chunk under one method.

    Attributes:
        edits: one per record, None where the method failed; None as a whole is the unedited model.
        seconds: what computing them took.
        peak_mb: the most memory that it took, in MB.
        failures: why, by the record's place in the chunk.
    """

    edits: Sequence[Edit | None] | None
    seconds: float = 0.0
    peak_mb: float = 0.0
    failures: Mapping[int, str] = field(default_factory=dict)


def compute_variants(
    model: EditableModel, requests: Sequence[EditRequest], methods: Sequence[Method]
) -> dict[str, Variant]:
    """Each method's edits of the requests, by name; the model is not changed."""
    prepared: dict[str, _Measured] = {}
    return {
        method.name: _together(model, requests, method, prepared) or _one_by_one(model, requests, method)
        for method in methods
    }


def _together(
    model: EditableModel, requests: Sequence[EditRequest], method: Method, prepared: dict[str, _Measured]
) -> Variant | None:
    """The edits of all requests at once, or None where the method fails on one of them."""
    try:
        if not isinstance(method, TwoStep):
            made = _measured(model, method.edit, requests)
            return Variant(check_made(method, requests, made.result).edits, made.seconds, made.peak_mb)
        key = method.preparation
        prepared[key] = before = prepared.get(key) or _measured(model, method.prepare, requests)
        last = _measured(model, method.finish, requests, before.result)
        return Variant(last.result.edits, before.seconds + last.seconds, max(before.peak_mb, last.peak_mb))
    except (EditError, RequestError):
        return None


def _one_by_one(model: EditableModel, requests: Sequence[EditRequest], method: Method) -> Variant:
    """The edits of a method that fails on some of the requests; time and memory are those of the edits made."""
    edits: list[Edit | None] = [None] * len(requests)
    failures: dict[int, str] = {}
    seconds = peak = 0.0
    for n, request in enumerate(requests):
        try:
            own = _measured(model, method.edit, [request])
        except (EditError, RequestError) as error:
            failures[n] = str(error)
            continue
        [edits[n]] = own.result.edits
        seconds, peak = seconds + own.seconds, max(peak, own.peak_mb)
    return Variant(edits, seconds, peak, failures)


class _Measured(NamedTuple):
    result: Any
    seconds: float
    peak_mb: float


def _measured(model: EditableModel, work: Callable[..., Any], *args: Any) -> _Measured:
    began = time.perf_counter()
    try:
        with PeakMemory(model.device) as peak:
            result = work(*args)
    finally:
        release()
    return _Measured(result, time.perf_counter() - began, peak.mb)
