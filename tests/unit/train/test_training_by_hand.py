"""What a hypernetwork is trained on and for, worked out by whole passes; what its sets are called and leave out."""

from __future__ import annotations

import json
import logging
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from conftest import tiny
from factedit.edit.target_rows import TargetRow, target_row
from factedit.errors import DataError, UnknownName, UsageError
from factedit.facts import EditRequest, FactRecord
from factedit.models.adapter import EditableModel
from factedit.train import objective
from factedit.train.checkpoint import read_if_any
from factedit.train.examples import (
    HELD_OUT,
    STAYS,
    Example,
    Pieces,
    RecordExamples,
    _another,
    _followed,
    _part,
    _stays,
    usable,
)
from factedit.train.loop import TrainSettings
from factedit.train.overlap import overlapping, refuse_overlap
from factedit.train.prepare import SETS, check_data, own_name, prepare
from plain import logits

REQUEST = EditRequest(subject="Paris", prompt="{} is in", target_new="Seattle")


@pytest.fixture(scope="module")
def model() -> EditableModel:
    return tiny("gpt2")


def record(case: str, subject: str = "Paris", **more: Any) -> FactRecord:
    request = EditRequest(subject=subject, prompt="{} is in", target_new="Seattle", target_true="France")
    return FactRecord(case_id=case, request=request, **more)


# -- the loss --------------------------------------------------------------------------------------


@torch.no_grad()
def read(model: EditableModel, row: TargetRow) -> torch.Tensor:
    """Log probabilities at a row's reads, by a whole pass."""
    return logits(model, list(row.ids)).log_softmax(-1)[list(row.reads)]


