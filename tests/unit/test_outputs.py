"""Where results may go: nobody's file is replaced, no input written over, and all is found out beforehand."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from factedit.cache import sha256_file
from factedit.errors import ResourceError, UsageError
from factedit.outputs import check_apart, check_file, check_tables, check_writable, is_made_here, unchanged_files


def test_only_a_file_of_the_same_kind_is_replaced(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    check_file(page, is_made_here)
    page.touch()
    check_file(page, is_made_here)  # a temporary name that somebody reserved
    page.write_text('<html><head>\n<meta name="generator" content="factedit 0.1"></head>')
    check_file(page, is_made_here)
    with pytest.raises(UsageError, match="is there and is not replaced"):
        check_file(page)
    check_file(page, force=True)
    page.write_text("My notes on factedit: what I like")
    with pytest.raises(UsageError, match=r"page\.html is there and is not replaced"):
        check_file(page, is_made_here)
    assert page.read_text() == "My notes on factedit: what I like"
    with pytest.raises(UsageError, match="is a folder"):
        check_file(tmp_path, force=True)
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    with pytest.raises(UsageError, match="a link that leads nowhere"):
        check_file(tmp_path / "link")


def test_devices_and_pipes_are_written_to(tmp_path: Path) -> None:
    check_file(Path("/dev/null"))
    check_file(Path("/dev/stdout"))
    os.mkfifo(tmp_path / "pipe")
    check_file(tmp_path / "pipe")


@pytest.mark.parametrize(
    ("name", "reason"),
    [("file/x", "is a file"), ("n" * 300, "too long"), ("a\0b", "null"), ("file/x/y/z", "is a file")],
)
def test_what_cannot_be_written_is_said(tmp_path: Path, name: str, reason: str) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ResourceError, match=rf"cannot be written to \(.*{reason}"):
        check_writable(tmp_path / name)


def test_asking_leaves_nothing_behind(tmp_path: Path) -> None:
    check_writable(tmp_path / "a" / "b" / "c")
    check_writable(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_read_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_settings: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    with pytest.raises(ResourceError, match=r"cannot be written to \(Read-only file system\)"):
        check_writable(tmp_path / "x")


def test_outputs_stand_apart_from_inputs_and_from_each_other(tmp_path: Path) -> None:
    model, facts = tmp_path / "m", tmp_path / "facts.jsonl"
    model.mkdir()
    facts.write_text("{}")
    check_apart([tmp_path / "out", tmp_path / "m2"], [model, facts, tmp_path / "gone"])
    for output in (model, model / "runs", model / ".." / "m" / "x", facts):
        with pytest.raises(UsageError, match="which is read"):
            check_apart([output], [model, facts])
    (tmp_path / "alias").symlink_to(model)
    with pytest.raises(UsageError, match="which is read"):
        check_apart([tmp_path / "alias" / "x"], [model])
    with pytest.raises(UsageError, match="Two outputs"):
        check_apart([tmp_path / "x", tmp_path / "a" / ".." / "x"], [])


def test_a_forged_or_outdated_list_gives_no_file_away(tmp_path: Path) -> None:
    folder = tmp_path / "f"
    (folder / "inner").mkdir(parents=True)
    for place in (folder / "a", folder / "inner" / "b", folder / "changed", tmp_path / "secret"):
        place.write_text(place.name)
    (folder / "link").symlink_to(folder / "a")
    hashes: dict[str, object] = {name: sha256_file(folder / name) for name in ("a", "inner/b", "changed", "link")}
    hashes |= {"../secret": sha256_file(tmp_path / "secret"), str(tmp_path / "secret"): 1, "gone": "0" * 64, "inner": 3}
    (folder / "changed").write_text("by its user")
    assert unchanged_files(folder, hashes) == {"a", "inner/b"}


def test_a_table_of_the_users_in_a_folder_of_results_is_not_replaced(tmp_path: Path) -> None:
    """What `report` asks: before, notes under the name of a table were written over without a word."""
    own = {"table.md": ("| method | n | S |\n", "# Table 1\n\n| editor | n |\n"), "table.csv": ("method,n,S\n", "")}
    for name, contents in own.items():
        for content in contents:
            (tmp_path / name).write_text(content)
            check_tables(tmp_path, own)
    for name, content in (("table.md", "# My table\n| what | S |\n"), ("table.csv", "S;n\n"), ("summary.json", "x")):
        (tmp_path / name).write_text(content)
        with pytest.raises(UsageError, match=rf"{name} is there, and is no table of factedit's"):
            check_tables(tmp_path, [name])
        (tmp_path / name).unlink()
    (tmp_path / "table.md").mkdir()
    with pytest.raises(UsageError, match="is no table"):
        check_tables(tmp_path, ["table.md"])
    check_tables(tmp_path, ["many.png"])
