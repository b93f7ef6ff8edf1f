"""Which second moment is taken where there are several."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from conftest import tiny
from factedit.stats import provide
from factedit.stats.provide import Moments, Text
from factedit.stats.second_moment import SecondMoment
from factedit.stats.store import moment_path, write_moment


def moment(fingerprint: str, width: int, tokens: int) -> SecondMoment:
    return SecondMoment(torch.eye(width) * tokens, 1, tokens, fingerprint, f"text of {tokens}")


def test_of_cache_and_package_the_one_of_most_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACTEDIT_CACHE", str(tmp_path))
    model = tiny("gpt2")
    fingerprint = model.fingerprint()
    shipped = moment(fingerprint, model.d_mlp, 300)
    monkeypatch.setattr(provide, "shipped_moment", lambda _fingerprint, _layer: shipped)
    for tokens in (20, 100):
        small = moment(fingerprint, model.d_mlp, tokens)
        write_moment(moment_path(fingerprint, small.corpus, tokens, 1), small)
    assert Moments()(model, 1).tokens == 300, "a small cached one does not beat the shipped one"
    large = moment(fingerprint, model.d_mlp, 5000)
    write_moment(moment_path(fingerprint, large.corpus, 5000, 1), large)
    assert Moments()(model, 1).tokens == 5000
    short = moment(fingerprint, model.d_mlp, 7)
    write_moment(moment_path(fingerprint, "a text that ended", 9000, 1), short)
    assert Moments()(model, 1).tokens == 5000, "what was read counts, not what was asked for"


def test_a_named_text_comes_before_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACTEDIT_CACHE", str(tmp_path))
    model = tiny("gpt2")
    monkeypatch.setattr(provide, "shipped_moment", lambda _f, _layer: moment(model.fingerprint(), model.d_mlp, 300))
    text = Text("mine", lambda: ["Paris is the capital of France. " * 9])
    assert Moments(corpus=text, tokens=40)(model, 1).corpus == "mine"
