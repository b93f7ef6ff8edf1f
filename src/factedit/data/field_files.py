"""The field's other files of facts, as their programs write them.

EasyEdit and KnowEdit (arXiv 2308.07269, 2401.01286) list edits with complete prompts:

    {subject, prompt, target_new, ground_truth, rephrase_prompt, locality_prompt, locality_ground_truth}

`target` may stand for `target_new`, `rephrase` for `rephrase_prompt`; a list of answers counts by its first one.
What stands under `portability` and in a nested `locality` is read as probes (`probes.py`). TransformerLens's
`counterfact-tracing`:

    {subject, prompt, relation, relation_id, target_true, target_false}

A record whose subject does not stand in its prompt cannot be edited; it is left out and counted.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from factedit.data.probes import Phrases, ProbedRecord, read_probes
from factedit.data.records import OUTSIDE, RecordSet, Row, read_set
from factedit.errors import RequestError
from factedit.facts import EditRequest, FactRecord, template_of

OF_EDIT_LISTS = frozenset(
    ("ground_truth", "rephrase_prompt", "rephrase", "locality_prompt", "locality", "portability", "target")
)


def is_edit_list(fields: dict[str, Any]) -> bool:
    """Return whether a record is one of an EasyEdit or KnowEdit list: a complete prompt, or fields of theirs."""
    named = {"subject", "prompt"} <= fields.keys() and bool({"target_new", "target"} & fields.keys())
    return named and (bool(OF_EDIT_LISTS & fields.keys()) or "{}" not in str(fields["prompt"]))


def is_probed(fields: dict[str, Any]) -> bool:
    """Return whether a record is one of KnowEdit's: a list of edits whose questions beside them are probes alone."""
    return is_edit_list(fields) and "portability" in fields and "locality_prompt" not in fields


def read_edit_list(path: Path, name: str = "edits") -> RecordSet[FactRecord]:
    """Return the edits of an EasyEdit or KnowEdit file; the case id is the number in the file, from 0.

    Raises:
        DataError: naming file, line and field.
    """
    return read_set(path, name, partial(_edit, Phrases.beside(path)))


def _edit(phrases: Phrases, number: int, row: Row) -> FactRecord | str:
    request = _request(
        row, row.text("target_new" if "target_new" in row.fields else "target"), _first(row, "ground_truth")
    )
    if request is None:
        return OUTSIDE
    rephrased = _first(row, "rephrase_prompt") or _first(row, "rephrase")
    beside, answer = _neighbor(row)
    record = FactRecord(
        case_id=str(number),
        request=request,
        paraphrases=(rephrased,) if rephrased else (),
        neighborhood=(beside,) if beside and answer else (),
        loc_answer=answer if beside else None,
    )
    probes = read_probes(row, request, phrases)
    return ProbedRecord(**vars(record), probes=probes) if probes else record


def read_tracing(path: Path, name: str = "counterfact-tracing") -> RecordSet[FactRecord]:
    """Return the facts of a `counterfact-tracing` file, each to be edited to its false object.

    Raises:
        DataError: naming file, line and field.
    """
    return read_set(path, name, _traced)


def _traced(number: int, row: Row) -> FactRecord | str:
    request = _request(row, row.text("target_false").strip(), row.text("target_true").strip())
    relation = row.optional_text("relation_id")
    return OUTSIDE if request is None else FactRecord(case_id=str(number), request=request, relation_id=relation)


def _neighbor(row: Row) -> tuple[str | None, str | None]:
    """Return a prompt about something else and its right answer: of QAEdit's list of {loc, loc_ans} the first."""
    listed = row.fields.get("locality")
    if isinstance(listed, list) and listed and isinstance(listed[0], dict):
        first = Row(row.where, listed[0], "locality.")
        return first.optional_text("loc"), first.optional_text("loc_ans")
    return _first(row, "locality_prompt"), _first(row, "locality_ground_truth")


def _request(row: Row, target: str, true: str | None) -> EditRequest | None:
    """The request, or None where the subject does not stand in the prompt."""
    subject, prompt = row.text("subject"), row.text("prompt")
    try:
        template = prompt if prompt.count("{}") == 1 else template_of(prompt, subject)
    except RequestError:
        return None
    return EditRequest(subject=subject, prompt=template, target_new=target, target_true=true)


def _first(row: Row, field: str) -> str | None:
    """A text, or the first text of a list (of lists); None where there is none."""
    value = row.fields.get(field)
    while isinstance(value, list) and value:
        value = value[0]
    if value is None or isinstance(value, list | dict):
        return None
    return Row(row.where, {field: value}).text(field, empty=True).strip() or None
