"""What every command shares: layers as written, JSON in and out, one model, seconds in words, tables that fit."""

from __future__ import annotations

import io
import json
import logging
import math
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.table import Table

from factedit.cli.common import LARGEST_SEED, bar, parse_layers, seed_option, which_model, write_json
from factedit.cli.console import SafeConsole, duration, keep_for_json, note, out, set_verbosity, survive_any_encoding
from factedit.cli.places import as_text, is_own_json
from factedit.cli.whole import BESIDE, KEPT_WHOLE, LONGEST_WORD, parts, width_of
from factedit.errors import ResourceError, UsageError
from factedit.text import LONGEST_RANGE, numbers_in_ranges

# -- layers, models, seeds -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "layers"),
    [("3", [3]), ("0", [0]), ("3-5", [3, 4, 5]), ("3,5,7-9", [3, 5, 7, 8, 9]), ("7-7", [7]), (" 3 , 5 ", [3, 5])],
)
def test_layers_as_they_are_written(text: str, layers: list[int]) -> None:
    assert parse_layers(text) == layers


@pytest.mark.parametrize("text", ["", "x", "3-", "-3", "3--5", "3;5", "1.5", "3,,5", "all", "3-x", "0x3", "٣", "1e2"])
def test_other_words_are_no_layers(text: str) -> None:
    with pytest.raises(UsageError, match=r"The layers .* are not written like 3, 3-8 or 3,5,7-9"):
        parse_layers(text)


@pytest.mark.parametrize("text", ["5-3", "1,5-3", "0-99999999999", f"0-{LONGEST_RANGE}", "9" * 5000])
def test_a_range_that_runs_backwards_or_beyond_all_layers_is_none(text: str) -> None:
    """Before: a range of a hundred thousand million took all memory, and one that runs backwards was left out."""
    with pytest.raises(ValueError, match="is not written like"):
        numbers_in_ranges(text)
    assert len(numbers_in_ranges(f"1-{LONGEST_RANGE}")) == LONGEST_RANGE


def test_one_model_is_named_wherever() -> None:
    assert which_model(None, None) == "gemma3-270m"
    assert which_model("a", None) == which_model(None, "a") == which_model("a", "a") == "a"
    with pytest.raises(UsageError, match="Two models are named, 'a' and 'b'"):
        which_model("a", "b")


def test_seeds_are_those_that_generators_take() -> None:
    option = seed_option("of the draw")
    assert (option.min, option.max) == (0, LARGEST_SEED)
    torch.Generator().manual_seed(LARGEST_SEED)


# -- JSON ------------------------------------------------------------------------------------------


