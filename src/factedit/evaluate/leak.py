"""No method is evaluated on what its network was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from factedit.edit.method import Method
from factedit.errors import DataError
from factedit.facts import FactRecord

SHOWN = 20


@runtime_checkable
class Trained(Protocol):
    """A method that learned from records."""

    name: str

    def trained_on(self, records: Sequence[FactRecord]) -> list[str]:
        """The case ids among the records that it was trained on."""
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
