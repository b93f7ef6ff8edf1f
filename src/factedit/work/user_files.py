"""Small files of the user's that a command is given beside its facts: contexts, further prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from factedit.data.lines import read_text
from factedit.errors import DataError
from factedit.safe import parse_json


def read_user_lines(path: Path, what: str) -> list[str]:
    """Return the lines of a text file of the user, without those that are empty.

    Args:
        path: the file, gzipped if its name says so.
        what: it holds, for the message.

    Raises:
        DataError: it is not there, no file, or not UTF-8.
    """
    return [line.rstrip("\r") for line in _text(path, what).split("\n") if line.strip()]


def read_user_json(path: Path, what: str) -> Any:
    """Return what a JSON file of the user holds.

    Args:
        path: the file, gzipped if its name says so.
        what: it holds, for the message.

    Raises:
        DataError: it is not there, no file, not UTF-8, or not JSON.
    """
    text = _text(path, what)
    try:
        return parse_json(text)
    except ValueError as error:
        raise DataError(f"The {what} {path} is not JSON: {error}.") from error


def _text(path: Path, what: str) -> str:
    try:
        return read_text(path)
    except DataError as error:
        raise DataError(f"The {what} cannot be read: {error}") from error
