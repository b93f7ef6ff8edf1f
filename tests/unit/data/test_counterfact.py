from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from factedit.data.counterfact import read_counterfact
from factedit.errors import DataError
from factedit.facts import EditRequest, FactRecord

RECORD: dict[str, Any] = {
    "case_id": 12,
    "pararel_idx": 5,
    "requested_rewrite": {
        "prompt": "{} lies in",
        "relation_id": "P131",
        "target_new": {"str": "Bergen", "id": "Q1"},
        "target_true": {"str": "Turku", "id": "Q2"},
        "subject": "The Old Mill",
    },
    "paraphrase_prompts": ["Rain fell. The Old Mill is found in", "Where is The Old Mill? In"],
    "neighborhood_prompts": ["The New Mill lies in"],
    "attribute_prompts": ["The Fish Market lies in"],
    "generation_prompts": ["The Old Mill is near", "The Old Mill is near"],
}


def write(folder: Path, *records: dict[str, Any]) -> Path:
    path = folder / "counterfact.json"
    path.write_text(json.dumps(records))
    return path


def test_every_field_finds_its_place(tmp_path: Path) -> None:
    found = read_counterfact(write(tmp_path, RECORD))
    assert found.name == "counterfact"
    assert found.records == (
        FactRecord(
            case_id="12",
            request=EditRequest(subject="The Old Mill", prompt="{} lies in", target_new="Bergen", target_true="Turku"),
            paraphrases=("Rain fell. The Old Mill is found in", "Where is The Old Mill? In"),
            neighborhood=("The New Mill lies in",),
            attribute=("The Fish Market lies in",),
            generation=("The Old Mill is near", "The Old Mill is near"),
            relation_id="P131",
        ),
    )


def test_attribute_and_generation_prompts_and_the_relation_may_be_absent(tmp_path: Path) -> None:
    record = copy.deepcopy(RECORD)
    del record["attribute_prompts"], record["generation_prompts"], record["requested_rewrite"]["relation_id"]
    (found,) = read_counterfact(write(tmp_path, record)).records
    assert (found.attribute, found.generation, found.relation_id) == ((), (), None)


@pytest.mark.parametrize("absent", [{}, {"target_true": None}])
def test_the_true_object_may_be_absent(tmp_path: Path, absent: dict[str, None]) -> None:
    record = copy.deepcopy(RECORD)
    del record["requested_rewrite"]["target_true"]
    record["requested_rewrite"].update(absent)
    (found,) = read_counterfact(write(tmp_path, record)).records
    assert found.request == EditRequest(subject="The Old Mill", prompt="{} lies in", target_new="Bergen")
    assert found.neighborhood == ("The New Mill lies in",)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("case_id",), None, "'case_id' must be text or a number, not null"),
        (("requested_rewrite",), [], "'requested_rewrite' must be an object, not a list"),
        (("requested_rewrite", "subject"), 4, "'requested_rewrite.subject' must be text"),
        (
            ("requested_rewrite", "target_new"),
            "Bergen",
            "'requested_rewrite.target_new' must be an object, not text",
        ),
        (("requested_rewrite", "target_true", "str"), "", "'requested_rewrite.target_true.str' is empty"),
        (("requested_rewrite", "prompt"), "It lies in", "holds 0 '{}'"),
        (("paraphrase_prompts",), "one", "'paraphrase_prompts' must be a list, not text"),
        (
            ("neighborhood_prompts",),
            [{"prompt": "x"}],
            "'neighborhood_prompts[0]' must be text, not an object",
        ),
        (("generation_prompts",), [""], "'generation_prompts[0]' is empty"),
    ],
)
def test_a_field_of_the_wrong_kind_is_named_with_its_line(
    tmp_path: Path, path: tuple[str, ...], value: Any, message: str
) -> None:
    record = copy.deepcopy(RECORD)
    inner = record
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    file = write(tmp_path, record)
    with pytest.raises(DataError) as caught:
        read_counterfact(file)
    assert str(caught.value).startswith(f"{file}, line 1: ")
    assert message in str(caught.value)


@pytest.mark.parametrize("field", ["case_id", "requested_rewrite", "paraphrase_prompts", "neighborhood_prompts"])
def test_a_missing_field_is_named(tmp_path: Path, field: str) -> None:
    record = {key: value for key, value in RECORD.items() if key != field}
    with pytest.raises(DataError, match=f"the field '{field}' is missing"):
        read_counterfact(write(tmp_path, record))


@pytest.mark.data
def test_the_original_records(data_dir: Path) -> None:
    path = data_dir / "counterfact" / "counterfact_original.json"
    if not path.is_file():
        pytest.skip(f"{path.name} is not in the data folder")
    found = read_counterfact(path)
    assert (len(found.records), found.skipped) == (404, 0)
    assert {len(record.paraphrases) for record in found.records} == {2}
    assert {len(record.neighborhood) for record in found.records} == {10}
    assert all(record.request.target_true and record.relation_id for record in found.records)
    raw = {str(record["case_id"]): record for record in json.loads(path.read_text())}
    for record in found.records:
        rewrite = raw[record.case_id]["requested_rewrite"]
        assert record.request.text == rewrite["prompt"].format(rewrite["subject"])
        assert record.request.target_new == rewrite["target_new"]["str"]


@pytest.mark.data
def test_the_reconstructed_records_hold_the_originals(data_dir: Path) -> None:
    path = data_dir / "counterfact" / "counterfact_reconstructed.jsonl.gz"
    if not path.is_file():
        pytest.skip(f"{path.name} is not in the data folder")
    many = {record.case_id: record for record in read_counterfact(path, "counterfact-reconstructed").records}
    assert len(many) == 21823
    for record in read_counterfact(path.with_name("counterfact_original.json")).records:
        assert many[record.case_id] == record
