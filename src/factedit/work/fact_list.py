"""A list of facts sorted out before anything is computed: what is there twice, what contradicts, what is on already."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from factedit.data.registry import load_facts
from factedit.edit.standing import FactOn
from factedit.errors import RequestError, UsageError
from factedit.facts import EditRequest, FactRecord, asked_of, one_spelling
from factedit.models.adapter import EditableModel
from factedit.models.positions import subject_continuations

SHOWN = 10  # contradictions that are named


@dataclass(frozen=True)
class Sorted:
    """A list of facts, sorted out.

    Attributes:
        wanted: records to be edited.
        left_out: by case id why a record is not edited.
        replaced: facts on the model that get another object, and so are taken back first.
    """

    wanted: tuple[FactRecord, ...]
    left_out: dict[str, str]
    replaced: tuple[FactOn, ...]


def asked_records(
    subject: str | None, prompt: str | None, target: str | None, true_target: str | None, requests: Path | None
) -> list[FactRecord]:
    """Return the facts that a user names: one by its parts, or those of a file.

    Args:
        subject, prompt, target, true_target: of one fact.
        requests: instead, a file of facts.

    Raises:
        UsageError: both, or parts are missing.
        DataError: the file cannot be read.
    """
    if requests is not None:
        if subject or prompt or target or true_target:
            raise UsageError("Give --requests or --subject, --prompt and --target, not both.")
        facts = load_facts(requests)
        facts.say_skipped()
        return list(facts.records)
    if subject is None or prompt is None or target is None:
        missing = [n for n, v in (("--subject", subject), ("--prompt", prompt), ("--target", target)) if v is None]
        raise UsageError(f"Missing {', '.join(missing)} (or give --requests with a file of facts).")
    request = EditRequest(subject=subject, prompt=prompt, target_new=target, target_true=true_target)
    return [FactRecord(case_id="0", request=request)]


def sort_out(model: EditableModel, records: Sequence[FactRecord], standing: Sequence[FactOn]) -> Sorted:
    """Return what of a list of facts is to be edited on a model that holds others.

    Args:
        model: by whose tokens a fact is told to be impossible.
        records: the list.
        standing: facts on the model already.

    Raises:
        UsageError: no facts; facts of the list that contradict each other, which are named.
    """
    if not records:
        raise UsageError("There are no facts to edit: the list is empty.")
    _refuse_contradictions([record.request for record in records])
    on = {name: fact for fact in standing for name in _names(fact.request)}
    wanted, left_out, replaced = list[FactRecord](), dict[str, str](), list[FactOn]()
    seen = set[tuple[str, str]]()
    for record in records:
        names = _names(record.request)
        earlier = next((on[name] for name in names if name in on), None)
        why = "It is in the list before." if seen.intersection(names) else _impossible(model, record.request)
        if why is None and earlier is not None and _object(earlier.request) == _object(record.request):
            why = "It is on the model already."
        if why is not None:
            left_out[record.case_id] = why
            continue
        seen.update(names)
        wanted.append(record)
        if earlier is not None:
            replaced.append(earlier)
    return Sorted(tuple(wanted), left_out, tuple(replaced))


def _impossible(model: EditableModel, request: EditRequest) -> str | None:
    try:
        subject_continuations(model, [request.prompt], request.subject, request.target_new)
    except RequestError as error:
        return str(error)
    return None


def _names(request: EditRequest) -> tuple[tuple[str, str], ...]:
    """Return by what a fact is known: subject and relation, and its whole text, wherever its subject is said to end."""
    return asked_of(request), ("", one_spelling(request.text))


def _object(request: EditRequest) -> str:
    return " ".join(request.target_new.split())


def _refuse_contradictions(requests: Sequence[EditRequest]) -> None:
    first: dict[tuple[str, str], EditRequest] = {}  # by each of its names
    clashes = []
    for request in requests:
        said = [first.setdefault(name, request) for name in _names(request)]
        earlier = next((other for other in said if _object(other) != _object(request)), None)
        if earlier is not None:
            clashes.append(f"{request.text!r} → {earlier.target_new!r} and → {request.target_new!r}")
    if clashes:
        more = f"; and {len(clashes) - SHOWN} more" if len(clashes) > SHOWN else ""
        raise UsageError(
            f"The list says {len(clashes)} {'fact' if len(clashes) == 1 else 'facts'} in two ways: "
            f"{'; '.join(clashes[:SHOWN])}{more}. A model can hold one of them: take the other out."
        )
