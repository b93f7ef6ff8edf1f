"""One change at a time, among processes and threads; no lock outlives its owner."""

from __future__ import annotations

import errno
import json
import logging
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from factedit import locks
from factedit.cache import locked
from factedit.errors import ResourceError
from processes import PATIENCE, end, start, wait_for, wait_until

ADDITIONS = 40


def meet(place: Path) -> None:
    """Wait for another process to come to the same place."""
    (place / str(os.getpid())).touch()
    wait_until(lambda: len(list(place.iterdir())) >= 2, f"nobody else came to {place}")


def add(path: Path, times: int, *, lock: bool) -> None:
    """Read a list, think, write it back with one more: what is lost without a lock; begins when another does, too.

    Without a lock both have read the list before either writes it: what is lost does not hang on who is quicker.
    """
    meet(path.parent.parent / "ready")
    for n in range(times):
        with locked(path) if lock else open(os.devnull):  # noqa: PTH123
            found = json.loads(path.read_text())
            if n == 0 and not lock:
                meet(path.parent.parent / "read")
            time.sleep(0.001)
            path.write_text(json.dumps([*found, os.getpid()]))


@pytest.mark.parametrize("lock", [True, False])
def test_two_processes_lose_nothing(tmp_path, lock):
    for name in ("ready", "read", "own"):
        (tmp_path / name).mkdir()
    path = tmp_path / "own" / "list.json"
    path.write_text("[]")
    children = [start(lambda: add(path, ADDITIONS, lock=lock)) for _ in range(2)]
    codes = [end(child) for child in children]
    whole = codes == [0, 0] and len(json.loads(path.read_text())) == 2 * ADDITIONS
    assert whole is lock  # without it they do: the test can tell
    assert [p.name for p in path.parent.iterdir()] == ["list.json"]  # no lock file stays


def hold(path: Path, started: Path, leave: Path | None = None) -> None:
    """Hold a lock until a file is there, or until this process is killed."""
    with locked(path):
        started.write_text("")
        wait_for(leave or path.parent / "never")


def test_who_comes_second_waits_and_is_told(tmp_path, monkeypatch, caplog):
    """The first goes on only when the second has been told that it waits."""
    monkeypatch.setattr(locks, "SAY_AFTER", 0.1)
    go_on = tmp_path / "go on"
    monkeypatch.setattr(caplog.handler, "emit", lambda record, emit=caplog.handler.emit: (emit(record), go_on.touch()))
    child = start(lambda: hold(tmp_path / "m", tmp_path / "started", go_on))
    wait_for(tmp_path / "started")
    with caplog.at_level(logging.WARNING, "factedit"), locked(tmp_path / "m"):
        assert end(child) == 0
    assert len(caplog.messages) == 1
    assert f"another process ({child}); waiting for it to end" in caplog.text


def test_who_will_not_wait_is_refused(tmp_path):
    child = start(lambda: hold(tmp_path / "m", tmp_path / "started"))
    wait_for(tmp_path / "started")
    with (
        pytest.raises(ResourceError, match=rf"m is being changed by another process \({child}\)"),
        locked(tmp_path / "m", wait=0),
    ):
        pass
    os.kill(child, signal.SIGKILL)
    end(child)


def test_a_killed_process_leaves_no_lock(tmp_path):
    child = start(lambda: hold(tmp_path / "m", tmp_path / "started"))
    wait_for(tmp_path / "started")
    os.kill(child, signal.SIGKILL)
    end(child)
    assert (tmp_path / ".m.lock").exists()  # the file may stay, the lock does not
    with locked(tmp_path / "m", wait=0):
        pass
    assert not (tmp_path / ".m.lock").exists()


def test_a_forked_child_does_not_keep_its_parents_lock(tmp_path):
    with locked(tmp_path / "m"):
        child = start(lambda: wait_for(tmp_path / "never"))
    with locked(tmp_path / "m", wait=0):
        pass
    os.kill(child, signal.SIGKILL)
    end(child)


def test_a_forked_child_does_not_have_its_parents_lock(tmp_path):
    def refused() -> None:
        with pytest.raises(ResourceError), locked(tmp_path / "m", wait=0):
            pass

    with locked(tmp_path / "m"):
        assert end(start(refused)) == 0


