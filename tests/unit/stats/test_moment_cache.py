"""Moments in the cache: whatever is damaged is set aside, with a word, and made again; nothing of it is used."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from conftest import TEXT, tiny
from factedit.engine import budget
from factedit.errors import DataError, ResourceError
from factedit.models.adapter import EditableModel
from factedit.stats.moment_places import moment_path
from factedit.stats.provide import ready_moment
from factedit.stats.second_moment import SecondMoment
from factedit.stats.store import read_moment, second_moments, write_moment
from factedit.stats.subjects import subject_moment
from processes import end, start, wait_for

TEXTS = [TEXT] * 8


@pytest.fixture(scope="module")
def model() -> EditableModel:
    return tiny("gpt2", n_layer=2, n_embd=16, n_head=2, n_inner=24)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FACTEDIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def flip(path: Path, at: int = -2) -> None:
    raw = bytearray(path.read_bytes())
    raw[at] ^= 1
    path.write_bytes(raw)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def other_numbers(path: Path) -> None:
    """A sound file of other numbers under the same notes."""
    with safe_open(path, framework="pt") as file:
        notes = file.metadata()
    save_file({name: 2 * t for name, t in load_file(path).items()}, path, metadata=notes)


def computed(model: EditableModel, layers: tuple[int, ...] = (1,)) -> dict[int, SecondMoment]:
    return second_moments(model, list(layers), lambda: TEXTS, corpus="a", tokens=200)


@pytest.mark.parametrize("damage", [flip, cut, other_numbers, lambda path: path.write_bytes(b"")])
def test_a_damaged_moment_is_made_again(model: EditableModel, damage: object, caplog: pytest.LogCaptureFixture) -> None:
    first = computed(model, (0, 1))
    path = moment_path(model, "a", 200, 1)
    damage(path)  # type: ignore[operator]
    with caplog.at_level(logging.WARNING, "factedit"):
        again = computed(model, (0, 1))
    assert "layer_1.safetensors is damaged" in caplog.text
    assert "is made again" in caplog.text
    assert path.with_name("layer_1.safetensors.damaged").is_file()
    assert all(torch.equal(again[n].matrix, first[n].matrix) for n in (0, 1))
    caplog.clear()
    assert torch.equal(computed(model)[1].matrix, first[1].matrix)
    assert not caplog.text


def test_the_next_best_is_taken_where_the_best_is_damaged(
    model: EditableModel, caplog: pytest.LogCaptureFixture
) -> None:
    paths = {}
    for tokens in (10, 500):
        paths[tokens] = moment_path(model, "a", tokens, 1)
        write_moment(paths[tokens], SecondMoment(torch.eye(model.d_mlp), 1, tokens, model.fingerprint(), "a"))
    flip(paths[500])
    with caplog.at_level(logging.WARNING, "factedit"):
        found = ready_moment(model, 1)
    assert found is not None
    assert found.tokens == 10
    assert "is damaged" in caplog.text
    flip(paths[10])
    assert ready_moment(model, 1) is None


def test_the_moment_of_names_is_made_again(model: EditableModel, cache: Path) -> None:
    first = subject_moment(model, 1)
    [path] = (cache / "subject_moments").rglob("*.safetensors")
    flip(path)
    assert torch.equal(subject_moment(model, 1).matrix, first.matrix)


def test_a_damaged_partial_sum_is_not_gone_on_from(
    model: EditableModel, cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("factedit.stats.store.SAVE_EVERY", 20)
    monkeypatch.setattr("factedit.engine.budget.COLUMNS_READ", 16)

    def interrupted() -> object:
        yield from TEXTS[:5]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        second_moments(model, [1], interrupted, corpus="a", tokens=900)  # type: ignore[arg-type]
    [partial] = cache.rglob("unfinished*.safetensors")
    flip(partial)
    with caplog.at_level(logging.WARNING, "factedit"):
        found = second_moments(model, [1], lambda: TEXTS * 3, corpus="a", tokens=900)[1]
    assert "is damaged (it is not what was written)" in caplog.text
    fresh = second_moments(model, [1], lambda: TEXTS * 3, corpus="b", tokens=900)[1]
    assert torch.equal(found.matrix, fresh.matrix)


def test_a_partial_sum_of_other_parts_is_not_gone_on_from(
    model: EditableModel, cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Else the last bits of C would depend on which version began it."""
    monkeypatch.setattr("factedit.stats.store.SAVE_EVERY", 20)

    def interrupted() -> object:
        yield from TEXTS[:5]
        raise KeyboardInterrupt

    monkeypatch.setattr("factedit.engine.budget.COLUMNS_READ", 8)
    with pytest.raises(KeyboardInterrupt):
        second_moments(model, [1], interrupted, corpus="a", tokens=900)  # type: ignore[arg-type]
    assert list(cache.rglob("unfinished*.safetensors"))
    monkeypatch.setattr("factedit.engine.budget.COLUMNS_READ", 16)
    with caplog.at_level(logging.WARNING, "factedit"):
        found = second_moments(model, [1], lambda: TEXTS * 3, corpus="a", tokens=900)[1]
    assert f"it is not of parts of {budget.tokens_summed()} tokens" in caplog.text
    fresh = second_moments(model, [1], lambda: TEXTS * 3, corpus="b", tokens=900)[1]
    assert torch.equal(found.matrix, fresh.matrix)


