"""Second moments as a job."""

from __future__ import annotations

from pathlib import Path

import pytest

from conftest import tiny
from factedit.edit.presets import settings_for
from factedit.errors import UsageError
from factedit.models.adapter import EditableModel
from factedit.stats.store import read_moment
from factedit.work.stats import compute_moments


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACTEDIT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def text(tmp_path: Path) -> str:
    """A file of text."""
    (tmp_path / "t.txt").write_text("Paris is the capital of France. LeBron James plays. " * 60)
    return str(tmp_path / "t.txt")


def never() -> EditableModel:
    raise AssertionError("the model was loaded before the request was checked")


def test_what_is_wrong_is_refused_before_the_model_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="0 tokens were asked for"):
        compute_moments(never, tokens=0)
    with pytest.raises(UsageError, match="name a single layer"):
        compute_moments(never, layers=[1, 2], save=tmp_path / "c.safetensors")


def test_layers_are_computed_told_saved_and_kept(text: str, tmp_path: Path) -> None:
    model, told = tiny("gpt2"), []
    found = compute_moments(
        model, layers=[1], corpus=text, tokens=300, save=tmp_path / "c.safetensors",
        progress=lambda *all_of_it: told.append(all_of_it),
    )  # fmt: skip
    assert found.moments[1].tokens == 300
    [row] = found.as_json()["layers"]
    assert row["layer"] == 1
    assert row["corpus"].startswith("t.txt")
    assert read_moment(tmp_path / "c.safetensors").matrix.allclose(found.moments[1].matrix)
    assert told[-1][1:] == (300, 300)
    assert "t.txt" in told[-1][0]
    told.clear()
    compute_moments(model, layers=[1], corpus=text, tokens=300, progress=lambda *all_of_it: told.append(all_of_it))
    assert not told, "from the cache"
    assert list(compute_moments(model, corpus=text, tokens=100).moments) == [settings_for(model).layer]
    with pytest.raises(UsageError, match="Layer 9"):
        compute_moments(model, layers=[9], corpus=text)


def test_a_stop_says_that_the_cache_goes_on(text: str) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as stopped:
        compute_moments(tiny("gpt2"), layers=[1], corpus=text, tokens=300, progress=stop)
    assert "kept in the cache" in stopped.value.__notes__[0]
