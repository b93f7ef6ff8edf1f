"""Users' files at the edges: tables, ids, half characters, formats that nobody can tell apart, panels."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from factedit.data.formats import FORMATS, format_of
from factedit.data.known_facts import read_own_facts
from factedit.data.lines import PIECE, read_lines
from factedit.data.panel import read_panel
from factedit.data.records import Row, read_records
from factedit.data.requests import read_request_records
from factedit.errors import DataError


def lines(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


# -- lines and tables ------------------------------------------------------------------------------


def test_lines_are_numbered_and_whole_whatever_their_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert PIECE > 1 << 20
    monkeypatch.setattr("factedit.data.lines.PIECE", 3)
    (tmp_path / "a.txt").write_bytes("\ufeffab東京\n\nlast".encode())
    assert list(read_lines(tmp_path / "a.txt")) == [(1, "ab東京\n"), (2, "\n"), (3, "last")]
    (tmp_path / "a.gz").write_bytes(gzip.compress(b"x\ny\n"))
    assert list(read_lines(tmp_path / "a.gz")) == [(1, "x\n"), (2, "y\n")]


def test_cells_of_a_table_are_fields_and_empty_ones_are_none(tmp_path: Path) -> None:
    path = tmp_path / "f.csv"
    path.write_text('subject, prompt ,target_new\n"Paris, TX","{} is\nin",Rome\n,,\nLyon,{} is,\n', encoding="utf-8")
    found = list(read_records(path))
    assert [row for _, row in found] == [
        {"subject": "Paris, TX", "prompt": "{} is\nin", "target_new": "Rome"}, {"subject": "Lyon", "prompt": "{} is"},
    ]  # fmt: skip
    assert [line for line, _ in found] == [3, 5]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a,a\n1,2\n", "no name twice"),
        ("a,\n1,2\n", "need a name each"),
        ("a,b\n1,2,3\n", "line 2: 3 cells under 2"),
        ('a,b\n"x,2\n', "not CSV"),
    ],
)
def test_tables_that_are_none(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "f.csv").write_text(text)
    with pytest.raises(DataError, match=said):
        list(read_records(tmp_path / "f.csv"))


# -- fields ----------------------------------------------------------------------------------------


def test_ids_are_text_or_whole_numbers_and_zero_is_one() -> None:
    for value, name in ((0, "0"), (-7, "-7"), ("a b", "a b"), (10**30, str(10**30))):
        assert Row("f", {"id": value}).name("id") == name
    for value, said in ((True, "true or false"), (1.0, "a number"), (None, "null"), ([], "a list"), ({}, "an object")):
        with pytest.raises(DataError, match=f"f: the field 'id' must be text or a number, not {said}"):
            Row("f", {"id": value}).name("id")


@pytest.mark.parametrize("half", [0xD800, 0xDFFF, 0xD83D])
def test_half_a_character_is_no_text(half: int) -> None:
    text = f"a{chr(half)}b"
    for ask in (Row("f", {"t": text}).text, Row("f", {"t": text}).optional_text):
        with pytest.raises(DataError, match="the field 't' holds half a character"):
            ask("t")
    with pytest.raises(DataError, match=r"the field 'a\.t\[1\]' holds half a character"):
        Row("f", {"a": {"t": ["x", text]}}).row("a").texts("t")


def test_two_requests_with_the_same_words_are_two_and_a_misspelt_field_is_named(tmp_path: Path) -> None:
    fact = {"subject": "Paris", "prompt": "{} is in", "target_new": "Rome"}
    found = read_request_records(lines(tmp_path / "r.jsonl", fact, fact))
    assert [record.case_id for record in found.records] == ["0", "1"]
    with pytest.raises(DataError, match=r"line 2: unknown field 'target_neww'.*did you mean 'target_new'\?"):
        read_request_records(lines(tmp_path / "r.jsonl", fact, {**fact, "target_neww": "x"}))


# -- formats ---------------------------------------------------------------------------------------


def test_every_format_has_a_name_a_reader_and_fields_of_its_own() -> None:
    assert len({form.name for form in FORMATS}) == len(FORMATS)
    for form in FORMATS:
        assert form.fields
        assert not form.fits({})
        assert not form.fits({"something": "else"})


@pytest.mark.parametrize("fields", [{}, {"x": 1}, {"subject": "s"}, {"subject": "s", "prompt": "{} is"}])
def test_fields_that_tell_no_format_are_listed_with_those_that_would(fields: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(DataError) as found:
        format_of(lines(tmp_path / "f.jsonl", fields))
    said = str(found.value)
    assert "line 1: the fields" in said
    assert all(name in said for name in (*fields, *(form.name for form in FORMATS)))


def test_facts_to_trace_have_an_other_subject_all_or_none(tmp_path: Path) -> None:
    one, two = {"prompt": "Paris is", "subject": "Paris"}, {"prompt": "Lyon is", "subject": "Lyon"}
    found = read_own_facts(lines(tmp_path / "f.jsonl", one, {**two, "known_id": 7}))
    assert [(fact.fact_id, fact.answer, fact.other_subject) for fact in found.records] == [("0", "", ""), ("7", "", "")]
    with pytest.raises(DataError, match="some facts have an 'other_subject' and some have none"):
        read_own_facts(lines(tmp_path / "f.jsonl", one, {**two, "other_subject": "Rome"}))


# -- panels ----------------------------------------------------------------------------------------


def test_a_panel_has_prompts_with_or_without_a_place_and_its_ids_are_numbers_in_the_file(tmp_path: Path) -> None:
    rows = (
        {"prompt": "{} is in", "subject": "Paris", "target": "France"},
        {"prompt": "It is in", "subject": "Paris", "target": "France"},  # its subject does not stand there
        {"prompt": "In Paris they speak", "subject": "Paris", "attribute": "French"},
        {"prompt": "{} and {}", "subject": "Paris", "target": "x"},
    )
    found = read_panel(lines(tmp_path / "p.jsonl", *rows))
    assert [(fact.fact_id, fact.prompt, fact.answer) for fact in found.records[:2]] == [
        ("0", "Paris is in", "France"), ("2", "In Paris they speak", "French"),
    ]  # fmt: skip
    assert found.skipped == 2
    assert found.note_on_skipped() == (
        "2 of 4 records of panel cannot be used and are left out "
        "(the subject does not stand in the prompt: 1; its prompt holds several {}: 1)"
    )


@pytest.mark.parametrize(
    ("row", "said"),
    [({"prompt": "{} is", "subject": "Paris"}, "the field 'attribute' is missing"),
     ({"prompt": "{} is", "subject": " ", "target": "x"}, "the field 'subject' is empty"),
     ({"prompt": 3, "subject": "Paris", "target": "x"}, "the field 'prompt' must be text")],
)  # fmt: skip
def test_a_panel_that_lacks_something_is_named_with_its_line(row: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"line 1: {said}"):
        read_panel(lines(tmp_path / "p.jsonl", row))
