"""Generation: rows end by themselves, and do not depend on the rows beside them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest
import torch

from conftest import tiny
from factedit.engine.generate import generate
from factedit.errors import NotFinite
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


@pytest.mark.parametrize("top_k", [1, 5, 10_000])
def test_a_model_whose_numbers_are_not_finite_writes_nothing(top_k: int) -> None:
    """Before: a traceback of the sampling, or the first word of the vocabulary again and again."""
    model = tiny("gpt2")
    assert len(generate(model, [[7, 9]], tokens=[2], top_k=top_k)[0]) == 2, "a k above the vocabulary is all of it"
    hook = lambda out: torch.full_like(out, torch.nan)  # noqa: E731
    with model.on_output("mlp", 2, hook), pytest.raises(NotFinite, match="not finite"):
        generate(model, [[7, 9], [7, 9]], tokens=[3, 3], top_k=top_k)


@pytest.mark.parametrize("top_k", [1, 5])
def test_a_row_that_is_finished_does_not_break_the_others(top_k: int) -> None:
    model = tiny("gpt2")

    def first_row_breaks(out: torch.Tensor) -> torch.Tensor | None:
        if out.shape[1] > 1:
            return None
        out = out.clone()
        out[0] = torch.nan
        return out

    free = generate(model, [[7, 9], [20, 21]], tokens=[1, 4], top_k=top_k)
    with model.on_output("mlp", 2, first_row_breaks):
        assert generate(model, [[7, 9], [20, 21]], tokens=[1, 4], top_k=top_k) == free
        with pytest.raises(NotFinite):
            generate(model, [[7, 9], [20, 21]], tokens=[2, 4], top_k=top_k)


@pytest.mark.parametrize("family", ["gpt2", "gemma3_text"])
def test_finished_rows_leave_a_greedy_batch(family: str) -> None:
    """Of eight rows six are short: two batches are left, of the right rows, and every text is that of the row alone."""
    model = tiny(family)
    prompts = [[7 + n, 9, 11 + n] for n in range(8)]
    tokens = [2, 9, 2, 2, 4, 2, 4, 9]
    entered: list[list[int]] = []
    rows: list[int] = []

    @contextmanager
    def under(numbers: Sequence[int]) -> Iterator[None]:
        entered.append(list(numbers))
        yield

    with model.on_output("mlp", 0, lambda out: rows.append(len(out))):
        found = generate(model, prompts, tokens=tokens, under=under)
    assert found == [generate(model, [p], tokens=[n])[0] for p, n in zip(prompts, tokens, strict=True)]
    assert entered == [list(range(8)), [1, 4, 6, 7], [1, 7]]
    assert rows == [8, 8, 4, 4, 2, 2, 2, 2, 2]
    sampled = generate(model, prompts, tokens=tokens, top_k=5)
    entered.clear()
    assert generate(model, prompts, tokens=tokens, top_k=5, under=under) == sampled
    assert entered == [list(range(8))], "sampled batches keep their rows, to the bit"
