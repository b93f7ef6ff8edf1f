"""Find where a language model keeps a fact, change it, prove what the change did, undo it.

The public names are loaded when first used, so that `import factedit` is instant.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "Edit": "factedit.edit.artefact",
    "EditRequest": "factedit.facts",
    "EditableModel": "factedit.models.adapter",
    "FactRecord": "factedit.facts",
    "FacteditError": "factedit.errors",
    "KnownFact": "factedit.facts",
    "Moments": "factedit.stats.provide",
    "Protocol": "factedit.evaluate.chunk",
    "ResultStore": "factedit.evaluate.store",
    "RomeSettings": "factedit.edit.presets",
    "SecondMoment": "factedit.stats.second_moment",
    "TraceResult": "factedit.trace.effects",
    "apply": "factedit.stack.work",
    "audit": "factedit.account.audit",
    "average": "factedit.trace.effects",
    "evaluate_methods": "factedit.evaluate.run",
    "load": "factedit.models.load",
    "load_dataset": "factedit.data.registry",
    "log": "factedit.stack.check",
    "make_method": "factedit.edit.method",
    "push": "factedit.export.push",
    "revert": "factedit.stack.work",
    "score": "factedit.evaluate.probability",
    "select": "factedit.data.registry",
    "show": "factedit.edit.show",
    "ship": "factedit.export.ship",
    "trace_fact": "factedit.trace.sweep",
    "trace_facts": "factedit.trace.sweep",
    "verify": "factedit.stack.check",
}
__all__ = [
    "Edit",
    "EditRequest",
    "EditableModel",
    "FactRecord",
    "FacteditError",
    "KnownFact",
    "Moments",
    "Protocol",
    "ResultStore",
    "RomeSettings",
    "SecondMoment",
    "TraceResult",
    "apply",
    "audit",
    "average",
    "evaluate_methods",
    "load",
    "load_dataset",
    "log",
    "make_method",
    "push",
    "revert",
    "score",
    "select",
    "ship",
    "show",
    "trace_fact",
    "trace_facts",
    "verify",
]


def __getattr__(name: str) -> Any:
    """A public name, from its home."""
    if name not in _HOME:
        raise AttributeError(f"module 'factedit' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
