"""A disk that is full, at many sizes, under all that is written: refused in words, and nothing of the old is lost.

The disks are real: a file system in memory of its own for a forked process. Where the system does not allow that, the
trials are left out.
"""

from __future__ import annotations

import ctypes
import os
import random
import traceback
from pathlib import Path

import pytest

from factedit.errors import FacteditError
from fuzz.many_trials import EVERY
from fuzz.trials import ALL, Trial, check_mine
from processes import end, start

SIZES = 12 if ALL else 2
ROOM = 8 << 20  # bytes of the whole disk
NEW_USER, NEW_MOUNTS = 0x10000000, 0x20000  # of unshare(2)
PRIVATE = 0x40000 | 0x4000  # MS_PRIVATE | MS_REC, of mount(2)


def mount_small_disk(place: Path) -> bool:
    """Mount a small disk on a folder, for this process alone; whether the system allows it."""
    library = ctypes.CDLL(None, use_errno=True)
    flags = NEW_MOUNTS if os.geteuid() == 0 else NEW_MOUNTS | NEW_USER
    if not hasattr(library, "unshare") or library.unshare(flags):
        return False
    if library.mount(b"none", b"/", None, PRIVATE, None):
        return False
    return not library.mount(b"tmpfs", os.fsencode(place), b"tmpfs", 0, f"size={ROOM}".encode())


def allowed() -> bool:
    if not hasattr(os, "fork"):
        return False
    folder = Path(os.environ.get("TMPDIR", "/tmp"))
    return end(start(lambda: os._exit(0 if mount_small_disk(folder) else 3))) == 0


pytestmark = pytest.mark.skipif(not allowed(), reason="this system allows no disk of one's own")


def used(place: Path) -> int:
    found = os.statvfs(place)
    return (found.f_blocks - found.f_bfree) * found.f_frsize


def fill(place: Path, free: int) -> Path:
    """Leave so many bytes free."""
    found = os.statvfs(place)
    filler = place / "filler"
    with filler.open("wb") as file:
        left = found.f_bavail * found.f_frsize - free
        while left > 0:
            left -= file.write(bytes(min(left, 1 << 20)))
    return filler


def try_at(trial: Trial, disk: Path, share: float) -> str:
    """Run the action with a share of what it needs; what came of it."""
    rehearsal, place = disk / "rehearsal", disk / "place"
    for folder in (rehearsal, place):
        folder.mkdir()
        trial.prepare(folder)
    old, before = trial.state(place), used(disk)
    trial.act(rehearsal)
    needed, new = used(disk) - before, trial.state(rehearsal)
    filler = fill(disk, int(share * max(needed, 1 << 16)))
    refusal: Exception | None = None
    try:
        trial.act(place)
        said = "done"
    except (FacteditError, OSError) as error:
        said, refusal = "refused", error
    if refusal is not None:
        words = str(refusal)
        assert isinstance(refusal, FacteditError) or "proof" in words, f"a bare {type(refusal).__name__}: {words}"
        assert "full" in words or "space" in words, words
    filler.unlink()
    state = trial.state(place)
    check_mine(trial, place)
    assert (state == new) if said == "done" else (state in (old, new) or (trial.steps and old < state < new)), (
        said,
        state,
    )
    trial.act(place)
    assert trial.state(place) == new
    check_mine(trial, place)
    return said


@pytest.mark.parametrize("trial", EVERY, ids=lambda trial: trial.name)
def test_a_full_disk_is_said_and_nothing_is_lost(trial: Trial, tmp_path: Path) -> None:
    draw = random.Random(trial.name)
    outcomes = set()
    (tmp_path / "first").mkdir()
    trial.prepare(tmp_path / "first")
    trial.act(tmp_path / "first")  # what is loaded or computed once, the forked processes have
    for number in range(SIZES):
        disk, log = tmp_path / f"disk{number}", tmp_path / f"log{number}"
        disk.mkdir()
        share = draw.uniform(0.0, 1.2) if number else 0.0

        def attempt(disk: Path = disk, log: Path = log, share: float = share) -> None:
            descriptor = os.open(log, os.O_WRONLY | os.O_CREAT)
            assert mount_small_disk(disk)
            try:
                os.write(descriptor, try_at(trial, disk, share).encode())
            except BaseException:
                os.write(descriptor, traceback.format_exc().encode())
                raise

        assert end(start(attempt)) == 0, log.read_text()
        outcomes.add(log.read_text())
    assert "refused" in outcomes
