"""How a target ends: not at all, in the end-of-text token, or in a full stop.

Editors that are never taught to stop write on past the object (WILD, arXiv 2502.11177; LocFT-BF, arXiv 2509.22072). A
setting `stop` lets the target that is optimised, or tuned on, end: the end is one more token to be likely.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, Protocol, TypeVar

from factedit.errors import UnsupportedModel
from factedit.models.adapter import EditableModel
from factedit.text import full_stop_after

Stop = Literal["none", "end", "sentence"]


class Scored(Protocol):
    """A row of tokens of which some are scored; see `PromptRow`, `TargetRow`."""

    @property
    def ids(self) -> tuple[int, ...]: ...  # noqa: D102
    @property
    def reads(self) -> tuple[int, ...]: ...  # noqa: D102
    @property
    def targets(self) -> tuple[int, ...]: ...  # noqa: D102


_Row = TypeVar("_Row", bound=Scored)


def spoken(target: str, stop: Stop) -> str:
    """Return the target as it is trained: with a full stop, in its script, where sentences are to end."""
    ending = full_stop_after(target.rstrip()) if stop == "sentence" else ""
    return target.rstrip() + ending if ending else target


def ended(model: EditableModel, row: _Row, stop: Stop) -> _Row:
    """Return the row with the end-of-text token as a last target, where targets are to end in it.

    Args:
        model: whose end token.
        row: without its last target among its ids.
        stop: `end` adds the token; others leave the row.

    Raises:
        UnsupportedModel: the tokenizer has no end token.
    """
    if stop != "end":
        return row
    ids = (*row.ids, row.targets[-1])
    further = {"ids": ids, "reads": (*row.reads, len(ids) - 1), "targets": (*row.targets, end_token(model))}
    return replace(row, **further)  # type: ignore[type-var]


def end_token(model: EditableModel) -> int:
    """Return the end-of-text token.

    Raises:
        UnsupportedModel: the tokenizer names none.
    """
    token = model.tokenizer.eos_token_id
    if token is None:
        raise UnsupportedModel(
            f"{model.name}'s tokenizer names no end-of-text token to end a target in. Set stop to 'sentence' or "
            "'none' (fine-tuning of many facts: end_of_text to false)."
        )
    return int(token)
