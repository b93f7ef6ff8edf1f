"""The cache folder, and files and folders that appear whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
import time
from pathlib import Path

import pytest

from factedit import cache
from factedit.errors import ResourceError


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def fill(folder: Path) -> None:
    (folder / "inner").mkdir()
    (folder / "inner" / "a.txt").write_text("a")


def test_the_cache_is_where_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.setenv("FACTEDIT_CACHE", str(tmp_path / "here"))
    assert cache.cache_dir() == tmp_path / "here"


@pytest.mark.parametrize(
    ("platform", "variables", "expected"),
    [
        ("linux", {"HOME": "/h"}, "/h/.cache/factedit"),
        ("linux", {"HOME": "/h", "XDG_CACHE_HOME": "/x"}, "/x/factedit"),
        ("darwin", {"HOME": "/h"}, "/h/Library/Caches/factedit"),
        ("win32", {"HOME": "/h", "LOCALAPPDATA": "/l"}, "/l/factedit"),
    ],
)
def test_the_cache_is_at_the_platforms_usual_place(platform, variables, expected, monkeypatch):
    for name in ("FACTEDIT_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(cache.sys, "platform", platform)
    assert cache.cache_dir() == Path(expected)


def test_a_folder_is_published_whole(tmp_path):
    seen: list[Path] = []

    def build(folder: Path) -> None:
        seen.append(folder)
        assert folder.parent == tmp_path / "models"  # a sibling, so that the renaming is atomic
        assert not (tmp_path / "models" / "m").exists()
        fill(folder)

    final = cache.publish_folder(build, tmp_path / "models" / "m")
    assert (final / "inner" / "a.txt").read_text() == "a"
    assert names(final.parent) == ["m"]
    cache.publish_folder(build, final)
    assert len(seen) == 1  # what is there is not built again


def test_a_failed_build_leaves_nothing(tmp_path):
    def build(folder: Path) -> None:
        fill(folder)
        raise FileNotFoundError("the source is gone")

    with pytest.raises(FileNotFoundError, match="source is gone"):
        cache.publish_folder(build, tmp_path / "m")
    assert names(tmp_path) == []


def test_the_first_of_two_builders_wins(tmp_path):
    def build(folder: Path) -> None:
        fill(folder)
        (tmp_path / "m").mkdir()
        (tmp_path / "m" / "first").write_text("I was first")

    assert cache.publish_folder(build, tmp_path / "m") == tmp_path / "m"
    assert names(tmp_path / "m") == ["first"]
    assert names(tmp_path) == ["m"]


def test_left_overs_of_crashed_runs_are_removed_but_not_a_running_builders(tmp_path):
    crashed, running, other = (tmp_path / name for name in (".m.1.tmp", ".m.2.tmp", ".n.3.tmp"))
    for folder in (crashed, running, other):
        folder.mkdir()
        (folder / "part").write_text("half")
    old = time.time() - cache.LEFT_OVER_AFTER - 10
    for path in (crashed, crashed / "part", running, other, other / "part"):
        os.utime(path, (old, old))
    cache.publish_folder(fill, tmp_path / "m")
    assert names(tmp_path) == [".m.2.tmp", ".n.3.tmp", "m"]


def test_a_folder_too_large_for_the_disk_is_refused_before_it_is_built(tmp_path):
    def build(folder: Path) -> None:
        raise RuntimeError("must not be reached")

    with pytest.raises(
        ResourceError, match=r"is full: 1,000,000,000,000,000,000 bytes .* are needed, .* are free"
    ) as found:
        cache.publish_folder(build, tmp_path / "m", needed=10**18)
    assert str(tmp_path) in str(found.value)
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_disk_that_fills_up_during_the_build_is_named(tmp_path, error):
    def build(folder: Path) -> None:
        fill(folder)
        raise error

    with pytest.raises(ResourceError, match=r"is full: more space is needed, .* FACTEDIT_CACHE"):
        cache.publish_folder(build, tmp_path / "m")
    assert names(tmp_path) == []


def test_a_place_that_is_no_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ResourceError, match="cannot be written to"):
        cache.publish_folder(fill, tmp_path / "file" / "models" / "m")


def test_a_file_is_written_as_bytes_or_utf8_and_its_folder_made(tmp_path):
    cache.write_atomic(tmp_path / "new" / "a", "Zürich 東京\n")
    assert (tmp_path / "new" / "a").read_bytes() == "Zürich 東京\n".encode()
    cache.write_atomic(str(tmp_path / "new" / "a"), b"\x00\x01")
    assert (tmp_path / "new" / "a").read_bytes() == b"\x00\x01"
    assert names(tmp_path / "new") == ["a"]


def test_a_written_file_has_the_usual_mode(tmp_path):
    cache.write_atomic(tmp_path / "a", "text")
    (tmp_path / "b").write_text("text")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_a_failed_writing_keeps_the_old_file(tmp_path, monkeypatch):
    (tmp_path / "a").write_text("old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cache.os, "fsync", full)
    with pytest.raises(ResourceError, match=r"is full: 3 bytes \(0.0 MB\) are needed"):
        cache.write_atomic(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "old"
    assert names(tmp_path) == ["a"]


def test_a_file_in_the_place_of_a_folder_is_refused(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(ResourceError, match="cannot be written to"):
        cache.write_atomic(tmp_path / "a", "text")
    assert names(tmp_path) == ["a"]


def test_a_device_is_written_to_and_not_replaced():
    if not Path("/dev/null").exists():
        pytest.skip("there are no device files here")
    cache.write_atomic("/dev/null", "text")
    assert Path("/dev/null").is_char_device()


def test_the_sha256_of_a_file(tmp_path):
    (tmp_path / "a").write_bytes(b"abc" * 100_000)
    assert cache.sha256_file(tmp_path / "a") == hashlib.sha256(b"abc" * 100_000).hexdigest()


def other(folder: Path) -> None:
    (folder / "b.txt").write_text("b")


@pytest.mark.parametrize("exchange", [True, False])
def test_a_folder_takes_the_place_of_another(tmp_path, monkeypatch, exchange):
    if not exchange:  # a system that cannot exchange two folders in one step
        monkeypatch.setattr(cache, "_exchange", lambda _left, _right: False)
        (tmp_path / ".m.old" / "left").mkdir(parents=True)
        (tmp_path / "m").mkdir()
    cache.replace_folder(fill, tmp_path / "m")
    assert names(tmp_path / "m") == ["inner"]
    cache.replace_folder(other, tmp_path / "m")
    assert names(tmp_path / "m") == ["b.txt"]
    assert names(tmp_path) == ["m"]


def test_a_failed_replacement_leaves_the_old_folder(tmp_path):
    def build(folder: Path) -> None:
        other(folder)
        raise KeyError

    cache.replace_folder(fill, tmp_path / "m")
    with pytest.raises(KeyError):
        cache.replace_folder(build, tmp_path / "m")
    assert names(tmp_path / "m") == ["inner"]
    assert names(tmp_path) == ["m"]


def test_two_folders_change_places_in_one_step(tmp_path):
    for name, build in (("m", fill), ("n", other)):
        (tmp_path / name).mkdir()
        build(tmp_path / name)
    if not cache._exchange(tmp_path / "m", tmp_path / "n"):
        pytest.skip("this system cannot exchange two folders in one step")
    assert (names(tmp_path / "m"), names(tmp_path / "n")) == (["b.txt"], ["inner"])
    with pytest.raises(OSError, match="No such file"):
        cache._exchange(tmp_path / "m", tmp_path / "nowhere")


def test_a_folder_left_beside_its_place_is_put_back(tmp_path):
    (tmp_path / ".m.old").mkdir()
    fill(tmp_path / ".m.old")
    assert cache.settled(tmp_path / "m") == tmp_path / "m"
    assert names(tmp_path) == ["m"]


def test_a_link_to_a_folder_is_followed_when_it_is_replaced(tmp_path):
    cache.replace_folder(fill, tmp_path / "real")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    cache.replace_folder(other, tmp_path / "link")
    assert names(tmp_path / "real") == ["b.txt"]
    assert (tmp_path / "link").is_symlink()


def test_a_second_name_for_a_file(tmp_path, monkeypatch):
    (tmp_path / "a").write_text("a")
    cache.link_or_copy(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "a").stat().st_ino == (tmp_path / "b").stat().st_ino

    def none(_source, _target):
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(cache.os, "link", none)
    cache.link_or_copy(tmp_path / "a", tmp_path / "c")
    assert (tmp_path / "c").read_text() == "a"
