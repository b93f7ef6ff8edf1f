"""Text of users and models never reaches a terminal raw, whichever way it takes."""

from __future__ import annotations

import io
import json
import logging
import math
import unicodedata
from pathlib import Path

import pytest
from rich.table import Table

from factedit.cli import common, console
from factedit.cli.console import SafeConsole
from factedit.errors import UnknownName
from factedit.safe import parse_json, safe_json, safe_text, without_nan
from run_command import refused

EVIL = "\x1b[31mred\x1b]0;title\x07 \x9b2J \u202eabc\u202c \u2066x\u2069 \r\x7f"
KEPT = "Café 東京 Москва عربي עברית 👩‍🚀 naïve ‖ΔW‖ [bold] :cat: ±\n"


def raw(text: str) -> list[str]:
    """The characters of a text that no terminal may be given, but for the line feed."""
    orders = ("RLE", "LRE", "RLO", "LRO", "PDF", "RLI", "LRI", "FSI", "PDI")
    return [
        c for c in text
        if c != "\n" and (unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") or unicodedata.bidirectional(c) in orders)
    ]  # fmt: skip


@pytest.mark.parametrize("text", ["[" * 100_000 + "]" * 100_000, '{"a":' * 50_000 + "1" + "}" * 50_000, "{", ""])
def test_json_of_others_is_read_or_is_a_wrong_value(text: str) -> None:
    for given in (text, text.encode()):
        with pytest.raises(ValueError, match=r"nested too deep|Expecting|char 0"):
            parse_json(given)
    assert parse_json('{"a": [1, null]}') == {"a": [1, None]}


def test_every_such_character_is_written_out_and_nothing_else() -> None:
    everything = "".join(map(chr, range(0x110000)))
    shown = safe_text(everything)
    assert not raw(shown)
    assert safe_text(KEPT) == KEPT
    assert safe_text("\x1b[31m\x9b\u202e\t\r") == r"\x1b[31m\x9b\u202e\t\r"
    assert safe_text(shown) == shown
    changed = [c for c in everything if safe_text(c) != c]
    assert 2100 < len(changed) < 2300, "surrogates, C0, C1, tags and the bidirectional ones, no whole scripts"


def test_json_says_the_same_without_them() -> None:
    value = {EVIL: [EVIL, KEPT, "\U000e0041", "\ud800"]}
    text = safe_json(json.dumps(value, indent=1, ensure_ascii=False))
    assert not raw(text)
    assert json.loads(text) == value
    assert "東京" in text


def shown(draw: object) -> str:
    """What a terminal is given, less the styles of the console itself."""
    stream = io.StringIO()
    SafeConsole(file=stream, force_terminal=True, color_system=None, width=80).print(draw)
    return stream.getvalue()


def test_lines_tables_and_titles(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table(EVIL, "b", title=EVIL)
    table.add_row("a", EVIL)
    for draw in (EVIL, table):
        assert not raw(shown(draw))
        assert r"\x1b[31mred" in shown(draw).replace("\n", "")
        console.err.print(draw)
    assert not raw(capsys.readouterr().err)
    assert shown(KEPT) == KEPT + "\n", "no markup, no emoji codes"


def test_columns_stay_under_each_other() -> None:
    table = Table("a", "b")
    table.add_row("\x1b\x1b\x1b", "1")
    table.add_row("x", "2")
    lines = shown(table).splitlines()
    assert len({len(line) for line in lines}) == 1


def test_spinners_and_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    terminal = SafeConsole(file=stream, force_terminal=True, color_system=None, width=120)
    monkeypatch.setattr(console, "err", terminal)
    monkeypatch.setattr(common, "err", terminal)
    console.set_verbosity(0)
    with console.progress_bars() as show:
        show(f"{EVIL} [bold]x", 1, 2)
    with common.bar(EVIL, 2) as advance:
        advance(1)
    assert "[bold]x" in stream.getvalue()
    with pytest.raises(UnknownName):
        common.load_model(f"{EVIL} [bold]y")
    assert "[bold]y" in stream.getvalue()
    assert "\x1b[31m" not in stream.getvalue()
    assert "\u202e" not in stream.getvalue()
    assert "\x9b" not in stream.getvalue()


def test_errors_warnings_and_notes(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ("a b", "--subject", "b")
    for arguments in (("trace", EVIL, *asked), ("trace", "m", *asked, f"--{EVIL}"), (EVIL,)):
        said = refused(capsys, 2, *arguments)
        assert not raw(said)
        assert r"\x1b[31mred" in said
    console.set_verbosity(1)
    for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR):
        logging.getLogger("factedit.test").log(level, "%s", EVIL)
    told = capsys.readouterr().err
    assert not raw(told)
    assert told.count(r"\x1b[31mred") == 4


def test_json_in_a_file(tmp_path: Path) -> None:
    common.write_json(tmp_path / "a.json", {"a": EVIL})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": EVIL}


def test_what_json_cannot_hold_is_null_however_deep(tmp_path: Path) -> None:
    value = {"a": [math.nan, (math.inf, 1.5)], "b": -math.inf, "c": "NaN"}
    clean = {"a": [None, [None, 1.5]], "b": None, "c": "NaN"}
    assert without_nan(value) == clean
    common.write_json(tmp_path / "x.json", value)
    assert json.loads((tmp_path / "x.json").read_text()) == clean
