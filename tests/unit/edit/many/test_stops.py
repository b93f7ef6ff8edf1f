"""When a fact's optimisation stops: each rule on reads written by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from factedit.edit.many.stops import LESS, KeepEssence, LikelyEnough, RankedFirst
from factedit.edit.objective import Losses, TokenRead

LOSSES = {0: Losses(1.0, 1.0, 0.001, 0.0), 1: Losses(1.0, 1.0, 0.5, 0.0)}


class Objective:
    def __init__(self, reads: Sequence[TokenRead]) -> None:
        self.reads, self.nll_factor = reads, torch.ones(3)

    def tokens(self) -> Sequence[TokenRead]:
        return self.reads


def read(fact: int, context: int, probability: float, first: bool) -> TokenRead:
    return TokenRead(fact, context, math.log(probability), first)


def test_likely_enough_is_the_mean_over_rows_of_each_rows_length_normalised_probability() -> None:
    reads = [
        read(0, 0, 0.9, True), read(0, 0, 0.4, False), read(0, 1, 0.5, True), read(0, 1, 0.5, True),
        read(1, 0, 0.5, False), read(1, 1, 0.5, False),
    ]  # fmt: skip
    mean = (math.sqrt(0.9 * 0.4) + 0.5) / 2
    for bound, expected in ((mean - 1e-6, {0, 1} if mean - 1e-6 < 0.5 else {0}), (mean + 1e-6, set())):
        assert LikelyEnough(bound).stopping(LOSSES, Objective(reads)) == expected
    assert LikelyEnough(0.1).stopping({1: LOSSES[1]}, Objective(reads)) == {1}, "only those that would go on"


def test_ranked_first_counts_evaluations_in_which_all_tokens_of_all_texts_are() -> None:
    good = [read(0, 0, 0.5, False), read(0, 1, 0.5, True), read(0, 2, 0.5, True), read(1, 1, 0.5, True)]
    bad = [read(0, 0, 0.5, True), read(0, 1, 0.5, True), read(0, 2, 0.5, False), read(1, 1, 0.5, False)]
    rule = RankedFirst(2)
    assert rule.stopping(LOSSES, Objective(good)) == set(), "the bare prompt does not count; once is not twice"
    assert rule.stopping(LOSSES, Objective(bad)) == set()
    assert rule.stopping(LOSSES, Objective(good)) == {0, 1}
    several = [read(0, 1, 0.5, True), read(0, 1, 0.5, False)]
    assert RankedFirst(1).stopping({0: LOSSES[0]}, Objective(several)) == set(), "all tokens of the target"


def test_a_rule_is_of_one_optimisation() -> None:
    good = Objective([read(0, 1, 0.5, True)])
    first, second = RankedFirst(2), RankedFirst(2)
    first.stopping({0: LOSSES[0]}, good)
    assert second.stopping({0: LOSSES[0]}, good) == set()
    assert first.stopping({0: LOSSES[0]}, good) == {0}


def test_keeping_the_essence_weighs_the_likelihood_less_while_the_target_is_first() -> None:
    first = [read(0, 0, 0.5, True), read(0, 1, 0.5, True), read(1, 0, 0.5, True)]
    objective = Objective(first)
    assert KeepEssence().stopping(LOSSES, objective) == {0}, "the KL of fact 1 is too large"
    assert objective.nll_factor.tolist() == [torch.tensor(LESS).item()] * 2 + [1.0]
    objective.reads = [read(0, 0, 0.5, False), read(0, 1, 0.5, True), read(1, 0, 0.5, True)]
    assert KeepEssence().stopping(LOSSES, objective) == set()
    assert objective.nll_factor.tolist() == [1.0, torch.tensor(LESS).item(), 1.0], "it counts whole again"
