"""Records from files: a JSON list or a JSON object a line, plain or gzipped, with errors that name the line.

Kinds of file, told by the name: `.json` (a list of objects), `.jsonl` (an object a line, empty lines are
passed over), and either followed by `.gz`. Text is UTF-8, with or without a byte order mark.
"""

from __future__ import annotations

import csv
import difflib
import json
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Generic, TypeVar

from factedit.cache import sha256_file
from factedit.data.lines import read_lines, read_text
from factedit.errors import DataError, RequestError
from factedit.facts import FactRecord, KnownFact
from factedit.safe import parse_json, without_repeats
from factedit.text import is_blank, is_unicode

RECORD_FILES = (".json", ".jsonl", ".json.gz", ".jsonl.gz", ".csv", ".csv.gz")
OUTSIDE = "the subject does not stand in the prompt"
logger = logging.getLogger("factedit")
Record = TypeVar("Record", FactRecord, KnownFact)

_SPACE = re.compile(r"[ \t\r\n]*")
_WORDS = {
    str: "text",
    **dict.fromkeys((int, float), "a number"),
    bool: "true or false",
    list: "a list",
    dict: "an object",
    type(None): "null",
}


@dataclass(frozen=True)
class RecordSet(Generic[Record]):
    """A data set, read.

    Attributes:
        name: the registry's name, or the file's.
        records: in the order of the file, each with an id of its own.
        skipped: how many records of the file cannot be used and were left out.
        reasons: why, each with how many.
        source: the file read, or where else the records come from.
        sha256: of the file as it lies there; for embedded records, of their content.
        benchmark: whose questions its facts are asked, a name in `evaluate/benchmarks`; empty for facts to trace.
        own: a user's file, none of whose records presets were tuned on.
    """

    name: str
    records: tuple[Record, ...]
    skipped: int
    source: str
    sha256: str
    benchmark: str = ""
    own: bool = False
    reasons: tuple[str, ...] = ()

    def note_on_skipped(self) -> str:
        """Return how many records cannot be used and why, in a sentence; nothing where all can."""
        if not self.skipped:
            return ""
        every = self.skipped + len(self.records)
        why = f" ({'; '.join(self.reasons)})" if self.reasons else ""
        return f"{self.skipped} of {every} records of {self.name} cannot be used and are left out{why}"

    def say_skipped(self) -> None:
        """Warn of records that cannot be used, where no note beside numbers tells of them."""
        if self.skipped:
            logger.warning("%s", self.note_on_skipped())


@dataclass(frozen=True)
class Row:
    """One object of a file, whose fields are asked for by name and kind.

    Attributes:
        where: file and line, for messages.
        fields: the object.
        inside: names of the objects it lies in, each followed by a dot.
    """

    where: str
    fields: Mapping[str, Any]
    inside: str = ""

    def error(self, problem: str) -> DataError:
        """Return a `DataError` that begins with file and line."""
        return DataError(f"{self.where}: {problem}")

    def check_only(self, known: Sequence[str], otherwise: str) -> None:
        """Refuse a field beside the known ones, so that a misspelt one is not passed over in silence.

        Args:
            known: names of fields.
            otherwise: what to say of a name that is like none of them.

        Raises:
            DataError: naming the field, and the known one that is most like it.
        """
        for field in self.fields:
            if field not in known:
                near = difflib.get_close_matches(field, known, n=1)
                offer = f"did you mean {near[0]!r}?" if near else f"{otherwise}."
                raise self.error(f"unknown field {field!r} beside {', '.join(known)}; {offer}")

    def value(self, field: str, *kinds: type) -> Any:
        """Return a field of one of the kinds given.

        Raises:
            DataError: it is missing or of another kind.
        """
        if field not in self.fields:
            present = ", ".join(map(repr, self.fields)) or "nothing"
            raise self.error(f"the field {self.inside + field!r} is missing; found {present}.")
        return self._of_kind(field, self.fields[field], *kinds)

    def text(self, field: str, *, empty: bool = False) -> str:
        """Return a text, refused when empty unless `empty`.

        Raises:
            DataError: it is missing, not text, or empty.
        """
        return self._text(field, self.value(field, str), empty)

    def optional_text(self, field: str) -> str | None:
        """Return a text, or None where the field is missing or null."""
        return None if self.fields.get(field) is None else self.text(field)

    def texts(self, field: str, *, optional: bool = False) -> tuple[str, ...]:
        """Return a list of texts, none of them empty; `()` where it is missing or null and `optional`.

        Raises:
            DataError: it is missing, not a list, or holds something else than text.
        """
        if optional and self.fields.get(field) is None:
            return ()
        values = enumerate(self.value(field, list))
        return tuple(self._text(f"{field}[{number}]", value, False) for number, value in values)

    def row(self, field: str) -> Row:
        """Return an object inside this one."""
        return Row(self.where, self.value(field, dict), f"{self.inside}{field}.")

    def name(self, field: str) -> str:
        """Return an id, written as text or as a whole number."""
        value = self.value(field, str, int)
        return str(value) if type(value) is int else self.text(field)

    def _of_kind(self, field: str, value: Any, *kinds: type) -> Any:
        if type(value) not in kinds:
            wanted = " or ".join(_WORDS[kind] for kind in kinds)
            raise self.error(f"the field {self.inside + field!r} must be {wanted}, not {_WORDS[type(value)]}.")
        return value

    def _text(self, field: str, value: Any, empty: bool) -> str:
        text: str = self._of_kind(field, value, str)
        if not empty and is_blank(text):
            raise self.error(f"the field {self.inside + field!r} is empty.")
        if not is_unicode(text):
            raise self.error(f"the field {self.inside + field!r} holds half a character (a lone surrogate).")
        return text


