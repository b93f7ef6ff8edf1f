"""One's own files of a folder are replaced, everything else is kept; nothing outside is ever touched."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from factedit import commits
from factedit.cache import replace_files, settled
from factedit.errors import ResourceError, UnsafeFile, UsageError

OWN = ("edit.json", "edit.safetensors", "old/part")


def listing(folder: Path) -> dict[str, str]:
    """All files of a folder with their content."""
    return {p.relative_to(folder).as_posix(): p.read_text() for p in sorted(folder.rglob("*")) if p.is_file()}


def write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def first(folder: Path) -> None:
    write(folder, edit_json="1", edit_safetensors="1", old__part="1")


def second(folder: Path) -> None:
    write(folder, edit_json="2", new__part="2")


@pytest.fixture
def mixed(tmp_path) -> Path:
    """A folder with one's own files and the user's."""
    folder = replace_files(first, tmp_path / "m")
    write(folder, notes_txt="mine", _git__HEAD="mine", old__diary="mine", sub__deep__file="mine")
    (folder / "empty").mkdir()
    return folder


def users(folder: Path) -> dict[str, str]:
    return {name: text for name, text in listing(folder).items() if text == "mine"}


def test_foreign_files_and_folders_are_kept(mixed):
    before, inode = users(mixed), mixed.stat().st_ino
    assert len(before) == 4
    replace_files(second, mixed, old=OWN, last="edit.json")
    assert users(mixed) == before
    assert (mixed / "empty").is_dir()
    own = {name: text for name, text in listing(mixed).items() if text != "mine"}
    assert own == {"edit.json": "2", "new/part": "2"}  # what was not built again is gone
    assert mixed.stat().st_ino == inode  # a shell that stands in it still does


def test_a_folder_of_own_files_only_is_replaced_in_one_step(tmp_path, monkeypatch):
    folder = replace_files(first, tmp_path / "m")
    monkeypatch.setattr("factedit.folders.commit_files", None)  # must not be needed
    replace_files(second, folder, old=OWN)
    assert listing(folder) == {"edit.json": "2", "new/part": "2"}
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_the_working_folder_stays_the_same_folder(tmp_path, monkeypatch):
    folder = replace_files(first, tmp_path / "m")
    monkeypatch.chdir(folder)
    inode = folder.stat().st_ino
    replace_files(second, Path(), old=OWN)
    assert folder.stat().st_ino == inode
    assert Path.cwd() == folder
    assert listing(folder) == {"edit.json": "2", "new/part": "2"}
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_a_file_of_the_users_is_not_written_over(mixed):
    (mixed / "new").mkdir()
    (mixed / "new" / "part").write_text("mine")
    before = listing(mixed)
    with pytest.raises(UsageError, match=r"new/part is there and was not written by factedit, so it is not replaced"):
        replace_files(second, mixed, old=OWN)
    assert listing(mixed) == before


def test_a_folder_in_the_place_of_an_own_file_is_kept(mixed):
    (mixed / "edit.json").unlink()
    (mixed / "edit.json").mkdir()
    with pytest.raises(UsageError, match="was not written by factedit"):
        replace_files(second, mixed, old=OWN)
    assert (mixed / "edit.json").is_dir()


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "m").write_text("mine")
    with pytest.raises(UsageError, match="is a file, and a folder is to be written there"):
        replace_files(first, tmp_path / "m")
    assert (tmp_path / "m").read_text() == "mine"


def test_nothing_is_written_through_a_link(mixed, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (mixed / "new").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UnsafeFile, match="new is a link, and is not written through"):
        replace_files(second, mixed, old=OWN)
    assert not list((tmp_path / "elsewhere").iterdir())


def test_an_own_file_that_became_a_link_is_replaced_and_not_its_target(mixed, tmp_path):
    (tmp_path / "target").write_text("mine")
    (mixed / "edit.json").unlink()
    (mixed / "edit.json").symlink_to(tmp_path / "target")
    replace_files(second, mixed, old=OWN)
    assert (tmp_path / "target").read_text() == "mine"
    assert not (mixed / "edit.json").is_symlink()
    assert (mixed / "edit.json").read_text() == "2"


def test_a_failed_build_leaves_everything_as_it_was(mixed):
    def build(folder: Path) -> None:
        second(folder)
        raise KeyError

    before = listing(mixed)
    with pytest.raises(KeyError):
        replace_files(build, mixed, old=OWN)
    assert listing(mixed) == before
    assert not (mixed / commits.STAGE).exists()


def test_too_little_space_is_named_before_anything_is_built(mixed):
    before = listing(mixed)
    with pytest.raises(ResourceError, match=r"is full: .* are needed"):
        replace_files(second, mixed, old=OWN, needed=10**18)
    assert listing(mixed) == before


def forged(folder: Path, gone: object, files: dict[str, str]) -> None:
    """A commit that came with somebody's folder."""
    for name, text in files.items():
        path = folder / commits.COMMIT / "files" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (folder / commits.COMMIT).mkdir(exist_ok=True)
    (folder / commits.COMMIT / "gone.json").write_text(gone if isinstance(gone, str) else json.dumps(gone))


@pytest.mark.parametrize(
    "gone",
    [
        {"gone": ["../victim"], "last": ""},
        {"gone": ["a/../../victim"], "last": ""},
        {"gone": [], "last": "../victim"},
        {"gone": ["VICTIM"], "last": ""},
        {"gone": [7], "last": ""},
        {"gone": "victim", "last": ""},
        {"gone": [""], "last": ""},
        [],
        "{",
        "[" * 100_000,
    ],
)
def test_a_forged_commit_touches_nothing_outside(mixed, tmp_path, gone):
    (tmp_path / "victim").write_text("mine")
    if isinstance(gone, dict) and gone["gone"] == ["VICTIM"]:
        gone = {"gone": [str(tmp_path / "victim")], "last": ""}
    forged(mixed, gone, {})
    with pytest.raises(UnsafeFile, match=r"gone.json was not written by factedit. Remove the folder"):
        settled(mixed)
    assert (tmp_path / "victim").read_text() == "mine"


def test_a_forged_commit_does_not_move_through_links(mixed, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "victim").write_text("mine")
    (mixed / "sub" / "link").symlink_to(tmp_path / "elsewhere")
    for gone, files in (
        ({"gone": ["sub/link/victim"], "last": ""}, {}),
        ({"gone": [], "last": ""}, {"sub/link/victim": "theirs"}),
    ):
        forged(mixed, gone, files)
        with pytest.raises(UnsafeFile, match="link is a link, and is not written through"):
            settled(mixed)
    assert (tmp_path / "elsewhere" / "victim").read_text() == "mine"


def test_a_commit_that_is_a_link_is_not_followed(mixed, tmp_path):
    forged(tmp_path / "m", {"gone": [], "last": ""}, {"notes.txt": "theirs"})
    (mixed / commits.COMMIT).rename(tmp_path / "elsewhere")
    (mixed / commits.COMMIT).symlink_to(tmp_path / "elsewhere")
    settled(mixed)
    assert (mixed / "notes.txt").read_text() == "mine"
    assert (tmp_path / "elsewhere" / "files" / "notes.txt").exists()


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="needs a user whom modes bind")
def test_an_unfinished_commit_in_a_folder_that_cannot_be_written_to_is_said(mixed):
    forged(mixed, {"gone": ["edit.json"], "last": ""}, {})
    mixed.chmod(0o500)
    try:
        with pytest.raises(ResourceError, match="cannot be written to"):
            settled(mixed)
    finally:
        mixed.chmod(0o700)
