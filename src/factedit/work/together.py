"""Edit many facts together: one edit, or a sequence of them, with what became of every fact and what it cost.

Batches are put on one after the other; each is saved as soon as it is made, and the same call goes on where it was
interrupted, to the same bits. What earlier edits of the model left is found from these edits themselves.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from factedit.cache import cache_dir
from factedit.edit.artefact import Edit
from factedit.edit.kept_values import forget_values, keeping_values
from factedit.edit.manifest import canonical
from factedit.edit.method import Method
from factedit.edit.place import check_outside
from factedit.edit.standing import facts_on
from factedit.errors import UsageError
from factedit.evaluate.harm import Harm, Probes
from factedit.evaluate.holding import Held, Share, ask_facts
from factedit.evaluate.together import Together
from factedit.facts import FactRecord
from factedit.models.adapter import EditableModel
from factedit.outputs import check_writable
from factedit.work.edit import SavedEdit
from factedit.work.fact_list import Sorted, sort_out
from factedit.work.progress import Progress, advancing, keeping, silent
from factedit.work.sequence import RunningSequence

TOOK, NOT_WRITTEN, KNOWN, LEFT_OUT, FAILED = "took", "not written", "known", "left out", "failed"
STATUSES = (TOOK, NOT_WRITTEN, KNOWN, LEFT_OUT, FAILED)


@dataclass(frozen=True)
class FactReport:
    """What became of one fact.

    Attributes:
        record: the fact.
        status: `took`: the model writes it; `not written`; `known`: it did before, and was not edited; `left out`, as
            a repetition, say; `failed`.
        why: of a fact that was left out or failed.
        before, after: how it stood before, and stands with all edits on; None where it was not asked.
    """

    record: FactRecord
    status: str
    why: str = ""
    before: Held | None = None
    after: Held | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the same as JSON values."""
        return {
            "case_id": self.record.case_id,
            "request": vars(self.record.request),
            "status": self.status,
            "why": self.why,
            "before": self.before and self.before.as_json(),
            "after": self.after and self.after.as_json(),
        }


@dataclass(frozen=True)
class EditedTogether:
    """What editing many facts gave.

    Attributes:
        method: its name.
        edits: in order, each with the folder it was saved in.
        facts: one entry per fact of the list, in its order.
        harm: of the model before and with all edits; None where nothing was edited.
        seconds: what making the edits took.
    """

    method: str
    edits: tuple[SavedEdit, ...]
    facts: tuple[FactReport, ...]
    harm: tuple[Harm, Harm] | None
    seconds: float

    def count(self, status: str) -> int:
        """Return how many facts have a status."""
        return sum(fact.status == status for fact in self.facts)

    @property
    def wordings(self) -> Share:
        """In how many other wordings of the edited facts the new object is written."""
        return sum((fact.after.wordings for fact in self.facts if fact.after), Share(0, 0))

    @property
    def neighbours(self) -> tuple[Share, Share]:
        """For how many prompts about other subjects their own answer is likelier, before and after."""
        held = [(fact.before, fact.after) for fact in self.facts if fact.before and fact.after]
        before, after = (sum((pair[n].neighbours for pair in held), Share(0, 0)) for n in (0, 1))
        return before, after

    def as_json(self) -> dict[str, Any]:
        """Return `{method, edits, seconds, counts, wordings, neighbours, harm, facts}`; see the attributes."""
        return {
            "method": self.method,
            "edits": [_edit_as_json(*edited) for edited in self.edits],
            "seconds": self.seconds,
            "counts": {status: self.count(status) for status in STATUSES},
            "wordings": list(self.wordings),
            "neighbours": [list(share) for share in self.neighbours],
            "harm": None if self.harm is None else [harm.as_json() for harm in self.harm],
            "facts": [fact.as_json() for fact in self.facts],
        }


def _edit_as_json(edit: Edit, folder: Path | None) -> dict[str, Any]:
    sizes = {name: edit.diagnostics.get(name) for name in ("update_norm", "weight_norm")}
    told = {"identity": edit.identity, "requests": len(edit.requests), "takes_back": len(edit.takes_back)}
    return {"edit_dir": None if folder is None else str(folder), **told, **sizes}


