"""What a method is: made for one model, it computes edits for it and never changes it.

Evaluation never asks which method made an edit. The table of methods is in `method_table.py`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol, get_args, runtime_checkable

from factedit.edit.artefact import Edit
from factedit.edit.effects.effect import Effect
from factedit.edit.effects.weights import check_fit
from factedit.edit.standing import FactOn
from factedit.edit.state import State
from factedit.errors import EditError, UsageError
from factedit.facts import EditRequest
from factedit.models.adapter import EditableModel
from factedit.plugins import strangers_of
from factedit.stats.store import Moment

MomentSource = Callable[[EditableModel, int], Moment]
Scope = Literal["each", "joint"]


class Made(NamedTuple):
    """What a method made.

    Attributes:
        edits: one per request in order (scope `each`), or one that holds all requests (scope `joint`).
        state: what the next edit of a sequence must be given; None where there is nothing to remember.
    """

    edits: tuple[Edit, ...]
    state: State | None = None


class Method(Protocol):
    """Makes edits for the model that it was made for.

    Attributes:
        name: by which it is asked for.
        paper: where it is from.
        scope: `each`: an independent edit of every request; `joint`: one edit of all requests.
    """

    name: str
    paper: str
    scope: Scope

    def edit(self, requests: Sequence[EditRequest], state: State | None = None) -> Made:
        """Return edits of the requests; the model is not changed.

        Args:
            requests: the facts.
            state: in a sequence, what the edits before it left; the model then has these edits on it.
        """
        ...

    def describe(self) -> dict[str, Any]:
        """Return everything that decides an edit beside the model and the request, as JSON values."""
        ...


def edits_of_effects(
    name: str,
    model: EditableModel,
    requests: Sequence[EditRequest],
    effects: Sequence[Effect],
    settings: Mapping[str, Any],
) -> Made:
    """Return one edit per request, each of one effect.

    Args:
        name: of the method.
        model: that they are for.
        requests: the facts.
        effects: one per request.
        settings: what decided them, see `Method.describe`.
    """
    made_for = model.fingerprint() if requests else ""
    return Made(
        tuple(
            Edit(
                method=name, requests=(request,), effects=(effect,), made_for=made_for, settings=dict(settings),
                model_name=model.name,
            )
            for request, effect in zip(requests, effects, strict=True)
        )
    )  # fmt: skip


@runtime_checkable
class TwoStep(Protocol):
    """A method of scope `each` whose `edit` is `finish(prepare())`; methods of one `preparation` share `prepare`."""

    name: str
    paper: str
    preparation: str

    def prepare(self, requests: Sequence[EditRequest]) -> Sequence[Any]:
        """Return the part that several methods have in common, one entry per request."""
        ...

    def finish(self, requests: Sequence[EditRequest], prepared: Sequence[Any]) -> Made:
        """Return one edit per request from its preparation."""
        ...


@runtime_checkable
class TakesBack(Protocol):
    """A method out of whose edits single facts can be taken."""

    def take_back(self, edits: Sequence[Edit], gone: Sequence[FactOn], state: State) -> Edit:
        """Return the edit that takes facts back.

        Args:
            edits: that are on the method's model now, in order.
            gone: facts of theirs, all made by this method.
            state: of the sequence.

        Raises:
            EditError: settings under which no single fact can be taken back.
        """
        ...


def check_made(method: Method, requests: Sequence[EditRequest], made: Made, model: EditableModel | None = None) -> Made:
    """Return what a method made, if it is what was asked for.

    Args:
        method: which.
        requests: that it was given.
        made: that it gave.
        model: that it was made for: then what a stranger's method changes must fit it.

    Raises:
        EditError: other edits than one per request (`each`) or one for all (`joint`); changes of other shapes, or that
            are not finite.
    """
    if model is not None and strangers_of(method):
        check_fit(model, (effect for edit in made.edits for effect in edit.effects))
    wanted = [tuple(requests)] if method.scope == "joint" and requests else [(request,) for request in requests]
    edited = [edit.requests for edit in made.edits]
    if edited != wanted:
        raise EditError(
            f"The method {method.name} (scope {method.scope!r}) was given {len(requests)} requests and made "
            f"{len(edited)} edits of {[len(each) for each in edited]} requests. A method of scope 'each' makes one "
            "edit per request, in order; one of scope 'joint' makes one edit of all. Correct the method."
        )
    return made


def check_takes(name: str, maker: Callable[..., Any], settings: Mapping[str, Any]) -> None:
    """Refuse settings that what makes a method does not take.

    Raises:
        UsageError: naming those that it takes.
    """
    try:
        parameters = inspect.signature(maker).parameters.values()
    except (TypeError, ValueError):  # a built-in
        return
    given = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD][:2]  # the model and the source of moments
    taken = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    more = any(p.kind is p.VAR_KEYWORD for p in parameters)
    known = {p.name for p in parameters} - set(given)
    unknown = [setting for setting in settings if setting in given or not (more or setting in known)]
    if unknown:
        told = f"its settings are {', '.join(taken)}" if taken else "it has no settings"
        told = "these are what it is made for: leave them out" if more else told
        raise UsageError(f"The method {name} does not take {', '.join(unknown)}; {told}.")


def check_is_method(name: str, made: Any) -> Method:
    """Return what was made under a method's name, if it is one.

    Raises:
        EditError: naming what it lacks, or the other name that it gives itself.
    """
    lacking = [part for part in ("name", "paper", "scope", "edit", "describe") if not hasattr(made, part)]
    if not lacking and made.scope not in get_args(Scope):
        lacking = [f"a scope that is one of {', '.join(get_args(Scope))} (it says {made.scope!r})"]
    if lacking:
        raise EditError(
            f"What was made for the method {name!r} is no method: it lacks {', '.join(lacking)}. Its author must add "
            "that; docs/extend/method.md says what each is."
        )
    if made.name != name:
        raise EditError(
            f"What was made for the method {name!r} calls itself {made.name!r}, and its numbers would stand under that "
            "name. Its author must give it the name of its entry point."
        )
    method: Method = made
    return method
