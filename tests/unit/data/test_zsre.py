from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from factedit.data.zsre import read_zsre
from factedit.errors import DataError
from factedit.facts import EditRequest, FactRecord

RECORD = {
    "subject": "Old Mill",
    "src": "What town is Old Mill in?",
    "pred": "Turku",
    "rephrase": "In what town is Old Mill?",
    "alt": "Oslo",
    "answers": ["Bergen", "Bergen, Norway"],
    "loc": "nq question: who wrote the old song",
    "loc_ans": "nobody",
    "cond": "Turku >> Oslo || What town is Old Mill in?",
}


def write(folder: Path, *changes: dict[str, Any]) -> Path:
    path = folder / "zsre.json"
    path.write_text("[" + ",\n".join(json.dumps({**RECORD, **change}) for change in changes) + "]")
    return path


def test_a_record_is_read_as_the_reference_reads_it(tmp_path: Path) -> None:
    found = read_zsre(write(tmp_path, {}))
    assert (found.name, found.skipped) == ("zsre", 0)
    assert found.records == (
        FactRecord(
            case_id="0",
            request=EditRequest(subject="Old Mill", prompt="What town is {} in?", target_new="Bergen"),
            paraphrases=("In what town is Old Mill?",),
            neighborhood=("nq question: who wrote the old song?",),
            loc_answer="nobody",
        ),
    )


def test_records_that_cannot_be_used_are_counted_and_the_others_keep_their_numbers(tmp_path: Path) -> None:
    bad: list[dict[str, Any]] = [{"subject": "old mill"}, {"answers": []}, {"rephrase": " "}, {"loc_ans": ""}]
    path = write(tmp_path, bad[0], {}, *bad[1:], {"src": "Old Mill?"})
    found = read_zsre(path)
    assert [record.case_id for record in found.records] == ["1", "5"]
    assert found.skipped == 4


def test_a_subject_that_occurs_twice_gives_one_place(tmp_path: Path) -> None:
    (found,) = read_zsre(write(tmp_path, {"src": "Is Old Mill the Old Mill?"})).records
    assert found.request.prompt == "Is {} the Old Mill?"
    assert found.request.text == "Is Old Mill the Old Mill?"


def test_a_question_mark_is_not_doubled(tmp_path: Path) -> None:
    (found,) = read_zsre(write(tmp_path, {"loc": "nq question: who?"})).records
    assert found.neighborhood == ("nq question: who?",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answers": "Bergen"}, "'answers' must be a list, not text"),
        ({"answers": [7]}, "'answers[0]' must be text, not a number"),
        ({"loc": None}, "'loc' must be text, not null"),
        ({"src": "Is {} Old Mill?"}, "holds '{}'"),
    ],
)
def test_a_field_of_the_wrong_kind_is_named_with_its_line(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError) as caught:
        read_zsre(write(tmp_path, {}, change))
    assert "zsre.json, line 2: " in str(caught.value)
    assert message in str(caught.value)


@pytest.mark.parametrize("field", ["subject", "src", "rephrase", "answers", "loc", "loc_ans"])
def test_a_missing_field_is_named(tmp_path: Path, field: str) -> None:
    path = tmp_path / "zsre.json"
    path.write_text(json.dumps([{key: value for key, value in RECORD.items() if key != field}]))
    with pytest.raises(DataError, match=f"line 1: the field '{field}' is missing"):
        read_zsre(path)


@pytest.mark.data
@pytest.mark.parametrize(("name", "count"), [("zsre_mend_eval.json", 800), ("zsre_mend_train.json", 1000)])
def test_the_published_records(data_dir: Path, name: str, count: int) -> None:
    path = data_dir / "zsre" / name
    if not path.is_file():
        pytest.skip(f"{name} is not in the data folder")
    found = read_zsre(path)
    assert (len(found.records), found.skipped) == (count, 0)
    for record, raw in zip(found.records, json.loads(path.read_text()), strict=True):
        assert record.request.text == raw["src"]
        assert record.request.target_new == raw["answers"][0]
        assert record.neighborhood == (raw["loc"] + "?",)
