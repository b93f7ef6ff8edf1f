"""Restored runs equal the definition, spelled out on the whole model, on every family."""

from __future__ import annotations

import pytest
import torch

from conftest import tiny
from factedit.errors import RequestError, UsageError
from factedit.models.adapter import EditableModel
from factedit.trace.sweep import KINDS, SEVERED, trace_fact
from trace_definition import NOISE, PROMPT, SAMPLES, SUBJECT, Definition


@torch.no_grad()
def test_every_restored_state_equals_the_definition(any_family: EditableModel) -> None:
    model, plain = any_family, Definition(any_family)
    found = trace_fact(model, PROMPT, SUBJECT, kinds=(*KINDS, *SEVERED), window=2, noise=NOISE, samples=SAMPLES)
    assert found.clean == pytest.approx(plain.clean, rel=1e-4)
    assert found.corrupted == pytest.approx(plain.run([]), rel=1e-4)
    spread = 0.0
    begin, end = found.subject_range
    for kind in (*KINDS, *SEVERED):
        for token in (begin - 1, begin, end - 1, len(found.tokens) - 1):
            for layer in range(model.n_layer):
                expected = plain.restored(kind, token, layer, 2)
                assert found.scores[kind][token][layer] == pytest.approx(expected, rel=2e-3, abs=1e-6), (
                    kind,
                    token,
                    layer,
                )
                spread = max(spread, abs(expected - found.corrupted))
    assert spread > 1e-4, "the restorations matter, so the comparison is not vacuous"


@torch.no_grad()
def test_exact_statements(tiny_gpt2: EditableModel) -> None:
    found = trace_fact(tiny_gpt2, PROMPT, SUBJECT, noise=NOISE, samples=SAMPLES)
    begin, _ = found.subject_range
    for kind in KINDS:
        effects = found.indirect_effects(kind)
        assert (effects[:begin] == 0).all(), "before the subject nothing is corrupted"
        assert (effects[:-1, -1] == 0).all(), "the last layer of an earlier token reaches nobody"
    assert found.scores["hidden"][-1][-1] == pytest.approx(found.clean, rel=1e-5)


def test_common_random_numbers(tiny_gpt2: EditableModel) -> None:
    again = [trace_fact(tiny_gpt2, PROMPT, SUBJECT, noise=NOISE, seed=s).corrupted for s in (1, 1, 2)]
    assert again[0] == again[1] != again[2]


def test_start_token_and_padding_free_positions() -> None:
    model = tiny("gemma3_text", start=True)
    found = trace_fact(model, PROMPT, SUBJECT, noise=NOISE, samples=2, kinds=("hidden",))
    assert found.tokens[0] == "<s>"
    begin, end = found.subject_range
    assert "".join(found.tokens[begin:end]).strip() == SUBJECT


def test_bad_input(tiny_gpt2: EditableModel) -> None:
    with pytest.raises(RequestError, match="does not occur in the prompt"):
        trace_fact(tiny_gpt2, PROMPT, "Москва", noise=1.0)
    with pytest.raises(UsageError, match="Cannot trace feelings"):
        trace_fact(tiny_gpt2, PROMPT, SUBJECT, noise=1.0, kinds=("feelings",))
    with pytest.raises(UsageError, match="must be at least 1"):
        trace_fact(tiny_gpt2, PROMPT, SUBJECT, noise=1.0, window=0)
