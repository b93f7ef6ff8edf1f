"""Which second moment is taken where there are several."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from conftest import tiny
from factedit.stats import provide
from factedit.stats.moment_places import moment_path
from factedit.stats.provide import Moments, Text
from factedit.stats.second_moment import SecondMoment
from factedit.stats.store import write_moment


def moment(fingerprint: str, width: int, tokens: int) -> SecondMoment:
    return SecondMoment(torch.eye(width) * tokens, 1, tokens, fingerprint, f"text of {tokens}")


def test_what_lies_in_the_cache_decides_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Before: of cache and package the one of most tokens, so that an earlier `stats` moved every number after it."""
    monkeypatch.setenv("FACTEDIT_CACHE", str(tmp_path))
    model = tiny("gpt2")
    fingerprint = model.fingerprint()
    own = Moments(tokens=300)(model, 1)
    large = moment(fingerprint, model.d_mlp, 5000)
    write_moment(moment_path(model, large.corpus, 5000, 1), large)
    with caplog.at_level("INFO", "factedit"):
        assert Moments(tokens=300)(model, 1).fingerprint == own.fingerprint
    assert "taken only with --corpus: text of 5000" in caplog.text
    shipped = moment(fingerprint, model.d_mlp, 30)
    monkeypatch.setattr(provide, "shipped_moment", lambda _fingerprint, _layer: shipped)
    assert Moments()(model, 1).tokens == 30


def test_a_named_text_comes_before_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACTEDIT_CACHE", str(tmp_path))
    model = tiny("gpt2")
    monkeypatch.setattr(provide, "shipped_moment", lambda _f, _layer: moment(model.fingerprint(), model.d_mlp, 300))
    text = Text("mine", lambda: ["Paris is the capital of France. " * 9])
    assert Moments(corpus=text, tokens=40)(model, 1).corpus == "mine"
