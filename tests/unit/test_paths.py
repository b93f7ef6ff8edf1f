"""The one gate: what may be read of a folder that somebody else made."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from factedit.errors import DataError, ModelError, UnsafeFile
from factedit.paths import inside, read_inside


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder with links of every kind, beside a secret."""
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "a").write_text("secret")
    made = tmp_path / "m"
    (made / "sub").mkdir(parents=True)
    (made / "a").write_text("a")
    (made / "sub" / "b").write_text("b")
    links = {
        "good": "sub/b", "sub/up": "../a", "out": "../secret", "absolute": tmp_path / "secret", "chain": "out",
        "away": "../secrets", "loop": "loop", "none": "nothing", "none_out": "../nothing", "same": "../m/a",
    }  # fmt: skip
    for name, target in links.items():
        (made / name).symlink_to(target)
    (made / "evil").mkdir()
    (made / "evil" / "up").symlink_to("../../secrets")
    os.mkfifo(made / "pipe")
    return made


@pytest.mark.parametrize("name", ["a", "sub/b", "good", "sub/up", "same"])
def test_files_and_links_inside(folder, name):
    assert inside(folder, name) == folder / name
    assert read_inside(folder, name, most=1) in (b"a", b"b")


@pytest.mark.parametrize("name", ["out", "absolute", "chain", "away/a", "evil/up/a", "none_out"])
def test_links_that_leave(folder, name):
    with pytest.raises(UnsafeFile, match=r"is a link to .*, outside its folder, and is not followed"):
        inside(folder, name)


@pytest.mark.parametrize("name", ["../secret", "sub/../../secret", "/etc/passwd", "a\0b"])
def test_names_that_leave(folder, name):
    with pytest.raises(UnsafeFile, match="Only files inside a folder are read"):
        inside(folder, name)


@pytest.mark.parametrize(("name", "kind"), [("sub", "a folder"), ("pipe", "a named pipe"), (".", "a folder")])
def test_what_is_no_file(folder, name, kind):
    with pytest.raises(UnsafeFile, match=f"is {kind}, not a file"):
        inside(folder, name)


def test_sockets_and_devices(folder):
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(folder / "s"))
        with pytest.raises(UnsafeFile, match="is a socket, not a file"):
            inside(folder, "s")
    with pytest.raises(UnsafeFile, match="is a device, not a file"):
        inside(Path("/dev"), "null")


@pytest.mark.parametrize("name", ["nothing", "none", "sub/nothing", "loop"])
def test_what_is_not_there_is_what_the_caller_calls_it(folder, name):
    for kind in (DataError, ModelError):
        with pytest.raises(kind, match="There is no file"):
            inside(folder, name, missing=kind)


def test_a_link_to_the_folder_itself_is_the_users_choice(folder, tmp_path):
    (tmp_path / "link").symlink_to(folder)
    assert inside(tmp_path / "link", "good") == tmp_path / "link" / "good"
    with pytest.raises(UnsafeFile):
        inside(tmp_path / "link", "out")


def test_a_second_folder_may_be_allowed(folder, tmp_path):
    (folder / "blob").symlink_to("../secrets/a")
    assert inside(folder, "blob", also=tmp_path / "secrets") == folder / "blob"
    with pytest.raises(UnsafeFile):
        inside(folder, "out", also=tmp_path / "secrets")


def test_no_more_is_read_than_allowed(folder):
    (folder / "a").write_bytes(b"12345")
    assert read_inside(folder, "a", most=5) == b"12345"
    with pytest.raises(UnsafeFile, match="has more than the 4 bytes that such a file may have"):
        read_inside(folder, "a", most=4)
