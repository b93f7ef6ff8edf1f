"""Generation: rows end by themselves, and do not depend on their company."""

from __future__ import annotations

import pytest

from factedit.engine.generate import generate
from factedit.models.adapter import EditableModel


def test_a_row_at_the_contexts_end_beside_one_that_goes_on(editable_family: EditableModel) -> None:
    model = editable_family
    if model.family.name == "gpt_neo":
        pytest.skip("GPT-Neo's mask has as many columns as the context, padding included")
    limit = model.context_length
    long, short = [5 + n % 90 for n in range(limit - 2)], [7, 9, 11]
    both = generate(model, [long, short], tokens=[20, 20], top_k=5)
    assert [len(row) for row in both] == [2, 20]
    alone = [generate(model, [row], tokens=[20], top_k=5, seeds=[n])[0] for n, row in enumerate((long, short))]
    assert both == alone


def test_a_stop_token_ends_its_row_alone(tiny_gpt2: EditableModel) -> None:
    prompts = [[7, 9, 11], [20, 21], [33, 34, 35, 36]]
    free = generate(tiny_gpt2, prompts, tokens=[12] * 3, top_k=5)
    stop = free[0][4]
    stopped = generate(tiny_gpt2, prompts, tokens=[12] * 3, top_k=5, stop=frozenset({stop}))
    assert stopped == [row[: row.index(stop)] if stop in row else row for row in free]
    assert len(stopped[0]) <= 4
