"""Folders that appear whole or not at all, or take the place of others."""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path

import pytest

from factedit import folders
from factedit.disk import temporaries_of
from factedit.errors import ResourceError
from processes import end, start, wait_for


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def fill(folder: Path) -> None:
    (folder / "inner").mkdir()
    (folder / "inner" / "a.txt").write_text("a")


def other(folder: Path) -> None:
    (folder / "b.txt").write_text("b")


def test_a_folder_is_published_whole(tmp_path):
    seen: list[Path] = []

    def build(folder: Path) -> None:
        seen.append(folder)
        assert folder.parent == tmp_path / "models"  # a sibling, so that the renaming is atomic
        assert not (tmp_path / "models" / "m").exists()
        fill(folder)

    final = folders.publish_folder(build, tmp_path / "models" / "m")
    assert (final / "inner" / "a.txt").read_text() == "a"
    assert names(final.parent) == ["m"]
    folders.publish_folder(build, final)
    assert len(seen) == 1  # what is there is not built again


def test_a_folder_that_is_not_whole_is_replaced(tmp_path):
    is_whole = lambda folder: (folder / "b.txt").is_file()  # noqa: E731
    folders.publish_folder(fill, tmp_path / "m")
    folders.publish_folder(other, tmp_path / "m", is_whole=is_whole)
    assert names(tmp_path / "m") == ["b.txt"]
    folders.publish_folder(fill, tmp_path / "m", is_whole=is_whole)
    assert names(tmp_path / "m") == ["b.txt"]
    assert names(tmp_path) == ["m"]


def test_a_failed_build_leaves_nothing(tmp_path):
    def build(folder: Path) -> None:
        fill(folder)
        raise FileNotFoundError("the source is gone")

    with pytest.raises(FileNotFoundError, match="source is gone"):
        folders.publish_folder(build, tmp_path / "m")
    assert names(tmp_path) == []


def test_the_first_of_two_builders_wins(tmp_path):
    def build(folder: Path) -> None:
        fill(folder)
        (tmp_path / "m").mkdir()
        (tmp_path / "m" / "first").write_text("I was first")

    assert folders.publish_folder(build, tmp_path / "m") == tmp_path / "m"
    assert names(tmp_path / "m") == ["first"]
    assert names(tmp_path) == ["m"]


def test_what_a_killed_builder_left_is_removed_at_once_and_what_another_builds_is_not(tmp_path):
    """Told by its lock: a clock that is ahead deletes nobody's folder, and nothing of a model's size stays an hour."""
    go = tmp_path / "go"

    def stuck(name: str) -> None:
        def build(folder: Path) -> None:
            fill(folder)
            (tmp_path / f"started-{name}").write_text("")
            while not go.exists():
                pass

        folders.publish_folder(build, tmp_path / name)

    killed, living = start(lambda: stuck("m")), start(lambda: stuck("m.x"))
    for name in ("m", "m.x"):
        wait_for(tmp_path / f"started-{name}")
    os.kill(killed, signal.SIGKILL)
    end(killed)
    for path in tmp_path.glob(".m*"):  # both look a year old
        os.utime(path, (1, 1))
    assert len(temporaries_of(tmp_path / "m")) == len(temporaries_of(tmp_path / "m.x")) == 1
    folders.publish_folder(fill, tmp_path / "beside")  # under another name: nobody may ever come back to "m"
    assert temporaries_of(tmp_path / "m") == []
    assert len(temporaries_of(tmp_path / "m.x")) == 1
    folders.publish_folder(fill, tmp_path / "m")
    go.write_text("")
    assert end(living) == 0
    assert names(tmp_path / "m.x") == ["inner"]
    assert not list(tmp_path.glob(".*"))


def test_one_process_keeps_what_it_is_building_itself(tmp_path):
    def build(folder: Path) -> None:
        fill(folder)
        folders.publish_folder(fill, tmp_path / "inner")
        assert (folder / "inner" / "a.txt").exists()

    folders.publish_folder(build, tmp_path / "m")
    assert names(tmp_path) == ["inner", "m"]


def test_what_a_killed_process_left_inside_a_folder_is_removed_by_who_reads_it(tmp_path):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "notes.txt").write_text("mine")
    go = tmp_path / "go"

    def stuck() -> None:
        def build(folder: Path) -> None:
            fill(folder)
            (tmp_path / "started").write_text("")
            while not go.exists():
                pass

        folders.replace_files(build, tmp_path / "m")

    child = start(stuck)
    wait_for(tmp_path / "started")
    folders.settled(tmp_path / "m")
    assert names(tmp_path / "m") == [".factedit.tmp", "notes.txt"], "it is still being written"
    os.kill(child, signal.SIGKILL)
    end(child)
    folders.settled(tmp_path / "m")
    assert names(tmp_path / "m") == ["notes.txt"]


