"""One change of a folder, store or cache entry at a time, among processes and among the threads of one.

A lock is the operating system's (`flock`) on a file beside what it guards, so it ends with its process, also with a
killed one. Where the file system has no such locks (some network disks; Windows) only threads exclude each other,
and that is said once (logger `factedit`).
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from factedit.errors import ResourceError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

WAIT = 600.0  # seconds until whoever comes second is refused
SAY_AFTER = 1.0  # seconds of waiting before it is said
INSIDE = ".factedit.lock"  # in a folder whose own folder cannot be written to
_ABSENT = {errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.ENOSYS}
_TAKEN = {errno.EWOULDBLOCK, errno.EACCES, errno.EAGAIN}
_NOT_OURS = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR}
_PAUSE = 0.02  # seconds between two tries
logger = logging.getLogger("factedit")


@dataclass
class _Held:
    thread: int
    times: int = 1
    descriptor: int | None = None


_held: dict[Path, _Held] = {}
_guard = threading.Lock()
_said: set[int] = set()  # devices without locks that were named


def is_held(path: str | Path) -> bool:
    """Return whether this process holds the lock of a path."""
    with _guard:
        return Path(path).resolve() in _held


@contextmanager
def locked(*paths: str | Path, wait: float | None = None) -> Iterator[None]:
    """Let nobody else change these while the block runs; whoever comes second waits.

    A thread may lock again what it holds. Several paths are locked in one order, so that two who want the same ones
    do not wait for each other.

    Args:
        paths: folders or files, which need not exist; the lock lies beside each as `.NAME.lock` and is gone afterwards.
        wait: seconds to wait for another; None is `WAIT`, 0 refuses at once.

    What this user cannot write to is not locked: there is nothing to change.

    Raises:
        ResourceError: another process or thread is still changing one of them, or no lock can be made.
    """
    wait = WAIT if wait is None else wait
    until = time.monotonic() + wait
    with ExitStack() as stack:
        for path in sorted({Path(path).resolve() for path in paths}):
            stack.enter_context(_locked(path, until, wait))
        yield


@contextmanager
def _locked(path: Path, until: float, wait: float) -> Iterator[None]:
    held = _claim(path, until, wait)
    try:
        if held.times == 1:
            held.descriptor = _lock_file(path, until, wait)
        yield
    finally:
        with _guard:
            held.times -= 1
            if not held.times:
                _release(path, held)


def _claim(path: Path, until: float, wait: float) -> _Held:
    """The path for this thread among those of the process."""
    me, began = threading.get_ident(), time.monotonic()
    while True:
        with _guard:
            held = _held.get(path)
            if held is None:
                _held[path] = held = _Held(me)
                return held
            if held.thread == me:
                held.times += 1
                return held
        began = _wait(path, "another thread of this process", began, until, wait)


def _release(path: Path, held: _Held) -> None:
    if held.descriptor is not None:
        with contextlib.suppress(OSError):
            _name_of(path, held.descriptor).unlink()  # while it is locked: nobody else has it
        os.close(held.descriptor)
    if _held.get(path) is held:
        del _held[path]


def _lock_file(path: Path, until: float, wait: float) -> int | None:
    """A descriptor that holds the lock of a path; None where there is none to be had."""
    began = time.monotonic()
    while True:
        name, descriptor = _opened(path)
        if descriptor is None:
            return None
        try:
            if try_lock(descriptor):
                if _is_there(name, descriptor):
                    with contextlib.suppress(OSError):  # the number is for messages only
                        os.truncate(descriptor, 0)
                        os.write(descriptor, str(os.getpid()).encode())
                    return descriptor
                os.close(descriptor)  # its owner removed it: another one counts now
                continue
            owner = os.pread(descriptor, 32, 0).decode("ascii", "replace")
        except OSError as error:
            os.close(descriptor)
            if error.errno not in _ABSENT:
                raise ResourceError(f"{path} cannot be locked: {error.strerror or error}.") from error
            _say_absent(path)
            return None
        os.close(descriptor)
        began = _wait(path, f"another process ({owner or 'just starting'})", began, until, wait)


def _opened(path: Path) -> tuple[Path, int | None]:
    """The lock file of a path and a descriptor of it: beside it, or inside; None where neither can be written to."""
    beside = path.with_name(f".{path.name[:200]}.lock")
    for name in (beside, path / INSIDE):
        try:
            if name is beside:
                beside.parent.mkdir(parents=True, exist_ok=True)
            return name, os.open(name, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        except OSError as error:
            refused = error
            if error.errno not in _NOT_OURS:
                break
    else:
        return path, None
    raise ResourceError(
        f"{path} cannot be locked: {path.parent} cannot be written to ({refused.strerror or refused})."
    ) from refused


def _name_of(path: Path, descriptor: int) -> Path:
    beside = path.with_name(f".{path.name[:200]}.lock")
    return beside if _is_there(beside, descriptor) else path / INSIDE


def _is_there(name: Path, descriptor: int) -> bool:
    """Whether a name is still that of an open file."""
    try:
        return os.path.samestat(name.lstat(), os.fstat(descriptor))
    except OSError:
        return False


def try_lock(descriptor: int) -> bool:
    """Lock an open file if nobody else has; the lock ends when the descriptor is closed, or the process.

    Raises:
        OSError: the file system has no locks.
    """
    if fcntl is None:
        raise OSError(errno.ENOLCK, "this system has no file locks")
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _TAKEN:
            return False
        raise
    return True


def _wait(path: Path, owner: str, began: float, until: float, wait: float) -> float:
    """A short pause, or a refusal; when the waiting began, moved far ahead once it was told."""
    now = time.monotonic()
    if now >= until:
        raise ResourceError(
            f"{path} is being changed by {owner}, and was not free within {wait:g} s. "
            "Wait for it to end, and try again."
        )
    if now - began >= SAY_AFTER:
        logger.warning("%s is being changed by %s; waiting for it to end.", path, owner)
        began = float("inf")
    time.sleep(_PAUSE)
    return began


def _say_absent(path: Path) -> None:
    with contextlib.suppress(OSError):
        device = path.parent.stat().st_dev
        if device not in _said:
            _said.add(device)
            logger.warning("The file system of %s has no locks: change nothing there from two processes at once.", path)


def _forget() -> None:
    """In a forked process: its parent has the locks, and copies of their descriptors would outlive it."""
    global _guard
    for held in _held.values():
        if held.descriptor is not None:
            with contextlib.suppress(OSError):
                os.close(held.descriptor)
    _held.clear()
    _guard = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
