"""Settings of methods as a user writes them: `name=value`, or `method.name=value` for one of several methods."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from factedit.errors import UsageError

MethodSettings = Mapping[str, Mapping[str, Any]]  # by method


def read_settings(texts: Sequence[str], methods: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the settings of every method.

    A value is read as JSON (`0.5`, `true`, `[3, 4]`); what is none is a word. A setting without a method's name is
    given to every method.

    Args:
        texts: as written.
        methods: the methods asked for.

    Raises:
        UsageError: not of this form, a method that was not asked for, or one setting twice.
    """
    by_method: dict[str, dict[str, Any]] = {method: {} for method in methods}
    for text in texts:
        name, equals, value = text.partition("=")
        method, dot, setting = name.strip().rpartition(".")
        if not equals or not setting.isidentifier() or (dot and method not in by_method):
            raise UsageError(
                f"The setting {text!r} is not written like steps=20, or like {methods[0]}.steps=20 for one of the "
                f"methods asked for ({', '.join(methods)})."
            )
        for method_name in [method] if dot else methods:
            if setting in by_method[method_name]:
                raise UsageError(f"The setting {setting} of {method_name} is given twice.")
            by_method[method_name][setting] = _value(value.strip())
    return by_method


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
