"""Which edits may stand on a model: those made for it, or for it with the edits before them; and what is to be said.

Weights of one model in another type (`--dtype`) are other numbers, but the same weights: an edit made for them is let
through, and it is said that its change is rounded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from factedit.edit.artefact import Edit, weights_of
from factedit.edit.effects.weights import weights_changed
from factedit.errors import EditError
from factedit.models.adapter import EditableModel
from factedit.models.load import load
from factedit.stack.folder import StackFolder
from factedit.stack.ledger import LedgerFact, Standing, TakenBack
from factedit.stack.opened import open_base


class Stand(NamedTuple):
    """What will stand on a model.

    Attributes:
        standing: the edits, each with those it needs.
        forced: one was made for other weights.
        notes: what is to be said.
    """

    standing: tuple[Standing, ...]
    forced: bool
    notes: tuple[str, ...]


class Weights(Protocol):
    """The weights that edits are put on.

    Attributes:
        base: fingerprint of the unedited model.
        dtype: their type.
    """

    base: str
    dtype: str

    def state(self, so_far: Sequence[Edit]) -> str:
        """Return the fingerprint of the model with what stands on it and some of the new edits."""

    def type_with(self, fingerprint: str) -> str:
        """Return the type in which the unedited model has this fingerprint, if another than its own; else empty."""


class OfModel:
    """A model in memory; it has the same bits afterwards.

    Args:
        model: unedited.
        base: its fingerprint, where it is known.
    """

    def __init__(self, model: EditableModel, base: str = "") -> None:
        self.model, self.base = model, base or model.fingerprint()
        self.dtype = str(model.dtype).removeprefix("torch.")

    def state(self, so_far: Sequence[Edit]) -> str:
        """See `Weights`."""
        with weights_changed(self.model, weights_of(so_far)):
            return self.model.fingerprint()

    def type_with(self, fingerprint: str) -> str:
        """See `Weights`."""
        return self.model.type_with(fingerprint)


class OfFolder:
    """The model in a folder of edits, read from its files where it is needed."""

    def __init__(self, stack: StackFolder) -> None:
        self.stack, self.base, self.dtype = stack, stack.head.model_fingerprint, stack.head.dtype

    def state(self, so_far: Sequence[Edit]) -> str:
        """See `Weights`."""
        return OfModel(load(str(self.stack.path), dtype=self.dtype, stream=None)).state(so_far)

    def type_with(self, fingerprint: str) -> str:
        """See `Weights`."""
        return open_base(self.stack, stream=None).type_with(fingerprint)


def check_made_for(model: EditableModel, edits: Sequence[Edit], *, force: bool = False) -> tuple[str, ...]:
    """Refuse edits that were made neither for the model nor for the model with the edits before them.

    Args:
        model: unedited; the same bits afterwards.
        edits: in order.
        force: pass them all the same.

    Returns:
        What is to be said of edits that were made for the same weights in another type.

    Raises:
        EditError: naming the first such edit, or one that comes twice.
    """
    return stand_on(OfModel(model), (), edits, force=force).notes


def stand_on(weights: Weights, before: tuple[Standing, ...], edits: Sequence[Edit], *, force: bool) -> Stand:
    """Return the edits that will stand on a model, each with those it needs.

    Args:
        weights: of the model.
        before: what stands on it.
        edits: that are put on, in order.
        force: also those that were made for other weights.

    Raises:
        EditError: naming the first edit that was made for other weights, is on already, or takes back what is not.
    """
    standing, forced, notes = list(before), False, []
    for number, edit in enumerate(edits):
        if any(s.identity == edit.identity for s in standing):
            raise EditError(f"The edit {edit.identity[:12]} is on the model already. Revert it first to apply it anew.")
        needs: tuple[str, ...] = ()
        if edit.made_for != weights.base:
            now = weights.state(edits[:number]) if standing else weights.base
            other = "" if now == edit.made_for else weights.type_with(edit.made_for)
            if now == edit.made_for:
                needs = tuple(s.identity for s in standing)
            elif other:
                notes.append(
                    f"the edit {edit.identity[:12]} was made under --dtype {other}, and these are the same weights as "
                    f"{weights.dtype}, to which its change is rounded"
                )
            elif not force:
                raise EditError(
                    f"The edit {edit.identity[:12]} was made for weights {edit.made_for[:12]}… "
                    f"({edit.model_name}); this model began as {weights.base[:12]}… and is now {now[:12]}…. "
                    "Edits do not carry over; force it only if you know why."
                )
            else:
                forced = True
        facts = tuple(LedgerFact(subject=r.subject, prompt=r.prompt, target=r.target_new) for r in edit.requests)
        gone = tuple(TakenBack(edit=identity, fact=number) for identity, number in edit.takes_back)
        missing = {fact.edit for fact in gone} - {s.identity for s in standing}
        if missing:
            raise EditError(
                f"The edit {edit.identity[:12]} takes back facts of {sorted(missing)[0][:12]}, which is not on the "
                "model. Put that one on first."
            )
        standing.append(Standing(identity=edit.identity, method=edit.method, facts=facts, needs=needs, takes_back=gone))
    return Stand(tuple(standing), forced, tuple(notes))


def conflicts(standing: Sequence[Standing], new: int) -> tuple[str, ...]:
    """Return edits about the same fact (subject and relation), as far as one of the last `new` is concerned."""
    told, gone = [], {(fact.edit, fact.fact) for one in standing for fact in one.takes_back}
    for at in range(len(standing) - new, len(standing)):
        later = standing[at]
        asked = {fact.asked for fact in later.facts}
        for earlier in standing[:at]:
            shared = [
                fact
                for n, fact in enumerate(earlier.facts)
                if fact.asked in asked and (earlier.identity, n) not in gone
            ]
            if shared:
                about = f", among others {shared[0].text}" if len(shared) > 1 else ""
                same = "the same fact" if len(shared) == 1 else f"{len(shared)} of the same facts"
                told.append(f"{later.text} is about {same} as {earlier.text}{about}")
    return tuple(told)
