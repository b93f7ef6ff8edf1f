"""Probabilities over the vocabulary in pieces: torch's own numbers and gradients, whatever the pieces and the type."""

from __future__ import annotations

import pytest
import torch

from factedit.models.vocabulary import divergence, log_probability, normaliser, weighted_softmax

VOCAB = 1003  # no multiple of a piece


@pytest.fixture(params=[1 << 18, 60], ids=["one piece", "many pieces"], autouse=True)
def pieces(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("factedit.models.vocabulary.ENTRIES_AT_ONCE", request.param)
    monkeypatch.setattr("factedit.models.vocabulary.WIDE", 8)


def random_logits(n: int, *, outermost: bool, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    """`[n, vocab]`, with the words outermost in memory or innermost."""
    drawn = 5 * torch.randn(VOCAB, n, generator=torch.Generator().manual_seed(seed))
    return (drawn.T if outermost else drawn.T.contiguous()).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("outermost", [True, False])
@pytest.mark.parametrize("n", [1, 3, 16])
def test_the_normaliser(n: int, outermost: bool, dtype: torch.dtype) -> None:
    logits = random_logits(n, outermost=outermost, dtype=dtype)
    logits[-1, -1] = 40.0  # the largest is the very last word, which no fold of the others holds
    norm = normaliser(logits)
    torch.testing.assert_close(norm.log_p(logits.T).T.double(), logits.double().log_softmax(1), rtol=2e-7, atol=2e-6)
    assert torch.equal(norm.largest, logits.amax(1).to(norm.largest.dtype))
    assert norm.size.dtype == norm.largest.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


def test_logits_far_from_zero_and_words_that_cannot_be() -> None:
    logits = random_logits(3, outermost=True)
    logits[0] += 2e4
    logits[1] -= 2e4
    logits[2, :200] = -torch.inf  # whole pieces of it, too
    found = normaliser(logits).log_p(logits.T).T.double()
    torch.testing.assert_close(found, logits.double().log_softmax(1), rtol=2e-7, atol=2e-6)
    logits[2, 5] = torch.nan
    assert normaliser(logits).size[2].isnan(), "a broken model is seen"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("outermost", [True, False])
def test_the_softmax_of_every_row_at_its_weight(outermost: bool, dtype: torch.dtype) -> None:
    logits, weight = random_logits(4, outermost=outermost, dtype=dtype), torch.tensor([0.0, 1.0, -2.0, 0.5])
    found = weighted_softmax(logits, normaliser(logits), weight)
    expected = (weight.double()[:, None] * logits.double().softmax(1)).to(dtype)
    torch.testing.assert_close(found, expected, rtol=20 * torch.finfo(dtype).eps, atol=1e-9)
    assert found.dtype == dtype
    assert found.T.is_contiguous() == outermost, "laid out like the logits, which the head's gradient relies on"


def test_gradients_are_those_of_the_definition() -> None:
    logits, before = (
        random_logits(4, outermost=True, dtype=torch.float64, seed=seed).requires_grad_() for seed in (0, 1)
    )
    slope, tokens = torch.tensor([1.0, -0.5, 0.0, 3.0], dtype=torch.float64), torch.tensor([0, 7, 1002, 7])
    pairs = [
        (log_probability(logits, tokens), logits.log_softmax(1)[range(4), tokens]),
        (log_probability(logits, 5), logits.log_softmax(1)[:, 5]),
        (
            divergence(before.detach(), logits),
            (before.softmax(1) * (before.log_softmax(1) - logits.log_softmax(1))).sum(1),
        ),
    ]
    for found, expected in pairs:
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
        [own], [theirs] = (torch.autograd.grad(values, logits, slope) for values in (found, expected))
        torch.testing.assert_close(own, theirs, rtol=1e-9, atol=1e-12)


def test_half_precision_keeps_its_type_in_gradients_alone() -> None:
    logits = random_logits(3, outermost=True, dtype=torch.bfloat16).requires_grad_()
    found = log_probability(logits, torch.tensor([1, 2, 3]))
    assert found.dtype == torch.float32
    [gradient] = torch.autograd.grad(found.sum(), logits)
    exact = torch.nn.functional.one_hot(torch.tensor([1, 2, 3]), VOCAB) - logits.detach().double().softmax(1)
    torch.testing.assert_close(gradient, exact.bfloat16(), rtol=0.02, atol=1e-6)
