"""What comes first: a page that is opened draws its first view before the model is loaded beside it."""

from __future__ import annotations

import threading

ALONE, OPENED = 1.0, 10.0  # seconds without a page; with one that was opened and has not drawn yet


class FirstView:
    """Holds loading back until a page has drawn its first view: both share a process, and imports, a tokenizer that
    is built and much else of loading lets no other thread run meanwhile.

    Args:
        alone: seconds to wait for a page to be opened at all.
        opened: seconds to wait for one that was opened, or is about to be.
    """

    def __init__(self, alone: float = ALONE, opened: float = OPENED) -> None:
        self._alone, self._patience = alone, opened
        self._opened, self._drawn = threading.Event(), threading.Event()

    def opens(self) -> None:
        """Take note that a page is being opened."""
        self._opened.set()

    def drawn(self) -> None:
        """Take note that a page has drawn its first view."""
        self._drawn.set()

    def wait(self) -> None:
        """Wait until a page has drawn its first view, or until none has asked for long enough."""
        if self._opened.wait(self._alone):
            self._drawn.wait(self._patience)
