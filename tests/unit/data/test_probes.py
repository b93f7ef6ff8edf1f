"""Probes of KnowEdit's form and their conditions: by hand, and the published counts."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from factedit.data.probes import Condition, Phrases, Probe, probes_of
from factedit.data.registry import load_facts
from factedit.errors import DataError
from factedit.facts import FactRecord

PHRASES = {
    "relations": {
        "CITIZEN": {"id": "P27", "phrase": "The country of <subject> is"},
        "CAPITAL": {"id": "P36", "phrase": "The capital of <subject> is"},
        "SPOUSE": {"id": "P26", "phrase": "The spouse of <subject> is"},
    },
    "two_hop": {
        "CITIZEN-CAPITAL": "The capital of the country of <subject> is",
        "SPOUSE-CITIZEN": "The country of the spouse of <subject> is",
    },
}
ROW: dict[str, Any] = {
    "subject": "Leo", "prompt": "The country of Leo is", "target_new": "Syria", "ground_truth": "Italy",
    "portability": {
        "Reasoning": [
            {"prompt": "The capital of the country of Leo is", "ground_truth": [["Damascus", "Sham"]]},
            {"prompt": "The country of the spouse of Ann is", "ground_truth": [["Syria", "sy"]]},
            {"prompt": "The capital of the country of Leonardo is", "ground_truth": ["Damascus"]},
            {"prompt": "The country of the spouse of Leo is", "ground_truth": "Syria"},
        ],
        "Subject_Aliasing": [{"prompt": "The country of Lee is", "ground_truth": [["Syria"]]}],
        "Logical_Generalization": [{"prompt": "Is Leo a Syrian?", "ground_truth": [["no"], ["false"]]}],
    },
    "locality": {
        "Relation_Specificity": [{"prompt": "The spouse of Leo is", "ground_truth": [["Ann"]]}],
        "Forgetfulness": [{"prompt": "The country of Leo, not Syria, is", "ground_truth": []}],
    },
}  # fmt: skip


def read(folder: Path, *, phrases: object = PHRASES, **changes: Any) -> FactRecord:
    (folder / "k.jsonl").write_text(json.dumps(ROW | changes))
    if phrases is not None:
        (folder / "ripple_phrases.json").write_text(json.dumps(phrases))
    [record] = load_facts(folder / "k.jsonl").records
    return record


def test_each_probe_finds_its_condition_by_its_wording(tmp_path: Path) -> None:
    first, second, named, own, alias, logic, stays = probes_of(read(tmp_path))
    assert first == Probe(
        kind="composition I", prompt="The capital of the country of Leo is", answers=("Damascus", "Sham"),
        condition=Condition("The capital of Syria is", ("Damascus", "Sham")),
    )  # fmt: skip
    assert (second.kind, second.condition) == ("composition II", Condition("The spouse of Ann is", ("Leo",)))
    assert second.answers == ("Syria",), "a code of two small letters is a word of the language"
    assert (named.kind, named.condition) == ("unmapped", None), "another name of the subject"
    assert own.kind == "unmapped", "the edited subject is no other one"
    assert (alias.kind, alias.condition) == ("aliasing", Condition("The country of Lee is", ("Italy",)))
    assert (logic.kind, logic.answers, logic.condition) == ("logic", ("no", "false"), None)
    assert (stays.kind, stays.condition) == ("specificity", Condition("The spouse of Leo is", ("Ann",)))


def test_without_phrases_reasoning_has_no_condition(tmp_path: Path) -> None:
    kinds = [probe.kind for probe in probes_of(read(tmp_path, phrases=None))]
    assert kinds == ["unmapped"] * 4 + ["aliasing", "logic", "specificity"]


def test_damage_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"k.jsonl, line 1: portability.Reasoning must be a list of objects"):
        read(tmp_path, portability={"Reasoning": ["Leo"]})
    with pytest.raises(DataError, match="does not hold phrases"):
        read(tmp_path, phrases={"relations": {}})
    with pytest.raises(DataError, match="without exactly one <subject>"):
        read(tmp_path, phrases={"relations": {"A": {"phrase": "of is"}}, "two_hop": {}})


def test_no_probes_give_a_plain_record(tmp_path: Path) -> None:
    assert type(read(tmp_path, portability={}, locality=[])) is FactRecord


@pytest.mark.data
def test_the_published_counts(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """2 044 of the 2 082 reasoning probes are worded as composition I or II."""
    monkeypatch.setenv("FACTEDIT_DATA", str(data_dir))
    records = load_facts("knowedit").records
    found = Counter(probe.kind for record in records for probe in probes_of(record))
    assert found == {
        "composition I": 1606, "composition II": 438, "unmapped": 38, "aliasing": 2358, "logic": 405,
        "specificity": 5486, "forgetting": 468,
    }  # fmt: skip
    assert found["composition I"] + found["composition II"] == 2044 == 2082 - found["unmapped"]
    assert isinstance(Phrases.beside(data_dir / "multihop_ripple" / "x"), Phrases)
