from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from factedit.cache import sha256_file
from factedit.data import lines
from factedit.data.records import Row, read_records, read_set
from factedit.errors import DataError
from factedit.facts import KnownFact

RECORDS = [{"a": 1}, {"b": "Zürich"}, {"c": [{"d": None}]}]


def put(path: Path, content: str | bytes) -> Path:
    raw = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return path


def fails(path: Path, *words: str) -> None:
    with pytest.raises(DataError) as caught:
        list(read_records(path))
    assert str(path) in str(caught.value)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("end", ["", ".gz"])
def test_a_list_and_lines_give_the_same_records_and_where_they_begin(tmp_path: Path, end: str) -> None:
    listed = put(tmp_path / f"a.json{end}", "\n[" + ",\n\n".join(map(json.dumps, RECORDS)) + "\n]\n")
    lines = put(tmp_path / f"a.jsonl{end}", "\n".join(map(json.dumps, RECORDS)) + "\n\n")
    assert list(read_records(listed)) == [(2, RECORDS[0]), (4, RECORDS[1]), (6, RECORDS[2])]
    assert list(read_records(lines)) == list(enumerate(RECORDS, 1))


def test_records_that_take_several_lines_or_share_one(tmp_path: Path) -> None:
    path = put(tmp_path / "a.json", '[{"a":\n 1}, {"b": 2},\n{"c": 3}]')
    assert list(read_records(path)) == [(1, {"a": 1}), (2, {"b": 2}), (3, {"c": 3})]


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_a_byte_order_mark_and_windows_line_ends_are_read(tmp_path: Path, name: str) -> None:
    text = '[{"a": "é"}]' if name == "a.json" else '{"a": "é"}\r\n\r\n'
    assert list(read_records(put(tmp_path / name, b"\xef\xbb\xbf" + text.encode()))) == [(1, {"a": "é"})]


def test_nothing_in_a_file_is_no_record(tmp_path: Path) -> None:
    assert list(read_records(put(tmp_path / "a.json", " [ ]\n"))) == []
    assert list(read_records(put(tmp_path / "a.jsonl", "\n"))) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"a": 1}\n{"a": 2', ("line 2", "not JSON", "cut short")),
        ('{"a": 1}\n\n\x00\x01', ("line 3", "not JSON")),
        ('{"a": 1}\n[1]\n', ("line 2", "an object, not a list")),
        ('{"a": 1}\n{"b": 2} {"c": 3}', ("line 2", "not JSON")),
        ("null\n", ("line 1", "an object, not null")),
        ('{"a": ' + "9" * 5000 + "}", ("line 1", "not JSON")),
        ('{"a": ' + "[" * 200_000 + "}", ("line 1", "not JSON")),
        ('{"a": 1}\n{"b": {"é": 1, "c": 2, "é": 1}}', ("line 2", "the key 'é' stands twice in one object")),
    ],
)
def test_a_line_that_is_no_object_is_named(tmp_path: Path, text: str, words: tuple[str, ...]) -> None:
    fails(put(tmp_path / "a.jsonl", text), *words)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ("does not hold a JSON list",)),
        ('{"a": 1}\n{"a": 2}\n', ("does not hold a JSON list", "call it .jsonl")),
        ("[", ("line 1", "not JSON")),
        ('[\n{"a": 1},\n{"a": "', ("line 3", "not JSON", "cut short")),
        ('[\n{"a": 1},\n{"a": 2}\n', ("line 4", "a comma or the end of the list is missing")),
        ('[\n{"a": 1}\n{"a": 2}]', ("line 3", "a comma or the end")),
        ('[{"a": 1},\n]', ("line 2", "not JSON")),
        ('[{"a": 1, "a": 1}]', ("line 1", "the key 'a' stands twice in one object")),
        ('[{"a": 1},\n"text"]', ("line 2", "an object, not text")),
        ('[{"a": 1}]\n[]', ("something follows the end of the list",)),
        ("[" * 200_000, ("line 1", "not JSON")),
    ],
)
def test_a_broken_list_is_named_with_its_line(tmp_path: Path, text: str, words: tuple[str, ...]) -> None:
    fails(put(tmp_path / "a.json", text), *words)


@pytest.mark.parametrize(
    ("name", "raw"), [("a.json", b'[{"a": 1},\n{"a": "\xff"}]'), ("a.jsonl", b'{"a": 1}\n{"a": "\xff"}\n')]
)
def test_bytes_that_are_not_utf8_are_named_with_their_line(tmp_path: Path, name: str, raw: bytes) -> None:
    fails(put(tmp_path / name, raw), "line 2: not UTF-8 text (invalid start byte at byte 7)")


