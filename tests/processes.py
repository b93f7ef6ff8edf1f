"""Run things in processes of their own: at once, or killed halfway."""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

PATIENCE = 240.0  # seconds after which a test gives up: no measure of speed, the machine may be busy with anything
FILE_EVENTS = ("open", "os.", "shutil.", "ctypes.call_function", "fcntl.")


def start(action: Callable[[], object]) -> int:
    """Run an action in a process of its own; its number."""
    child = os.fork()
    if child == 0:
        try:
            action()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return child


def end(child: int) -> int:
    """Wait for a process; its exit code, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def wait_for(path: Path) -> None:
    """Wait until a file is there."""
    wait_until(path.exists, f"{path} did not appear")


def wait_until(true: Callable[[], object], otherwise: object) -> None:
    """Wait until something is true; what is said where it never comes."""
    last = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < last, otherwise
        time.sleep(0.005)


def held_at(owner: type, name: str, there: Path | None = None) -> None:
    """From now on this process ends by itself, with SIGKILL, as soon as a method has done its work once.

    Args:
        owner, name: the method.
        there: instead: this file is made, and the process waits to be killed.
    """
    method = getattr(owner, name)

    def once(*args: object, **named: object) -> None:
        method(*args, **named)
        if there is None:
            os.kill(os.getpid(), signal.SIGKILL)
        else:
            there.touch()
            wait_for(there.parent / "never")

    setattr(owner, name, once)


def killed(action: Callable[[], object], after: int) -> bool:
    """Run an action in a process that is killed at its `after`-th use of a file; whether it was."""

    def counted() -> None:
        left = after

        def count(event: str, _args: object) -> None:
            nonlocal left
            if event.startswith(FILE_EVENTS):
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)
        action()

    code = end(start(counted))
    assert code in (0, -signal.SIGKILL)
    return code != 0


def bounded(action: Callable[[], object], *, memory: int = 1 << 31, seconds: int = 60) -> int:
    """Run an action in a process that may take so much more memory and time; its exit code, 0 where it returned."""

    def limited() -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + memory
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
        action()

    return end(start(limited))
