"""The field's other files: EasyEdit's and KnowEdit's lists, TransformerLens's facts, tables of cells."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from factedit.data.registry import load_facts
from factedit.errors import DataError
from factedit.facts import EditRequest, FactRecord

EASY = {
    "subject": "Reedy Glacier", "prompt": "Reedy Glacier is in", "target_new": "Asia", "ground_truth": "Antarctica",
    "rephrase_prompt": "Reedy Glacier is located in the continent", "locality_prompt": "Mount Erebus, in",
    "locality_ground_truth": "Antarctica",
}  # fmt: skip
KNOW = {
    "subject": "Leonardo DiCaprio", "prompt": "The country of citizenship of Leonardo DiCaprio is",
    "target_new": "Syria", "ground_truth": "United States of America", "portability": {"Reasoning": []},
    "locality": {"Forgetfulness": []},
}  # fmt: skip
LENS = {
    "relation": "The mother tongue of {} is", "relation_prefix": "The mother tongue of", "relation_suffix": " is",
    "prompt": "The mother tongue of Danielle Darrieux is", "relation_id": "P103", "target_true": " French",
    "target_false": " English", "target_true_id": " French", "subject": "Danielle Darrieux",
}  # fmt: skip


def only(path: Path, *rows: dict[str, Any]) -> list[FactRecord]:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return list(load_facts(path).records)


def test_an_easyedit_list(tmp_path: Path) -> None:
    [record] = only(tmp_path / "e.jsonl", EASY)
    request = EditRequest(subject="Reedy Glacier", prompt="{} is in", target_new="Asia", target_true="Antarctica")
    assert record == FactRecord(
        case_id="0", request=request, paraphrases=("Reedy Glacier is located in the continent",),
        neighborhood=("Mount Erebus, in",), loc_answer="Antarctica",
    )  # fmt: skip
    assert load_facts(tmp_path / "e.jsonl").benchmark == "zsre"


def test_a_knowedit_list_and_records_that_cannot_be_edited(tmp_path: Path) -> None:
    elsewhere = KNOW | {"subject": "Nobody"}
    records = only(tmp_path / "k.jsonl", KNOW, elsewhere, KNOW | {"ground_truth": [["Italy", "Italia"]]})
    assert [record.case_id for record in records] == ["0", "2"]
    assert [record.request.target_true for record in records] == ["United States of America", "Italy"]
    assert records[0].request.prompt == "The country of citizenship of {} is"
    assert load_facts(tmp_path / "k.jsonl").skipped == 1


def test_questions_of_other_names(tmp_path: Path) -> None:
    row = {
        "prompt": "who has the most points?",
        "target": "Wilt",
        "subject": "the most points",
        "rephrase": "Who leads?",
    }
    [record] = only(tmp_path / "q.jsonl", row)
    assert (record.request.text, record.request.target_new) == ("who has the most points?", "Wilt")
    assert record.paraphrases == ("Who leads?",)


def test_fields_of_an_easyedit_list_that_are_empty_are_lacking(tmp_path: Path) -> None:
    bare = dict.fromkeys(EASY, "") | {name: EASY[name] for name in ("subject", "prompt", "target_new")}
    for empty in (bare, {name: value or None for name, value in bare.items()}):
        [record] = only(tmp_path / "e.jsonl", empty)
        request = EditRequest(subject="Reedy Glacier", prompt="{} is in", target_new="Asia")
        assert record == FactRecord(case_id="0", request=request)


@pytest.mark.parametrize("mark", [",", ";", "\t", ", ", "; "])
def test_tables_as_spreadsheets_of_all_countries_write_them(tmp_path: Path, mark: str) -> None:
    rows = [["subject", "prompt", "target_new"], ["Paris", "{} is in", "Spain"], ["Rome", '"{}, there; is in"', "Peru"]]
    (tmp_path / "f.csv").write_text("\ufeff" + "".join(mark.join(row) + "\r\n" for row in rows), "utf-8")
    assert [record.request for record in load_facts(tmp_path / "f.csv").records] == [
        EditRequest(subject="Paris", prompt="{} is in", target_new="Spain"),
        EditRequest(subject="Rome", prompt="{}, there; is in", target_new="Peru"),
    ]


@pytest.mark.parametrize("field", ["subject", "prompt", "target_new"])
@pytest.mark.parametrize("nothing", ["\u200b", "\ufeff ", "\u2060\u200e", "\x00"])
def test_a_field_that_shows_nothing_is_empty(tmp_path: Path, field: str, nothing: str) -> None:
    row = {"subject": "Paris", "prompt": "{} is in", "target_new": "Spain"}
    with pytest.raises(DataError, match=f"the field '{field}' is empty"):
        only(tmp_path / "r.jsonl", row | {field: nothing})


def test_facts_of_transformer_lens(tmp_path: Path) -> None:
    [record] = only(tmp_path / "t.jsonl", LENS)
    prompt = "The mother tongue of {} is"
    wanted = EditRequest(subject="Danielle Darrieux", prompt=prompt, target_new="English", target_true="French")
    assert record.request == wanted
    assert record.relation_id == "P103"


def test_tables_of_cells(tmp_path: Path) -> None:
    path = tmp_path / "f.csv"
    path.write_text(
        'subject,prompt,target_new,target_true\nParis,"{}, the city, is in",Spain,\nRome,{} is in,Peru,Italy\n'
    )
    first, second = load_facts(path).records
    assert first.request == EditRequest(subject="Paris", prompt="{}, the city, is in", target_new="Spain")
    assert second.request.target_true == "Italy"
    path.write_text("subject,prompt,target\nParis,Paris is in,Spain\n")
    [record] = load_facts(path).records
    assert (record.request.prompt, record.request.target_new) == ("{} is in", "Spain")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("subject,prompt,target_new\na,{} is,b,c\n", "line 2: 4 cells under 3 columns"),
        ("subject,subject\n1,2\n", "line 1: the columns"),
        ('subject,prompt,target_new\n"a,{} is,b\n', "not CSV"),
        ("subject,prompt,target_new\n", "holds no records"),
    ],
)
def test_broken_tables_are_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "f.csv").write_text(text)
    with pytest.raises(DataError, match=said):
        load_facts(tmp_path / "f.csv")


def test_a_misspelt_field_of_requests_is_still_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="did you mean 'target_true'"):
        only(tmp_path / "r.jsonl", {"subject": "Paris", "prompt": "{} is in", "target_new": "Spain", "target_tru": "x"})


def test_the_first_of_a_list_of_other_questions_is_the_neighbour(tmp_path: Path) -> None:
    row = {"subject": "Paris", "prompt": "where is Paris?", "target": "Rome"}
    listed = [{"loc": "who sang?", "loc_ans": "Ann"}, {"loc": "when?", "loc_ans": "1994"}]
    [record] = only(tmp_path / "q.jsonl", row | {"locality": listed})
    assert record.answered_neighbor == ("who sang?", "Ann")


@pytest.mark.data
def test_the_sets_of_written_answers(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACTEDIT_DATA", str(data_dir))
    for name, count in {"counterfact-flat": 2684, "wikibigedit": 2700, "qaedit": 900}.items():
        data = load_facts(name)
        assert len(data.records) + data.skipped == count
        assert all(record.answered_neighbor for record in data.records)
