"""What a method is, and the table of methods.

A method is made for one model, computes edits for it and never changes it. Evaluation never asks which method made an
edit. Methods from outside register under the entry point group `factedit.methods`: a function that makes the method
from a model, a source of second moments and settings (docs/methods.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Literal, NamedTuple, Protocol, cast, runtime_checkable

from torch import Tensor

from factedit.edit.artefact import Edit
from factedit.edit.trained import KINDS
from factedit.errors import EditError, UnknownName
from factedit.facts import EditRequest
from factedit.models.adapter import EditableModel
from factedit.plugins import outside
from factedit.stats.second_moment import SecondMoment

MomentSource = Callable[[EditableModel, int], SecondMoment]
GROUP = "factedit.methods"
Scope = Literal["each", "joint"]


@dataclass(frozen=True)
class State:
    """What a sequence of edits must remember beside the edited weights.

    Attributes:
        base: fingerprint of the unedited model.
        tensors: by name, e.g. the keys of earlier facts at a layer.
    """

    base: str
    tensors: Mapping[str, Tensor] = field(default_factory=dict)


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
        """Edits of the requests; the model is not changed.

        Args:
            requests: the facts.
            state: in a sequence, what the edits before it left; the model then has these edits on it.
        """
        ...

    def describe(self) -> dict[str, Any]:
        """Everything that decides an edit beside the model and the request, as JSON values."""
        ...


@runtime_checkable
class TwoStep(Protocol):
    """A method of scope `each` whose `edit` is `finish(prepare())`; methods of one `preparation` share `prepare`."""

    name: str
    paper: str
    preparation: str

    def prepare(self, requests: Sequence[EditRequest]) -> Sequence[Any]:
        """The part that several methods have in common, one entry per request."""
        ...

    def finish(self, requests: Sequence[EditRequest], prepared: Sequence[Any]) -> Made:
        """One edit per request from its preparation."""
        ...


@dataclass(frozen=True)
class MethodSpec:
    """A method that is not made yet: what another process needs to make it.

    Attributes:
        name: from the table or an entry point.
        settings: departures from the preset; None means the preset's value.
        moments: gives the second moment of a layer.
    """

    name: str
    moments: MomentSource
    settings: Mapping[str, Any] = field(default_factory=dict)

    def build(self, model: EditableModel) -> Method:
        """The method for a model; presets are looked up by the model's shape.

        Raises:
            UnknownName: no such method.
            UsageError: settings that do not hold.
        """
        maker = check_method(self.name)
        with model.unchanged():
            method: Method = maker(model, self.moments, **self.settings)
        return method


class MethodRow(NamedTuple):
    """A line of the table of methods.

    Attributes:
        what: one sentence.
        paper: where it is from.
        maker: `module:function` that makes the method from a model, a source of second moments and settings.
    """

    what: str
    paper: str
    maker: str


METHODS: dict[str, MethodRow] = {
    "rome": MethodRow(
        "rank-one insertion, one mean key throughout (equal to r-ROME)",
        "arXiv 2202.05262, key as in arXiv 2403.07175",
        "factedit.edit.methods.rome:rome",
    ),
    "rome-original": MethodRow(
        "rank-one insertion as the published program computes it (mean key over, bare key under the bar)",
        "arXiv 2202.05262",
        "factedit.edit.methods.rome:rome_original",
    ),
    "rome-joint": MethodRow(
        "ROME's keys and values of all facts in one joint solve, beside those of earlier facts",
        "arXiv 2202.05262, solved jointly as in arXiv 2210.07229",
        "factedit.edit.methods.rome_joint:rome_joint",
    ),
    "memit": MethodRow(
        "hidden values of all facts by least squares over several layers, beside the keys of earlier facts",
        "arXiv 2210.07229, history as in arXiv 2605.26670",
        "factedit.edit.methods.memit:memit",
    ),
    "memit-no-history": MethodRow(
        "the same as published: in a sequence the keys of earlier facts are forgotten",
        "arXiv 2210.07229",
        "factedit.edit.methods.memit:memit_no_history",
    ),
    "memit-rect": MethodRow(
        "memit, of whose update only the entries that change most are kept",
        "arXiv 2210.07229, arXiv 2401.04700",
        "factedit.edit.methods.memit:memit_rect",
    ),
    "emmet": MethodRow(
        "hidden values of all facts written exactly, the past moved least",
        "arXiv 2403.14236",
        "factedit.edit.methods.emmet:emmet",
    ),
    "alphaedit": MethodRow(
        "hidden values of all facts inside the null space of the past, beside the keys of earlier facts",
        "arXiv 2410.02355",
        "factedit.edit.methods.alphaedit:alphaedit",
    ),
    "alphaedit-nas": MethodRow(
        "alphaedit with values of the norm that they have on average",
        "arXiv 2410.02355, arXiv 2602.02543",
        "factedit.edit.methods.alphaedit:alphaedit_nas",
    ),
    "pmet": MethodRow(
        "values for the MLP and the attention, of which the MLP's are written over several layers",
        "arXiv 2308.08742",
        "factedit.edit.methods.pmet:pmet",
    ),
    "encore": MethodRow(
        "memit with an early stop and a ridge",
        "arXiv 2502.01636",
        "factedit.edit.methods.encore:encore",
    ),
    "ft": MethodRow("fine-tuning of one MLP matrix", "arXiv 2202.05262", "factedit.edit.methods.ft:ft"),
    "ft-l": MethodRow(
        "fine-tuning of one MLP matrix, every entry of the change bounded",
        "arXiv 2012.00363",
        "factedit.edit.methods.ft:ft_l",
    ),
    "kn": MethodRow(
        "the value rows of the neurons that hold the answer, turned to the new one",
        "arXiv 2104.08696",
        "factedit.edit.methods.kn:kn",
    ),
    "ke": MethodRow(
        "KnowledgeEditor: a trained network gates the gradient; trained on general text",
        "arXiv 2104.08164",
        "factedit.edit.methods.ke:ke",
    ),
    "ke-zsre": MethodRow(
        "KnowledgeEditor: a trained network gates the gradient; trained on zsRE",
        "arXiv 2104.08164",
        "factedit.edit.methods.ke:ke_zsre",
    ),
    "ke-cf": MethodRow(
        "KnowledgeEditor: a trained network gates the gradient; trained on CounterFact",
        "arXiv 2104.08164",
        "factedit.edit.methods.ke:ke_cf",
    ),
    "mend": MethodRow(
        "MEND: a trained network transforms the gradient's factors; trained on general text",
        "arXiv 2110.11309",
        "factedit.edit.methods.mend:mend",
    ),
    "mend-zsre": MethodRow(
        "MEND: a trained network transforms the gradient's factors; trained on zsRE",
        "arXiv 2110.11309",
        "factedit.edit.methods.mend:mend_zsre",
    ),
    "mend-cf": MethodRow(
        "MEND: a trained network transforms the gradient's factors; trained on CounterFact",
        "arXiv 2110.11309",
        "factedit.edit.methods.mend:mend_cf",
    ),
}


def make_method(name: str, model: EditableModel, moments: MomentSource, **settings: Any) -> Method:
    """The method of this name, set up for a model.

    Args:
        name: from the table or an entry point.
        model: presets are looked up by its shape.
        moments: gives the second moment of a layer.
        settings: departures from the preset; None means the preset's value.

    Raises:
        UnknownName: no such method.
    """
    return MethodSpec(name, moments, settings).build(model)


def check_method(name: str) -> Callable[..., Any]:
    """What makes the method of this name: of the table, of an entry point, or of a network trained on a user's facts.

    Raises:
        UnknownName: no such method.
    """
    others = outside(GROUP)
    if name in METHODS:
        module, _, function = METHODS[name].maker.partition(":")
        found: Callable[..., Any] = getattr(import_module(module), function)
        return found
    if name in others:
        loaded: Callable[..., Any] = others[name].load()
        return loaded
    kind, _, own_data = name.partition("-")
    if kind in KINDS and own_data:
        home = import_module(METHODS[kind].maker.partition(":")[0])
        return cast("Callable[..., Any]", home.maker(name, home.PAPER))
    raise UnknownName("method", name, [*METHODS, *others])


def check_made(method: Method, requests: Sequence[EditRequest], made: Made) -> Made:
    """What a method made, if it is what was asked for.

    Raises:
        EditError: other edits than one per request (`each`) or one for all (`joint`).
    """
    wanted = [tuple(requests)] if method.scope == "joint" and requests else [(request,) for request in requests]
    found = [edit.requests for edit in made.edits]
    if found != wanted:
        raise EditError(
            f"The method {method.name} (scope {method.scope!r}) was given {len(requests)} requests and made "
            f"{len(found)} edits of {[len(own) for own in found]} requests. A method of scope 'each' makes one edit "
            "per request, in order; one of scope 'joint' makes one edit of all. Correct the method."
        )
    return made
