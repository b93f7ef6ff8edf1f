"""What the rows of an evaluation are keyed by: everything that decides their numbers, the same in every process.

Whoever computes a part of an evaluation elsewhere prepares it by the same function and is refused where a key differs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from factedit.edit.method import Method
from factedit.evaluate.benchmark import UNEDITED
from factedit.evaluate.circumstances import circumstances
from factedit.evaluate.leak import Kept
from factedit.evaluate.plan import Plan
from factedit.facts import FactRecord
from factedit.models.adapter import EditableModel
from factedit.plugins import code_of

PROTOCOL = 3  # of the stored numbers; it stands in every key


class Key(NamedTuple):
    """What decides the numbers of a row of a table.

    Attributes:
        settings: as JSON values.
        cases: that it is of.
        method: whose row; the unedited model's is of none.
    """

    settings: Mapping[str, Any]
    cases: Sequence[str]
    method: str = UNEDITED


class Prepared(NamedTuple):
    """An evaluation before anything is computed.

    Attributes:
        records: without the prompts that no method is asked.
        kept: what was left out of them.
        common: what all rows share.
        keys: by name of the row; the unedited model's first.
    """

    records: Sequence[FactRecord]
    kept: Kept
    common: Mapping[str, Any]
    keys: Mapping[str, Key]


def prepared(
    model: EditableModel, records: Sequence[FactRecord], methods: Sequence[Method], dataset: str, plan: Plan
) -> Prepared:
    """Return the records as they are asked, and the keys of all rows; the unedited model knows no regime.

    Args:
        model, records, methods, dataset: see `evaluate_methods`.
        plan: what is measured, under which regime.

    Raises:
        UsageError: records that do not fit the regime, or metrics that contradict each other.
    """
    records, kept = Kept.by(methods).left_out_of(records)
    common = _common(model, dataset, plan) | kept.as_key()
    ids = [record.case_id for record in records]
    keys = {UNEDITED: Key({**common, "method": UNEDITED}, ids)}
    for stage in plan.regime.stages(ids):
        for method in methods:
            settings = {"method": method.name, "settings": method.describe(), **_code(method), **stage.key}
            cases = [ids[n] for n in stage.places]
            keys[method.name + stage.suffix] = Key({**common, **settings}, cases, method.name)
    return Prepared(records, kept, common, keys)


def apart(missing: Mapping[str, frozenset[str]], keys: Mapping[str, Key]) -> list[dict[str, frozenset[str]]]:
    """Return what is missing of a part whose records share edits, method by method: each has rounds of its own."""
    methods = dict.fromkeys(keys[name].method for name in missing)
    return [{name: cases for name, cases in missing.items() if keys[name].method == method} for method in methods]


def _code(*things: Any) -> dict[str, Any]:
    """Return the part of a key that tells the code of strangers, whose changes no version of ours tells."""
    code = code_of(*things)
    return {"code": code} if code else {}


def _common(model: EditableModel, dataset: str, plan: Plan) -> dict[str, Any]:
    """Return what runs must share for their rows to stand in one table."""
    asking = code_of(plan.benchmark, *plan.measures.metrics)
    strangers = {"code of benchmark and metrics": asking} if asking else {}
    return {"protocol": PROTOCOL, **circumstances(model), "dataset": dataset, **plan.as_key(), **strangers}
