"""What goes where: results, notes, JSON alone; and numbers and names whole at any width."""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.table import Table
from typer.testing import CliRunner

from factedit.cli import console, main
from factedit.cli.console import SafeConsole, note, progress_bars, set_verbosity
from factedit.cli.whole import parts, width_of
from factedit.evaluate.estimates import Estimate
from factedit.report.columns import columns_of
from factedit.report.tables import summary_table

SCORES = (
    "S", "ES", "EM", "PS", "PM", "NS", "NM", "efficacy", "paraphrase", "specificity", "free", "GE", "RS",
    "efficacy_tokens", "seconds_per_edit", "peak_memory_mb",
)  # fmt: skip
COLUMNS = columns_of({"m": {name: Estimate(1.0, 1.0, 9) for name in SCORES}})


@pytest.fixture(autouse=True)
def _verbosity() -> Iterator[None]:
    yield
    set_verbosity(0)
    console.keep_for_json(alone=False)


def summary() -> tuple[Table, list[str]]:
    """A table of methods with every score, and its cells."""
    names = ("unedited", "rome-original", "mend-zsre-with-a-name-of-its-own")
    rows = {
        m: {c: Estimate(10.0 * k + n, 0.1 * n + 1, 1000) for n, c in enumerate(COLUMNS)} for k, m in enumerate(names)
    }
    table = summary_table(rows, title="CounterFact on a model")
    return table, [str(cell) for column in table.columns for cell in column.cells]


def printed(table: Table, width: int, *, terminal: bool) -> str:
    stream = io.StringIO()
    SafeConsole(file=stream, force_terminal=terminal, color_system=None, width=width).print(table)
    return stream.getvalue()


@pytest.mark.parametrize("width", [60, 80, 120, 400])
def test_every_number_and_name_is_whole_at_any_width(width: int) -> None:
    table, cells = summary()
    assert len(cells) == 3 * (2 + len(COLUMNS))
    text = printed(table, width, terminal=True)
    assert max(map(len, text.splitlines())) <= width
    found = [cell.strip() for line in text.splitlines() for cell in re.split("[│┃]", line)]
    for cell in {*cells, *COLUMNS}:
        assert cell in found, f"{cell} at {width} columns"
    assert "…" not in text
    blocks = text.count("┏")
    assert (blocks == 1) == (width == 400)
    assert found.count("rome-original") == blocks, "every part begins with the methods"


def test_a_pipe_gets_one_table_whatever_the_width() -> None:
    table, cells = summary()
    text = printed(table, 80, terminal=False)
    assert text.count("┏") == 1
    assert max(map(len, text.splitlines())) == width_of(table) > 200
    rows = [re.split("[│┃]", line) for line in text.splitlines() if "rome-original" in line]
    assert [cell.strip() for cell in rows[0][1:-1]] == cells[1::3]


def test_sentences_wrap_between_words_and_numbers_do_not() -> None:
    table = Table("what", "value")
    sentence = "a sentence that is much longer than there is room for on a line of this table"
    table.add_row(sentence, "95.2 ±1.0")
    [part] = parts(table, 50)
    assert width_of(part) > 50, "as it would be unwrapped"
    text = printed(table, 50, terminal=True)
    assert "95.2 ±1.0" in text
    words = [w for line in text.splitlines() if "│" in line for w in line.split("│")[1].split()]
    assert words == sentence.split()


def test_long_lines_are_left_to_the_terminal() -> None:
    """An error that holds a command is not broken inside it."""
    stream = io.StringIO()
    command = "factedit train mend gemma3-270m --data zsre --out " + "folder/" * 30
    SafeConsole(file=stream, force_terminal=True, color_system=None, width=80).print(f"Train it: {command}.")
    assert stream.getvalue() == f"Train it: {command}.\n"


def test_json_alone(tmp_path: Path) -> None:
    alone = CliRunner().invoke(main.app, ["methods", "--json", "-"], catch_exceptions=False)
    assert "rome" in json.loads(alone.stdout)
    assert "what it does" in alone.stderr, "the table, to look at"
    both = CliRunner().invoke(main.app, ["methods", "--json", str(tmp_path / "m.json")], catch_exceptions=False)
    assert "what it does" in both.stdout, "the next command prints as always"
    assert json.loads((tmp_path / "m.json").read_text()) == json.loads(alone.stdout)
    CliRunner().invoke(main.app, ["methods", "--json", "-"])
    after = CliRunner().invoke(main.app, ["--version"])
    assert after.stdout.startswith("factedit ")


def test_quiet_and_verbose(capsys: pytest.CaptureFixture[str]) -> None:
    log = logging.getLogger("factedit.test")
    told = {}
    for louder in (-2, -1, 0, 1):
        set_verbosity(louder)
        for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR):
            log.log(level, "level %d", level)
        note("a note")
        seen = capsys.readouterr()
        assert seen.out == ""
        told[louder] = seen.err.splitlines()
    assert told == {
        -2: ["error: level 40"],
        -1: ["warning: level 30", "error: level 40"],
        0: ["level 20", "warning: level 30", "error: level 40", "a note"],
        1: ["level 10", "level 20", "warning: level 30", "error: level 40", "a note"],
    }


def test_progress_without_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A line now and then, none in a short run, none with -q."""
    now = iter(range(0, 1000, 10))
    monkeypatch.setattr(console.time, "monotonic", lambda: next(now))
    set_verbosity(0)
    with progress_bars() as show:
        for done in range(5):
            show("tracing", done, 5)
    assert capsys.readouterr().err.splitlines() == [
        "tracing: 2 of 5, about 30 s left",
        "tracing: 4 of 5, about 10 s left",
    ]
    set_verbosity(-1)
    with progress_bars() as show:
        for done in range(5):
            show("tracing", done, 5)
    assert capsys.readouterr().err == ""


def test_progress_on_a_terminal_has_a_bar_per_part(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(console, "err", SafeConsole(file=stream, force_terminal=True, color_system=None, width=100))
    set_verbosity(0)
    with progress_bars() as show:
        assert stream.getvalue() == "", "nothing is drawn before something is under way"
        show("reading", 3, 10)
        show("tracing", 1, 2)
    assert "3/10" in stream.getvalue()
    assert "1/2" in stream.getvalue()