def test_a_users_own_file_without_a_hash_is_read_and_one_with_a_hash_is_checked(tmp_path: Path) -> None:
    save_file({"second_moment": torch.eye(4)}, tmp_path / "mine.safetensors")
    assert read_moment(tmp_path / "mine.safetensors").matrix.equal(torch.eye(4))
    path = write_moment(tmp_path / "c.safetensors", SecondMoment(torch.eye(4), 1, 9, "m", "t"), packed=True)
    flip(path)
    with pytest.raises(DataError, match=r"c\.safetensors is damaged: it is not what was written"):
        read_moment(path)
    assert path.exists(), "a user's file stays where it is"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_two_at_once_compute_it_once(model: EditableModel, tmp_path: Path) -> None:
    """Who comes second waits, and takes what the first made."""

    def first() -> None:
        def texts() -> object:
            (tmp_path / "begun").write_text("")
            wait_for(tmp_path / "go on")
            yield from TEXTS

        second_moments(model, [1], texts, corpus="a", tokens=200)  # type: ignore[arg-type]

    def second() -> None:
        found = second_moments(model, [1], lambda: pytest.fail("read it again"), corpus="a", tokens=200)
        assert found[1].tokens > 0

    one = start(first)
    wait_for(tmp_path / "begun")
    two = start(second)
    (tmp_path / "go on").write_text("")
    assert [end(one), end(two)] == [0, 0]


def test_too_little_memory_or_disk_is_said_before_any_text_is_read(
    model: EditableModel, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hours of text were read before a full disk was met."""

    def unread() -> list[str]:
        raise AssertionError("the text was read")

    ask = lambda: second_moments(model, [0, 1], unread, corpus="a", tokens=200)  # noqa: E731
    needed = 2 * 2 * model.d_mlp**2
    with monkeypatch.context() as full:
        full.setattr("factedit.disk.shutil.disk_usage", lambda _path: SimpleNamespace(free=needed - 1))
        with pytest.raises(ResourceError, match=rf"is full: {needed:,} bytes .* are needed"):
            ask()
    with monkeypatch.context() as small:
        small.setattr("factedit.memory.available_memory", lambda: 5.0 * needed / 2 - 1)
        with pytest.raises(ResourceError, match=r"C of 2 layers takes .*Ask for fewer layers at a time"):
            ask()
    assert not list(cache.rglob("*.safetensors"))
    with pytest.raises(AssertionError, match="the text was read"):
        ask()
