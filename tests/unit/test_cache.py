"""Cache entries carry their hash; damaged ones are made again, with a word."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from factedit import cache


def test_an_entry_comes_back_as_it_was_written(tmp_path):
    for content in (b"", b"\n", b"a\nb", bytes(range(256)) * 300):
        cache.write_entry(tmp_path / "e", content)
        assert cache.read_entry(tmp_path / "e") == content
    assert cache.read_entry(tmp_path / "none") is None
    assert cache.read_entry(tmp_path) is None


def test_an_entry_with_any_byte_flipped_or_cut_is_set_aside_with_a_word(tmp_path, caplog):
    path = tmp_path / "e"
    cache.write_entry(path, b"content of the entry")
    whole = path.read_bytes()
    for at in range(len(whole)):
        for damaged in (whole[:at], whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]):
            path.write_bytes(damaged)
            caplog.clear()
            with caplog.at_level(logging.WARNING, "factedit"):
                assert cache.read_entry(path) is None
            assert "e is damaged (its content is not what was written). It was renamed to e.damaged" in caplog.text
            assert not path.exists()
            assert (tmp_path / "e.damaged").read_bytes() == damaged


@pytest.mark.parametrize(
    ("reason", "said"),
    [("{} is damaged: it is not what was written. Get it again, or compute it anew.", "it is not what was written"),
     ("{} was made for weights ab…; this has cd…. Give another.", "it was made for weights ab…; this has cd…"),
     ("'tokens'", "'tokens'")],
)  # fmt: skip
def test_a_damaged_file_is_named_once_and_nothing_is_left_to_do(tmp_path, caplog, reason, said):
    """`X is damaged (it is damaged: …)` was said, and to compute anew what is made again."""
    path = tmp_path / "a. b"
    path.write_bytes(b"x")
    with caplog.at_level(logging.WARNING, "factedit"):
        cache.set_aside(path, reason.format(path))
    assert caplog.messages == [f"{path} is damaged ({said}). It was renamed to a. b.damaged and is made again."]


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "m" / "inner").mkdir(parents=True)
    (tmp_path / "m" / "a").write_bytes(b"a" * 1000)
    (tmp_path / "m" / "inner" / "b").write_bytes(b"b")
    cache.write_checksums(tmp_path / "m")
    cache._checked.clear()
    return tmp_path / "m"


@pytest.mark.parametrize(
    "damage",
    [
        lambda f: (f / "a").write_bytes(b"a" * 999 + b"b"),
        lambda f: (f / "a").write_bytes(b"a" * 999),
        lambda f: (f / "inner" / "b").unlink(),
        lambda f: (f / cache.CHECKSUMS).unlink(),
        lambda f: (f / cache.CHECKSUMS).write_text("{}"),
        lambda f: (f / cache.CHECKSUMS).write_text("[]"),
        lambda f: (f / cache.CHECKSUMS).write_text('["a"]'),
        lambda f: (f / cache.CHECKSUMS).write_text('{"a": 1}'),
        lambda f: (f / cache.CHECKSUMS).write_text("[" * 100_000),
        lambda f: (f / cache.CHECKSUMS).write_bytes(b"\xff"),
    ],
)
def test_a_folder_is_sound_until_something_of_it_changes(folder, damage):
    assert cache.is_sound_folder(folder)
    damage(folder)
    assert not cache.is_sound_folder(folder)


def test_a_folder_is_hashed_once_by_a_process(folder, monkeypatch):
    hashed: list[Path] = []
    real = cache.sha256_file
    monkeypatch.setattr(cache, "sha256_file", lambda path: hashed.append(path) or real(path))
    for _ in range(3):
        assert cache.is_sound_folder(folder)
    assert len(hashed) == 2
    os.utime(folder / "a", ns=(1, 1))
    assert cache.is_sound_folder(folder)
    assert len(hashed) == 4
