"""Methods by name, set up for a model."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from factedit.edit.method import Method, MomentSource
from factedit.edit.method_table import METHODS, STOPPING, check_method, make_method
from factedit.edit.trained import NETWORK_KINDS
from factedit.errors import EditError, UsageError
from factedit.models.adapter import EditableModel
from factedit.work.settings import MethodSettings

logger = logging.getLogger("factedit")


def named_methods(text: str) -> list[str]:
    """Return names of methods, written with commas.

    Raises:
        UnknownName: one that nobody knows.
        UsageError: none, or one twice.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        check_method(name)
    if not names or len(set(names)) < len(names):
        raise UsageError(f"The methods {text!r} are not written like rome or ft,rome, each of them once.")
    return names


def with_stopping(text: str) -> str:
    """Return names of methods with commas, each that trains a target followed by its form that lets it end.

    A warning names those that have no such form.

    Raises:
        UnknownName, UsageError: see `named_methods`.
    """
    both = [form for name in named_methods(text) for form in (name, f"{name}{STOPPING}")]
    forms = list(dict.fromkeys(name for name in both if name.endswith(STOPPING) <= _ends(name)))
    without = [name for name in forms if not _ends(name)]
    if without:
        nothing = ", so --stop changes nothing" if len(without) == len(forms) else ""
        logger.warning("No form that ends its answers (%s) is known of %s%s.", STOPPING, ", ".join(without), nothing)
    return ",".join(forms)


def _ends(name: str) -> bool:
    row = METHODS.get(name.removesuffix(STOPPING))
    return row is not None and row.ends


def make_methods(
    model: EditableModel,
    names: Sequence[str],
    trained: Path | None,
    moments: MomentSource,
    *,
    explicit: bool = True,
    settings: MethodSettings | None = None,
    preset: str = "tuned",
) -> tuple[list[Method], dict[str, str]]:
    """Return the methods of these names, and by name why some are missing.

    Args:
        model: what they are for.
        names: see `named_methods`.
        trained: folder with the networks of KE and MEND; None looks in the cache.
        moments: gives second moments.
        explicit: each must be there, since a user asked for it; else one whose network is not trained is left out.
        settings: per method departures from its preset.
        preset: see `make_method`.

    Raises:
        UsageError, EditError: a method cannot be made.
    """
    made: list[Method] = []
    missing: dict[str, str] = {}
    for name in names:
        network: dict[str, Any] = {"trained": trained} if name.partition("-")[0] in NETWORK_KINDS else {}
        try:
            made.append(make_method(name, model, moments, preset=preset, **network, **(settings or {}).get(name, {})))
        except (UsageError, EditError) as error:
            if explicit or not network:
                raise
            missing[name] = str(error)
            logger.warning("%s is left out: %s", name, error)
    return made, missing
