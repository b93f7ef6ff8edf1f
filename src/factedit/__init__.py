"""Find where a language model keeps a fact, change it, prove what the change did, undo it.

The public names are loaded when first used, so that `import factedit` is instant; type checkers see them as imports.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from factedit.account.audit import audit as audit
    from factedit.data.registry import load_dataset as load_dataset
    from factedit.data.registry import select as select
    from factedit.edit.artefact import Edit as Edit
    from factedit.edit.loaded import EditedModel as EditedModel
    from factedit.edit.loaded import load_edited as load_edited
    from factedit.edit.method_table import make_method as make_method
    from factedit.edit.presets import RomeSettings as RomeSettings
    from factedit.edit.show import show as show
    from factedit.errors import FacteditError as FacteditError
    from factedit.evaluate.measures import Measures as Measures
    from factedit.evaluate.probability import score as score
    from factedit.evaluate.run import evaluate_methods as evaluate_methods
    from factedit.evaluate.store import ResultStore as ResultStore
    from factedit.export.push import push as push
    from factedit.export.ship import ship as ship
    from factedit.facts import EditRequest as EditRequest
    from factedit.facts import FactRecord as FactRecord
    from factedit.facts import KnownFact as KnownFact
    from factedit.models.adapter import EditableModel as EditableModel
    from factedit.models.load import load as load
    from factedit.stack.check import log as log
    from factedit.stack.check import verify as verify
    from factedit.stack.work import apply as apply
    from factedit.stack.work import revert as revert
    from factedit.stats.provide import Moments as Moments
    from factedit.stats.second_moment import SecondMoment as SecondMoment
    from factedit.trace.effects import TraceResult as TraceResult
    from factedit.trace.effects import average as average
    from factedit.trace.state import read_state as read_state
    from factedit.trace.sweep import trace_fact as trace_fact
    from factedit.trace.sweep import trace_facts as trace_facts

__version__ = "0.1.0"

_HOME = {
    "Edit": "factedit.edit.artefact",
    "EditRequest": "factedit.facts",
    "EditableModel": "factedit.models.adapter",
    "EditedModel": "factedit.edit.loaded",
    "FactRecord": "factedit.facts",
    "FacteditError": "factedit.errors",
    "KnownFact": "factedit.facts",
    "Measures": "factedit.evaluate.measures",
    "Moments": "factedit.stats.provide",
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
    "load_edited": "factedit.edit.loaded",
    "log": "factedit.stack.check",
    "make_method": "factedit.edit.method_table",
    "push": "factedit.export.push",
    "read_state": "factedit.trace.state",
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
    "EditedModel",
    "FactRecord",
    "FacteditError",
    "KnownFact",
    "Measures",
    "Moments",
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
    "load_edited",
    "log",
    "make_method",
    "push",
    "read_state",
    "revert",
    "score",
    "select",
    "ship",
    "show",
    "trace_fact",
    "trace_facts",
    "verify",
]


if not TYPE_CHECKING:  # a type checker that saw it would take any name for a public one

    def __getattr__(name: str) -> Any:
        """A public name, from its home."""
        if name not in _HOME:
            raise AttributeError(f"module 'factedit' has no attribute {name!r}")
        return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
