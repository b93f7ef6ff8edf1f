"""What a command reads beside its facts is read, or refused with what it was to be."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from factedit.errors import DataError
from factedit.work.user_files import read_user_json, read_user_lines


def test_a_users_json_is_read_or_named(tmp_path: Path) -> None:
    path = tmp_path / "contexts.json"
    with pytest.raises(DataError, match=r"The contexts cannot be read: .*contexts\.json: no such file"):
        read_user_json(path, "contexts")
    for content in (b"{", b"", b"[" * 100_000 + b"]" * 100_000):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"The contexts .*contexts\.json is not JSON"):
            read_user_json(path, "contexts")
    path.write_bytes(b"\xff")
    with pytest.raises(DataError, match=r"contexts\.json, line 1: not UTF-8"):
        read_user_json(path, "contexts")
    for encoding in ("utf-8", "utf-8-sig"):  # editors of some systems put a mark of byte order before the text
        path.write_text('["{} 東京"]', encoding=encoding)
        assert read_user_json(path, "contexts") == ["{} 東京"]
    os.mkfifo(tmp_path / "pipe")
    for odd in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(DataError, match="it is a folder or a pipe"):
            read_user_json(odd, "contexts")


def test_lines_are_read_without_the_empty_ones(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_bytes("\ufeffRome is in\r\n\n \nParis is in ".encode())
    assert read_user_lines(path, "further prompts") == ["Rome is in", "Paris is in "]
    with pytest.raises(DataError, match=r"The further prompts cannot be read: .*none: no such file"):
        read_user_lines(tmp_path / "none", "further prompts")


def test_an_error_names_the_line_as_it_stands_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "contexts.json"
    path.write_text('[\n\n"{} is"\n"{} was"]')
    with pytest.raises(DataError, match=r"line 4 column 1"):
        read_user_json(path, "contexts")