def test_of_two_builders_at_once_the_second_waits_and_takes_the_firsts(tmp_path):
    def build(folder: Path) -> None:
        (tmp_path / f"built-by-{os.getpid()}").write_text("")
        fill(folder)

    children = [start(lambda: folders.publish_folder(build, tmp_path / "m")) for _ in range(6)]
    assert [end(child) for child in children] == [0] * 6
    assert len(list(tmp_path.glob("built-by-*"))) == 1
    assert names(tmp_path / "m") == ["inner"]


def test_a_folder_too_large_for_the_disk_is_refused_before_it_is_built(tmp_path):
    def build(folder: Path) -> None:
        raise RuntimeError("must not be reached")

    with pytest.raises(
        ResourceError, match=r"is full: 1,000,000,000,000,000,000 bytes .* are needed, .* are free"
    ) as found:
        folders.publish_folder(build, tmp_path / "m", needed=10**18)
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

    with pytest.raises(ResourceError, match=r"is full: more space is needed, .* name a folder on another disk"):
        folders.publish_folder(build, tmp_path / "m")
    assert names(tmp_path) == []


def test_a_place_that_is_no_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ResourceError, match="cannot be written to"):
        folders.publish_folder(fill, tmp_path / "file" / "models" / "m")


@pytest.mark.parametrize("exchange", [True, False])
def test_a_folder_takes_the_place_of_another(tmp_path, monkeypatch, exchange):
    if not exchange:  # a system that cannot exchange two folders in one step
        monkeypatch.setattr(folders, "_exchange", lambda _left, _right: False)
        (tmp_path / ".m.old" / "left").mkdir(parents=True)
        (tmp_path / "m").mkdir()
    folders.replace_folder(fill, tmp_path / "m")
    assert names(tmp_path / "m") == ["inner"]
    folders.replace_folder(other, tmp_path / "m")
    assert names(tmp_path / "m") == ["b.txt"]
    assert names(tmp_path) == ["m"]


def test_a_failed_replacement_leaves_the_old_folder(tmp_path):
    def build(folder: Path) -> None:
        other(folder)
        raise KeyError

    folders.replace_folder(fill, tmp_path / "m")
    with pytest.raises(KeyError):
        folders.replace_folder(build, tmp_path / "m")
    assert names(tmp_path / "m") == ["inner"]
    assert names(tmp_path) == ["m"]


def test_two_folders_change_places_in_one_step(tmp_path):
    for name, build in (("m", fill), ("n", other)):
        (tmp_path / name).mkdir()
        build(tmp_path / name)
    if not folders._exchange(tmp_path / "m", tmp_path / "n"):
        pytest.skip("this system cannot exchange two folders in one step")
    assert (names(tmp_path / "m"), names(tmp_path / "n")) == (["b.txt"], ["inner"])
    with pytest.raises(OSError, match="No such file"):
        folders._exchange(tmp_path / "m", tmp_path / "nowhere")


def test_a_folder_left_beside_its_place_is_put_back(tmp_path):
    (tmp_path / ".m.old").mkdir()
    fill(tmp_path / ".m.old")
    assert folders.settled(tmp_path / "m") == tmp_path / "m"
    assert names(tmp_path) == ["m"]


def test_a_link_to_a_folder_is_followed_when_it_is_replaced(tmp_path):
    folders.replace_folder(fill, tmp_path / "real")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    folders.replace_folder(other, tmp_path / "link")
    assert names(tmp_path / "real") == ["b.txt"]
    assert (tmp_path / "link").is_symlink()


def test_a_second_name_for_a_file(tmp_path, monkeypatch):
    (tmp_path / "a").write_text("a")
    folders.link_or_copy(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "a").stat().st_ino == (tmp_path / "b").stat().st_ino

    def none(_source, _target):
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(folders.os, "link", none)
    folders.link_or_copy(tmp_path / "a", tmp_path / "c")
    assert (tmp_path / "c").read_text() == "a"


def test_a_replaced_folder_keeps_its_mode(tmp_path):
    """A private folder must not become one that all can read."""
    folders.replace_folder(fill, tmp_path / "m")
    (tmp_path / "m").chmod(0o700)
    folders.replace_folder(other, tmp_path / "m")
    assert (tmp_path / "m").stat().st_mode & 0o777 == 0o700


def test_inner_folders_and_the_outer_one_are_written_through(tmp_path, monkeypatch):
    synced: list[str] = []
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        fsync(descriptor)

    monkeypatch.setattr("factedit.disk.os.fsync", noted)
    folders.publish_folder(fill, tmp_path / "m")
    assert [Path(path).name for path in synced if not path.endswith(".tmp")] == ["a.txt", "inner", tmp_path.name]
    assert sum(path.endswith(".tmp") for path in synced) == 1
