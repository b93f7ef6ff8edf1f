"""Edits of records that hold several facts: one edit of all by a joint method, else one after the other.

The first facts of all records are edited side by side as ever; each further one on the model with the record's earlier
edits on. What a record is read under is one edit that holds them all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from factedit.data.cases import requests_of
from factedit.edit.artefact import Edit, Notes
from factedit.edit.method import Method
from factedit.evaluate.making import Edited, OfFact, make, make_each
from factedit.evaluate.together import Together
from factedit.facts import EditRequest, FactRecord
from factedit.models.adapter import EditableModel


def make_cases(model: EditableModel, records: Sequence[FactRecord], methods: Sequence[Method]) -> Mapping[str, Edited]:
    """Return per method, by its name, each record's own edit, that of all its facts; the model is not changed.

    Args:
        model: the unedited model.
        records: the cases.
        methods: made for the model.
    """
    every = [requests_of(record) for record in records]
    made = make_each(model, [requests[0] for requests in every], methods)
    if all(len(requests) == 1 for requests in every):
        return made
    return {method.name: _with_further(model, method, every, made[method.name]) for method in methods}


def _with_further(model: EditableModel, method: Method, every: Sequence[Sequence[EditRequest]], made: Edited) -> Edited:
    places, cost = list(made.places), made.cost
    for n, requests in enumerate(every):
        place = places[n]
        if len(requests) == 1 or isinstance(place, str):
            continue
        edited = (
            _jointly(model, method, requests) if method.scope == "joint" else _in_turn(model, method, requests, place)
        )
        places[n], cost = edited.places[0], cost + edited.cost
    return Edited(tuple(places), cost, made.state)


def _jointly(model: EditableModel, method: Method, requests: Sequence[EditRequest]) -> Edited:
    made = make(model, method, requests, chunk=1)
    return Edited((_first_failure(made.places) or made.places[0],), made.cost)


def _in_turn(model: EditableModel, method: Method, requests: Sequence[EditRequest], place: tuple[Edit, int]) -> Edited:
    edits, cost = [place[0]], None
    for request in requests[1:]:
        with Together(model).plus(edits).on(model):
            made = make(model, method, [request], chunk=1)
        cost = made.cost if cost is None else cost + made.cost
        if isinstance(made.places[0], str):
            return Edited((made.places[0],), cost)
        edits.append(made.places[0][0])
    assert cost is not None
    return Edited(((stacked(edits), 0),), cost)


def stacked(edits: Sequence[Edit]) -> Edit:
    """Return edits that are put on one after the other as one; made for the weights of the first."""
    return replace(
        edits[0],
        requests=tuple(request for edit in edits for request in edit.requests),
        notes=tuple(note for edit in edits for note in (edit.notes or (Notes(),))),
        effects=tuple(effect for edit in edits for effect in edit.effects),
    )


def by_record(records: Sequence[FactRecord], places: Sequence[OfFact]) -> tuple[OfFact, ...]:
    """Return per record where its first fact is, or why one of its facts is not, from the same per fact."""
    per_record: list[OfFact] = []
    left = iter(places)
    for record in records:
        per_fact = [next(left) for _ in requests_of(record)]
        per_record.append(_first_failure(per_fact) or per_fact[0])
    return tuple(per_record)


def _first_failure(places: Sequence[OfFact]) -> str | None:
    return next((place for place in places if isinstance(place, str)), None)
