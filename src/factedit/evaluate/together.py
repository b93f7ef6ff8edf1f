"""Edits that are on a model together, one after the other, as in a model that has them for good.

They are put on once for all that is read, and not copied per row. Changes of weights are summed as they come, so that
the next edit costs the same however many there are, and the model's own matrices are kept once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from torch import Tensor

from factedit.edit.artefact import Edit
from factedit.edit.effects.asked import asked_under, join_effects
from factedit.edit.effects.effect import Effect, WeightEffect
from factedit.edit.effects.weights import changed
from factedit.evaluate.asks import Ask, replies
from factedit.models.adapter import EditableModel
from factedit.models.families import Place

_Item = TypeVar("_Item")


@dataclass(frozen=True)
class Together:
    """Edits of one model.

    Attributes:
        model: the unedited model.
        weights: per matrix that is changed what it is with all of them.
        others: effects that are no changes of weights, in order.
    """

    model: EditableModel = field(repr=False)
    weights: dict[Place, Tensor] = field(default_factory=dict, repr=False)
    others: tuple[Effect, ...] = ()

    def plus(self, edits: Sequence[Edit]) -> Together:
        """Return it with further edits after these.

        Raises:
            EditError: an edit of other shapes, or one that gives values that are not finite.
        """
        weights, others = dict(self.weights), list(self.others)
        for effect in (effect for edit in edits for effect in edit.effects):
            if isinstance(effect, WeightEffect):
                before = weights.get(effect.place)
                weights[effect.place] = changed(self.model.weight(*effect.place) if before is None else before, effect)
            else:
                others.append(effect)
        return Together(self.model, weights, tuple(join_effects(others)))

    @contextmanager
    def on(self, model: EditableModel) -> Iterator[None]:
        """Yield the model with all of them; the same bits as before on leaving.

        Args:
            model: changed inside the block only.
        """
        with ExitStack() as stack:
            for (layer, matrix), weight in self.weights.items():
                stack.enter_context(model.with_weight(layer, weight, matrix))
            for effect in self.others:
                stack.enter_context(effect.on_batch(model))
            yield

    def asked(self, asks: Sequence[Sequence[Ask]]) -> list[list[Any]]:
        """Return what is asked in place of this: the same but for edits of prompts."""
        prompts = iter(asked_under(self.model, self.others, [ask.prompt for of_record in asks for ask in of_record]))
        return [[ask._replace(prompt=next(prompts)) for ask in of_record] for of_record in asks]

    def read(self, asks: Sequence[Sequence[Ask]]) -> list[list[Any]]:
        """Return replies `[record][ask]` of the model with them on it, the same bits afterwards; of none, as it is."""
        with self.on(self.model):
            [answers] = replies(self.model, self.asked(asks), [None], seed=0)
        return answers

    def against_unedited(
        self,
        items: Sequence[_Item],
        asks: Callable[[_Item], list[Ask]],
        *,
        at_once: int,
        step: Callable[[int], None] = lambda _items: None,
    ) -> Iterator[tuple[Sequence[_Item], list[list[Any]], list[list[Any]]]]:
        """Ask the unedited model and the one with them on it; yield items with the replies of both, so many at a time.

        Args:
            items: what is asked about.
            asks: what is asked about one.
            at_once: how many are asked together.
            step: called with the number of items that were just asked.
        """
        for begin in range(0, len(items), at_once):
            part = items[begin : begin + at_once]
            asked = [asks(item) for item in part]
            yield part, Together(self.model).read(asked), self.read(asked)
            step(len(part))