def test_json_holds_what_it_was_given_and_null_for_what_it_cannot(tmp_path: Path) -> None:
    value = {"a": (1, 2.5), "nan": math.nan, "deep": [{"x": -math.inf}], "text": "東京\u202e\x1b"}
    write_json(tmp_path / "x.json", value)
    content = (tmp_path / "x.json").read_bytes()
    assert json.loads(content) == {"a": [1, 2.5], "nan": None, "deep": [{"x": None}], "text": "東京\u202e\x1b"}
    assert is_own_json(content)
    assert b"\x1b" not in content
    assert "\u202e".encode() not in content, "what a terminal obeys is written as JSON's own escapes"
    write_json(None, value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.json"]


def test_numbers_of_other_libraries_are_numbers(tmp_path: Path) -> None:
    import numpy as np

    found = json.loads(as_text({"n": np.float32(0.5), "t": torch.tensor([1, 2]), "p": Path("a/b"), "i": np.int64(7)}))
    assert found == {"n": 0.5, "t": [1, 2], "p": "a/b", "i": 7}


def test_json_on_a_terminal_of_another_encoding_is_still_json(monkeypatch: pytest.MonkeyPatch) -> None:
    for encoding in ("ascii", "utf-8"):
        raw = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
        write_json(Path("-"), {"city": "東京", "n": math.nan})
        assert json.loads(raw.getvalue().decode(encoding)) == {"city": "東京", "n": None}
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(ResourceError, match="standard output, which is closed"):
        write_json(Path("-"), {})


def test_a_folder_that_may_not_be_written_is_told_and_nothing_stays(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        place = Path("/proc/factedit-x.json")
    else:
        tmp_path.chmod(0o500)
        place = tmp_path / "x.json"
    try:
        with pytest.raises(ResourceError):
            write_json(place, {})
    finally:
        tmp_path.chmod(0o700)
    assert list(tmp_path.iterdir()) == []


# -- words and numbers on a terminal ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.0123, "0.012 s"), (5, "5 s"), (99.4, "99 s"), (99.6, "100 s"), (119, "119 s"), (120, "2 min"),
     (7199, "120 min"), (7200, "2.0 h"), (90000, "25.0 h")],
)  # fmt: skip
def test_seconds_in_a_unit_that_people_read(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_nothing_of_others_reaches_a_terminal_raw() -> None:
    file = io.StringIO()
    console = SafeConsole(file=file, force_terminal=True, width=60)
    console.print("a\x1b[31mb\u202ec [bold]x[/bold] :smile:")
    table = Table("h\x07", title="t\x9b")
    table.add_row("cell\x1b]0;evil\x07")
    console.print(table)
    shown = file.getvalue()
    for sign in ("\x1b[31m", "\x1b]0", "\x07", "\x9b", "\u202e"):
        assert sign not in shown, repr(sign)
    assert "a\\x1b[31mb\\u202ec [bold]x[/bold] :smile:" in shown, "neither markup nor signs by name"


def test_with_json_alone_results_go_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        keep_for_json(alone=True)
        out.print("beside")
    finally:
        keep_for_json(alone=False)
    out.print("result")
    told = capsys.readouterr()
    assert ("beside" in told.err, "beside" in told.out, "result" in told.out) == (True, False, True)


@pytest.mark.parametrize(
    ("louder", "level"), [(0, "INFO"), (1, "DEBUG"), (3, "DEBUG"), (-1, "WARNING"), (-2, "ERROR"), (-9, "ERROR")]
)
def test_how_much_is_said(louder: int, level: str, capsys: pytest.CaptureFixture[str]) -> None:
    set_verbosity(louder)
    assert logging.getLevelName(logging.getLogger("factedit").level) == level
    note("a note")
    assert ("a note" in capsys.readouterr().err) == (louder >= 0)
    set_verbosity(0)
    assert len(logging.getLogger("factedit").handlers) == 1, "however often it is set"


def test_a_bar_that_nobody_sees_writes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    set_verbosity(-1)
    try:
        with bar("counting", 3) as advance:
            for _ in range(3):
                advance(1)
    finally:
        set_verbosity(0)
    assert capsys.readouterr() == ("", "")


def test_letters_that_an_encoding_lacks_are_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    raw, errors = io.BytesIO(), io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(errors, encoding="ascii"))
    survive_any_encoding()
    sys.stdout.write("é")
    sys.stderr.write("é")
    sys.stdout.flush()
    sys.stderr.flush()
    assert (raw.getvalue(), errors.getvalue()) == (b"?", b"\\xe9")


# -- tables ----------------------------------------------------------------------------------------


def table_of(*rows: tuple[str, ...], headers: tuple[str, ...]) -> Table:
    made = Table(*headers)
    for row in rows:
        made.add_row(*row)
    return made


def test_a_table_is_as_wide_as_its_longest_lines() -> None:
    table = table_of(("abc", "x\nlonger"), ("a", "東京"), headers=("h", "k"))
    assert width_of(table) == 3 + 6 + 2 * BESIDE + 1, "東京 takes four characters"
    assert [len(part.columns) for part in parts(table, 200)] == [2]


@pytest.mark.parametrize("width", [20, 40, 60, 100])
def test_columns_that_do_not_fit_go_under_the_first_again(width: int) -> None:
    headers = tuple(f"column {n}" for n in range(6))
    table = table_of(("name", *(str(n) * 9 for n in range(5))), headers=headers)
    found = parts(table, width)
    names = [[str(column.header) for column in part.columns] for part in found]
    assert all(own[0] == "column 0" for own in names)
    assert [name for own in names for name in own[1:]] == list(headers[1:]), "each once, in order"
    for part in found:
        assert width_of(part) <= max(width, 2 * BESIDE + 1 + len("column 0") + 9), "or one column beside the first"


def test_short_cells_stay_whole_and_long_words_are_folded() -> None:
    short, long = "x" * KEPT_WHOLE, "y" * (LONGEST_WORD + 30)
    [part] = parts(table_of((short, long), headers=("a", "b")), KEPT_WHOLE + LONGEST_WORD + 2 * BESIDE + 1)
    widths: list[Any] = [column.width for column in part.columns]
    assert widths == [KEPT_WHOLE, LONGEST_WORD]
    file = io.StringIO()
    SafeConsole(file=file, width=100).print(part)
    letters = file.getvalue()
    assert short in letters
    assert letters.count("y") == len(long), "folded, never cut"
