"""Every output of every command: asked for before the model is loaded, and nothing of the user's is replaced."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest

from factedit.cli import help as help_module
from factedit.cli import main as cli
from factedit.cli.places import LISTS, MODELS, PATHS, RESULTS, as_text, check_outputs, is_own_json
from factedit.errors import UsageError
from factedit.models.adapter import EditableModel
from run_command import ok, refused
from stack_cases import random_edit

# a command with the option of each output that it has; the model is not there, and would be missed only afterwards
OUTPUTS = [
    ("trace", ["m", "A b", "--subject", "A"], "--json", "--plot"),
    ("trace", ["m", "--facts", "worldfacts-known"], "--json", "--out"),
    ("stats", ["m"], "--json", "--save"),
    ("edit", ["m", "--subject", "A", "--prompt", "{} b", "--target", "c"], "--json", "--out"),
    ("evaluate", ["m"], "--json", "--out"),
    ("report", ["runs"], "--json"),
    ("train", ["mend", "m"], "--json", "--out"),
    ("reproduce", ["zsre", "--model", "m"], "--json", "--out"),
    ("sweep-layers", ["m"], "--json", "--out"),
    ("locate", ["m", "--facts", "worldfacts"], "--json", "--out"),
    ("verdict", ["runs"], "--json", "--out"),
    ("case-study", ["m"], "--json", "--out"),
    ("demo", ["--model", "m"], "--json", "--out"),
    ("serve", [], "--out"),
    ("ask", ["m", "p"], "--json"),
    ("prove", ["m", "e"], "--json"),
    ("damage", ["m", "e"], "--json"),
    ("panel", ["m", "e"], "--json"),
    ("ability", ["m"], "--json"),
    ("show", ["e"], "--json"),
    ("check", ["m"], "--json"),
    ("audit", ["m", "s"], "--json"),
    ("apply", ["m", "e"], "--json", "--out"),
    ("revert", ["m"], "--json"),
    ("log", ["m"], "--json"),
    ("verify", ["m"], "--json"),
    ("ship", ["m", "e", "--as", "peft", "--out", "x"], "--json"),
    ("ship", ["m", "e", "--as", "peft"], "--out"),
    ("push", ["x", "owner/name"], "--json"),
    ("methods", [], "--json"),
]
CASES = [(name, given, option) for name, given, *options in OUTPUTS for option in options]


def test_no_output_of_any_command_is_forgotten() -> None:
    import typer

    outputs = set()
    for name, command in typer.main.get_command(cli.app).commands.items():  # type: ignore[attr-defined]
        for option in command.params:
            if {"--json", "--out", "--plot", "--save"} & set(option.opts):
                outputs.add((name, next(o for o in option.opts if o.startswith("--"))))
    known = {(name, option) for name, _, option in CASES}
    lists = {(name, "--json") for name in ("models", "datasets", "benchmarks", "metrics")}  # made as `methods` is
    assert outputs - lists == known


@pytest.mark.parametrize(("name", "given", "option"), CASES)
def test_an_output_that_cannot_be_written_is_refused_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, given: list[str],
    option: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("mine")
    said = refused(capsys, 1, name, *given, option, "file/below.png")
    assert "cannot be written to" in said
    folder = option == "--out" and name not in ("demo", "case-study")
    said = refused(capsys, 2, name, *given, option, "file" if folder else ".")
    assert ("is a file" if folder else "is a folder") in said
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(("name", "given", "option"), [case for case in CASES if case[2] not in ("--out",)])
def test_a_file_of_the_users_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, given: list[str],
    option: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    for content in ("my notes", '{"facts": [1, 2]}', '{\n  "facts": 3\n}\n'):
        (tmp_path / "mine.png").write_text(content)
        assert "is there and is not replaced" in refused(capsys, 2, name, *given, option, "mine.png")
        assert (tmp_path / "mine.png").read_text() == content


def test_json_of_an_older_run_is_replaced(tmp_path: Path) -> None:
    ok("methods", "--json", tmp_path / "a.json")
    first = (tmp_path / "a.json").read_text()
    ok("metrics", "--json", tmp_path / "a.json")
    assert (tmp_path / "a.json").read_text() != first


def test_json_is_known_again_whatever_it_holds() -> None:
    value = {"a": [1.5, 1e-300, None, True], "\x1b\u202e": "東京 \U000e0041", "n": []}
    assert is_own_json(as_text(value).encode())
    assert json.loads(as_text(value)) == value
    for other in (b"", b"5\n", b'{"a": 1}', b"\xff", b"[" * 10_000, as_text(value).encode() + b"\n"):
        assert not is_own_json(other)


@pytest.mark.parametrize("trailing", ["", "\n"])
@pytest.mark.parametrize("value", [{"cells": [], "nbformat": 4}, [{"subject": "東京", "prompt": "{}は"}]])
def test_json_of_others_that_is_laid_out_alike_is_not_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], value: object, trailing: str
) -> None:
    """As notebooks are written, and lists of facts by a script."""
    path = tmp_path / "mine.ipynb"
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + trailing)
    before = path.read_bytes()
    assert "is there and is not replaced" in refused(capsys, 2, "methods", "--json", path)
    assert path.read_bytes() == before


def test_json_does_not_replace_an_edits_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], tiny_gpt2: EditableModel
) -> None:
    folder = random_edit(tiny_gpt2, 1).save(tmp_path / "edit")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for name in before:
        assert "is there and is not replaced" in refused(capsys, 2, "methods", "--json", folder / name)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize("name", ["/", "x" * 300, "y/" * 3000])
@pytest.mark.parametrize("given", [["apply", "m", "e", "--out"], ["methods", "--json"], ["trace", "m", "--plot"]])
def test_what_no_result_can_be_called_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], given: list[str], name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "is no name that a result can have" in refused(capsys, 2, *given, name)


def test_a_link_that_leads_nowhere_is_not_written_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dead").symlink_to(tmp_path / "gone" / "place")
    for given in (
        ["apply", "m", "e"],
        ["ship", "m", "e", "--as", "peft"],
        ["evaluate", "m"],
        ["edit", "m", "--requests", "r.jsonl"],
        ["train", "mend", "m"],
    ):
        assert "a link that leads nowhere" in refused(capsys, 2, *given, "--out", "dead")
    assert not (tmp_path / "gone").exists()


def test_no_output_lies_in_an_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text("{}")
    (tmp_path / "e").mkdir()
    (tmp_path / "facts.jsonl").write_text("{}")
    Path("worldfacts").mkdir()  # of the name of a data set: what is read is not in it
    given = {"model": "m", "edits": [Path("e")], "requests": Path("facts.jsonl"), "dataset": "worldfacts"}
    check_outputs({**given, "out_dir": Path("worldfacts"), "json": Path("x.json")})
    for output in ({"out_dir": Path("m")}, {"out_dir": Path("e/peft")}, {"json": Path("facts.jsonl")},
                   {"json": Path("m/x.json")}, {"out_dir": tmp_path / "m" / "runs"}):  # fmt: skip
        with pytest.raises(UsageError, match="which is read"):
            check_outputs({**given, "form": "peft", **output})
    check_outputs({**given, "out_dir": Path("m")})  # 'apply' on a folder of edits
    with pytest.raises(UsageError, match="Two outputs"):
        check_outputs({"model": "m", "json": Path("a.svg"), "plot": Path("a.svg")})
    check_outputs({"model": "m", "json": Path("-"), "plot": None, "out_dir": Path("m/runs"), "facts": None})


def test_what_is_read_is_known_by_the_name_of_its_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every option that is a path is an input or an output; `--probe` is text."""
    outputs = {"json", "plot", "arrays", "page", "out_file", "save", "out_dir", "write"}
    known = {*MODELS, *LISTS, *PATHS, *outputs}
    for command in cli.app.registered_commands:
        for option in inspect.signature(command.callback, eval_str=True).parameters.values():  # type: ignore[arg-type]
            assert "Path" not in str(option.annotation) or option.name in known, (command.name, option.name)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text("{}")
    (tmp_path / "true.json").write_text(as_text([{"prompt": "a"}]))  # laid out as factedit's own
    for given in ({"probe": "m", "json": Path("m/x.json")}, {"panel": Path("true.json"), "json": Path("true.json")},
                  {"model": "m", "write": Path("m/tasks")}):  # fmt: skip
        with pytest.raises(UsageError, match="which is read"):
            check_outputs(given)