def read_set(path: Path, name: str, convert: Callable[[int, Row], Record | str]) -> RecordSet[Record]:
    """Return all records of a file.

    Args:
        path: a file of a kind in `RECORD_FILES`.
        name: what the set is called.
        convert: makes a record of a row and its number in the file (from 0), or says why it is left out.

    Raises:
        DataError: the file cannot be read, a record does not hold what it must, an id occurs twice,
            or nothing is left.
    """
    records: list[Record] = []
    lines: dict[str, int] = {}
    skipped = Counter[str]()
    for number, (line, fields) in enumerate(read_records(path)):
        row = Row(f"{path}, line {line}", fields)
        try:
            record = convert(number, row)
        except RequestError as error:
            raise row.error(str(error)) from error
        if isinstance(record, str):
            skipped[record] += 1
            continue
        key = record_id(record)
        if key in lines:
            raise row.error(f"the id {key!r} is that of line {lines[key]} too; each needs its own.")
        lines[key] = line
        records.append(record)
    reasons = tuple(f"{why}: {count}" for why, count in skipped.items())
    if not records:
        raise DataError(f"{path} holds no record that can be used ({'; '.join(reasons) or 'it is empty'}).")
    return RecordSet(name, tuple(records), skipped.total(), str(path), sha256_file(path), reasons=reasons)


def record_id(record: FactRecord | KnownFact) -> str:
    """Return the name of a record within its data set."""
    return record.case_id if isinstance(record, FactRecord) else record.fact_id


def read_records(path: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the objects of a file, each with the line it begins on (from 1).

    Raises:
        DataError: naming file and line: no such file, another kind of file, not UTF-8, not JSON,
            not a list of objects, cut short.
    """
    path = Path(path)
    if not path.name.endswith(RECORD_FILES):
        raise DataError(f"{path} is not a kind of file that records are read from: {', '.join(RECORD_FILES)}.")
    plain = path.name.removesuffix(".gz")
    if plain.endswith(".json"):
        yield from _read_list(path)
        return
    if plain.endswith(".csv"):
        yield from _read_table(path)
        return
    for line, text in read_lines(path):
        if text.strip():
            try:
                value = parse_json(text, object_pairs_hook=without_repeats)
            except ValueError as error:
                raise _not_json(path, line, error) from error
            yield line, _an_object(path, line, value)


def _read_table(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a CSV file under the names of its first line; empty cells, and spaces before a cell, are left out.

    Where the first line has no comma, semicolons or tabs part the cells.
    """
    lines = (text for _, text in read_lines(path))
    head = next(lines, "")
    mark = "," if "," in head else max(";\t,", key=head.count)  # spreadsheets of some countries write semicolons
    reader = csv.reader(chain([head], lines), strict=True, delimiter=mark, skipinitialspace=True)
    try:
        names = [name.strip() for name in next(reader, [])]
        if not all(names) or len(set(names)) < len(names):
            raise DataError(f"{path}, line 1: the columns {names} need a name each, and no name twice.")
        for cells in reader:
            if len(cells) > len(names):
                raise DataError(f"{path}, line {reader.line_num}: {len(cells)} cells under {len(names)} columns.")
            row = {name: cell for name, cell in zip(names, cells, strict=False) if cell.strip()}
            if row:
                yield reader.line_num, row
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: not CSV ({error}).") from error


def _read_list(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    text = read_text(path)
    decoder = json.JSONDecoder(object_pairs_hook=without_repeats)
    at, line = _skip(text, 0), 1
    if text[at : at + 1] != "[":
        raise DataError(f"{path} does not hold a JSON list. Is it an object a line? Then call it .jsonl.")
    counted, closed = 0, _skip(text, at + 1)
    if text[closed : closed + 1] == "]":
        at = closed
    while text[at : at + 1] != "]":
        begin = _skip(text, at + 1)
        line, counted = line + text.count("\n", counted, begin), begin
        try:
            value, at = decoder.raw_decode(text, begin)
        except (ValueError, RecursionError) as error:
            raise _not_json(path, getattr(error, "lineno", line), error) from error
        yield line, _an_object(path, line, value)
        at = _skip(text, at)
        if text[at : at + 1] not in (",", "]"):
            raise _not_json(path, text.count("\n", 0, at) + 1, "a comma or the end of the list is missing")
    if _skip(text, at + 1) != len(text):
        raise _not_json(path, text.count("\n", 0, at) + 1, "something follows the end of the list")


def _skip(text: str, at: int) -> int:
    space = _SPACE.match(text, at)
    return space.end() if space else at


def _an_object(path: Path, line: int, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DataError(f"{path}, line {line}: a record must be an object, not {_WORDS[type(value)]}.")
    return value


def _not_json(path: Path, line: int, error: Exception | str) -> DataError:
    reason = getattr(error, "msg", None) or error
    return DataError(f"{path}, line {line}: not JSON ({str(reason)[:200]}). Is the file cut short or of another kind?")
