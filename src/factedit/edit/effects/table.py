"""The kinds of effects, and how effects of any kinds act on a batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from factedit.edit.effects.asked import join_effects
from factedit.edit.effects.codebook import Codebook
from factedit.edit.effects.decomposed import Decomposed
from factedit.edit.effects.dense import Dense
from factedit.edit.effects.effect import Effect
from factedit.edit.effects.low_rank import LowRank
from factedit.edit.effects.memory import Memory
from factedit.edit.effects.prompt import Prompt
from factedit.edit.effects.retrieved import Retrieved
from factedit.errors import UnknownName
from factedit.models.adapter import EditableModel
from factedit.plugins import loaded_point, outside

GROUP = "factedit.effects"
KINDS: tuple[Any, ...] = (LowRank, Dense, Prompt, Retrieved, Decomposed, Memory, Codebook)
EFFECTS: dict[str, Any] = {effect.kind: effect for effect in KINDS}


def kind_named(name: str) -> Any:
    """Return the class of the effects of this kind, of the table or of an entry point.

    Raises:
        UnknownName: no such kind.
        UsageError: its package cannot be loaded.
    """
    if name in EFFECTS:
        return EFFECTS[name]
    others = outside(GROUP, EFFECTS)
    if name in others:
        return loaded_point("kind of effect", others[name])
    raise UnknownName("kind of effect", name, [*EFFECTS, *others], "It may need a package that is not installed.")


@contextmanager
def on_rows(model: EditableModel, rows: Sequence[Sequence[Effect]]) -> Iterator[None]:
    """Let row n of the batches that are run inside see the effects `rows[n]`; the weights are not touched.

    Where all rows have the same effects, these are held once and not copied per row.

    Args:
        model: the model.
        rows: an empty entry leaves a row as it is.
    """
    with ExitStack() as stack:
        if len(rows) > 1 and rows[0] and all(_same(row, rows[0]) for row in rows):
            for effect in join_effects(rows[0]):
                stack.enter_context(effect.on_batch(model))
        else:
            for kind in dict.fromkeys(type(effect) for row in rows for effect in row):
                of_kind = [[effect for effect in row if type(effect) is kind] for row in rows]
                stack.enter_context(kind.on_rows(model, of_kind))
        yield


def _same(row: Sequence[Effect], other: Sequence[Effect]) -> bool:
    return len(row) == len(other) and all(a is b for a, b in zip(row, other, strict=True))
