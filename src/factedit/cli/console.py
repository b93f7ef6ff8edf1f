"""The two consoles, and what goes to which: results to standard output; notes, progress and errors to standard error.

With `--json -` standard output holds the JSON and nothing else. Text of users and models is never markup, and never
reaches a terminal raw. Tables show whole numbers and names at any width; other lines are left for the terminal to wrap.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import IO, Any, Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)  # fmt: skip
from rich.table import Table
from rich.text import Text

from factedit.cli.whole import parts, width_of
from factedit.safe import safe_text

TELL_EVERY = 15.0  # seconds between two lines of progress where there is no terminal to draw a bar on
NARROWEST, USUAL = 20, 80  # columns
STYLES = {logging.WARNING: "yellow", logging.ERROR: "red"}


class SafeConsole(Console):
    """A console for text that others wrote; a width in which no word stands (COLUMNS=0) is none."""

    def __init__(self, *, stderr: bool = False, **how: Any) -> None:
        columns = os.environ.get("COLUMNS", "")
        width = how.get("width", int(columns) if columns.isdecimal() else USUAL)
        if width < NARROWEST:
            how["width"] = USUAL
        super().__init__(stderr=stderr, markup=False, highlight=False, emoji=False, **how)

    def render_str(self, text: str, **how: Any) -> Text:
        """Make a string safe, of a line or a table, before it is measured."""
        return super().render_str(safe_text(text), **how)

    def on_broken_pipe(self) -> None:
        """Print on into nothing: whoever read has gone (`| head`), and what is still to be written to files is."""
        into_nothing(self.file)

    def print(self, *objects: Any, **how: Any) -> None:
        """Print lines unbroken and tables whole."""
        for one in objects:
            if not isinstance(one, Table):
                super().print(one, **{"soft_wrap": True, **how})
            elif self.is_terminal:
                for part in parts(one, self.width):
                    super().print(part, **how)
            else:  # a pipe or a file is as wide as the table
                Console.print(SafeConsole(file=self.file, width=width_of(one)), one, **how)


def into_nothing(stream: IO[str] | None) -> None:
    """Let what is still written to a stream that nobody reads any more go nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    with suppress(OSError, ValueError, AttributeError):  # a stream that is no file
        os.dup2(nowhere, stream.fileno())  # type: ignore[union-attr]
    os.close(nowhere)


def flush_all() -> None:
    """Write out what the streams still hold, so that nothing is left to fail when the interpreter ends."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except BrokenPipeError:
            into_nothing(stream)


out = SafeConsole()
err = SafeConsole(stderr=True)


def keep_for_json(*, alone: bool) -> None:
    """Keep standard output for the JSON alone: what is printed goes to standard error; or take that back."""
    out.stderr = alone


def survive_any_encoding() -> None:
    """Let characters that the terminal's encoding lacks be replaced, instead of failing after the work."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace" if stream is sys.stdout else "backslashreplace")


class ToConsole(logging.Handler):
    """Shows what is logged on standard error: warnings by that word, notes as they are."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record; a traceback never."""
        word = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        err.print(word + record.getMessage(), style=STYLES.get(record.levelno, "dim" if record.levelno < 20 else None))


_handler = ToConsole()


def set_verbosity(louder: int) -> None:
    """Say more (`-v`: 1) or less (`-q`: -1, warnings and errors; `-qq`: -2, errors) on standard error."""
    level = {-1: logging.WARNING, 0: logging.INFO}.get(louder, logging.DEBUG if louder > 0 else logging.ERROR)
    log = logging.getLogger("factedit")
    log.setLevel(level)
    if _handler not in log.handlers:
        log.addHandler(_handler)


def note(text: str) -> None:
    """Say something beside the result, e.g. where a file went; not with `-q`."""
    logging.getLogger("factedit.cli").info("%s", text)


class ShowProgress(Protocol):
    """Shows how far something is: what, done, of how much."""

    def __call__(self, what: str, done: float, total: float) -> None:
        """Show it."""


@contextmanager
def progress_bars() -> Iterator[ShowProgress]:
    """Show a bar per thing under way, with the time left; without a terminal a line now and then; not with `-q`."""
    if not logging.getLogger("factedit").isEnabledFor(logging.INFO):
        yield _nothing
    elif not err.is_terminal:
        yield _lines()
    else:
        with ExitStack() as stack:
            yield _bars(stack)


def _nothing(what: str, done: float, total: float) -> None:
    pass


def _lines() -> ShowProgress:
    last: dict[str, float] = {}
    began: dict[str, tuple[float, float]] = {}

    def show(what: str, done: float, total: float) -> None:
        now = time.monotonic()
        start, first = began.setdefault(what, (now, done))
        if now - last.setdefault(what, now) >= TELL_EVERY:
            last[what] = now
            left = (total - done) * (now - start) / (done - first) if done > first else None
            note(f"{what}: {done:g} of {total:g}{'' if left is None else f', about {duration(left)} left'}")

    return show


def duration(seconds: float) -> str:
    """Return seconds in one unit that people read."""
    if seconds < 120:
        return f"{seconds:.2g} s" if seconds < 99.5 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _bars(stack: ExitStack) -> ShowProgress:
    tasks: dict[str, Any] = {}
    drawn: list[Progress] = []

    def show(what: str, done: float, total: float) -> None:
        if not drawn:  # not before something is under way: another live display may be on until then
            drawn.append(stack.enter_context(Progress(*columns(), console=err, transient=True)))
        if what not in tasks:
            tasks[what] = drawn[0].add_task(safe_text(what), total=total)
        drawn[0].update(tasks[what], completed=done, total=total)

    return show


def columns() -> list[ProgressColumn]:
    """Return what a bar shows."""
    return [
        TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        TimeRemainingColumn(),
    ]  # fmt: skip