def test_a_thread_may_lock_again_what_it_holds_and_another_waits(tmp_path):
    order: list[str] = []

    def second() -> None:
        with locked(tmp_path / "m"):
            order.append("second")

    with locked(tmp_path / "m"):
        with locked(tmp_path / "m", wait=0):
            pass
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(0.1)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]
    assert not locks._held


def test_one_lock_by_whatever_name(tmp_path, monkeypatch):
    (tmp_path / "m").mkdir()
    (tmp_path / "link").symlink_to("m")
    monkeypatch.chdir(tmp_path / "m")
    child = start(lambda: hold(tmp_path / "m", tmp_path / "started"))
    wait_for(tmp_path / "started")
    for name in ("../link", ".", tmp_path / "m"):
        with pytest.raises(ResourceError, match="is being changed"), locked(name, wait=0):
            pass
    os.kill(child, signal.SIGKILL)
    end(child)


def test_two_who_want_the_same_two_do_not_wait_for_each_other(tmp_path):
    left, right = tmp_path / "a", tmp_path / "b"

    def often(*paths: Path) -> None:
        for _ in range(50):
            with locked(*paths, wait=PATIENCE):
                time.sleep(0.001)

    children = [start(lambda: often(left, right)), start(lambda: often(right, left))]
    assert [end(child) for child in children] == [0, 0]


def test_the_lock_of_a_file_that_was_removed_meanwhile_is_not_taken_for_one(tmp_path):
    """Its owner removes the file on leaving: who waited on that one must begin anew, or two would be in."""
    inside = tmp_path / "inside"

    def alone() -> None:
        for _ in range(60):
            with locked(tmp_path / "m"):
                inside.mkdir()  # fails if another is there
                inside.rmdir()

    children = [start(alone) for _ in range(3)]
    assert [end(child) for child in children] == [0, 0, 0]


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="needs a user whom modes bind")
def test_a_folder_in_one_that_cannot_be_written_to_is_locked_inside(tmp_path):
    (tmp_path / "m").mkdir()
    tmp_path.chmod(0o500)
    try:
        with locked(tmp_path / "m"):
            assert [p.name for p in (tmp_path / "m").iterdir()] == [locks.INSIDE]
        assert not list((tmp_path / "m").iterdir())
    finally:
        tmp_path.chmod(0o700)


def test_where_the_lock_beside_cannot_be_made_it_is_made_inside(tmp_path, monkeypatch):
    (tmp_path / "m").mkdir()
    opened = os.open

    def refused(path, *args, **kwargs):
        if str(path).endswith(".m.lock"):
            raise OSError(errno.EROFS, "Read-only file system")
        return opened(path, *args, **kwargs)

    monkeypatch.setattr(locks.os, "open", refused)
    with locked(tmp_path / "m"):
        assert [p.name for p in (tmp_path / "m").iterdir()] == [locks.INSIDE]
    assert not list((tmp_path / "m").iterdir())


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_what_cannot_be_written_to_needs_no_lock(tmp_path, monkeypatch, number):
    """A model folder on a read-only disk can be read."""
    (tmp_path / "m").mkdir()

    def refused(path, *args, **kwargs):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(locks.os, "open", refused)
    with locked(tmp_path / "m"):
        pass
    assert not locks._held


def test_a_file_system_without_locks_is_said_and_not_refused(tmp_path, monkeypatch, caplog):
    def none(_descriptor, _how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks.fcntl, "flock", none)
    monkeypatch.setattr(locks, "_said", set())
    with caplog.at_level(logging.WARNING, "factedit"):
        for _ in range(2):
            with locked(tmp_path / "m"):
                pass
    assert len(caplog.messages) == 1
    assert "has no locks: change nothing there from two processes at once" in caplog.text


def test_an_exception_inside_frees_the_lock(tmp_path):
    with pytest.raises(KeyError), locked(tmp_path / "m"):
        raise KeyError
    assert not (tmp_path / ".m.lock").exists()
    assert end(start(lambda: hold(tmp_path / "m", tmp_path / "started", tmp_path))) == 0


def test_a_link_in_the_place_of_a_lock_is_not_followed(tmp_path):
    (tmp_path / "secret").write_text("secret")
    (tmp_path / ".m.lock").symlink_to("secret")
    with pytest.raises(ResourceError, match="cannot be locked"), locked(tmp_path / "m"):
        pass
    assert (tmp_path / "secret").read_text() == "secret"
