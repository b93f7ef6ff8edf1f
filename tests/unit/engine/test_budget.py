"""How much fits at once: fixed numbers on a processor, shares of what is free on an accelerator."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from conftest import tiny
from factedit.edit.value import groups_of_facts
from factedit.edit.value_rows import PromptRow
from factedit.engine import budget


def test_on_a_processor_the_numbers_are_fixed() -> None:
    model = tiny("gpt2")
    assert budget.columns_scored(model) == 2048
    assert budget.columns_read(model) == 1024
    assert (budget.reads_scored(model), budget.reads_optimised(model), budget.reads_tuned(model)) == (48, 48, 64)
    assert budget.texts_written(model, 1000) == 64


def test_what_is_optimised_takes_a_fifth_of_the_weights() -> None:
    model = tiny("gpt2", vocab_size=100_000)
    weights = sum(p.numel() for p in model.lm.parameters())
    each = 10 * 32 + 5 * 128  # numbers of a token and layer
    assert budget.tokens_optimised(model, 1) == int(0.2 * weights / (3 * each))
    assert budget.tokens_optimised(model, 4) == int(0.2 * weights / each), "above the last layer, one at least"
    assert budget.tokens_optimised(tiny("gpt2"), 0) == 64, "never fewer"
    assert budget.tokens_waiting(model) == weights // 32


def test_of_a_model_on_disk_what_stands_before_the_subject_is_counted_too(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("gpt2")
    assert budget.share_of_past(model, 1) == 0, "a model in memory: its groups stay what they were"
    monkeypatch.setattr(model, "streamed", True)
    held = 2 * 3 * 32 + 10 * 32 + 5 * 128  # numbers of a token from the subject on, above layer 1 of 4
    assert budget.share_of_past(model, 1) == 2 * 4 * 32 / held, "keys and values of all four layers"
    row = PromptRow(fact=0, context=0, ids=tuple(range(12)), subject_last=8, reads=(), targets=())
    facts = [[row]] * 4  # each 8 tokens before, 4 from there on
    assert list(groups_of_facts(facts, 16, 0.0)) == [[0, 1, 2, 3]]
    assert list(groups_of_facts(facts, 16, 0.5)) == [[0, 1], [2, 3]]
    assert list(groups_of_facts(facts, 16, 1.0)) == [[0], [1], [2], [3]]
    wide = [replace(row, subject_last=6, ids=tuple(range(11)))]  # 5 from there on, fewer in all
    assert list(groups_of_facts([wide, [row]], 16, 1.0)) == [[1], [0]], "ordered as in memory, so that the bits are"


def test_small_changes_are_tuned_by_the_hundred_megabytes() -> None:
    model = tiny("gpt2")
    assert budget.changes_tuned(model, 0) == 100_000_000 // (24 * 128 * 32)


def test_on_an_accelerator_a_share_of_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "free_bytes", lambda _device: 1_000_000)
    cuda = torch.device("cuda")
    assert budget._at_once(cuda, 1000, 3) == 200
    assert budget._at_once(cuda, 1000, 3, share=0.5) == 500
    assert budget._at_once(cuda, 1e9, 3) == 1, "one at least; what does not fit is halved elsewhere"


@pytest.mark.parametrize(("columns", "rows"), [(1, 16_384), (100, 163), (20_000, 1)])
def test_restored_rows(columns: int, rows: int) -> None:
    assert budget.rows_restored(columns) == rows
