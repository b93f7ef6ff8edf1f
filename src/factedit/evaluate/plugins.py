"""Benchmarks and metrics from outside, loaded."""

from __future__ import annotations

import logging
from typing import Any

from factedit.plugins import outside

logger = logging.getLogger("factedit")


def loaded_plugins(group: str) -> dict[str, Any]:
    """Return what the entry points of a group hold, by name; one that cannot be loaded is named in a warning and left
    out.
    """
    loaded = {}
    for name, point in outside(group).items():
        try:
            loaded[name] = point.load()
        except Exception as error:  # whatever a stranger's module raises
            logger.warning("%s: %s (%s) cannot be loaded and is left out: %s", group, name, point.value, error)
    return loaded