def test_tasks_that_are_only_written_have_no_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(capsys, 2, "ability", "m", "--write-tasks", tmp_path / "tasks", "--json", tmp_path / "x.json")
    assert "leave --json out" in said
    assert list(tmp_path.iterdir()) == []


def test_a_verdict_of_the_users_is_kept(tmp_path: Path) -> None:
    (tmp_path / "verdict.json").write_text("guilty")
    with pytest.raises(UsageError, match=r"verdict\.json is there and is not replaced"):
        check_outputs({"folders": [], "out_dir": tmp_path}, "verdict")
    (tmp_path / "verdict.json").write_text(as_text({"weights": ""}))
    check_outputs({"folders": [], "out_dir": tmp_path}, "verdict")


def test_every_command_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, object]] = []
    monkeypatch.setattr(help_module, "check_outputs", lambda given, _command: asked.append(dict(given)))
    ok("methods")
    assert asked == [{"json": None}]


@pytest.mark.parametrize("command", ["evaluate", "reproduce", "sweep-layers"])
def test_tables_do_not_replace_what_is_not_of_these_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    monkeypatch.chdir(tmp_path)
    given = ["zsre", "--model", "m"] if command == "reproduce" else ["m"]
    store, written, other = RESULTS[command]
    for name in written:
        (tmp_path / name).write_text("mine")
        assert f"{name} is there, and is not of these results" in refused(capsys, 2, command, *given, "--out", ".")
        assert (tmp_path / name).read_text() == "mine"
        (tmp_path / name).unlink()
    (tmp_path / "runs").mkdir()
    heads = {"table.md": "| method | n | S |", "table.csv": "method,n,S", "summary.json": "{}", "layers.json": "[]"}
    if command == "reproduce":
        heads |= {"table.md": "# Table 1\n\n| editor | n | S |", "table.csv": "model,editor,S", "table.json": "{}"}
    for name in (store, *written):
        (tmp_path / "runs" / name).write_text(heads.get(name, "of an older run"))
    check_outputs({"out_dir": Path("runs")}, command)
    for name in heads.keys() & {*written}:
        ours = (tmp_path / "runs" / name).read_text()
        (tmp_path / "runs" / name).write_text("notes of mine")
        said = refused(capsys, 2, command, *given, "--out", "runs")
        assert f"{name} is there, and is no table of factedit's: it is not replaced" in said
        assert (tmp_path / "runs" / name).read_text() == "notes of mine"
        (tmp_path / "runs" / name).write_text(ours)
    if other:
        (tmp_path / "runs" / other).write_text("of another command")
        assert "is not of these results" in refused(capsys, 2, command, *given, "--out", "runs")


