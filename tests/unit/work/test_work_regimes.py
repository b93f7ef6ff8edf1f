"""Many facts on one model as the command line asks for it: which regime is meant, and which facts are left out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from conftest import random_moment
from factedit.errors import UsageError
from factedit.evaluate.regime import Joint, Sequence
from factedit.facts import EditRequest, FactRecord
from factedit.models.load import load
from factedit.stats.store import write_moment
from factedit.work.regimes import asked_regime, checkpoints_of, that_agree
from run_command import ok, refused
from tiny_folder import save

SUBJECTS = ("Paris", "Seattle", "France", "LeBron", "Zürich", "Москва")


def test_which_regime_is_meant() -> None:
    assert asked_regime(None, None, 16, (), 7) == (None, 7)
    assert asked_regime(50, None, None, (), None) == (Joint(50), 50)
    assert asked_regime(None, 20, 5, (5, 20), None) == (Sequence(5, (5, 20)), 20)
    assert asked_regime(None, 30, None, (), 30) == (Sequence(30, (30,)), 30)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((5, 5, None, (), None), "--at-once or --sequence"),
        ((5, None, None, (1,), None), "--checkpoints are those of a --sequence"),
        ((None, None, None, (1,), None), "--checkpoints are those of a --sequence"),
        ((None, 10, None, (), 20), "A sequence of 10 facts takes 10 records; 20 were asked for"),
    ],
)
def test_what_does_not_fit_is_refused(given: tuple[int, int, int, tuple[int, ...], int], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        asked_regime(*given)


@pytest.mark.parametrize(
    ("count", "batch", "points"),
    [
        (1, 1, (1,)),
        (50, 1, (1, 10, 32, 50)),
        (300, 100, (100, 300)),
        (350, 100, (100, 350)),
        (1000, 10, (10, 40, 100, 320, 1000)),
    ],
)
def test_checkpoints_are_whole_batches(count: int, batch: int, points: tuple[int, ...]) -> None:
    assert checkpoints_of(count, batch) == points


def agreeing_record(case: str, subject: str, prompt: str, relation: str | None, target: str = "") -> FactRecord:
    request = EditRequest(subject=subject, prompt=prompt, target_new=target or case)
    return FactRecord(case_id=case, request=request, relation_id=relation)


def test_facts_that_contradict_one_before_are_left_out() -> None:
    records = [
        agreeing_record("a", "Paris", "{} is in", "P17"),
        agreeing_record("b", "paris", "{}  is in", None),  # the prompt of a
        agreeing_record("c", "Paris", "Where is {}? In", "P17"),  # the relation of a
        agreeing_record("d", "Paris", "{} is twinned with", "P190"),
        agreeing_record("e", "Rome", "{} is in", "P17"),
        agreeing_record("f", "Paris", "Where is {}? In", None),  # the prompt of c, which is about the fact of a
    ]
    found = that_agree(records)
    assert [r.case_id for r in found.records] == ["a", "d", "e"]
    assert (found.contradicting, found.repeated) == (3, 0)
    assert found.told() == ["3 of 6 records contradict one before and were left out."]


def test_a_fact_that_is_said_again_contradicts_nothing() -> None:
    records = [
        agreeing_record("a", "Paris", "{} is in", "P17", "Spain"),
        agreeing_record("b", "Paris", "{} is in", "P17", " spain"),  # the same, written otherwise
        agreeing_record("c", "Paris", "Where is {}? In", "P17", "Spain"),  # the same in other words
        agreeing_record("d", "Paris", "Where is {}? In", None, "Italy"),  # another object, by the prompt of c
        agreeing_record("e", "Rome", "{} is in", "P17", "Spain"),
    ]
    found = that_agree(records)
    assert [r.case_id for r in found.records] == ["a", "e"]
    assert (found.contradicting, found.repeated) == (1, 2)
    assert found.told() == [
        "1 of 5 records contradict one before and were left out.",
        "2 of 5 records say again what one before does and were left out.",
    ]
    assert that_agree(records[:1]).told() == []


def test_the_whole_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FACTEDIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "240")
    base = save(tmp_path / "base")
    write_moment(tmp_path / "c.safetensors", random_moment(load(str(base)).d_mlp))
    facts = [
        {"case_id": n, "requested_rewrite": {"prompt": "{} is in", "subject": s, "target_new": {"str": "football"},
         "target_true": {"str": "Seattle"}}, "paraphrase_prompts": [f"So {s} is in"],
         "neighborhood_prompts": ["Basketball is in"], "generation_prompts": [f"{s} likes"]}
        for n, s in enumerate([*SUBJECTS, "Paris"], 1)
    ]  # fmt: skip
    (tmp_path / "facts.json").write_text(json.dumps(facts))
    common = [
        "evaluate", base, "--dataset", tmp_path / "facts.json", "--method", "rome-joint,ft", "--split", "all",
        "--second-moment", tmp_path / "c.safetensors", "--threads", 1, "--set", "steps=2",
        "--set", "rome-joint.layer=1", "--set", 'rome-joint.context_templates=["{}"]',
    ]  # fmt: skip
    said = ok(*common, "--at-once", 3, "--records", 6, "--out", tmp_path / "at-once")
    assert "rome-joint, 3 at once" in said
    table = (tmp_path / "at-once" / "table.md").read_text()
    assert "1 of 7 records say again what one before does and were left out" in table
    ok(*common, "--sequence", 4, "--batch", 2, "--out", tmp_path / "seq", "--json", tmp_path / "seq.json")
    rows = json.loads((tmp_path / "seq.json").read_text())
    names = [f"{m}, {n} in batches of 2" for n in (2, 4) for m in ("rome-joint", "ft")]
    assert set(names) <= set(rows)
    assert rows[names[0]]["n"] == 2
    assert {"perplexity", "panel", "moved"} - {"panel"} <= set(rows[names[0]])
    for folder in ("at-once", "seq"):
        assert (tmp_path / folder / "many.png").read_bytes().startswith(b"\x89PNG")
        assert not (tmp_path / folder / "values").exists()
    assert "is not written like steps=20" in refused(capsys, 2, *common, "--set", "memit.steps=3")
