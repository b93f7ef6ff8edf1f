"""Benchmarks and metrics from outside, loaded."""

from __future__ import annotations

import logging
from typing import Any

from factedit.errors import UsageError
from factedit.plugins import loaded_point, outside

logger = logging.getLogger("factedit")


def loaded_plugins(group: str) -> dict[str, Any]:
    """Return what the entry points of a group hold, by name; one that cannot be loaded is named in a warning and left
    out.
    """
    loaded = {}
    for name, point in outside(group).items():
        try:
            loaded[name] = loaded_point("plug-in", point)
        except UsageError as error:
            logger.warning("%s: %s is left out: %s", group, name, error)
    return loaded
