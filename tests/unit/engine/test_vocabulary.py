"""Probabilities over the vocabulary in pieces: torch's own numbers and gradients, whatever the pieces and the type."""

from __future__ import annotations

import pytest
import torch

from factedit.engine.vocabulary import divergence, likelihood_slope, log_probability, normaliser

VOCAB = 1004  # no multiple of a piece, nor of more than four words side by side


@pytest.fixture(params=[1 << 18, 60], ids=["one piece", "many pieces"], autouse=True)
def pieces(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("factedit.engine.vocabulary.ENTRIES_AT_ONCE", request.param)
    monkeypatch.setattr("factedit.engine.vocabulary.WIDE", 8)


def random_logits(n: int, *, outermost: bool, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    """`[n, vocab]`, with the words outermost in memory or innermost."""
    drawn = 5 * torch.randn(VOCAB, n, generator=torch.Generator().manual_seed(seed))
    return (drawn.T if outermost else drawn.T.contiguous()).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("outermost", [True, False])
@pytest.mark.parametrize("n", [1, 3, 16])
def test_the_normaliser(n: int, outermost: bool, dtype: torch.dtype) -> None:
    logits = random_logits(n, outermost=outermost, dtype=dtype)
    logits[-1, -1] = 40.0
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
def test_the_slope_of_the_likelihood(outermost: bool, dtype: torch.dtype) -> None:
    logits, weight = random_logits(4, outermost=outermost, dtype=dtype), torch.tensor([0.0, 1.0, 2.0, 0.5])
    tokens = torch.tensor([0, 7, 1003, 7])
    found = likelihood_slope(logits, normaliser(logits), tokens, weight)
    one_hot = torch.nn.functional.one_hot(tokens, VOCAB)
    expected = (weight.double()[:, None] * (logits.double().softmax(1) - one_hot)).to(dtype)
    torch.testing.assert_close(found, expected, rtol=20 * torch.finfo(dtype).eps, atol=1e-9)
    assert found.dtype == dtype
    assert found.T.is_contiguous() == outermost, "laid out like the logits, which the head's gradient relies on"


@pytest.mark.parametrize("outermost", [True, False])
def test_gradients_are_those_of_the_definition(outermost: bool) -> None:
    logits, before = (
        random_logits(4, outermost=outermost, dtype=torch.float64, seed=seed).requires_grad_() for seed in (0, 1)
    )
    slope, tokens = torch.tensor([1.0, -0.5, 0.0, 3.0], dtype=torch.float64), torch.tensor([0, 7, 1003, 7])
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


@pytest.mark.parametrize("share", [0.3, 0.97, 0.9995])
def test_half_precision_rounds_the_gradient_of_a_likely_token_once(share: float) -> None:
    logits = random_logits(3, outermost=True)
    rest = torch.cat([logits[:, :5], logits[:, 6:]], 1).logsumexp(1)
    logits[:, 5] = rest + torch.tensor(share / (1 - share)).log()
    logits = logits.bfloat16().requires_grad_()
    found = log_probability(logits, 5)
    assert found.dtype == torch.float32
    [gradient] = torch.autograd.grad(found.sum(), logits)
    exact = -logits.detach().double().softmax(1)
    exact[:, 5] += 1
    torch.testing.assert_close(gradient.double(), exact, rtol=0.005, atol=1e-9)


def test_half_precision_rounds_the_gradient_of_a_small_divergence_once() -> None:
    before = random_logits(3, outermost=True, dtype=torch.bfloat16)
    noise = 0.03 * torch.randn(before.shape, generator=torch.Generator().manual_seed(9))
    logits = (before.float() + noise).bfloat16().requires_grad_()
    [gradient] = torch.autograd.grad(divergence(before, logits).sum(), logits)
    exact = logits.detach().double().softmax(1) - before.double().softmax(1)
    assert float((gradient.double() - exact).norm() / exact.norm()) < 0.005
