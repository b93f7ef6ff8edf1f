"""Free-running match: does the model, left to itself, write the new object?

Teacher-forced scores feed the answer in and flatter an editor (arXiv 2502.11177); here it must be written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from factedit.evaluate.column import Column
from factedit.evaluate.metric import Answered, Metric, Outcome
from factedit.evaluate.texts import Greedy
from factedit.facts import FactRecord
from factedit.text import begins_with

FREE_TOKENS = 12


@dataclass(frozen=True)
class Free(Metric):
    """The greedy continuation of the edited prompt.

    Attributes:
        tokens: its length.
    """

    tokens: int = FREE_TOKENS

    name = "free"
    what = "does the greedy continuation of the edited prompt open with the new object"
    source = "after arXiv 2502.11177"
    columns = (Column("free", "share of edits whose greedy continuation opens with the new object, as whole words",
                      source="after arXiv 2502.11177"),)  # fmt: skip
    absent: ClassVar[Mapping[str, Any]] = {"free_tokens": 0}

    def asks(self, record: FactRecord) -> list[Greedy]:
        """Return the edited prompt, continued."""
        return [Greedy(record.request.text, self.tokens)]

    def scored(self, answered: Answered) -> Outcome:
        """Return 100 where the continuation opens with the new object, else 0."""
        [text], target = answered.replies, answered.record.request.target_new
        return Outcome({"free": 100.0 * free_match(text, target)}, {"continuation": text})

    def as_key(self) -> dict[str, Any]:
        """Return the length."""
        return {"free_tokens": self.tokens}


def free_match(continuation: str, target: str) -> bool:
    """Return whether the free continuation opens with the target as whole words, letter case aside (see
    `begins_with`).
    """
    return begins_with(continuation, target)
