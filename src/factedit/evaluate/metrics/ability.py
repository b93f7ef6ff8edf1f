"""Other abilities under every edit: a few items of sets in a user's folder, by lm-evaluation-harness's own rule.

The answer given is the one of the largest log probability, summed over its tokens; of LAMBADA's last word whether all
its tokens are the likeliest. Few items a record, since each edit is asked apart: it tells whether edits hurt at all.
The whole sets, through the harness itself, before and after edits, are `factedit ability`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from factedit.evaluate.ability.items import TASKS, AbilityItem, items_of, sets_folder
from factedit.evaluate.column import Column
from factedit.evaluate.metric import Answered, Metric, Outcome, digest_of, mean_of
from factedit.evaluate.probability import Question, Score, is_readable
from factedit.facts import FactRecord
from factedit.models.adapter import EditableModel

ASKED = ("lambada", "arc-easy", "piqa", "winogrande", "sst2")
EACH = 4  # items of a set
_SOURCE = "the rules of lm-evaluation-harness"
logger = logging.getLogger("factedit")


@dataclass(frozen=True)
class Ability(Metric):
    """Items of other sets, before and after.

    Attributes:
        items: what is asked.
        sets: the sets they are of.
    """

    items: tuple[AbilityItem, ...] = field(repr=False)
    sets: tuple[str, ...] = ASKED

    name = "ability"
    what = "are items of other ability sets still answered, and as before"
    source = _SOURCE
    compares = True
    same_for_all = True
    takes: ClassVar[tuple[str, ...]] = ("abilities",)
    why_none: ClassVar[str] = (
        "no ability sets were found (--abilities FOLDER, or 'ability' in the folder FACTEDIT_DATA)"
    )
    columns = (
        Column("ability_right", "share of the items that are answered right", source=_SOURCE),
        Column("ability_changed", "share of the items whose answer is another than the unedited model's, right or "
               "wrong", better="lower", source="own"),
    )  # fmt: skip

    @classmethod
    def for_records(
        cls,
        records: Sequence[FactRecord],
        *,
        references: Path | None = None,
        abilities: Path | None = None,
        **settings: Any,
    ) -> Ability | None:
        """Return the metric, or None where there is no folder of sets, or none of these in it.

        Raises:
            DataError: a set that is there cannot be read.
        """
        del records, references
        folder = sets_folder(abilities)
        if folder is None:
            return None
        there = [TASKS[name] for name in ASKED if (folder / TASKS[name].file).is_file()]
        items = [item for task in there for item in items_of(task, folder, EACH)]
        return cls(tuple(items), tuple(task.name for task in there), **settings) if items else None

    def for_model(self, model: EditableModel) -> Ability:
        """Return the metric without items that do not fit into the model's context, which is said."""
        kept = tuple(item for item in self.items if all(is_readable(model, asked) for asked in questions(item)))
        if len(kept) < len(self.items):
            logger.warning(
                "%d of %d items of ability sets are longer than the context of %s and are not asked.",
                len(self.items) - len(kept), len(self.items), model.name,
            )  # fmt: skip
        return replace(self, items=kept)

    def lacks(self, record: FactRecord) -> str:
        """Return items, where none of them fits into the model's context."""
        del record  # every one is asked the same
        return "" if self.items else "item of an ability set that fits into the model's context"

    def asks(self, record: FactRecord) -> list[Question]:
        """Return every item with every answer that could be given."""
        return [question for item in self.items for question in questions(item)]

    def scored(self, answered: Answered) -> Outcome:
        """Return the share of right answers, and of answers that changed."""
        now, before = iter(answered.replies), iter(answered.before)
        right: list[float | None] = []
        changed: list[float | None] = []
        for item in self.items:
            answer, was = (likeliest_of([next(source) for _ in questions(item)]) for source in (now, before))
            gold = item.gold if len(questions(item)) > 1 else 1
            right.append(None if answer is None else 100.0 * (answer == gold))
            changed.append(None if answer is None or was is None else 100.0 * (answer != was))
        means = {"ability_right": mean_of(right), "ability_changed": mean_of(changed)}
        scores = {name: mean for name, (mean, _) in means.items()}
        return Outcome(scores, {}, {name: tests for name, (_, tests) in means.items()})

    def describe(self) -> dict[str, Any]:
        """Return the sets, and a hash of the items."""
        return {"sets": list(self.sets), "items": digest_of(self.items)}

    def notes(self) -> dict[str, str]:
        """Return which sets."""
        return {
            "ability": f"{EACH} items each of {', '.join(self.sets)}, the same for every record; the likeliest answer"
        }


def questions(item: AbilityItem) -> list[Question]:
    """Return an item as prompts with possible answers."""
    return [Question(prompt, answer) for prompt in item.prompts for answer in item.answers]


def likeliest_of(scores: Sequence[Score]) -> int | None:
    """Return the place of the likeliest answer; of a single one whether all of it is the likeliest; None where numbers
    are not finite.
    """
    sums = [math.fsum(score.log_p) for score in scores]
    if not all(map(math.isfinite, sums)):
        return None
    return int(all(scores[0].first)) if len(scores) == 1 else max(range(len(sums)), key=lambda n: sums[n])
