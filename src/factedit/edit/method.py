"""What a method is, and the table of methods.

A method computes edits and never changes the model. Evaluation never asks which method made an edit.
Methods from outside register under the entry point group `factedit.methods`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, NamedTuple, Protocol, cast, runtime_checkable

from factedit.edit.artefact import Edit
from factedit.edit.trained import KINDS
from factedit.errors import UnknownName
from factedit.facts import EditRequest
from factedit.models.adapter import EditableModel
from factedit.stats.second_moment import SecondMoment

MomentSource = Callable[[EditableModel, int], SecondMoment]


class Method(Protocol):
    """Makes edits."""

    name: str
    paper: str

    def compute(self, model: EditableModel, requests: Sequence[EditRequest]) -> list[Edit]:
        """One independent edit per request, in order; the model is not changed."""
        ...

    def describe(self) -> dict[str, Any]:
        """Everything that decides an edit beside the model and the request, as JSON values."""
        ...


@runtime_checkable
class TwoStep(Protocol):
    """A method whose `compute` is `finish(prepare())`; methods of one `preparation` can share `prepare`."""

    name: str
    paper: str
    preparation: str

    def prepare(self, model: EditableModel, requests: Sequence[EditRequest]) -> Sequence[Any]:
        """The part that several methods have in common, one entry per request."""
        ...

    def finish(self, model: EditableModel, requests: Sequence[EditRequest], prepared: Sequence[Any]) -> list[Edit]:
        """One edit per request from its preparation."""
        ...


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
    maker = check_method(name)
    method: Method = maker(model, moments, **settings)
    return method


def check_method(name: str) -> Callable[..., Any]:
    """What makes the method of this name: of the table, of an entry point, or of a network trained on a user's facts.

    Raises:
        UnknownName: no such method.
    """
    outside = {point.name: point for point in entry_points(group="factedit.methods")}
    if name in METHODS:
        module, _, function = METHODS[name].maker.partition(":")
        found: Callable[..., Any] = getattr(import_module(module), function)
        return found
    if name in outside:
        loaded: Callable[..., Any] = outside[name].load()
        return loaded
    kind, _, own_data = name.partition("-")
    if kind in KINDS and own_data:
        home = import_module(METHODS[kind].maker.partition(":")[0])
        return cast("Callable[..., Any]", home.maker(name, home.PAPER))
    raise UnknownName("method", name, [*METHODS, *outside])
