"""Whatever is killed while a folder's own files are replaced: old or new, never a mixture, and nothing else is lost."""

from __future__ import annotations

import hashlib
import json
import os
import random
from pathlib import Path

import pytest

from factedit import disk
from factedit.cache import replace_files, settled
from factedit.commits import COMMIT
from factedit.locks import locked
from processes import killed

VERSIONS, ROUNDS = 4, 40


def version(number: int):
    """Some files and a manifest with their hashes, as an edit or an export has."""

    def build(folder: Path) -> None:
        names = [f"part-{n}" for n in range(number + 1)] + ([f"inner/{number}"] if number % 2 else [])
        for name in names:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(f"{number} {name}")
        hashes = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}
        (folder / "manifest.json").write_text(json.dumps({"version": number, "files": hashes}))

    return build


def own_of(folder: Path) -> list[str]:
    found = json.loads((folder / "manifest.json").read_text()) if (folder / "manifest.json").is_file() else {}
    return [*found.get("files", {}), "manifest.json"]


def read(folder: Path) -> int | None:
    """The version in a folder, all its files checked; None where there is none."""
    if not (folder / "manifest.json").is_file():
        return None
    said = json.loads((folder / "manifest.json").read_text())
    for name, sha256 in said["files"].items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == sha256, name
    return int(said["version"])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and signals")
@pytest.mark.parametrize("mixed", [True, False])
def test_every_state_is_legal_whatever_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mixed: bool) -> None:
    monkeypatch.setattr(disk, "_sync", lambda _path, _flags: None)  # for power failures, not for kills
    kills = {"before": 0, "after": 0, "in between": 0}
    for seed in range(ROUNDS):
        draw, folder = random.Random(seed), tmp_path / f"m{seed}"
        notes = {"notes.txt": "mine", ".git/HEAD": "mine", "inner/diary": "mine"} if mixed else {}
        for name, text in notes.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
        now = None
        for _ in range(3):
            new = draw.choice([n for n in range(VERSIONS) if n != now])

            def action(folder: Path = folder, new: int = new) -> None:
                with locked(folder):
                    replace_files(version(new), folder, old=own_of(settled(folder)), last="manifest.json")

            if killed(action, draw.randrange(1, 140 if mixed else 70)):
                unfinished = (folder / COMMIT).is_dir()
                raw = read(folder)  # who looks without `settled` finds old, new or none, no mixture
                assert raw in (now, new, None)
                assert raw is not None or unfinished or now is None
                found = read(settled(folder))
                assert found in (now, new)
                kills["in between" if unfinished else "after" if found == new else "before"] += 1
                now = found
            else:
                now = new
            assert read(folder) == now
            for name, text in notes.items():
                assert (folder / name).read_text() == text
            if now is not None:
                replace_files(version(now), folder, old=own_of(folder), last="manifest.json")
                left = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
                assert left == {*own_of(folder), *notes}  # nothing of older versions or of killed processes
                assert not list(tmp_path.glob(f".m{seed}.*"))  # nor beside the folder
    assert kills["before"] > 10, kills
    assert (kills["in between"] > 10) if mixed else (kills["after"] > 5), kills
