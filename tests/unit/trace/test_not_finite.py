"""A trace whose numbers are not finite is refused; among many facts it is named and passed over."""

from __future__ import annotations

import logging

import pytest

from factedit.engine.resume import next_token
from factedit.errors import NotFinite
from factedit.facts import KnownFact
from factedit.models.adapter import EditableModel
from factedit.trace.sweep import trace_fact, trace_facts

PROMPT = "Paris is the capital ("


def test_a_trace_that_is_not_finite_is_refused(tiny_gpt2: EditableModel) -> None:
    """Before: NaN in the tables, and a traceback of `trace --json`."""
    with pytest.raises(NotFinite, match=r"Traced at 'Paris is the capital \(', the corrupted run"):
        trace_fact(tiny_gpt2, PROMPT, "Paris", noise=1e38, samples=2, kinds=["hidden"])


def test_among_known_facts_it_is_passed_over(tiny_gpt2: EditableModel, caplog: pytest.LogCaptureFixture) -> None:
    answer = tiny_gpt2.tokenizer.decode([next_token(tiny_gpt2, tiny_gpt2.tokenizer(PROMPT)["input_ids"])])
    fact = KnownFact(fact_id="paris", prompt=PROMPT, subject="Paris", answer=answer)
    with caplog.at_level(logging.WARNING, "factedit"):
        found = list(trace_facts(tiny_gpt2, [fact], noise=1e38, samples=2, kinds=["hidden"]))
    assert found == [(fact, None)]
    assert "fact paris is left out: " in caplog.text
