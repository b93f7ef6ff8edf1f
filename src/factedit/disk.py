"""Where the cache is, files that appear whole or not at all, and what a full or unwritable disk is called.

A file is built under a temporary name beside its place, written through to the disk (file and folder), and renamed.
The writer holds a lock on its temporary file, so what a killed process left is told from what another is writing.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from factedit.errors import ResourceError
from factedit.locks import try_lock
from factedit.paths import user_path

ENVIRONMENT = "FACTEDIT_CACHE"
TEMPORARY = ".tmp"
_FULL = {errno.ENOSPC, errno.EDQUOT}
_LONGEST = 150  # characters of a name that stay in a temporary one


def cache_dir() -> Path:
    """Return the folder for everything that can be made again: `FACTEDIT_CACHE`, else the platform's own place.

    Raises:
        ResourceError: it would be in the home folder, and that is not known.
    """
    named = os.environ.get(ENVIRONMENT)
    if named:
        return user_path(named).absolute()
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or _home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        base = _home() / "Library" / "Caches"
    else:
        named = os.environ.get("XDG_CACHE_HOME", "")
        base = named if Path(named).is_absolute() else _home() / ".cache"  # as its specification asks
    return Path(base) / "factedit"


def _home() -> Path:
    try:
        return Path.home()
    except RuntimeError as error:
        raise ResourceError(
            f"The home folder, in which the cache lies, is not known here (HOME is not set). Set {ENVIRONMENT} to a "
            "folder."
        ) from error


@contextmanager
def writing(path: Path, needed: int = 0) -> Iterator[Path]:
    """Yield a temporary file to be filled, which takes the place of `path` on leaving; its folder is made where needed.

    Args:
        path: the file; one that exists is replaced whole, or not at all where the block raises.
        needed: bytes it will take, for messages; 0 where unknown.

    Raises:
        ResourceError: the disk is full or not writable; the message names the folder and the bytes.
    """
    with disk_errors(path.parent, needed):
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_left_files(path)
        temporary, descriptor = _new_temporary(path)
    try:
        with disk_errors(path.parent, needed, only_full=True):
            yield temporary
        with disk_errors(path.parent, needed):
            sync(temporary)
            temporary.replace(path)
            sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)
        os.close(descriptor)


def write_atomic(path: str | Path, data: bytes | str) -> None:
    """Write a file that appears whole or not at all, making its folder where needed.

    Args:
        path: where to; an existing file is replaced.
        data: bytes, or text to be written as UTF-8.

    Raises:
        ResourceError: the disk is full or not writable; the message names the folder and the bytes.
    """
    path = Path(path)
    raw = data.encode("utf-8") if isinstance(data, str) else data
    if path.parent == Path("/dev") or (path.exists() and not path.is_file() and not path.is_dir()):
        with disk_errors(path.parent, len(raw)):
            path.write_bytes(raw)  # a device or a pipe cannot be replaced
        return
    with disk_errors(path.parent, len(raw)), writing(path, len(raw)) as temporary:
        temporary.write_bytes(raw)


def temporary_name(path: Path) -> Path:
    """Return a name beside a file or folder that nobody else uses."""
    return path.with_name(f".{path.name[:_LONGEST]}.{secrets.token_hex(8)}{TEMPORARY}")


def temporaries_of(path: Path) -> list[Path]:
    """Return the temporary files and folders of one name that lie beside it, those of other names left out."""
    pattern = re.compile(rf"\.{re.escape(path.name[:_LONGEST])}\.[0-9a-f]{{16}}{re.escape(TEMPORARY)}")
    try:
        return sorted(entry for entry in path.parent.iterdir() if pattern.fullmatch(entry.name))
    except OSError:
        return []


def temporary_folders(folder: Path) -> list[tuple[str, Path]]:
    """Return the temporary folders in a folder, each with the name of what it was to become; names that were cut left
    out.
    """
    pattern = re.compile(rf"\.(.{{1,{_LONGEST - 1}}})\.[0-9a-f]{{16}}{re.escape(TEMPORARY)}")
    try:
        return [(m[1], p) for p in sorted(folder.iterdir()) if (m := pattern.fullmatch(p.name)) and p.is_dir()]
    except OSError:
        return []


def _remove_left_files(path: Path) -> None:
    """Remove temporary files of that name whose writer is gone: nobody holds their locks."""
    for left in temporaries_of(path):
        if left.is_symlink() or not left.is_file():
            continue
        with contextlib.suppress(OSError):
            descriptor = os.open(left, os.O_RDWR)
            try:
                if try_lock(descriptor):
                    left.unlink(missing_ok=True)
            finally:
                os.close(descriptor)


def _new_temporary(path: Path) -> tuple[Path, int]:
    """A new temporary file and its descriptor, which holds the lock."""
    while True:
        temporary = temporary_name(path)
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        with contextlib.suppress(OSError):  # without locks nothing that was left is ever removed
            try_lock(descriptor)
        if os.fstat(descriptor).st_nlink:  # else somebody took it for a left-over before it was locked
            return temporary, descriptor
        os.close(descriptor)


def sync(path: Path) -> None:
    """Write a file, or the names in a folder, through to the disk."""
    if path.is_dir():
        with contextlib.suppress(OSError):  # some systems cannot do this for folders
            _sync(path, os.O_RDONLY)
    else:
        _sync(path, os.O_RDWR)


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_all(folder: Path) -> None:
    """Write a folder and all in it through to the disk."""
    for path in sorted(folder.rglob("*"), reverse=True):
        if not path.is_symlink():
            sync(path)
    sync(folder)


def sha256_file(path: str | Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def require_space(folder: Path, needed: int) -> None:
    """Refuse what will not fit, before it is built.

    Raises:
        OSError: as a full disk says it; see `disk_errors`.
    """
    if shutil.disk_usage(folder).free < needed:
        raise OSError(errno.ENOSPC, "not enough space")


@contextmanager
def disk_errors(folder: Path, needed: int = 0, *, only_full: bool = False) -> Iterator[None]:
    """Turn a full or unwritable disk into a `ResourceError` that names the folder and the bytes.

    Args:
        folder: where is being written.
        needed: bytes to be written; 0 where unknown.
        only_full: let every other refusal of the operating system pass as it is.

    Raises:
        ResourceError: the disk is full, or the operating system refuses for another reason.
    """
    try:
        yield
    except Exception as error:  # writers written in Rust raise their own types for a full disk
        if getattr(error, "errno", None) in _FULL or f"os error {errno.ENOSPC}" in str(error):
            need = f"{_size(needed)} are needed" if needed else "more space is needed"
            raise ResourceError(
                f"The disk of {folder} is full: {need}, {_free(folder)} are free. "
                f"Free some space, or {_elsewhere(folder)} on another disk."
            ) from error
        if isinstance(error, OSError) and not only_full:
            raise ResourceError(
                f"{folder} cannot be written to ({error.strerror or error}). "
                f"Make it writable, or {_elsewhere(folder)} that is."
            ) from error
        raise


def _elsewhere(folder: Path) -> str:
    """How to write to another folder: only what lies in the cache follows the variable."""
    with contextlib.suppress(ResourceError):
        if folder.absolute().is_relative_to(cache_dir()):
            return f"set {ENVIRONMENT} to a folder"
    return "name a folder"


def _free(folder: Path) -> str:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return _size(shutil.disk_usage(folder).free)


def _size(count: int) -> str:
    return f"{count:,} bytes ({count / 1e6:,.1f} MB)"
