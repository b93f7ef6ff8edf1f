"""The networks' formulas, against ΔW written out in full."""

from __future__ import annotations

import torch

from conftest import tiny
from factedit.edit.factors import Factors, Place, gradient_factors, last_matrices, products_added, shapes_of
from factedit.edit.network_ke import KeNetwork, KeSettings
from factedit.edit.network_mend import MendNetwork, MendSettings
from factedit.edit.target_rows import TargetBatch, target_row

SHAPES: dict[Place, tuple[int, int]] = {(1, "out"): (7, 4), (1, "in"): (4, 7), (2, "out"): (7, 4)}


def random_factors(*, rows: int = 2, tokens: int = 5, seed: int = 0) -> Factors:
    random = torch.Generator().manual_seed(seed)
    inputs = {p: torch.randn(rows, tokens, s[0], generator=random) for p, s in SHAPES.items()}
    slopes = {p: torch.randn(rows, tokens, s[1], generator=random) for p, s in SHAPES.items()}
    for slope in slopes.values():
        slope[0, 3:] = 0  # padding
    return Factors(inputs, slopes)


def test_ke_is_the_gated_gradient_plus_a_rank_one_term() -> None:
    """KE's ΔW = s σ(η) (∇W ⊙ softmax(α) γᵀ + softmax(β) δᵀ), each matrix with its own vectors."""
    network = KeNetwork(SHAPES, KeSettings(lstm=3, condition=5, hidden=4, max_scale=0.7), d_embed=6, seed=1)
    factors, sentences = random_factors(), torch.randn(2, 8, 6)
    mask = torch.ones(2, 8, dtype=torch.bool)
    mask[1, 5:] = False
    products = network(factors, sentences, mask)
    for n in range(2):
        length = int(mask[n].sum())
        _, (ends, _) = network.lstm(sentences[n : n + 1, :length])  # padding is not read
        condition = torch.tanh(network.condition(torch.cat([ends[0], ends[1]], -1)))
        for (place, (d_in, d_out)), own in zip(SHAPES.items(), network.own, strict=True):
            alpha, beta, gamma, delta, eta = own(condition)[0].split([d_in, d_in, d_out, d_out, 1])
            gradient = factors.inputs[place][n].T @ factors.slopes[place][n]
            gate, more = torch.outer(alpha.softmax(0), gamma), torch.outer(beta.softmax(0), delta)
            wanted = 0.7 * eta.sigmoid() * (gradient * gate + more)
            left, right = products[place]
            torch.testing.assert_close(left[n] @ right[n], wanted)


def test_mend_begins_as_a_step_down_the_normalised_gradient() -> None:
    """While U is zero, ΔW = −rate Σ x̂ δ̂ᵀ over the tokens that matter, x̂ and δ̂ normalised by what was seen."""
    network = MendNetwork(SHAPES, MendSettings(rank=3, rate=0.01), seed=0).train()
    seen = random_factors(rows=4, tokens=6, seed=5)
    network(seen)
    network.eval()
    factors = random_factors()
    products = network(factors)
    place = (1, "in")  # the one of its shape, so that what was seen is its own
    tokens = torch.cat([seen.inputs[place], seen.slopes[place]], -1)
    tokens = tokens[(seen.slopes[place] != 0).any(-1)]
    deviation = tokens.std(0)
    deviation[:4] += 0.01 * deviation[:4].mean()
    deviation[4:] += 0.01 * deviation[4:].mean()
    both = (torch.cat([factors.inputs[place], factors.slopes[place]], -1) - tokens.mean(0)) / deviation
    for n, live in enumerate((3, 5)):
        wanted = -0.01 * both[n, :live, :4].T @ both[n, :live, 4:]
        left, right = products[place]
        torch.testing.assert_close(left[n] @ right[n], wanted, atol=1e-5, rtol=1e-4)


def test_mend_sees_the_same_mean_and_spread_in_one_batch_or_many() -> None:
    parts = [random_factors(seed=n) for n in range(3)]
    whole = Factors(
        {p: torch.cat([f.inputs[p] for f in parts]) for p in SHAPES},
        {p: torch.cat([f.slopes[p] for f in parts]) for p in SHAPES},
    )
    one, many = (MendNetwork(SHAPES, MendSettings(rank=2), seed=0).train() for _ in range(2))
    one(whole)
    for part in parts:
        many(part)
    for name, tensor in one.state_dict().items():
        torch.testing.assert_close(many.state_dict()[name], tensor)
    assert not torch.equal(one.transforms["7x4"].mean, torch.zeros(11))


def test_an_untrained_mend_lowers_the_loss_of_its_own_edit() -> None:
    model = tiny("gpt2")
    places = last_matrices(model, 3)
    rows = [target_row(model, f"{s} is in", "football") for s in ("Paris", "Seattle", "France")]
    network = MendNetwork(shapes_of(model, places), MendSettings(rank=2, rate=1e-3), seed=0).train()
    batch = TargetBatch(model, places[0][0], rows)
    with torch.no_grad():
        factors = gradient_factors(batch, places)
        network(factors)
        before = batch.losses()
        with products_added(model, network(factors)):
            after = batch.losses()
    assert (after < before - 1e-3).all(), (before, after)