def test_a_verdict_that_was_stopped_is_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before: the page was written first, and a folder with a page alone was refused as somebody else's."""
    from factedit.report import verdict_page

    real, calls = verdict_page.write_atomic, list[Path]()

    def stopped(path: Path, text: str) -> None:
        calls.append(path)
        if len(calls) > 1:
            raise KeyboardInterrupt
        real(path, text)

    monkeypatch.setattr(verdict_page, "write_atomic", stopped)
    with pytest.raises(KeyboardInterrupt):
        verdict_page.write_verdict({}, tmp_path / "v", title="t", about=[], rows={})
    check_outputs({"folders": [], "out_dir": tmp_path / "v"}, "verdict")
    monkeypatch.setattr(verdict_page, "write_atomic", real)
    verdict_page.write_verdict({}, tmp_path / "v", title="t", about=[], rows={})
    assert {path.name for path in (tmp_path / "v").iterdir()} == {"verdict.json", "verdict.html", "verdict.md"}


def test_json_of_an_earlier_version_is_told_how_to_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.json").write_text(as_text({"a": 1}).rstrip() + "\n")
    said = refused(capsys, 2, "methods", "--json", tmp_path / "a.json")
    assert "an earlier version of factedit wrote" in said
    assert "remove it" in said


def test_an_edits_place_is_refused_before_anything_slow_is_loaded(tmp_path: Path) -> None:
    """Before: torch was imported first, and the model was loaded."""
    (tmp_path / "e").mkdir()
    (tmp_path / "e" / "edit.json").write_text("{}")
    given = ["edit", "no-such-model", "--subject", "A", "--prompt", "{} b", "--target", "c", "--out", tmp_path / "e"]
    code = (
        "import sys; from factedit.cli import main\n"
        f"sys.argv = ['factedit', *{[str(one) for one in given]!r}]\n"
        "try: main.main()\n"
        "except SystemExit as left: print(left.code, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "holds an edit, which is not replaced unasked" in done.stderr
    assert done.stdout.split() == ["1", "False"]
