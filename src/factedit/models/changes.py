"""Matrices that stand in others' places for a while, in the order in which they were put on.

What was made for a model as it was (the keys in C, say) is asked of it with the later ones off.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from torch import Tensor

from factedit.models.matrix import Matrix


class Changes:
    """What is on a model now; the last one that came goes first."""

    def __init__(self) -> None:
        self._on: list[_Change] = []

    def __len__(self) -> int:
        """Return how many are on."""
        return len(self._on)

    @contextmanager
    def plus(self, matrix: Matrix, weight: Tensor) -> Iterator[None]:
        """Inside, another `[d_in, d_out]` stands in a matrix's place; the same bits as before on leaving.

        Raises:
            EditError: see `Matrix.replaced`.
        """
        change = _Change(matrix, weight)
        with change.on():
            self._on.append(change)
            try:
                yield
            finally:
                self._on.pop()

    @contextmanager
    def first(self, count: int) -> Iterator[None]:
        """Inside, only the first so many are on; all are again on leaving."""
        before, off = self._on, self._on[count:]
        self._on = self._on[:count]
        try:
            with ExitStack() as stack:
                for change in reversed(off):
                    stack.enter_context(change.off())
                yield
        finally:
            self._on = before


class _Change:
    def __init__(self, matrix: Matrix, weight: Tensor) -> None:
        self._matrix, self._weight = matrix, weight
        self._held = ExitStack()

    @contextmanager
    def on(self) -> Iterator[None]:
        self._held.enter_context(self._matrix.replaced(self._weight))
        try:
            yield
        finally:
            self._held.close()

    @contextmanager
    def off(self) -> Iterator[None]:
        self._held.close()
        try:
            yield
        finally:
            self._held.enter_context(self._matrix.replaced(self._weight))
