"""What a model is asked under edits: the one place where effects that are text meet a prompt.

Texts of several edits stand one after the other before a prompt, in the edits' order, with what leads over to the
prompt once at their end; they do not nest. Facts that are looked up are looked up among those of all edits.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from factedit.edit.effects.effect import Effect
from factedit.models.adapter import EditableModel


def join_effects(effects: Iterable[Effect]) -> list[Effect]:
    """Return effects that do the same as these one after the other, with as few of those that join others as can be.

    A kind joins others by a method `followed_by`, which gives one effect for two, or None where they stay apart. Those
    that stand at another matrix are passed over: they have no part in what happens at this one.
    """
    joined: list[Effect] = []
    for effect in effects:
        at = next((n for n in reversed(range(len(joined))) if _meet(joined[n], effect)), None)
        join = None if at is None else getattr(joined[at], "followed_by", None)
        both = None if join is None else join(effect)
        if at is None or both is None:
            joined.append(effect)
        else:
            joined[at] = both
    return joined


def _meet(one: Effect, other: Effect) -> bool:
    """Return whether two effects are of one kind and at one place (of those that have one)."""
    return type(one) is type(other) and all(
        getattr(one, part, None) == getattr(other, part, None) for part in ("layer", "matrix")
    )


def asked_under(model: EditableModel, effects: Iterable[Effect], texts: Sequence[str]) -> list[str]:
    """Return what the model is asked in place of texts under some effects.

    A kind that asks the model itself which text belongs to a prompt has a method `on_prompts(model, texts)`.

    Args:
        model: the unedited model.
        effects: in order.
        texts: prompts.
    """
    asked = list(texts)
    for effect in join_effects(effects):
        several = getattr(effect, "on_prompts", None)
        asked = [effect.on_prompt(text) for text in asked] if several is None else several(model, asked)
    return asked
