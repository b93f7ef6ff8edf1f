"""Free-running match and generation entropy by hand."""

from __future__ import annotations

import math

import pytest

from factedit.evaluate.metrics.free import free_match
from factedit.evaluate.metrics.generation_entropy import entropy, generation_entropy


@pytest.mark.parametrize(
    ("text", "target", "expected"),
    [
        (" Paris, the capital. And", "Paris", True),
        ("paris", "Paris", True),
        ("Parisian", "Paris", False),
        ("\nParis", "Paris", True),
        ("the city of Paris", "Paris", False),
        (" New York City", "New York", True),
        (" St. Louis, where", "St. Louis", True),
        (" St. Paul", "St. Louis", False),
    ],
)
def test_free_match(text: str, target: str, expected: bool) -> None:
    assert free_match(text, target) is expected


def test_entropy_by_hand() -> None:
    assert entropy("a b a b a", 2) == pytest.approx(1.0)
    assert entropy("a a a a", 2) == 0
    trigrams = -(2 / 3 * math.log2(2 / 3) + 1 / 3 * math.log2(1 / 3))  # aba twice, bab once
    assert generation_entropy(["a b a b a"]) == pytest.approx(100 * (2 / 3 * 1.0 + 4 / 3 * trigrams) / 2)
