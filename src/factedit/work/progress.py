"""How a job tells how far it is, and what is kept where it is stopped."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol


class Progress(Protocol):
    """Told how far a job is; may be called from the first step to the last, with a job's several parts by name."""

    def __call__(self, what: str, done: float, total: float) -> None:
        """Tell.

        Args:
            what: the part of the job, in words.
            done: how much of it is done.
            total: how much there is.
        """


def silent(what: str, done: float, total: float) -> None:
    """Tell nobody."""


def advancing(progress: Progress, what: str, total: float) -> Callable[[float], None]:
    """Return a callback for work that tells its advance rather than how far it is."""
    done = 0.0
    progress(what, done, total)

    def advance(by: float) -> None:
        nonlocal done
        done += by
        progress(what, done, total)

    return advance


@contextmanager
def keeping(kept: Callable[[], str]) -> Iterator[None]:
    """Note on the exception what is kept where what is inside is stopped (Ctrl-C, SIGTERM).

    Args:
        kept: gives a sentence without its full stop; called only then.
    """
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception):  # errors say themselves what they mean
            error.add_note(kept())
        raise
