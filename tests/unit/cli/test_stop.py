"""Ctrl-C and SIGTERM at any moment: one line on what is kept, exit codes 130 and 143, no traceback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import ROOT
from factedit.cli import main as cli
from factedit.cli.stop import Stopped, received, stoppable
from tiny_folder import save

# sends the signal to itself when the module of that name is looked for, and runs the command
AT_IMPORT = """
import os, signal, sys
class Send:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.{signal})
sys.meta_path.insert(0, Send())
from factedit.__main__ import main
sys.argv = ["factedit", *{arguments!r}]
main()
"""
# sends it when so many facts are stored
AT_STORE = """
import os, signal, sys
from factedit.__main__ import main
from factedit.evaluate.store import ResultStore
add, count = ResultStore.add, 0
def adding(self, rows):
    global count
    add(self, rows)
    count += 1
    if count == {after}:
        os.kill(os.getpid(), signal.{signal})
ResultStore.add = adding
sys.argv = ["factedit", *{arguments!r}]
main()
"""


def run(program: str, **values: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    code = program.format(**values)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)


@pytest.mark.parametrize(("name", "code", "word"), [("SIGINT", 130, "interrupted"), ("SIGTERM", 143, "terminated")])
@pytest.mark.parametrize("module", ["typer", "rich.table", "factedit.cli.train", "torch", "numpy"])
def test_while_something_is_loaded(module: str, name: str, code: int, word: str) -> None:
    _stopped_while_loading(module, name, code, word)


def test_while_something_is_loaded_and_the_terminal_is_closed() -> None:
    _stopped_while_loading("rich.table", "SIGHUP", 129, "hung up")


def _stopped_while_loading(module: str, name: str, code: int, word: str) -> None:
    done = run(AT_IMPORT, module=module, signal=name, arguments=["trace", "m", "a b", "--subject", "a"])
    assert done.returncode == code, done.stderr
    assert done.stderr == f"{word}: no file is left half written, and what was stored before is safe\n"
    assert done.stdout == ""


@pytest.mark.parametrize(("name", "code", "word"), [("SIGINT", 130, "interrupted"), ("SIGTERM", 143, "terminated")])
def test_facts_that_are_traced_are_kept(tmp_path: Path, name: str, code: int, word: str) -> None:
    model = save(tmp_path / "tiny")
    arguments = [
        "trace", str(model), "--facts", "worldfacts-known", "--records", "5", "--kind", "mlp", "--samples", "1",
        "--noise", "1", "--out", str(tmp_path / "runs"), "--threads", "1",
    ]  # fmt: skip
    done = run(AT_STORE, after=2, signal=name, arguments=arguments)
    assert done.returncode == code, done.stderr
    kept = f"2 of 5 facts are done and kept in {tmp_path / 'runs' / 'traces.sqlite'}"
    assert done.stderr.splitlines()[-1] == f"{word}: {kept}; the same command goes on there"
    assert "Traceback" not in done.stderr
    from factedit.evaluate.store import ResultStore

    with ResultStore(tmp_path / "runs" / "traces.sqlite") as store:
        [run_key] = store.runs()
        assert len(store.done(run_key)) == 2


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_is_to_be_ignored_is(number: signal.Signals) -> None:
    """As `nohup` asks for SIGHUP, and shells ask for Ctrl-C of what a script runs in the background."""
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with stoppable():
            assert signal.getsignal(number) is signal.SIG_IGN
            os.kill(os.getpid(), number)
            went_on = True
        assert signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, before)
    assert went_on
    assert received() is None


def test_a_terminal_that_is_gone_hides_no_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(_text: str) -> int:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(sys.stderr, "write", gone)
    with pytest.raises(SystemExit) as stopped, stoppable():
        os.kill(os.getpid(), signal.SIGHUP)
    assert stopped.value.code == 129


def test_handlers_are_put_back_and_only_set_in_the_main_thread() -> None:
    import threading

    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)

    def killed() -> None:
        with stoppable():
            assert signal.getsignal(signal.SIGTERM) != before[1]
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SystemExit) as stopped:
        killed()
    assert stopped.value.code == 143
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    assert received() is None
    failed: list[BaseException] = []

    def elsewhere() -> None:
        try:
            with stoppable():
                pass
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert not failed


def test_a_signal_that_became_another_error_is_still_a_signal(capsys: pytest.CaptureFixture[str]) -> None:
    """A library may turn the exception that passes through it into one of its own."""

    def imports() -> None:
        with stoppable():
            try:
                os.kill(os.getpid(), signal.SIGINT)
            except Stopped as error:
                raise ImportError("cannot load module more than once per process") from error

    with pytest.raises(SystemExit) as stopped:
        imports()
    assert stopped.value.code == 130
    assert capsys.readouterr().err.startswith("interrupted: ")


def test_other_errors_pass() -> None:
    with pytest.raises(ValueError, match="own"), stoppable():
        raise ValueError("own")


def test_without_the_handler(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A KeyboardInterrupt of Python itself: the same line and code."""

    def interrupted(**_: object) -> None:
        error = KeyboardInterrupt()
        error.add_note("3 of 5 facts are kept in \x1b[31mruns")
        raise error

    monkeypatch.setattr(cli, "app", interrupted)
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 130
    assert capsys.readouterr().err == "interrupted: 3 of 5 facts are kept in \\x1b[31mruns\n"


def test_an_export_that_is_stopped_leaves_nothing_and_says_so(tmp_path: Path) -> None:
    """The adapter's own reader is looked for when it is written and is to be proven."""
    from factedit.models.load import load
    from stack_cases import random_edit

    model = save(tmp_path / "tiny")
    edit = random_edit(load(str(model)), 1).save(tmp_path / "e")
    before = {path: path.read_bytes() for path in edit.iterdir()}
    arguments = ["ship", str(model), str(edit), "--as", "peft", "--out", str(tmp_path / "out"), "--threads", "1"]
    done = run(AT_IMPORT, module="factedit.export.read_peft", signal="SIGTERM", arguments=arguments)
    assert done.returncode == 143, done.stderr
    kept = "no file is left half written, and what was stored before is safe"
    assert done.stderr.splitlines()[-1] == f"terminated: {kept}"
    assert "Traceback" not in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["e", "tiny"]
    assert {path: path.read_bytes() for path in edit.iterdir()} == before