@pytest.mark.parametrize(("name", "joint"), [("a.json.gz", ",\n"), ("a.jsonl.gz", "\n")])
def test_a_gzip_cut_short_is_named_with_its_line(tmp_path: Path, name: str, joint: str) -> None:
    lines = [json.dumps({"n": n, "noise": f"{n * 7919 % 10007:x}" * 20}) for n in range(2000)]
    raw = gzip.compress(joint.join(["[" + lines[0], *lines[1:]] if joint == ",\n" else lines).encode())
    (tmp_path / name).write_bytes(raw[: len(raw) // 2])
    with pytest.raises(DataError, match=r"line \d+: the gzip stream is broken .* download it") as caught:
        list(read_records(tmp_path / name))
    line = int(str(caught.value).split("line ")[1].split(":")[0])
    assert 100 < line < 1900  # somewhere inside, not at its begin or end


def test_a_gzip_that_is_none_or_damaged(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.gz").write_text('{"a": 1}\n')
    fails(tmp_path / "a.jsonl.gz", "line 1", "the gzip stream is broken")
    raw = bytearray(gzip.compress(b'{"a": 1}\n' * 50))
    raw[-5] ^= 0xFF  # the checksum at its end
    (tmp_path / "b.jsonl.gz").write_bytes(raw)
    fails(tmp_path / "b.jsonl.gz", "the gzip stream is broken")


def test_other_files_are_refused(tmp_path: Path) -> None:
    fails(tmp_path / "gone.json", "no such file")
    fails(put(tmp_path / "a.xlsx", "a,b"), "not a kind of file", ".jsonl.gz")
    (tmp_path / "folder.json").mkdir()
    fails(tmp_path / "folder.json", "cannot be read")


def row(**fields: Any) -> Row:
    return Row("f.jsonl, line 7", fields)


def test_fields_are_given_as_they_are() -> None:
    found = row(text="a ", list=["b", "c"], inside={"deep": {"id": 4}}, none=None, empty="")
    assert found.text("text") == "a "
    assert found.texts("list") == ("b", "c")
    assert found.row("inside").row("deep").name("id") == "4"
    assert found.optional_text("none") is None
    assert found.optional_text("absent") is None
    assert found.texts("none", optional=True) == found.texts("absent", optional=True) == ()
    assert found.text("empty", empty=True) == ""


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (
            lambda r: r.text("absent"),
            "the field 'absent' is missing; found 'number', 'flag', 'list', 'in', 'blank', 'half'.",
        ),
        (lambda r: r.text("number"), "the field 'number' must be text, not a number."),
        (lambda r: r.optional_text("number"), "the field 'number' must be text, not a number."),
        (lambda r: r.name("flag"), "the field 'flag' must be text or a number, not true or false."),
        (lambda r: r.texts("number"), "the field 'number' must be a list, not a number."),
        (lambda r: r.texts("list"), "the field 'list[1]' must be text, not null."),
        (lambda r: r.row("list"), "the field 'list' must be an object, not a list."),
        (lambda r: r.row("in").text("x"), "the field 'in.x' is missing; found nothing."),
        (lambda r: r.row("in").texts("x"), "the field 'in.x' is missing; found nothing."),
        (lambda r: r.text("blank"), "the field 'blank' is empty."),
        (lambda r: r.text("half"), "the field 'half' holds half a character (a lone surrogate)."),
        (lambda r: r.texts("absent"), "the field 'absent' is missing; found 'number'"),
    ],
)
def test_a_field_that_is_missing_or_of_another_kind_is_named(ask: Any, message: str) -> None:
    with pytest.raises(DataError) as caught:
        ask(row(number=3, flag=True, list=["a", None], **{"in": {}}, blank=" \n", half="\ud83d"))
    assert str(caught.value).startswith(f"f.jsonl, line 7: {message}")


def fact(number: int, found: Row) -> KnownFact | None:
    subject = found.text("s")
    return (
        "it is to be skipped"
        if subject == "skip"
        else KnownFact(fact_id=found.name("id"), prompt="Rome is", subject=subject, answer="a")
    )


def test_a_set_keeps_order_counts_the_skipped_and_knows_its_file(tmp_path: Path) -> None:
    path = put(tmp_path / "a.jsonl", '{"id": 2, "s": "Rome"}\n{"id": 3, "s": "skip"}\n{"id": 1, "s": "is"}\n')
    found = read_set(path, "facts", fact)
    assert [one.fact_id for one in found.records] == ["2", "1"]
    assert (found.name, found.skipped, found.source, found.sha256) == (
        "facts",
        1,
        str(path),
        sha256_file(path),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"id": 1, "s": "Rome"}\n{"id": 1, "s": "is"}\n', "line 2: the id '1' is that of line 1 too"),
        ('{"id": 1, "s": "Rome"}\n{"id": 2, "s": "Oslo"}\n', "line 2: The subject 'Oslo' does not occur"),
        ('{"id": 1, "s": "skip"}\n', "holds no record that can be used (it is to be skipped: 1)"),
        ("", "holds no record that can be used (it is empty)"),
    ],
)
def test_a_set_that_cannot_be_used_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError) as caught:
        read_set(put(tmp_path / "a.jsonl", text), "facts", fact)
    assert message in str(caught.value)


def test_two_records_with_one_id_on_one_line_are_refused_too(tmp_path: Path) -> None:
    path = put(tmp_path / "a.json", '[{"id": 1, "s": "Rome"}, {"id": 1, "s": "is"}]')
    with pytest.raises(DataError, match="the id '1' is that of line 1 too"):
        read_set(path, "facts", fact)


@pytest.mark.parametrize("name", ["a.json.gz", "a.jsonl.gz"])
def test_a_gzip_bomb_is_refused_before_it_is_unpacked(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "UNPACKED", 1 << 16)
    monkeypatch.setattr(lines, "PIECE", 1 << 12)
    (tmp_path / name).write_bytes(gzip.compress(b"[" + b" " * (1 << 22), mtime=0))
    with pytest.raises(DataError, match="unpacks to more than 200 times its size"):
        list(read_records(tmp_path / name))
