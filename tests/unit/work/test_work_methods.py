"""Methods by name, for a model."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from conftest import random_moment
from factedit.errors import UnknownName, UsageError
from factedit.models.adapter import EditableModel
from factedit.stats.second_moment import SecondMoment
from factedit.work.methods import make_methods, named_methods, with_stopping


def moments(model: EditableModel, _layer: int) -> SecondMoment:
    return random_moment(model.d_mlp)


def test_names_as_written() -> None:
    assert named_methods("ft, rome") == ["ft", "rome"]
    with pytest.raises(UnknownName, match="Did you mean rome"):
        named_methods("ft,rom")
    for text in ("", ",", "rome,ft,rome"):
        with pytest.raises(UsageError, match="each of them once"):
            named_methods(text)


def test_untrained_networks_are_an_error_or_left_out(
    tiny_gpt2: EditableModel, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FACTEDIT_CACHE", str(tmp_path))
    caplog.set_level(logging.WARNING, "factedit")
    with pytest.raises(UsageError, match="needs a network trained"):
        make_methods(tiny_gpt2, ["ft", "ke"], None, moments)
    made, missing = make_methods(tiny_gpt2, ["ft", "ke", "rome"], None, moments, explicit=False)
    assert [method.name for method in made] == ["ft", "rome"]
    assert list(missing) == ["ke"]
    assert "ke is left out: ke needs a network trained" in caplog.text


def test_what_has_no_form_that_ends_is_said(caplog: pytest.LogCaptureFixture) -> None:
    """`evaluate --stop` of methods that train no target would else be a table without a row more, and not a word."""
    caplog.set_level(logging.WARNING, "factedit")
    assert with_stopping("rome,ft") == "rome,rome+stop,ft,ft+stop"
    assert with_stopping("rome+stop") == "rome+stop"
    assert not caplog.records
    assert with_stopping("rome,ice") == "rome,rome+stop,ice"
    assert with_stopping("ice,kn") == "ice,kn"
    assert [record.getMessage() for record in caplog.records] == [
        "No form that ends its answers (+stop) is known of ice.",
        "No form that ends its answers (+stop) is known of ice, kn, so --stop changes nothing.",
    ]
