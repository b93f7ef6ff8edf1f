"""What must stay: C with its ridge, and whose names are in it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from conftest import random_moment, tiny
from factedit.stats.preserved import Preserved, preserved_at
from factedit.stats.second_moment import SecondMoment
from factedit.stats.subjects import name_number, subject_keys, subject_names


def preserved(size: int, ridge: float = 0.0) -> Preserved:
    root = torch.randn(size, 3 * size, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return Preserved(tiny("gpt2"), 1, SecondMoment(root @ root.T / (3 * size)).with_ridge(ridge))


def test_the_ridge_is_a_share_of_the_mean_eigenvalue() -> None:
    """Ten times the keys, ten times the ridge: C⁻¹k only shrinks by a hundred, it does not turn."""
    key = torch.randn(128, generator=torch.Generator().manual_seed(1), dtype=torch.float64)[None]
    small = preserved_at(tiny("gpt2"), 1, lambda *_: preserved(128).moment, ridge=0.2)
    large = preserved_at(tiny("gpt2"), 1, lambda *_: SecondMoment(100 * preserved(128).moment.matrix), ridge=0.2)
    torch.testing.assert_close(large.solve(key), small.solve(key) / 100)


def test_names_in_c_are_those_of_the_subjects_asked_for() -> None:
    """C is joined by subject_weight · the mean over names of a aᵀ; a subject's part of it is what is told."""
    names = list(subject_names().values())
    model = tiny("gpt2")
    kept = Preserved(model, 1, preserved(model.d_mlp).moment, subject_weight=2.0)
    own = kept.own_names(["nobody at all", names[5], f"the {names[9].lower()}"])
    assert list(own) == [1, 2]
    key = subject_keys(model, 1, [("{}", names[5])])[0]
    torch.testing.assert_close(own[1], (2.0 / len(names)) ** 0.5 * key)
    assert Preserved(model, 1, kept.moment).own_names(names) == {}


def test_what_is_left_out_is_what_c_holds_whatever_was_written_below(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """C is of the model as it was; a name's key under an edit of a lower layer is no part of it, and C less it need not
    be positive.
    """
    monkeypatch.setenv("FACTEDIT_CACHE", str(tmp_path))
    for module in ("subjects", "preserved"):
        monkeypatch.setattr(f"factedit.stats.{module}.subject_names", lambda: {"paris": "Paris", "rome": "Rome"})
    model = tiny("gpt2")
    kept = preserved_at(model, 2, lambda *_: random_moment(model.d_mlp), subject_weight=0.5)
    before = kept.own_names(["Paris"])[0]
    with model.with_weight(1, -3 * model.weight(1)):
        edited = model.fingerprint()
        now = subject_keys(model, 2, [("{}", "Paris")])[0]
        assert (now - before / 0.5).norm() > 0.1 * now.norm(), (
            "the edit moves the key, so the comparison is not vacuous"
        )
        assert torch.equal(kept.own_names(["Paris"])[0], before)
        assert model.fingerprint() == edited
        made_here = preserved_at(model, 2, lambda *_: random_moment(model.d_mlp), subject_weight=0.5)
        assert torch.equal(made_here.own_names(["Paris"])[0], 0.5 * now), "made for the model with the edit"


def test_a_name_is_left_out_of_c_expert_by_expert(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("mixtral")
    monkeypatch.setattr("factedit.stats.preserved.subject_names", lambda: {"paris": "Paris", "rome": "Rome"})
    kept = Preserved(model, 2, random_moment(8), 0.5)
    [whole] = kept.own_names(["Paris", "Oslo"]).values()
    numbers, parts = zip(*kept.parts_of_names(["Paris", "Oslo", "the paris"]), strict=True)
    mixture = model.mixture(2)
    assert mixture is not None
    assert len(parts) == 2, "two experts get a token"
    assert set(numbers) == {name_number("Paris")}
    torch.testing.assert_close(torch.stack(parts).sum(0), whole)
    assert [list(mixture.parts(part)) for part in parts] == [[name] for name in mixture.parts(whole)]
    dense = tiny("gpt2")
    plain = Preserved(dense, 2, random_moment(8), 0.5)
    [(number, part)] = plain.parts_of_names(["Paris"])
    assert torch.equal(part, plain.own_names(["Paris"])[0])
    assert plain.parts_of_names(["The Paris"], {number}) == []
