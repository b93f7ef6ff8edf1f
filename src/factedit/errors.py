"""Every error that factedit raises on purpose.

    FacteditError
    ├── UsageError            what was asked cannot be understood
    │   ├── RequestError      a fact that cannot be traced or edited as written
    │   └── UnknownName       a method, data set, model or setting nobody knows
    ├── ModelError            a model that cannot be used soundly
    │   ├── UnsupportedModel  an architecture, storage or file kind that is refused
    │   │   └── NotStreamed   one that can only be loaded whole
    │   ├── UnsafeFile        a file that could run code or leave its folder
    │   └── NotFinite         numbers of a model, or of an edited one, that are NaN or infinite
    ├── DataError             a file of facts, text or statistics that does not hold what it must
    ├── EditError             an edit that cannot be computed or applied soundly
    └── ResourceError         memory, disk or network ran out

A message says what was asked, what was found and what to do. The command line prints it
without a traceback and leaves with code 2 for a `UsageError`, 1 for every other.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from factedit.safe import cut_quotes

LINE = 300  # characters of another program's message that are passed on


class FacteditError(Exception):
    """Base of all errors raised on purpose; what a message quotes is cut to a line."""

    def __init__(self, *said: object) -> None:
        super().__init__(*(cut_quotes(part) if isinstance(part, str) else part for part in said))


class UsageError(FacteditError):
    """What was asked cannot be understood."""


class RequestError(UsageError):
    """A fact that cannot be traced or edited as written."""


class UnknownName(UsageError):
    """A name nobody knows; the message offers the nearest ones.

    Args:
        kind: what was looked up, e.g. `"method"`.
        asked: the name that was given.
        known: all names that would have been accepted.
        hint: what else to do, one sentence.
    """

    def __init__(self, kind: str, asked: str, known: Iterable[str], hint: str = "") -> None:
        names = sorted(known)
        near = difflib.get_close_matches(asked, names, n=3, cutoff=0.4)
        offer = f"Did you mean {' or '.join(near)}?" if near else f"Known: {', '.join(names) or 'none'}."
        super().__init__(" ".join(part for part in (f"Unknown {kind} {asked!r}.", offer, hint) if part))


class ModelError(FacteditError):
    """A model that cannot be used soundly."""


class UnsupportedModel(ModelError):
    """An architecture, a storage or a file kind that is refused."""


class NotStreamed(UnsupportedModel):
    """A model that can only be loaded whole."""


class UnsafeFile(ModelError):
    """A file that could run code or that leaves its folder."""


class NotFinite(ModelError):
    """Numbers of a model, or of an edited one, that are NaN or infinite."""


class DataError(FacteditError):
    """A file of facts, text or statistics that does not hold what it must."""


class EditError(FacteditError):
    """An edit that cannot be computed or applied soundly."""


class NoSolution(EditError):
    """A joint solve has none: no fact of it is at fault by itself."""


class ResourceError(FacteditError):
    """Memory, disk or network ran out."""


def shown(value: object, most: int = 60) -> str:
    """Return a value as a message quotes it: its `repr`, on one line and cut where it is long."""
    text = " ".join(repr(value).split())
    return text if len(text) <= most else f"{text[: most - 1]}…"


def in_one_line(name: str) -> str:
    """Return a name as it is, or as `shown` quotes it where a line would not hold it."""
    return name if name.isprintable() and len(name) < LINE else shown(name, LINE)


def first_line(error: BaseException) -> str:
    """Return why something failed, in one line: of a validation where and what, of others their first line.

    A line that only announces the cause (it ends in a colon) is joined with the next.
    """
    details = getattr(error, "errors", None)
    if callable(details):  # pydantic's
        first = details()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"[:LINE]
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return " ".join(lines[:2] if lines[0].endswith(":") else lines[:1])[:LINE]
