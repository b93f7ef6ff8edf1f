"""One gate for every file of a folder that somebody else may have made: no link out of it, no pipe, no surprise."""

from __future__ import annotations

import os
import stat
from pathlib import Path, PurePosixPath

from factedit.errors import DataError, FacteditError, UnsafeFile, UsageError, shown

LONGEST = 4096  # bytes of a path


def inside(
    folder: Path, name: str | Path, *, also: Path | None = None, missing: type[FacteditError] = DataError
) -> Path:
    """Return the path of a regular file in a folder, to be read or copied.

    Args:
        folder: which may be a link itself: the user named it.
        name: of the file, from the folder; folders inside it may be named with `/`.
        also: a second folder into which links may lead (the hub's own cache).
        missing: what to raise where the file is not there.

    Returns:
        The path; a link inside the folder is not resolved, so the name stays.

    Raises:
        UnsafeFile: a name or a link that leaves the folder, or a pipe, device or folder in the file's place.
        FacteditError: of the kind `missing`: there is no such file.
    """
    path = folder / name
    if not is_name(name):
        raise UnsafeFile(f"{shown(str(name))} is no name that a file can have. Only files inside a folder are read.")
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or "\0" in str(name):
        raise UnsafeFile(f"{name!r} is not a file in {folder}. Only files inside a folder are read.")
    real = _real(path)
    if not any(real.is_relative_to(_real(place)) for place in (folder, also) if place):
        raise UnsafeFile(
            f"{path} is a link to {real}, outside its folder, and is not followed. Put the file itself there."
        )
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise missing(f"There is no file {path} ({error.strerror or error}). Copy or download it again.") from error
    if not stat.S_ISREG(mode):
        raise UnsafeFile(f"{path} is {_kind(mode)}, not a file. Remove it, or put the file itself there.")
    return path


def user_path(name: str) -> Path:
    """Return the path that a user names, `~` being their home.

    Raises:
        UsageError: nothing, no name that a file can have, or the home of somebody unknown.
    """
    if not name or not is_name(name):
        raise UsageError(f"{shown(name)} is no name that a file or a folder can have. Name one that is there.")
    try:
        return Path(name).expanduser()
    except RuntimeError as error:
        raise UsageError(f"The home folder in {shown(name)} is not known here. Write the whole path.") from error


def is_name(name: str | Path) -> bool:
    """Return whether a file may be called so: no byte 0, no half characters, of a length that systems take."""
    try:
        raw = os.fsencode(name)
        return b"\0" not in raw and len(raw) < LONGEST and max(map(len, raw.split(b"/"))) < 256
    except UnicodeEncodeError:
        return False


def read_inside(
    folder: Path, name: str | Path, *, most: int, also: Path | None = None, missing: type[FacteditError] = DataError
) -> bytes:
    """Return the content of a file in a folder, of at most so many bytes; see `inside`.

    Raises:
        UnsafeFile: as `inside`, or a larger file.
        FacteditError: of the kind `missing`: there is no such file, or it cannot be read.
    """
    path = inside(folder, name, also=also, missing=missing)
    try:
        with path.open("rb") as file:
            content = file.read(most + 1)
    except OSError as error:
        raise missing(f"{path} cannot be read ({error.strerror or error}).") from error
    if len(content) > most:
        raise UnsafeFile(f"{path} has more than the {most:,} bytes that such a file may have. Get a sound copy.")
    return content


def _real(path: Path) -> Path:
    try:
        return Path(os.path.realpath(path))
    except (OSError, RuntimeError) as error:  # links in a circle
        raise UnsafeFile(f"{path} is a link that leads nowhere. Put the file itself there.") from error


def _kind(mode: int) -> str:
    kinds = ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a named pipe"), (stat.S_ISSOCK, "a socket"))
    return next((name for fits, name in kinds if fits(mode)), "a device")
