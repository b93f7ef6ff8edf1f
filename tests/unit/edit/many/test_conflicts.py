"""Which facts have nearly one key."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from factedit.edit.many.conflicts import NEAR, near_keys


def turned(degrees: float, length: float = 1.0) -> Tensor:
    angle = math.radians(degrees)
    return length * torch.tensor([math.cos(angle), math.sin(angle), 0.0])


def test_pairs_are_near_by_the_angle_and_not_by_the_length() -> None:
    bound = math.degrees(math.acos(NEAR))
    keys = torch.stack([turned(0), turned(bound - 0.1, 50.0), turned(90), turned(90 + bound + 0.1, 0.01)])
    within, across = near_keys(keys, torch.zeros(0, 3))
    assert within == [[0, 1]]
    assert across == []


def test_a_pair_within_is_named_once_and_one_with_an_earlier_fact_by_both_places() -> None:
    keys, earlier = torch.stack([turned(0), turned(45)]), torch.stack([turned(120), turned(45.5), turned(0.5, 3.0)])
    within, across = near_keys(keys, earlier)
    assert within == []
    assert across == [[0, 2], [1, 1]]
    assert near_keys(torch.stack([turned(3)] * 3), earlier)[0] == [[0, 1], [0, 2], [1, 2]]


def test_an_opposite_key_is_another_key() -> None:
    assert near_keys(torch.stack([turned(0), turned(180)]), torch.stack([turned(180)]))[0] == []


@pytest.mark.parametrize("bound", [0.2, 0.6])
def test_the_bound_may_be_another(bound: float) -> None:
    keys = torch.stack([turned(0), turned(60)])  # cosine 0.5
    assert bool(near_keys(keys, keys[:0], bound=bound)[0]) == (bound < 0.5)
