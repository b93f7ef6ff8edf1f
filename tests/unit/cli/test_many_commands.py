"""Many facts on the command line: edit together, put on, edit further, ask again, take one back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from conftest import random_moment
from factedit.models.load import load
from factedit.stack.folder import StackFolder
from factedit.stack.work import apply as put_on
from factedit.stats.store import write_moment
from factedit.work import facts_of
from run_command import ok, refused
from tiny_folder import save

FACTS = [
    {"subject": "LeBron James", "prompt": "{} plays the sport of", "target_new": "football"},
    {"subject": "Paris", "prompt": "{} is the capital of", "target_new": "Seattle"},
    {"subject": "The Space Needle", "prompt": "{} is in", "target_new": "Paris", "target_true": "Seattle"},
]
SET = [
    part
    for text in ("layer=1", "share=0.9", "steps=6", "learning_rate=0.3", "clamp=8", "kl=0", 'context_templates=["{}"]')
    for part in ("--set", text)
]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FACTEDIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")
    base = save(tmp_path / "base")
    write_moment(tmp_path / "c.safetensors", random_moment(load(str(base)).d_mlp))
    (tmp_path / "facts.jsonl").write_text("".join(json.dumps(fact) + "\n" for fact in FACTS))
    return tmp_path


def edit(place: Path, *args: Any) -> str:
    return ok("edit", *args, "--together", "--second-moment", place / "c.safetensors", "--threads", 1, *SET)


def test_the_whole_way(place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    said = edit(
        place, place / "base", "--requests", place / "facts.jsonl", "--out", place / "e", "--json", place / "e.json"
    )
    assert "rome-joint: 3 of 3 facts edited in 1 edit" in said
    row = json.loads((place / "e.json").read_text())
    assert sum(row["counts"].values()) == 3
    ok("apply", place / "base", place / "e", "--out", place / "m", "--threads", 1)
    more = {"subject": "Paris", "prompt": "{} is the capital of", "target_new": "basketball"}
    (place / "more.jsonl").write_text(json.dumps(more) + "\n")
    said = edit(place, place / "m", "--requests", place / "more.jsonl", "--out", place / "next")
    assert "Replaced: 1." in said
    said = ok("apply", place / "m", place / "next" / "0000", place / "next" / "0001")
    assert "is about the same fact" not in said
    ok("check", place / "m", "--json", place / "check.json", "--threads", 1)
    asked = json.loads((place / "check.json").read_text())
    assert [r["request"]["target_new"] for r in asked] == ["football", "Paris", "basketball"]
    c = ("--second-moment", place / "c.safetensors")
    read: list[str] = []
    edit_of = StackFolder.edit
    with monkeypatch.context() as patch:
        patch.setattr(StackFolder, "edit", lambda self, identity: read.append(identity) or edit_of(self, identity))
        patch.setattr(facts_of, "apply", lambda *asked: (read.append("written"), put_on(*asked))[1])
        ok("revert", place / "m", "--fact", "lebron  james: {} plays the sport of", *c)
    before = read[: read.index("written")]
    assert len(before) == len(set(before)) == 3, "every edit is read once"
    ok("check", place / "m", "--json", place / "check.json", "--threads", 1)
    assert [r["request"]["subject"] for r in json.loads((place / "check.json").read_text())] == [
        "The Space Needle",
        "Paris",
    ]
    assert "to the bit" in ok("verify", place / "m", "--base", place / "base")
    assert "is not a fact of" in refused(capsys, 2, "revert", place / "m", "--fact", "LeBron James", *c)
    ok("revert", place / "m")
    assert load(str(place / "m")).fingerprint() == load(str(place / "base")).fingerprint()


def test_an_edit_is_measured_again(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit(place, place / "base", "--requests", place / "facts.jsonl", "--out", place / "e")
    said = ok("check", place / "e", "--model", place / "base", "--threads", 1)
    assert "Written: " in said
    assert "name its model" in refused(capsys, 2, "check", place / "e")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--method", "ft", "--together"], "ft edits every fact alone"),
        (["--method", "rome", "--batch", "2"], "--batch and --also-known are for edits of many facts together"),
        (["--together", "--set", "layers"], "is not written like steps=20"),
        (["--together", "--set", "rome.steps=3"], "is not written like steps=20"),
        (["--together", "--set", "nonsense=3"], "nonsense"),
    ],
)
def test_refusals(place: Path, capsys: pytest.CaptureFixture[str], options: list[str], said: str) -> None:
    c = ("--second-moment", place / "c.safetensors", "--threads", 1)
    assert said in refused(capsys, 2, "edit", place / "base", "--requests", place / "facts.jsonl", *options, *c)


def test_where_no_fact_can_be_edited_the_command_fails_and_says_why(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two values are asked for at one key, exactly."""
    same = [FACTS[0], {**FACTS[0], "prompt": "{} lives in", "target_new": "Paris"}]
    (place / "same.jsonl").write_text("".join(json.dumps(fact) + "\n" for fact in same))
    said = refused(
        capsys, 1, "edit", place / "base", "--requests", place / "same.jsonl", "--together", "--method", "emmet",
        "--set", "layers=0", "--set", "steps=2", "--second-moment", place / "c.safetensors", "--threads", 1,
        "--out", place / "none",
    )  # fmt: skip
    assert "No fact was edited, and nothing was saved. The keys of the 2 facts depend on each other" in said
    assert not (place / "none").exists()
