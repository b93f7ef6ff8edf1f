"""Where the cache is, and files that appear whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
import signal
from pathlib import Path

import pytest

from factedit import disk
from factedit.errors import ResourceError
from processes import end, start, wait_for


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_cache_is_where_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.setenv("FACTEDIT_CACHE", str(tmp_path / "here"))
    assert disk.cache_dir() == tmp_path / "here"


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
    monkeypatch.setattr(disk.sys, "platform", platform)
    assert disk.cache_dir() == Path(expected)


def test_a_file_is_written_as_bytes_or_utf8_and_its_folder_made(tmp_path):
    disk.write_atomic(tmp_path / "new" / "a", "Zürich 東京\n")
    assert (tmp_path / "new" / "a").read_bytes() == "Zürich 東京\n".encode()
    disk.write_atomic(str(tmp_path / "new" / "a"), b"\x00\x01")
    assert (tmp_path / "new" / "a").read_bytes() == b"\x00\x01"
    assert names(tmp_path / "new") == ["a"]


def test_a_written_file_has_the_usual_mode(tmp_path):
    disk.write_atomic(tmp_path / "a", "text")
    (tmp_path / "b").write_text("text")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_a_failed_writing_keeps_the_old_file(tmp_path, monkeypatch):
    (tmp_path / "a").write_text("old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(disk.os, "fsync", full)
    with pytest.raises(ResourceError, match=r"is full: 3 bytes \(0.0 MB\) are needed"):
        disk.write_atomic(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "old"
    assert names(tmp_path) == ["a"]


def test_a_file_in_the_place_of_a_folder_is_refused(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(ResourceError, match="cannot be written to"):
        disk.write_atomic(tmp_path / "a", "text")
    assert names(tmp_path) == ["a"]


def test_a_device_is_written_to_and_not_replaced():
    if not Path("/dev/null").exists():
        pytest.skip("there are no device files here")
    disk.write_atomic("/dev/null", "text")
    assert Path("/dev/null").is_char_device()


def test_the_sha256_of_a_file(tmp_path):
    (tmp_path / "a").write_bytes(b"abc" * 100_000)
    assert disk.sha256_file(tmp_path / "a") == hashlib.sha256(b"abc" * 100_000).hexdigest()


@pytest.mark.parametrize("inside", [True, False])
def test_the_advice_names_the_cache_only_where_it_is_what_is_full(tmp_path, monkeypatch, inside):
    monkeypatch.setenv("FACTEDIT_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / ("cache" if inside else "mine")
    with pytest.raises(ResourceError) as found, disk.disk_errors(folder):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert ("FACTEDIT_CACHE" in str(found.value)) is inside
    assert ("name a folder" in str(found.value)) is not inside


def test_file_and_folder_are_written_through_before_and_after_the_renaming(tmp_path, monkeypatch):
    """Or a power failure leaves an empty file under the final name."""
    events: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def noted_fsync(descriptor: int) -> None:
        events.append("folder" if Path(f"/proc/self/fd/{descriptor}").is_dir() else "file")
        fsync(descriptor)

    def noted_replace(self: Path, target: Path) -> Path:
        events.append("rename")
        return replace(self, target)

    monkeypatch.setattr(disk.os, "fsync", noted_fsync)
    monkeypatch.setattr(Path, "replace", noted_replace)
    disk.write_atomic(tmp_path / "a", "text")
    assert events == ["file", "rename", "folder"]


def test_what_a_killed_writer_left_is_removed_and_what_another_writes_is_not(tmp_path):
    """Told by the lock of the writer: neither an age nor a clock counts."""
    path, go = tmp_path / "a", tmp_path / "go"

    def stuck() -> None:
        with disk.writing(path) as temporary:
            temporary.write_text("half")
            (tmp_path / f"started-{os.getpid()}").write_text("")
            while not go.exists():
                pass
            temporary.write_text("whole")

    killed, living = start(stuck), start(stuck)
    for child in (killed, living):
        wait_for(tmp_path / f"started-{child}")
    os.kill(killed, signal.SIGKILL)
    end(killed)
    assert len(disk.temporaries_of(path)) == 2
    disk.write_atomic(path, "mine")
    assert len(disk.temporaries_of(path)) == 1
    go.write_text("")
    assert end(living) == 0
    assert path.read_text() == "whole"
    assert disk.temporaries_of(path) == []


def test_temporaries_of_another_name_and_files_of_the_users_are_left_alone(tmp_path):
    """The pattern `.m.*.tmp` would also fit those of a file called m.x."""
    for name in (".m.x.0123456789abcdef.tmp", ".m.notes.tmp", ".m.0123456789abcde.tmp", "m.0123456789abcdef.tmp"):
        (tmp_path / name).write_text("not yours")
    before = names(tmp_path)
    disk.write_atomic(tmp_path / "m", "text")
    assert names(tmp_path) == sorted([*before, "m"])


def test_a_very_long_name_is_written(tmp_path):
    disk.write_atomic(tmp_path / ("x" * 240), "text")
    assert names(tmp_path) == ["x" * 240]
