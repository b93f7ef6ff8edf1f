"""Terminals and places as they are not: nobody who reads, no home, no temporary folder, no width."""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from rich.table import Table

from factedit import disk
from factedit.cli import main as cli
from factedit.cli import unforeseen
from factedit.cli.common import write_json
from factedit.cli.console import SafeConsole, flush_all
from factedit.errors import ResourceError


@pytest.fixture
def unread() -> io.TextIOWrapper:
    """A stream into a pipe whose reader has gone, as `| head` leaves it."""
    reader, writer = os.pipe()
    os.close(reader)
    return os.fdopen(writer, "w")


def test_what_nobody_reads_does_not_end_the_work(unread: io.TextIOWrapper) -> None:
    """Before: the command ended there, with 1 and without a word, before its files were written."""
    console = SafeConsole(file=unread, width=80)
    table = Table("a")
    table.add_row("b" * 200)
    for _ in range(3):
        console.print("line", table)
    unread.close()


def test_json_that_nobody_reads(unread: io.TextIOWrapper, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before: a fault of factedit's, with a report."""
    monkeypatch.setattr(sys, "stdout", unread)
    write_json(Path("-"), {"a": ["x"] * 100_000})
    write_json(Path("-"), {"a": 1})
    flush_all()
    unread.close()


def test_help_that_nobody_reads(
    unread: io.TextIOWrapper, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["factedit", "edit", "-h"])
    monkeypatch.setattr(sys, "stdout", unread)
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code in (0, 1), "what is buffered fails at the end, what is not at once"
    assert capsys.readouterr().err == ""
    with suppress(BrokenPipeError):
        unread.close()


def no_home() -> Path:
    raise RuntimeError("Could not determine home directory.")


def test_a_home_that_is_not_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A container's user without a name. Before: a traceback out of the report of the fault."""
    for name in ("FACTEDIT_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(disk.Path, "home", staticmethod(no_home))
    with pytest.raises(ResourceError, match=r"home folder, in which the cache lies, is not known.*FACTEDIT_CACHE"):
        disk.cache_dir()
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="or name a folder that is"):
        disk.write_atomic(tmp_path / "file" / "below", "x")
    monkeypatch.setattr(unforeseen.tempfile, "gettempdir", lambda: str(tmp_path))
    assert str(tmp_path) in unforeseen.say_unforeseen(KeyError("a"))

    def nowhere() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr(unforeseen.tempfile, "gettempdir", nowhere)
    assert "no report of it could be written" in unforeseen.say_unforeseen(KeyError("a"))


def test_a_cache_that_is_named_by_half_a_path_is_not_made_where_the_shell_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FACTEDIT_CACHE", raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(disk.Path, "home", staticmethod(lambda: Path("/home/me")))
    for named, place in (
        ("cache", "/home/me/.cache/factedit"),
        ("", "/home/me/.cache/factedit"),
        ("/c", "/c/factedit"),
    ):
        monkeypatch.setenv("XDG_CACHE_HOME", named)
        assert disk.cache_dir() == Path(place)


@pytest.mark.parametrize("width", [0, 1, 20])
def test_a_terminal_without_width_shows_everything(width: int) -> None:
    """Before: with COLUMNS=0 nothing at all was shown."""
    table = Table("method", "score", title="a title that is longer than the terminal is wide")
    table.add_row("rome-original", "95.2 ±1.0")
    stream = io.StringIO()
    SafeConsole(file=stream, force_terminal=True, color_system=None, width=width).print(table, "a line")
    shown = stream.getvalue()
    if width == 20:  # a terminal may be as narrow: folded, and nothing left out
        assert max(map(len, shown.splitlines())) == width
        columns = [line.split("│")[1:3] for line in shown.splitlines() if "│" in line]
        shown = " ".join(["".join(cell.strip() for cell, _ in columns), " ".join(cell.strip() for _, cell in columns)])
    for part in ("rome-original", "95.2 ±1.0", *(["a line"] if width < 20 else [])):
        assert part in shown
