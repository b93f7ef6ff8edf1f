"""The facts of a folder of edits: asked again, and taken back one by one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from factedit.edit.artefact import Edit, weights_of
from factedit.edit.effects.weights import weights_changed
from factedit.edit.method import Method, MomentSource, TakesBack
from factedit.edit.method_table import make_method
from factedit.edit.standing import FactOn, facts_on
from factedit.edit.state import state_of
from factedit.errors import EditError, RequestError, UsageError
from factedit.evaluate.holding import AT_ONCE, Held, ask_facts
from factedit.evaluate.metrics.free import free_match
from factedit.evaluate.together import Together
from factedit.facts import FactRecord, one_spelling
from factedit.models.adapter import EditableModel
from factedit.stack.folder import StackFolder
from factedit.stack.ledger import Entry
from factedit.stack.opened import open_base
from factedit.stack.work import apply, revert
from factedit.work.progress import Progress, advancing, silent

SHOWN = 12  # facts that a message names
OF_C = "second_moments"  # what a joint method tells of itself beside its settings


class Checked(NamedTuple):
    """A fact that was asked again.

    Attributes:
        fact: the fact.
        held: how it stands now; None where it cannot be asked.
        recorded: whether it was written when its edit was made; None where that was not measured.
        why: it cannot be asked, e.g. since it is longer than the context.
    """

    fact: FactOn
    held: Held | None
    recorded: bool | None
    why: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return `{edit, number, request, written, recorded, probability, continuation, why}`."""
        edit, number = self.fact.name
        names = ("written", "probability", "continuation")
        told = {name: None if self.held is None else getattr(self.held, name) for name in names}
        return {
            "edit": edit, "number": number, "request": vars(self.fact.request), "recorded": self.recorded, **told,
            "why": self.why,
        }  # fmt: skip


def check_facts(model: EditableModel, edits: Sequence[Edit], *, progress: Progress = silent) -> list[Checked]:
    """Ask all facts of edits again, with all of them on the model; the oldest first.

    Args:
        model: unedited; the same bits afterwards.
        edits: in order.
        progress: told the facts asked.

    Raises:
        EditError: an edit of other shapes.
    """
    facts = facts_on(edits)
    records = [FactRecord(case_id=str(n), request=fact.request) for n, fact in enumerate(facts)]
    under = Together(model).plus(edits)
    step = advancing(progress, "asking the facts", len(facts))
    with under.on(model):
        answers = [answer for part in _parts(records) for answer in _held_or_why(model, part, under, step)]
    return [
        Checked(fact, None, _recorded(fact), answer) if isinstance(answer, str)
        else Checked(fact, answer, _recorded(fact))
        for fact, answer in zip(facts, answers, strict=True)
    ]  # fmt: skip


def _parts(records: Sequence[FactRecord]) -> list[Sequence[FactRecord]]:
    return [records[begin : begin + AT_ONCE] for begin in range(0, len(records), AT_ONCE)]


def _held_or_why(
    model: EditableModel, records: Sequence[FactRecord], under: Together, step: Callable[[int], None]
) -> list[Held | str]:
    """How facts stand, asked together; where one cannot be asked, each alone, and why it cannot."""
    try:
        return [*ask_facts(model, records, step, under=under)]
    except RequestError as error:
        if len(records) == 1:
            step(1)
            return [str(error)]
    return [answer for record in records for answer in _held_or_why(model, [record], under, step)]


def _recorded(fact: FactOn) -> bool | None:
    after = fact.edit.notes[fact.number].after
    return free_match(after["continuation"], fact.request.target_new) if "continuation" in after else None


def take_back_fact(
    folder: Path, asked: str, moments: MomentSource, *, device: str | None = None, force: bool = False
) -> Entry:
    """Take one fact out of a folder of edits, as a further entry of its ledger.

    Where the fact is all that its edit holds and no later edit was made with it on, the edit is reverted, to the bit.
    Else the fact is taken out of what was written together by the exact formula (`edit/many/revise.py`).

    Args:
        folder: that `apply` wrote; it is replaced.
        asked: `SUBJECT` or `SUBJECT: RELATION`, the relation as its template or its text.
        moments: gives the second moments that the edits were made with.
        device: where to compute.
        force: revert a whole edit also where a later one was made with it on.

    Raises:
        UsageError: no such fact, or several.
        EditError: a method whose facts cannot be taken back one by one; other second moments.
        DataError: the folder is damaged.
        ResourceError: the disk is full or not writable.
    """
    stack = StackFolder(folder)
    edits = [stack.edit(standing.identity) for standing in stack.head.standing]
    fact = find_fact(facts_on(edits), asked, where=str(folder))
    needed = any(fact.edit.identity in standing.needs for standing in stack.head.standing)
    if len(fact.edit.requests) == 1 and (force or not needed):
        return revert(folder, fact.edit, force=force)
    return apply(str(folder), [_taken_out(stack, edits, fact, moments, device)])


def _taken_out(
    stack: StackFolder, edits: Sequence[Edit], fact: FactOn, moments: MomentSource, device: str | None
) -> Edit:
    """Return the edit that takes a fact out, from the edited matrices; the model is not loaded where it need not be."""
    base = open_base(stack, device=device, stream=None)
    with base.unchanged():
        method = method_of(fact.edit, base, moments)
        state = state_of(base.fingerprint(), (edit.state_change for edit in edits))
        if not isinstance(method, TakesBack) or state is None:
            raise EditError(
                f"{fact.edit.method} keeps nothing by which one fact could be taken out of its edit. "
                f"Take off the whole edit: factedit revert {stack.path} {fact.edit.identity[:12]}"
            )
        with weights_changed(base, weights_of(edits)):
            taken = method.take_back(edits, [fact], state)
    base.let_go()
    return taken


def method_of(edit: Edit, base: EditableModel, moments: MomentSource) -> Method:
    """Return the method that made an edit, with its settings, for the model that the sequence began as.

    Raises:
        EditError: the second moments are not those that the edit was made with.
    """
    settings = {name: value for name, value in edit.settings.items() if name != OF_C}
    method = make_method(edit.method, base, moments, **settings)
    wanted, given = edit.settings.get(OF_C), method.describe().get(OF_C)
    if wanted != given:
        raise EditError(
            f"The edit {edit.identity[:12]} was made with the second moments {wanted}; found are {given}. Give the "
            "same ones (--second-moment, --corpus)."
        )
    return method


def find_fact(facts: Sequence[FactOn], asked: str, *, where: str) -> FactOn:
    """Return the one fact that is meant by `SUBJECT` or `SUBJECT: RELATION`.

    Raises:
        UsageError: none, or several; those there are are named.
    """
    fitting = [fact for fact in facts if one_spelling(asked) in _names(fact)]
    if len(fitting) == 1:
        return fitting[0]
    subject = one_spelling(asked.partition(":")[0])
    near = fitting or [fact for fact in facts if subject in one_spelling(fact.request.subject)] or list(facts)
    named = "; ".join(f"{f.request.subject}: {f.request.prompt} → {f.request.target_new}" for f in near[:SHOWN])
    more = f"; and {len(near) - SHOWN} more" if len(near) > SHOWN else ""
    what = f"fits {len(fitting)} facts" if fitting else "is not a fact"
    raise UsageError(f"{asked!r} {what} of {where}. Give SUBJECT or 'SUBJECT: RELATION' of: {named or 'none'}{more}.")


def _names(fact: FactOn) -> set[str]:
    request = fact.request
    relations = (request.prompt, request.text)
    return {one_spelling(request.subject), *(one_spelling(f"{request.subject}: {text}") for text in relations)}
