from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from factedit.data.requests import read_request_records
from factedit.errors import DataError
from factedit.facts import EditRequest

FIRST = {"subject": "Old Mill", "prompt": "{} lies in", "target_new": "Bergen"}
SECOND = {**FIRST, "subject": "New Mill", "target_true": "Turku"}
EXPECTED = [
    EditRequest(subject="Old Mill", prompt="{} lies in", target_new="Bergen"),
    EditRequest(subject="New Mill", prompt="{} lies in", target_new="Bergen", target_true="Turku"),
]


def requests_of(path: Path) -> list[EditRequest]:
    return [record.request for record in read_request_records(path).records]


def test_lines_and_a_list_give_the_requests_in_order(tmp_path: Path) -> None:
    lines = tmp_path / "f.jsonl"
    lines.write_text(json.dumps(FIRST) + "\n" + json.dumps(SECOND) + "\n")
    packed = tmp_path / "f.json.gz"
    packed.write_bytes(gzip.compress(json.dumps([FIRST, SECOND]).encode()))
    assert requests_of(lines) == requests_of(packed) == EXPECTED


def test_as_records_they_are_numbered_and_have_no_test_prompts(tmp_path: Path) -> None:
    path = tmp_path / "f.jsonl"
    path.write_text(json.dumps(FIRST) + "\n\n" + json.dumps({**SECOND, "target_true": None}) + "\n")
    found = read_request_records(path)
    assert found.name == "requests"
    assert [record.case_id for record in found.records] == ["0", "1"]
    assert found.records[1].request.target_true is None
    assert all(record.paraphrases == record.neighborhood == () for record in found.records)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"target_tru": "Turku"},
            "unknown field 'target_tru' beside subject, prompt, target_new, target_true; did you mean",
        ),
        ({"locality": []}, "unknown field 'locality'"),
        ({"locality": []}, "a set with test prompts is written in CounterFact's format"),
        ({"prompt": "Old Mill lies in"}, "holds 0 '{}'"),
        ({"prompt": "{} lies in {}"}, "holds 2 '{}'"),
        ({"target_new": ""}, "'target_new' is empty"),
        ({"target_new": None}, "'target_new' must be text, not null"),
        ({"target_true": 4}, "'target_true' must be text, not a number"),
        ({"subject": " "}, "'subject' is empty"),
    ],
)
def test_a_fact_that_cannot_be_understood_is_named_with_its_line(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    path = tmp_path / "f.jsonl"
    path.write_text(json.dumps(FIRST) + "\n" + json.dumps({**FIRST, **change}) + "\n")
    with pytest.raises(DataError) as caught:
        read_request_records(path)
    assert str(caught.value).startswith(f"{path}, line 2: ")
    assert message in str(caught.value)


@pytest.mark.parametrize("field", ["subject", "prompt", "target_new"])
def test_a_missing_field_is_named(tmp_path: Path, field: str) -> None:
    path = tmp_path / "f.jsonl"
    path.write_text(json.dumps({key: value for key, value in FIRST.items() if key != field}))
    with pytest.raises(DataError, match=f"line 1: the field '{field}' is missing"):
        read_request_records(path)


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "f.jsonl").write_text("")
    with pytest.raises(DataError, match="holds no record"):
        read_request_records(tmp_path / "f.jsonl")
