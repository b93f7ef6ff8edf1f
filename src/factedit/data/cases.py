"""Records that hold several facts: multi-hop cases (MQuAKE) and edits that contradict each other (ConflictEdit).

MQuAKE-CF (arXiv 2305.14795), as its authors write it:

    {case_id, requested_rewrite: [{prompt, subject, question, target_new: {str}, target_true: {str}, relation_id}],
     questions, answer, answer_alias, new_answer, new_answer_alias, single_hops, new_single_hops, orig: {triples, …}}

with their prompts `mquake_multihop_prompts.txt` (16 shots) and `mquake_rel_prompts.json` (8 shots a relation) beside
the file. ConflictEdit (arXiv 2310.02129):

    {edits: [{relation: {id, prompt}, subject: {label}, object: {label}, new_object: {label}}, {…, true_object}]}

of which the second contradicts what follows from the first; other wordings lie in `conflict_prompts.json` beside it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from factedit.data.lines import read_text
from factedit.data.records import RecordSet, Row, read_set
from factedit.errors import DataError
from factedit.facts import EditRequest, FactRecord, fill
from factedit.safe import parse_json

Triple = tuple[str, str, str]
SHOTS, HOP_SHOTS, WORDINGS = "mquake_multihop_prompts.txt", "mquake_rel_prompts.json", "conflict_prompts.json"


@dataclass(frozen=True)
class Hop:
    """A question of one hop.

    Attributes:
        cloze: as a text to be continued.
        answers: the right one, and its other names.
        edited: the hop is one that is edited.
        question: the same as a question, after examples of its relation; empty where there are none.
    """

    cloze: str
    answers: tuple[str, ...]
    edited: bool
    question: str = ""


@dataclass(frozen=True, kw_only=True)
class CaseRecord(FactRecord):
    """A record of several facts, edited one after the other.

    Args:
        further: the facts after the first, in order.
        asked: per fact, the first one's first, its prompt as a question or in other words; may be empty.
        multihop: questions whose answer follows from several facts.
        answers_before, answers: what is right before and after the edits, with other names.
        hops: the path after the edits.
        shots: examples of how such questions are answered, to stand before them.
        path: the facts that the new answer hangs on, as ids: subject, relation, object.
        changes: those of them that the edits make.
        reworded: the last fact in other words.
    """

    further: tuple[EditRequest, ...] = ()
    asked: tuple[str, ...] = ()
    multihop: tuple[str, ...] = ()
    answers_before: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()
    hops: tuple[Hop, ...] = ()
    shots: str = ""
    path: tuple[Triple, ...] = ()
    changes: tuple[Triple, ...] = ()
    reworded: tuple[str, ...] = ()


def requests_of(record: FactRecord) -> tuple[EditRequest, ...]:
    """Return a record's facts, in the order they are edited in."""
    return (record.request, *record.further) if isinstance(record, CaseRecord) else (record.request,)


def read_mquake(path: Path, name: str = "mquake", *, unbroken: bool = False) -> RecordSet[FactRecord]:
    """Return the cases of a file in MQuAKE's format.

    Args:
        path: the file.
        name: what the set is called.
        unbroken: leave out cases whose path another case's edit changes, so that all can be edited at once.

    Raises:
        DataError: naming file, line and field.
    """
    data = read_set(path, name, partial(_multihop, _text_beside(path, SHOTS), _object_beside(path, HOP_SHOTS)))
    if not unbroken:
        return data
    broken = broken_cases(data.records)
    kept = tuple(record for record in data.records if record.case_id not in broken)
    why = (f"another case gives a fact that its answer hangs on another object: {len(broken)}",) if broken else ()
    return replace(data, records=kept, skipped=data.skipped + len(broken), reasons=(*data.reasons, *why))


def broken_cases(records: Sequence[FactRecord]) -> frozenset[str]:
    """Return the cases of which a fact that the right answer hangs on is given another object by another case."""
    cases = [record for record in records if isinstance(record, CaseRecord)]
    made: dict[tuple[str, str], set[str]] = {}
    for subject, relation, target in (change for case in cases for change in case.changes):
        made.setdefault((subject, relation), set()).add(target)
    return frozenset(
        case.case_id
        for case in cases
        if any(made.get((subject, relation), set()) - {target} for subject, relation, target in case.path)
    )


