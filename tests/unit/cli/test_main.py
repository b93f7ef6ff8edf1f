"""The command line as a process: how it is called, and what becomes of errors nobody foresaw."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import ROOT
from factedit import __version__
from factedit.cli import main as cli
from factedit.cli import unforeseen
from factedit.cli.common import write_json
from factedit.errors import ResourceError
from run_command import refused
from tiny_folder import save


def factedit(*arguments: object, **environment: str) -> subprocess.CompletedProcess[bytes]:
    own = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(
        [sys.executable, "-m", "factedit", *map(str, arguments)], capture_output=True, env=own, check=False
    )


def test_python_m() -> None:
    done = factedit("--version")
    assert (done.returncode, done.stdout.decode(), done.stderr) == (0, f"factedit {__version__}\n", b"")
    wrong = factedit("evaluete")
    assert wrong.returncode == 2
    assert wrong.stderr.decode() == ("error: No such command 'evaluete'. Did you mean 'evaluate'? See 'factedit -h'.\n")
    assert wrong.stdout == b""


def test_the_script_is_the_same() -> None:
    import tomllib

    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {"factedit": "factedit.__main__:main"}


@pytest.mark.parametrize(
    "arguments",
    [("edit", "M", "--subject", "Caf\udce9"), ("ask", "M", "\ud800"), ("prove", "M", "E", "--prompt", "a\udcff"),
     ("ship", "M", "E", "--base", "\udce9"), ("verdict", "R", "--title", "\udce9"), ("show", "caf\udce9"),
     ("caf\udce9",), ("apply", "M", "E", "--out=\udce9")],
)  # fmt: skip
def test_an_argument_that_is_not_utf_8_is_refused(capsys: pytest.CaptureFixture[str], arguments: tuple[str]) -> None:
    """What a Latin-1 terminal or script writes: bytes that Python keeps as half characters."""
    said = refused(capsys, 2, *arguments)
    assert "is not UTF-8" in said
    assert "\\ud" in said, "written out, in a line that any terminal takes"


def test_output_that_is_not_utf_8(tmp_path: Path) -> None:
    """The work is done, so its result is shown, whatever the encoding lacks; the JSON says all of it."""
    model = save(tmp_path / "tiny")
    arguments = (
        "trace", model, "Café is the capital", "--subject", "Café", "--kind", "mlp", "--samples", 1, "--noise", 1,
        "--threads", 1,
    )  # fmt: skip
    done = factedit(*arguments, "--json", "-", PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.decode("ascii"))["subject"] == "Café"
    assert "peak IE" in done.stderr.decode("ascii")
    shown = factedit(*arguments, "--json", tmp_path / "t.json", PYTHONIOENCODING="ascii")
    assert shown.returncode == 0, shown.stderr
    assert "'Caf? is the capital'" in shown.stdout.decode("ascii")
    assert json.loads((tmp_path / "t.json").read_text("utf-8"))["subject"] == "Café"
    assert factedit("stats", "-h", PYTHONIOENCODING="latin-1").returncode == 0


def fail(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def failing() -> None:
        raise error

    monkeypatch.setattr("factedit.work.lists.list_methods", failing)


def test_what_nobody_foresaw(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("FACTEDIT_CACHE", str(tmp_path / "cache"))
    fail(monkeypatch, KeyError("\x1b[31mno such\nkey \ud800"))
    said = refused(capsys, 1, "methods")
    assert said.startswith(
        r"error: this is a fault of factedit, not of yours (KeyError: '\x1b[31mno such\nkey \ud800')"
    )
    [report] = (tmp_path / "cache" / "errors").iterdir()
    assert str(report) in said
    text = report.read_text("utf-8")
    assert text.startswith(f"factedit {__version__}, Python ")
    assert re.search(r"torch \d", text)
    assert "command: factedit methods\n" in text
    assert "Traceback (most recent call last)" in text
    assert "in failing" in text
    assert "KeyError" in text


def test_a_report_that_cannot_be_written(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FACTEDIT_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.setattr(unforeseen.tempfile, "gettempdir", lambda: str(tmp_path / "temporary"))
    fail(monkeypatch, ZeroDivisionError("none"))
    said = refused(capsys, 1, "methods")
    [report] = (tmp_path / "temporary").iterdir()
    assert str(report) in said
    monkeypatch.setattr(unforeseen.tempfile, "gettempdir", lambda: str(tmp_path / "file" / "t"))
    assert "no report of it could be written" in refused(capsys, 1, "methods")


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (ResourceError("The disk is full."), 1, "error: The disk is full."),
        (MemoryError(), 1, "error: Memory ran out."),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 1, "error: Memory ran out."),
    ],
)
def test_errors_on_purpose_write_no_report(
    error: Exception, code: int, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:  # fmt: skip
    monkeypatch.setenv("FACTEDIT_CACHE", str(tmp_path / "cache"))
    fail(monkeypatch, error)
    assert message in refused(capsys, code, "methods")
    assert not (tmp_path / "cache").exists()


def test_success_leaves_with_0(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["factedit", "methods"])
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == 0
    assert "rome" in capsys.readouterr().out


def test_output_that_takes_nothing_is_no_fault_of_factedit(monkeypatch: pytest.MonkeyPatch) -> None:
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "factedit", "methods", "--json", "-"]
        own = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, env=own, check=False)
    assert done.returncode == 1
    assert b"There is no room for what is written (No space left on device)" in done.stderr
    monkeypatch.setattr("sys.stdout", None)
    with pytest.raises(ResourceError, match="standard output, which is closed"):
        write_json(Path("-"), {})
