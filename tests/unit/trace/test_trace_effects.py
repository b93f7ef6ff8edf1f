"""Effects and their averages by role, against the definitions written out (ROME, sections 2.1 and 2.2)."""

from __future__ import annotations

import json
import math
import statistics

import numpy as np
import pytest

from factedit.errors import UsageError
from factedit.trace.effects import ROLES, Z95, TraceResult, average, role_rows


def trace(subject: tuple[int, int], tokens: int, *, clean: float = 0.9, corrupted: float = 0.1, shift: float = 0.0):
    """A trace of two layers whose score at (token, layer) is shift + corrupted + token/10 + layer/100."""
    rows = tuple(tuple(shift + corrupted + t / 10 + layer / 100 for layer in range(2)) for t in range(tokens))
    return TraceResult(
        model="tiny", prompt="x", subject="y", subject_range=subject, tokens=("t",) * tokens, answer="a", clean=clean,
        corrupted=corrupted, window=1, noise=0.5, samples=2, seed=1, scores={"hidden": rows},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("subject", "tokens", "expected"),
    [
        ((1, 4), 8, {"first subject": [1], "middle subject": [2], "last subject": [3], "first subsequent": [4],
                     "further": [5, 6], "last": [7]}),
        ((0, 1), 3, {"first subject": [0], "last subject": [0], "first subsequent": [1], "last": [2]}),
        ((0, 2), 3, {"first subject": [0], "last subject": [1], "first subsequent": [2], "last": [2]}),
        ((1, 3), 3, {"first subject": [1], "last subject": [2], "last": [2]}),
    ],
)  # fmt: skip
def test_the_roles_of_a_prompts_tokens(subject: tuple[int, int], tokens: int, expected: dict[str, list[int]]) -> None:
    assert dict(role_rows(subject, tokens)) == expected
    assert [role for role, _ in role_rows(subject, tokens)] == [role for role in ROLES if role in expected]


def test_effects_are_differences_to_the_corrupted_run() -> None:
    found = trace((0, 2), 4, clean=0.75, corrupted=0.25)
    assert found.total_effect == pytest.approx(0.5)
    np.testing.assert_allclose(
        found.indirect_effects("hidden"), [[t / 10 + n / 100 for n in range(2)] for t in range(4)]
    )
    assert found.peak("hidden") == (3, 1)


def test_averages_are_over_tokens_with_facts_as_the_units() -> None:
    traces = [trace((0, 2), 6), trace((1, 4), 9, clean=0.7, shift=0.2), trace((0, 1), 2, clean=0.5, shift=-0.1)]
    found = average(traces, asked=7)
    assert (found.facts, found.asked) == (3, 7)
    totals = [0.8, 0.6, 0.4]
    assert found.total_effect[0] == pytest.approx(statistics.mean(totals))
    assert found.total_effect[1] == pytest.approx(Z95 * statistics.stdev(totals) / math.sqrt(3))
    last = found.curves["hidden"]["last"]
    values = [0.5, 0.2 + 0.8, -0.1 + 0.1]  # tokens 5, 8 and 1, layer 0
    assert last.mean[0] == pytest.approx(statistics.mean(values))
    assert last.half_width[0] == pytest.approx(Z95 * statistics.stdev(values) / math.sqrt(3))
    assert last.mean[1] == pytest.approx(last.mean[0] + 0.01)
    further = found.curves["hidden"]["further"]
    tokens = [0.3, 0.4, 0.2 + 0.5, 0.2 + 0.6, 0.2 + 0.7]  # of two facts: 3 and 4; 5, 6 and 7
    assert further.n == 5
    assert further.mean[0] == pytest.approx(statistics.mean(tokens))
    middle = statistics.mean(tokens)
    clusters = [sum(v - middle for v in tokens[:2]), sum(v - middle for v in tokens[2:])]
    half = Z95 * math.sqrt(sum(c**2 for c in clusters) * 2 / 1) / 5
    assert further.half_width[0] == pytest.approx(half)
    assert found.peak("hidden", "last") == (1, pytest.approx(last.mean[1]))


def test_one_fact_has_no_interval_and_none_is_an_error() -> None:
    found = average([trace((0, 2), 4)], asked=1)
    assert math.isnan(found.total_effect[1])
    assert all(math.isnan(half) for half in found.curves["hidden"]["last"].half_width)
    with pytest.raises(UsageError, match="None of the 5 facts"):
        average([], asked=5)


def test_a_trace_comes_back_as_it_was_stored() -> None:
    found = trace((1, 3), 5)
    assert TraceResult.from_stored(json.loads(json.dumps(found.as_stored()))) == found
    assert found.as_json()["kind"] == "hidden"
    assert found.as_json()["scores"] == found.scores["hidden"]
