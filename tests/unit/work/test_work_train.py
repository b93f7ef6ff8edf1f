"""Training as a job: refusals before the model, notes of the losses, and what is kept where it is stopped."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from conftest import tiny
from factedit.cache import locked
from factedit.edit.trained import read_record
from factedit.errors import ResourceError, UnknownName, UsageError
from factedit.models.adapter import EditableModel
from factedit.work.train import train_network
from processes import end, start, wait_for
from run_command import refused

SMALL = {"steps": 6, "batch": 2, "validation": 3, "validate_every": 3, "rank": 4, "blocks": 1}


@pytest.fixture
def text(tmp_path: Path) -> str:
    """Some text."""
    line = "The Space Needle is in downtown Seattle. LeBron James plays the sport of basketball. "
    path = tmp_path / "t.jsonl"
    path.write_text("".join(json.dumps({"text": line[n:] * 3}) + "\n" for n in range(40)))
    return str(path)


def never() -> EditableModel:
    raise AssertionError("the model was loaded before the request was checked")


def test_what_is_wrong_is_refused_before_the_model_is_loaded() -> None:
    with pytest.raises(UnknownName, match="Did you mean mend"):
        train_network(never, "mened")
    with pytest.raises(UsageError, match="rank is a setting of mend"):
        train_network(never, "ke", rank=4)
    with pytest.raises(UnknownName, match="training set"):
        train_network(never, "ke", data="generel")
    with pytest.raises(UsageError, match="batch 0"):
        train_network(never, "ke", batch=0)


def test_more_blocks_than_layers_are_refused_and_updates_are_called_as_they_are_asked_for(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UsageError, match="--blocks 99 was asked for; tiny-gpt2 has 4 layers"):
        train_network(tiny("gpt2"), "mend", corpus=text, folder=tmp_path / "a", blocks=99)
    assert not (tmp_path / "a").exists()
    for updates in (0, -1):
        assert "'--updates'" in refused(capsys, 2, "train", "mend", "m", "--updates", updates)


def test_a_training_is_told_noted_and_goes_on(text: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model, told = tiny("gpt2"), []
    caplog.set_level(logging.INFO, "factedit")

    def stop(what: str, done: float, total: float) -> None:
        told.append((what, done, total))
        if done == stop_at:
            raise KeyboardInterrupt

    def train(folder: Path) -> None:
        train_network(model, "mend", corpus=text, folder=folder, progress=stop, **SMALL)

    stop_at = 2
    with pytest.raises(KeyboardInterrupt) as stopped:
        train(tmp_path / "a")
    # the untrained network's validation is written before the first step
    assert stopped.value.__notes__ == [f"step 0 is kept in {tmp_path / 'a'}, and the same command goes on there"]
    stop_at = 5
    with pytest.raises(KeyboardInterrupt) as stopped:
        train(tmp_path / "a")
    assert stopped.value.__notes__ == [f"step 3 is kept in {tmp_path / 'a'}, and the same command goes on there"]
    assert read_record(tmp_path / "a").step == 3
    stop_at = -1
    found = train_network(model, "mend", corpus=text, folder=tmp_path / "a", progress=stop, **SMALL)
    assert found.record.finished
    assert found.record.step == 6
    assert found.as_json()["folder"] == str(tmp_path / "a")
    assert found.megabytes > 0
    assert told[-1] == ("training mend (steps)", 6, 6)
    assert "training mend on" in caplog.text
    assert "step 6: edit " in caplog.text


def test_nothing_is_kept_before_the_first_validation(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("factedit.train.loop._warm_up", stop)
    with pytest.raises(KeyboardInterrupt) as stopped:
        train_network(tiny("gpt2"), "mend", corpus=text, folder=tmp_path / "a", **SMALL)
    assert stopped.value.__notes__ == ["nothing is kept yet: the first validation was not reached"]
    assert not (tmp_path / "a").exists()


def test_notes_beside_a_network_stay_and_two_do_not_train_it_at_once(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, folder = tiny("gpt2"), tmp_path / "n"

    def train(progress: object) -> None:
        train_network(model, "mend", corpus=text, folder=folder, progress=progress, **SMALL)  # type: ignore[arg-type]

    def stop(_what: str, done: float, _total: float) -> None:
        if done == 4:
            (folder / "notes.txt").write_text("mine")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(stop)
    (folder / "inner").mkdir()
    held = start(lambda: _hold(folder, tmp_path))
    wait_for(tmp_path / "held")
    monkeypatch.setattr("factedit.locks.WAIT", 0.0)
    with pytest.raises(ResourceError, match=rf"is being changed by another process \({held}\)"):
        train(lambda *_of: None)
    (tmp_path / "go").write_text("")
    assert end(held) == 0
    train(lambda *_of: None)
    assert read_record(folder).finished
    assert (folder / "notes.txt").read_text() == "mine"
    assert sorted(p.name for p in folder.iterdir()) == ["inner", "network.json", "network.safetensors", "notes.txt"]


def _hold(folder: Path, place: Path) -> None:
    with locked(folder):
        (place / "held").write_text("")
        wait_for(place / "go")
