"""Benchmarks and metrics from outside, loaded."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from factedit.errors import UsageError
from factedit.plugins import loaded_point, outside

_Thing = TypeVar("_Thing")
logger = logging.getLogger("factedit")


def with_plugins(
    group: str, table: Mapping[str, _Thing], why_none: Callable[[str, Any], str], kind: str
) -> dict[str, _Thing]:
    """Return a table's things and those from outside, by name; the table's names are not taken by others.

    What an entry point names and is no such thing is told in a warning and left out.

    Args:
        group: of the entry points.
        table: of one's own.
        why_none: why what an entry point of this name holds is no such thing; nothing where it is one.
        kind: what they are, in a word; `docs/extend` has a page of that name.
    """
    others = loaded_plugins(group, table)
    faults = {name: why for name, loaded in others.items() if (why := why_none(name, loaded))}
    for name, why in faults.items():
        logger.warning("The %s %s is left out: %s. docs/extend/%s.md says what one is.", kind, name, why, kind)
    return {**table, **{name: loaded for name, loaded in others.items() if name not in faults}}


def loaded_plugins(group: str, taken: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the entry points of a group hold, by name, but for names that are taken; one that cannot be loaded is
    named in a warning and left out.
    """
    loaded = {}
    for name, point in outside(group, taken).items():
        try:
            loaded[name] = loaded_point("plug-in", point)
        except UsageError as error:
            logger.warning("%s: %s is left out: %s", group, name, error)
    return loaded
