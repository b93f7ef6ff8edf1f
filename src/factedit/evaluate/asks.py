"""What a metric may ask a model, and how it is read under many edits at once.

An ask is a named tuple that says what is asked; its class knows how to read many of them in one batch: probabilities
of a given answer (`Question`), greedy text (`Greedy`), sampled text (`Sampled`). A new way of reading is a class of
the same form.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, Self

from factedit.edit.artefact import Edit
from factedit.memory import in_halves
from factedit.models.adapter import EditableModel

OwnEdits = Sequence[Edit | None] | None  # per record its own edit or none; None as a whole: the model as it is


class Ask(Protocol):
    """One thing asked: a named tuple with a `prompt`, equal where the same is asked."""

    @property
    def prompt(self) -> str:
        """The text that the model is given."""
        ...

    def _replace(self, *, prompt: str = ...) -> Self:
        """Return the same with another prompt, as of every named tuple."""
        ...

    @classmethod
    def read(
        cls, model: EditableModel, asked: Sequence[Sequence[Any]], variants: Sequence[OwnEdits], *, seed: int
    ) -> list[list[list[Any]]]:
        """Return replies `[variant][record][ask]`.

        Args:
            model: not changed.
            asked: per record what is asked of it, all of this class.
            variants: the edits to read under.
            seed: of what is drawn.
        """
        ...


def replies(
    model: EditableModel, asked: Sequence[Sequence[Ask]], variants: Sequence[OwnEdits], *, seed: int
) -> list[list[list[Any]]]:
    """Return replies `[variant][record][ask]`, each kind of ask read in one batch; what does not fit in memory is
    halved.

    Raises:
        RequestError: an ask that the model cannot take.
        ResourceError: a single record does not fit in memory.
    """
    all_replies: list[list[list[Any]]] = [[[None] * len(asks) for asks in asked] for _ in variants]
    for kind in dict.fromkeys(type(ask) for asks in asked for ask in asks):
        places = [[n for n, ask in enumerate(asks) if type(ask) is kind] for asks in asked]
        of_kind = [[asks[n] for n in at] for asks, at in zip(asked, places, strict=True)]
        for record, by_variant in enumerate(_read(kind, model, of_kind, variants, seed)):
            for variant, read in enumerate(by_variant):
                for n, reply in zip(places[record], read, strict=True):
                    all_replies[variant][record][n] = reply
    return all_replies


def _read(
    kind: type[Ask], model: EditableModel, asked: Sequence[Sequence[Ask]], variants: Sequence[OwnEdits], seed: int
) -> list[list[list[Any]]]:
    """Return replies `[record][variant][ask]` of one kind."""

    def some(part: Sequence[int]) -> list[list[list[Any]]]:
        edits = [None if by_record is None else [by_record[n] for n in part] for by_record in variants]
        of_part = [asked[n] for n in part]
        by_variant = kind.read(model, of_part, edits, seed=seed)
        if [[len(read) for read in by_record] for by_record in by_variant] != [list(map(len, of_part))] * len(edits):
            raise ValueError(f"{kind.__name__}.read does not give one reply for every variant, record and ask")
        return [[by_record[i] for by_record in by_variant] for i in range(len(part))]

    return in_halves(range(len(asked)), some, what="records")
