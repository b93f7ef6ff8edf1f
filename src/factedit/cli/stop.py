"""Ctrl-C, SIGTERM and a closed terminal: a word on what is kept, and the exit code.

The standard library alone, so that it is there at once.
What is kept is said where it is known: a note on the exception that passes (`BaseException.add_note`).
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from factedit.safe import safe_text

SIGNALS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
if sys.platform != "win32":
    SIGNALS[signal.SIGHUP] = "hung up"
OTHERWISE = "no file is left half written, and what was stored before is safe"


class Stopped(SystemExit):
    """A signal asked the program to end; the exit code is 128 and the signal's number.

    Not a `KeyboardInterrupt`, which the parser of the command line would turn into a silent exit.
    """

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.word = SIGNALS[signal.Signals(number)]


_received: list[Stopped] = []


def received() -> Stopped | None:
    """Return the signal that came, if one did: code below may have turned its exception into one of its own."""
    return _received[-1] if _received else None


def say_stopped(error: BaseException, word: str) -> None:
    """Write one line to standard error: what happened and what is kept."""
    notes = "; ".join(getattr(error, "__notes__", [])) or OTHERWISE
    with suppress(OSError):  # of a terminal that is gone
        sys.stderr.write(safe_text(f"{word}: {notes}") + "\n")  # the consoles may not be there yet
        sys.stderr.flush()


@contextmanager
def stoppable() -> Iterator[None]:
    """Let SIGINT, SIGTERM and SIGHUP end what is inside with a word and their exit codes, 130, 143 and 129.

    Only the main thread can set this; elsewhere signals stay as they are, and so does one that whoever started the
    program lets it ignore (`nohup`, a command that a script runs in the background).
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, _stop) for number in heard}
    try:
        yield
    except BaseException as error:
        stopped = received()
        if stopped is None:
            raise
        say_stopped(error if error is stopped or getattr(error, "__notes__", []) else stopped, stopped.word)
        sys.exit(stopped.code)
    finally:
        _received.clear()
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(number: int, _frame: FrameType | None) -> None:
    stopped = Stopped(number)
    _received.append(stopped)
    raise stopped