def edit_together(
    base: EditableModel,
    method: Method,
    records: Sequence[FactRecord],
    *,
    earlier: Sequence[Edit] = (),
    batch: int | None = None,
    folder: Path | None = None,
    also_known: bool = False,
    keep_values: bool = True,
    progress: Progress = silent,
) -> EditedTogether:
    """Edit facts with a joint method, beside the edits that are on the model.

    Args:
        base: the unedited model; not changed.
        method: of scope `joint`, made for it.
        records: the facts, perhaps with other wordings and neighbours, which are then asked too.
        earlier: edits that are on the model, in order. A fact of theirs that gets another object is taken back first.
        batch: facts of one edit; None is all.
        folder: where to: of several edits `folder/0000` and so on. None saves nothing.
        also_known: edit facts that the model writes already, too.
        keep_values: keep the values of facts in the cache until they are part of an edit.
        progress: told what is done and how far.

    Raises:
        UsageError: another scope; facts that contradict each other.
        EditError: a folder of other edits, or inside an edit; a history of another base.
        ResourceError: memory or disk ran out; what was saved is safe.
    """
    if method.scope != "joint":
        raise UsageError(f"{method.name} edits every fact alone. Choose a joint method, such as rome-joint or memit.")
    if batch is not None and batch < 1:
        raise UsageError(f"Batches of {batch} facts were asked for: give at least 1.")
    if folder is not None:
        check_writable(folder)
        check_outside(folder)
    with base.unchanged():
        asked = sort_out(base, records, facts_on(earlier))
        running = RunningSequence.begin(base, method, earlier)
        begun = running.on
        before = _asked(base, asked.wanted, begun, progress, "asking the facts")
        new = [record for record in asked.wanted if also_known or not before[record.case_id].written]
        values = _values_folder(running, new) if keep_values else None
        finding = advancing(progress, "finding values (facts)", len(new))
        with keeping(partial(_what_is_kept, running, folder, values)), keeping_values(values, finding):
            _run(running, new, asked, batch or max(1, len(new)), folder)
        if values is not None:
            forget_values(values)
        after = _asked(base, new, running.on, progress, "asking them again")
        harm = None
        if new:
            probes = Probes.of(base, without=[record.request.subject for record in new])
            harm = (probes.under(base, begun), probes.under(base, running.on))
    facts = tuple(_report(record, asked, running, before, after) for record in records)
    return EditedTogether(method.name, tuple(running.made), facts, harm, running.seconds)


def _run(running: RunningSequence, new: Sequence[FactRecord], asked: Sorted, batch: int, folder: Path | None) -> None:
    """Take back what is replaced, then edit batch after batch."""
    parts = [new[begin : begin + batch] for begin in range(0, len(new), batch)]
    alone = len(parts) + bool(asked.replaced) == 1

    def place() -> Path | None:
        return folder if folder is None or alone else folder / f"{len(running.made):04d}"

    if asked.replaced:
        running.take_back(asked.replaced, place())
    for part in parts:
        running.batch([record.request for record in part], place())


def _values_folder(running: RunningSequence, new: Sequence[FactRecord]) -> Path:
    """A folder of the cache for the values of these facts alone."""
    facts = [vars(record.request) for record in new]
    about = [running.fingerprint, running.method.name, running.method.describe(), facts]
    return cache_dir() / "values" / hashlib.sha256(canonical(about)).hexdigest()[:16]


def _what_is_kept(running: RunningSequence, folder: Path | None, values: Path | None) -> str:
    edits = f"{len(running.made)} edits are kept in {folder}" if folder is not None else "no edit was saved"
    return edits + ("" if values is None else ", the values found so far in the cache; the same command goes on there")


def _asked(
    base: EditableModel, records: Sequence[FactRecord], on: Together, progress: Progress, what: str
) -> dict[str, Held]:
    with on.on(base):
        answers = ask_facts(base, records, advancing(progress, what, len(records)))
    return {record.case_id: held for record, held in zip(records, answers, strict=True)}


def _report(
    record: FactRecord, asked: Sorted, running: RunningSequence, before: dict[str, Held], after: dict[str, Held]
) -> FactReport:
    case = record.case_id
    if case in asked.left_out:
        return FactReport(record, LEFT_OUT, asked.left_out[case])
    if record.request in running.failed:
        return FactReport(record, FAILED, running.failed[record.request], before[case], after.get(case))
    if case not in after:
        return FactReport(record, KNOWN, before=before[case])
    return FactReport(record, TOOK if after[case].written else NOT_WRITTEN, "", before[case], after[case])