def _multihop(shots: str, hop_shots: Mapping[str, Any], _number: int, row: Row) -> CaseRecord:
    edits = [_rewrite(row, entry, n) for n, entry in enumerate(row.value("requested_rewrite", list))]
    if not edits:
        raise row.error("the field 'requested_rewrite' holds no edit.")
    clozes = {request.text for request, _, _ in edits}
    new_hops = [Row(row.where, entry, "new_single_hops[].") for entry in row.value("new_single_hops", list)]
    ids = row.row("orig")
    relations = [relation for _, relation, _ in _triples(ids, "new_triples")]
    of_hops = [*(str(hop_shots.get(relation, "")) for relation in relations), *[""] * len(new_hops)]
    return CaseRecord(
        case_id=row.name("case_id"),
        request=edits[0][0],
        relation_id=edits[0][2],
        further=tuple(request for request, _, _ in edits[1:]),
        asked=tuple(question for _, question, _ in edits),
        multihop=row.texts("questions"),
        answers_before=(row.text("answer"), *row.texts("answer_alias", optional=True)),
        answers=(row.text("new_answer"), *row.texts("new_answer_alias", optional=True)),
        hops=tuple(_hop(hop, clozes, examples) for hop, examples in zip(new_hops, of_hops, strict=False)),
        shots=shots,
        path=_triples(ids, "new_triples"),
        changes=_triples(ids, "edit_triples"),
    )  # fmt: skip


def _hop(row: Row, edited: Collection[str], examples: str) -> Hop:
    answers = row.text("answer"), *row.texts("answer_alias", optional=True)
    asked = row.optional_text("question") if examples else None
    cloze = row.text("cloze")
    return Hop(cloze, answers, cloze in edited, f"{examples.strip()}\nQ: {asked} A:" if asked else "")


def _triples(row: Row, field: str) -> tuple[Triple, ...]:
    triples = row.value(field, list)
    if any(not isinstance(triple, list) or len(triple) != 3 for triple in triples):
        raise row.error(f"the field {row.inside + field!r} must be a list of [subject, relation, object].")
    return tuple((str(s), str(r), str(o)) for s, r, o in triples)


def _rewrite(row: Row, entry: Any, number: int) -> tuple[EditRequest, str, str | None]:
    """Return an edit, its question, and its relation."""
    rewrite = Row(row.where, entry if isinstance(entry, dict) else {}, f"requested_rewrite[{number}].")
    request = EditRequest(
        subject=rewrite.text("subject"), prompt=rewrite.text("prompt"),
        target_new=rewrite.row("target_new").text("str"), target_true=rewrite.row("target_true").text("str"),
    )  # fmt: skip
    return request, rewrite.text("question"), rewrite.optional_text("relation_id")


def read_conflicts(path: Path, name: str = "conflicts") -> RecordSet[FactRecord]:
    """Return the pairs of edits of a file in ConflictEdit's format; the case id is the number in the file, from 0.

    Raises:
        DataError: naming file, line and field.
    """
    return read_set(path, name, partial(_conflict, _object_beside(path, WORDINGS)))


def _conflict(wordings: Mapping[str, Any], number: int, row: Row) -> CaseRecord | str:
    edits = [Row(row.where, entry, f"edits[{n}].") for n, entry in enumerate(row.value("edits", list))]
    requests = [
        EditRequest(
            subject=edit.row("subject").text("label"), prompt=edit.row("relation").text("prompt"),
            target_new=edit.row("new_object").text("label"),
            target_true=edit.row("true_object" if "true_object" in edit.fields else "object").text("label"),
        )
        for edit in edits
    ]  # fmt: skip
    if len(requests) < 2:
        return "it holds fewer than two edits"
    relation = edits[-1].row("relation").name("id")
    rewordings = [text for text in wordings.get(relation, ()) if isinstance(text, str) and text.count("{}") == 1]
    return CaseRecord(
        case_id=str(number), request=requests[0], further=tuple(requests[1:]), relation_id=relation,
        reworded=tuple(fill(text.strip(), requests[-1].subject) for text in rewordings),
    )  # fmt: skip


def _text_beside(path: Path, name: str) -> str:
    """Return the text of a file in the same folder; nothing where there is none."""
    file = path.parent / name
    return read_text(file).strip() if file.is_file() else ""


def _object_beside(path: Path, name: str) -> Mapping[str, Any]:
    """Return the JSON object of a file in the same folder; an empty one where there is none.

    Raises:
        DataError: it is no JSON object.
    """
    try:
        content = parse_json(_text_beside(path, name) or "{}")
    except ValueError as error:
        raise DataError(f"{path.parent / name} is not JSON: {error}.") from error
    if not isinstance(content, dict):
        raise DataError(f"{path.parent / name} does not hold a JSON object.")
    return content
