"""No method is evaluated on what its network was trained on, nor asked about names that it was told to leave alone."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, Self, runtime_checkable

from factedit.edit.method import Method
from factedit.errors import DataError
from factedit.facts import FactRecord
from factedit.stats.subjects import subject_names

SHOWN = 20
WORD = re.compile(r"\w+")


@runtime_checkable
class Trained(Protocol):
    """A method that learned from records."""

    name: str

    def trained_on(self, records: Sequence[FactRecord]) -> list[str]:
        """Return the case ids among the records that it was trained on."""
        ...


def refuse_trained_on(methods: Sequence[Method], records: Sequence[FactRecord]) -> None:
    """Refuse to evaluate a method on what its network was trained on.

    Raises:
        DataError: listing the records.
    """
    for method in methods:
        known = method.trained_on(records) if isinstance(method, Trained) else []
        if known:
            raise DataError(
                f"The network of {method.name} was trained on {len(known)} of the {len(records)} records: "
                f"{', '.join(known[:SHOWN])}{' …' if len(known) > SHOWN else ''}. "
                "Evaluate on others, or train it on others."
            )


@dataclass(frozen=True)
class Kept:
    """Names whose keys methods were told to leave alone (docs/decisions/0011-subjects-in-c.md), and prompts about them.

    How such prompts fare says little of others, so they are asked under no method of the table.

    Attributes:
        methods: the methods that were told.
        names: in words, as tuples.
        prompts: of the records' prompts about other subjects those that hold a name, of how many in all.
    """

    methods: tuple[str, ...] = ()
    names: frozenset[tuple[str, ...]] = field(default=frozenset(), repr=False)
    prompts: tuple[int, int] = (0, 0)

    @classmethod
    def by(cls, methods: Sequence[Method]) -> Self:
        """Return what these methods were told; of most nothing."""
        told = tuple(method.name for method in methods if method.describe().get("subject_weight"))
        return cls(told, frozenset(map(_words, subject_names().values())) if told else frozenset())

    def left_out_of(self, records: Sequence[FactRecord]) -> tuple[Sequence[FactRecord], Self]:
        """Return the records without the prompts that hold a name, and this with their number."""
        if not self.names:
            return records, self
        longest = max(map(len, self.names))
        without = [
            replace(record, neighborhood=tuple(p for p in record.neighborhood if not self._holds_one(p, longest)))
            for record in records
        ]
        before, after = (sum(len(record.neighborhood) for record in group) for group in (records, without))
        return without, replace(self, prompts=(before - after, before))

    def _holds_one(self, prompt: str, longest: int) -> bool:
        words = tuple(WORD.findall(prompt))
        runs = (words[at : at + n] for at in range(len(words)) for n in range(1, longest + 1))
        return not self.names.isdisjoint(runs)

    def as_key(self) -> dict[str, Any]:
        """Return its part of a run's key; nothing where nothing was told."""
        if not self.names:
            return {}
        return {"names left out": hashlib.sha256(repr(sorted(self.names)).encode()).hexdigest()[:16]}

    def note(self) -> str:
        """Return how many prompts are not asked, in a sentence; nothing where there are none."""
        count, of = self.prompts
        if not count:
            return ""
        return (
            f"{count} of {of} prompts about other subjects hold a name that {', '.join(self.methods)} is told to leave "
            "alone (decision 0011); they are asked under no method"
        )


def _words(name: str) -> tuple[str, ...]:
    """Return a name's words, without its article."""
    words = tuple(WORD.findall(name))
    return words[1:] if words[0].casefold() == "the" else words
