"""The stored first views are of the shapes that the functions give now, and are judged as they judge."""

from __future__ import annotations

import json
from typing import Any

import pytest

from conftest import ROOT
from factedit.facts import EditRequest
from factedit.trace.effects import TraceResult
from factedit.work.demo import RECORD, TRACE_PROMPT
from factedit.work.proof import JUDGED, FactProof, Proven, _state, checks_of

EXAMPLE = ROOT / "src" / "factedit" / "web" / "static" / "example.json"


@pytest.fixture(scope="module")
def example() -> Any:
    return json.loads(EXAMPLE.read_text())


def test_it_is_of_the_demos_fact_and_small(example: Any) -> None:
    assert EXAMPLE.stat().st_size < 60_000
    assert example["proof"]["request"] == example["edit"]["request"] == vars(RECORD.request)
    assert example["asked"]["prompt"] == RECORD.request.text
    assert (example["trace"]["prompt"], example["trace"]["subject"]) == (TRACE_PROMPT, RECORD.request.subject)
    assert {len(example["asked"][when]["top"]) for when in ("before", "after")} == {10}


def test_the_trace_is_one(example: Any) -> None:
    stored = {name: value for name, value in example["trace"].items() if name not in ("edited_layers", "notes")}
    trace = TraceResult.from_stored(stored)
    assert trace.peak("hidden")[0] == len(trace.tokens) - 1
    assert example["trace"]["edited_layers"] == [example["edit"]["layer"]]


def test_the_proof_is_judged_as_it_would_be_now(example: Any) -> None:
    request = EditRequest(**example["proof"]["request"])
    rows = [
        Proven(**{k: tuple(v) if isinstance(v, list) else v for k, v in row.items()})
        for row in example["proof"]["rows"]
    ]
    assert {(row.part, row.prompt, row.wanted) for row in rows} == set(map(tuple, checks_of(RECORD)))
    for row in rows:
        assert row.wanted == JUDGED or row.state == _state(row, request), row
    assert FactProof(request, tuple(rows)).verdict == example["proof"]["verdict"]
