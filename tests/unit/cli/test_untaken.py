"""An edit that did not take is said by every command that makes it or hands it on, with an exit code on request."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from factedit.models.load import load
from factedit.work.edit import said_of_untaken
from run_command import ok, refused
from stack_cases import random_edit
from tiny_folder import save

BEFORE = {"target_new": 0.0011, "answers_target_new": False, "continuation": " no"}
MISSED = "warning: the edit of 'Subject 1 is in' did not take: 'Space' is not ranked first, P 0.0011 → 0.0011"


def test_edit_says_it_and_saves_what_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FACTEDIT_CACHE", str(tmp_path / "cache"))
    base = save(tmp_path / "base")
    given = ["edit", base, "--subject", "Paris", "--prompt", "{} is in", "--target", "Seattle", "--threads", 1,
             "--layer", 1, "--method", "ft"]  # fmt: skip
    said = refused(capsys, 3, *given, "--steps", 1, "--learning-rate", 1e-9, "--out", tmp_path / "e", "--fail")
    assert "warning: the edit of 'Paris is in' did not take: 'Seattle' is not ranked first, P 0.0" in said
    assert (tmp_path / "e" / "edit.json").is_file()
    assert "did not take" in ok(*given, "--steps", 1, "--learning-rate", 1e-9)
    moved = ["--steps", 25, "--learning-rate", 0.05, "--json", tmp_path / "j"]
    assert "did not take" not in ok(*given, *moved, "--fail")
    assert json.loads((tmp_path / "j").read_text())["after"]["answers_target_new"]


def test_apply_and_ship_say_it_as_it_was_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = save(tmp_path / "base")
    edit = random_edit(load(str(base)), 1)
    missed = edit.with_outcomes([(BEFORE, BEFORE)]).save(tmp_path / "missed")
    took = edit.with_outcomes([(BEFORE, BEFORE | {"answers_target_new": True})]).save(tmp_path / "took")
    for n, command in enumerate((["apply"], ["ship", "--as", "peft"])):
        out = [tmp_path / f"{n}{part}" for part in "abc"]
        assert MISSED in refused(capsys, 3, *command, base, missed, "--out", out[0], "--threads", 1, "--fail")
        assert any(out[0].iterdir()), "what was asked for is there all the same"
        assert MISSED in " ".join(ok(*command, base, missed, "--out", out[1], "--threads", 1).split())
        assert "did not take" not in ok(*command, base, took, "--out", out[2], "--threads", 1, "--fail")
    assert "before, as recorded" in ok("show", missed)


def test_what_differs_and_what_is_not_written_leave_with_3_on_request(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = save(tmp_path / "base")
    edit = random_edit(load(str(base)), 1).save(tmp_path / "e")
    ok("apply", base, edit, "--out", tmp_path / "m", "--threads", 1)
    known = ["--records", 2, "--threads", 1]
    ok("audit", base, tmp_path / "m", *known)
    refused(capsys, 3, "audit", base, tmp_path / "m", *known, "--fail")
    ok("audit", base, base, *known, "--fail")
    assert "Written: 0 of 1" in ok("check", tmp_path / "m", "--threads", 1)
    refused(capsys, 3, "check", tmp_path / "m", "--threads", 1, "--fail")


def test_of_a_fact_that_was_taken_back_nothing_is_said(tmp_path: Path) -> None:
    """Before: `ship` of a folder said that it did not take, and `--fail` left with 3."""
    base = save(tmp_path / "base")
    model = load(str(base))
    missed = random_edit(model, 1).with_outcomes([(BEFORE, BEFORE)])
    back = replace(random_edit(model, 2), requests=(), notes=(), takes_back=((missed.identity, 0),))
    assert len(said_of_untaken([missed])) == 1
    assert said_of_untaken([missed, back]) == []
    other = replace(back, takes_back=((missed.identity, 1),))
    assert len(said_of_untaken([missed, other])) == 1
