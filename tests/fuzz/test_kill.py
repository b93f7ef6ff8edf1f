"""kill −9 at moments of all that is written: afterwards the old is there or the new, and going on gives the new."""

from __future__ import annotations

import os
import random
from collections import Counter
from pathlib import Path

import pytest

from factedit import disk
from factedit.cache import replace_folder
from fuzz.many_trials import EVERY
from fuzz.trials import ALL, Trial, check_mine
from processes import FILE_EVENTS, end, killed, start

KILLS = 40 if ALL else 4
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and signals")


@pytest.fixture(autouse=True)
def _unsynced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Writing through to the disk is for power failures, and kills do not need it."""
    monkeypatch.setattr(disk, "_sync", lambda _path, _flags: None)


def events(trial: Trial, place: Path) -> int:
    """How often the action uses a file when nobody kills it."""
    import sys

    count = place.parent / "count"

    def counted() -> None:
        found = 0

        def add(event: str, _args: object) -> None:
            nonlocal found
            found += event.startswith(FILE_EVENTS)

        sys.addaudithook(add)
        trial.act(place)
        count.write_text(str(found))

    assert end(start(counted)) == 0
    return int(count.read_text())


@pytest.mark.parametrize("trial", EVERY, ids=lambda trial: trial.name)
def test_nothing_is_lost_or_half_written(trial: Trial, tmp_path: Path) -> None:
    for number in range(KILLS + 2):
        (tmp_path / str(number)).mkdir()
        trial.prepare(tmp_path / str(number))
    trial.act(tmp_path / str(KILLS + 1))  # what is loaded or computed once, the killed processes have
    old = trial.state(tmp_path / "0")
    total = events(trial, tmp_path / "0")
    new = trial.state(tmp_path / "0")
    assert new != old
    seen: Counter[str] = Counter()
    draw = random.Random(trial.name)
    for number in range(1, KILLS + 1):
        place = tmp_path / str(number)
        after = 1 + int(total * (number - draw.random()) / KILLS)  # spread over the whole action
        killed(lambda p=place: trial.act(p), after)  # type: ignore[misc]
        state = trial.state(place)
        seen[state] += 1
        assert state in (old, new) or (trial.steps and old < state < new), state
        check_mine(trial, place)
        trial.act(place)
        assert trial.state(place) == new, "the same command goes on to the same"
        check_mine(trial, place)
        replace_folder(lambda _folder: None, place / "beside")  # whoever comes next
        left = [p for p in place.rglob("*") if p.name.endswith((".tmp", ".commit", ".old"))]
        assert not left, "something of the killed process stayed"
    assert len(seen) > 1 or not ALL, seen
