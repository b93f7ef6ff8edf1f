from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from factedit.data.known_facts import read_known_facts
from factedit.errors import DataError
from factedit.facts import KnownFact

FACT = {
    "known_id": 3,
    "subject": "Old Mill",
    "attribute": "Turku",
    "template": "{} lies in",
    "prediction": " the middle of Turku",
    "prompt": "Old Mill lies in the middle of",
    "relation_id": "P131",
}


def write(folder: Path, change: dict[str, Any]) -> Path:
    path = folder / "known.json"
    path.write_text(json.dumps([{**FACT, **change}]))
    return path


def test_the_prompt_is_the_complete_one_and_the_answer_is_the_attribute(tmp_path: Path) -> None:
    found = read_known_facts(write(tmp_path, {}))
    assert found.name == "known-facts"
    assert found.records == (
        KnownFact(fact_id="3", prompt="Old Mill lies in the middle of", subject="Old Mill", answer="Turku"),
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"subject": "New Mill"}, "'New Mill' does not occur in the prompt"),
        ({"known_id": 1.5}, "'known_id' must be text or a number"),
        ({"attribute": ["Turku"]}, "'attribute' must be text, not a list"),
        ({"prompt": ""}, "'prompt' is empty"),
    ],
)
def test_a_fact_that_cannot_be_traced_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError) as caught:
        read_known_facts(write(tmp_path, change))
    assert "known.json, line 1: " in str(caught.value)
    assert message in str(caught.value)


@pytest.mark.parametrize("field", ["known_id", "subject", "attribute", "prompt"])
def test_a_missing_field_is_named(tmp_path: Path, field: str) -> None:
    path = tmp_path / "known.json"
    path.write_text(json.dumps([{key: value for key, value in FACT.items() if key != field}]))
    with pytest.raises(DataError, match=f"the field '{field}' is missing"):
        read_known_facts(path)


@pytest.mark.data
def test_the_published_facts(data_dir: Path) -> None:
    path = data_dir / "known_facts" / "known_facts.json"
    if not path.is_file():
        pytest.skip(f"{path.name} is not in the data folder")
    found = read_known_facts(path)
    assert (len(found.records), found.skipped) == (1000, 0)
    for fact, raw in zip(found.records, json.loads(path.read_text()), strict=True):
        assert (fact.prompt, fact.answer) == (raw["prompt"], raw["attribute"])