def test_the_loss_is_that_of_each_rows_own_edited_model(model: EditableModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """MEND, eq. 4: −log P̃ of the other wording's target and KL(P ‖ P̃) of what stays, each row with its own ΔW."""
    asked = (("So Paris is in", " Seattle"), ("LeBron James plays", " football"))
    stays = (("The Space Needle is in", " downtown"), ("Danielle Darrieux is", " French"))
    examples = [
        Example(target_row(model, "Paris is in", " Seattle"), target_row(model, *one), target_row(model, *other))
        for one, other in zip(asked, stays, strict=True)
    ]
    drawn = torch.Generator().manual_seed(0)
    left, right = (0.3 * torch.randn(2, *shape, generator=drawn) for shape in ((model.d_mlp, 1), (1, model.d_model)))
    monkeypatch.setattr(objective, "transform", lambda *_: {(2, "out"): (left, right)})
    found = objective.losses(model, None, [(2, "out")], examples, c_edit=0.5, c_loc=2.0)  # type: ignore[arg-type]
    taken_up, drift = [], []
    for n, example in enumerate(examples):
        before = read(model, example.stays)
        with model.with_weight(2, model.weight(2) + left[n] @ right[n], "out"):
            after, target = read(model, example.stays), read(model, example.asked)
        taken_up.append(-target[range(len(target)), list(example.asked.targets)].mean())
        drift.append((before.exp() * (before - after)).sum(-1).mean())
    assert found.edit == pytest.approx(float(sum(taken_up) / 2), rel=1e-4)
    assert found.drift == pytest.approx(float(sum(drift) / 2), rel=1e-3)
    assert found.drift > 0.01, "or the edit says nothing of it"
    assert float(found.total) == pytest.approx(0.5 * found.edit + 2.0 * found.drift, rel=1e-5)


def test_without_a_change_nothing_drifts_and_the_model_is_as_it_was(
    model: EditableModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = model.fingerprint()
    row = target_row(model, "Paris is in", " Seattle")
    nothing = torch.zeros(1, model.d_mlp, 1), torch.zeros(1, 1, model.d_model)
    monkeypatch.setattr(objective, "transform", lambda *_: {(2, "out"): nothing})
    found = objective.losses(model, None, [(2, "out")], [Example(row, row, row)], c_edit=1.0, c_loc=1.0)  # type: ignore[arg-type]
    assert found.drift == pytest.approx(0.0, abs=1e-6)
    own = read(model, row)
    assert found.edit == pytest.approx(-float(own[range(len(own)), list(row.targets)].mean()), rel=1e-4)
    assert model.fingerprint() == before


# -- what is trained on ----------------------------------------------------------------------------


def test_a_row_is_read_where_its_targets_follow() -> None:
    assert _followed((5, 6, 7), (8, 9)) == TargetRow((5, 6, 7, 8), (2, 3), (8, 9))
    assert _followed((5,), (8,)) == TargetRow((5,), (0,), (8,))
    assert _stays(range(10, 20)) == TargetRow(tuple(range(10, 19)), (6, 7, 8), (17, 18, 19))
    assert _stays((1, 2)) == TargetRow((1,), (0,), (2,)), "of two tokens one is left to stay"
    assert len(_stays(range(40)).targets) == STAYS


def test_what_must_stay_in_validation_is_not_what_must_in_training() -> None:
    pieces = [(n,) for n in range(20)]
    held, trained = _part(pieces, True), _part(pieces, False)
    assert held == [(0,), (HELD_OUT,), (2 * HELD_OUT,)]
    assert sorted([*held, *trained]) == pieces
    assert _part(pieces[:1], False) == pieces[:1], "one piece serves for both"
    draw = random.Random(0)
    assert {_another([(1,), (2,)], (1,), draw) for _ in range(9)} == {(2,)}
    assert _another([(1,)], (1,), draw) == (1,), "where there is no other"


def test_names_and_texts_of_sources() -> None:
    pieces = Pieces(((1, 2), (3, 4)))
    assert (pieces.names, pieces.texts) == (("1 2", "3 4"), ())
    records = RecordExamples((record("a", paraphrases=("p", "q")), record("b", "Rome")))
    assert records.names == ("a", "b")
    assert records.texts == ("Paris is in", "p", "q", "Rome is in")


def test_records_whose_texts_do_not_fit_are_not_trained_on(model: EditableModel) -> None:
    long = "Paris " * 90
    kept = [record("0"), record("1", paraphrases=("fine",)), record("2", neighborhood=("Rome is",), loc_answer="in")]
    bad = [record("3", long), record("4", paraphrases=(long,)), record("5", neighborhood=(long,), loc_answer="in")]
    assert usable(model, [*bad, *kept]) == tuple(kept)
    assert usable(model, []) == ()


# -- sets ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["own-facts_2.jsonl", "größe.json", "a.b.c"])
def test_a_file_gives_its_name(file: str) -> None:
    assert own_name(f"deep/{file}") == file.split(".")[0]


@pytest.mark.parametrize("file", ["zsre.json", "cf.jsonl", "my facts.json", "a,b.json", ".json", "a+b.jsonl"])
def test_a_name_that_is_taken_or_cannot_stand_in_a_list_is_refused(file: str) -> None:
    with pytest.raises(UsageError, match="name the file otherwise than the published sets, with letters, digits"):
        own_name(file)


def test_a_set_is_a_name_or_a_file(tmp_path: Path) -> None:
    for name in ("general", *SETS):
        check_data(name)
    with pytest.raises(UnknownName, match=r"Unknown training set 'zsr'\. Did you mean zsre\? Or give a file of facts"):
        check_data("zsr")
    with pytest.raises(UnknownName, match="training set"):
        check_data(str(tmp_path))


def facts(path: Path, *rows: tuple[str, str]) -> str:
    lines = [{"subject": s, "prompt": "{} is in", "target_new": t, "target_true": "France"} for s, t in rows]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def test_a_users_file_is_prepared_with_text_for_what_must_stay(
    model: EditableModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "factedit")
    monkeypatch.setattr("factedit.train.prepare.load_here", lambda _name: None)
    file = facts(tmp_path / "own.jsonl", ("Paris", "Seattle"), ("Paris " * 90, "Seattle"))
    text: Any = SimpleNamespace(name="a text", texts=lambda: iter(["Paris is the capital of France. " * 9] * 3))
    source, about = prepare(model, file, text, pieces=2)
    assert isinstance(source, RecordExamples)
    assert [own.request.subject for own in source.records] == ["Paris"]
    assert len(source.pieces) == 2
    assert (about["name"], about["left_out"], about["unusable"], about["text"]) == ("own", 0, 1, "a text")
    assert len(caplog.records) == len(SETS), "of every set that is not here it is said that it was not checked"
    short: Any = SimpleNamespace(name="a text", texts=lambda: iter(["Paris."] * 3))
    with pytest.raises(DataError, match="The text holds 0 pieces of 24 tokens; give text with at least two"):
        prepare(model, file, short, pieces=2)
    general, about = prepare(model, "general", text, pieces=3)
    assert isinstance(general, Pieces)
    assert (len(general.pieces), about) == (3, {"name": "general", "text": "a text"})


def test_what_can_be_evaluated_is_refused_by_its_ids_in_the_users_file() -> None:
    mine = [record(str(n), f"s{n}") for n in range(30)]
    theirs = [record("x", f"s{n}") for n in (7, 3)]
    assert [own.case_id for own in overlapping(mine, theirs, same_ids=False)] == ["3", "7"]
    assert overlapping(mine, [], same_ids=True) == ()
    assert [own.case_id for own in overlapping(mine, [record("5", "nobody")], same_ids=True)] == ["5"]
    assert overlapping(mine, [record("5", "nobody")], same_ids=False) == (), "ids of two sets say nothing"
    with pytest.raises(
        DataError, match=r"^2 of the 30 records to train on can be evaluated \(zsre\): 3, 7\. Take them"
    ):
        refuse_overlap(mine, theirs, name="zsre", same_ids=False)
    with pytest.raises(DataError, match=r"30 of the 30 records .* and \d+ more\. Take them out"):
        refuse_overlap(mine, mine, name="zsre", same_ids=True)


# -- settings and the folder -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [("steps", 0), ("batch", 0), ("blocks", 0), ("learning_rate", 0.0), ("clip", -1.0), ("patience", 0),
     ("diverged", 1.0), ("c_edit", -0.1), ("validation", 0), ("rates", 1.0)],
)  # fmt: skip
def test_settings_that_train_nothing_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValidationError, match=name):
        TrainSettings(**{name: value})


def test_a_folder_that_holds_something_else_is_refused(tmp_path: Path) -> None:
    wanted: Any = SimpleNamespace()
    assert read_if_any(tmp_path / "new", wanted) is None
    assert read_if_any(tmp_path, wanted) is None, "an empty folder is a place for it"
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="exists and holds no training; name another folder"):
        read_if_any(tmp_path, wanted)
    with pytest.raises(UsageError, match=r"notes\.txt is a file; name a folder for the training"):
        read_if_any(tmp_path / "notes.txt", wanted)
    assert (tmp_path / "notes.txt").read_text() == "mine"
