"""The cache folder, and how files and folders come into being: whole, or not at all.

Everything is built under a temporary name beside its place, written through to the disk, and renamed.
A reader never sees half a file, and of two writers racing for one folder the first wins.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import os
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from factedit.errors import ResourceError

ENVIRONMENT = "FACTEDIT_CACHE"
LEFT_OVER_AFTER = 3600.0  # seconds without a change, after which a temporary folder belongs to nobody
_TEMPORARY, _OLD = ".tmp", ".old"
_HERE = -100  # AT_FDCWD: names are taken from the working folder
_FULL = {errno.ENOSPC, errno.EDQUOT}


def cache_dir() -> Path:
    """The folder for everything that can be made again: `FACTEDIT_CACHE`, else the platform's own place."""
    named = os.environ.get(ENVIRONMENT)
    if named:
        return Path(named).expanduser().absolute()
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "factedit"


def publish_folder(build: Callable[[Path], None], final: Path, *, needed: int = 0) -> Path:
    """Make a folder that appears complete or not at all.

    An existing folder is kept as it is, also where another process publishes it first. What crashed runs
    left beside it is removed.

    Args:
        build: called with an empty temporary folder, to fill it.
        final: the folder's name when it is complete.
        needed: bytes it will take, to refuse before starting; 0 where unknown.

    Returns:
        `final`.

    Raises:
        ResourceError: the disk is full or not writable; the message names the folder and the bytes.
        Exception: whatever `build` raises; nothing stays behind.
    """
    if final.is_dir():
        return final
    with _built(build, final, needed) as temporary:
        _rename_folder(temporary, final)
    return final


def replace_folder(build: Callable[[Path], None], final: Path, *, needed: int = 0) -> Path:
    """Make a folder that takes the place of the one of that name, if there is one.

    At every moment the name holds the old folder or the new one, whole, also when the process is killed: the two
    are exchanged in one step where the system can do that (Linux, macOS). Elsewhere a process killed between two
    renamings leaves the old one beside its place, where `settled` finds it.

    Args:
        build: called with an empty temporary folder, to fill it; it may read the old one.
        final: the folder's name.
        needed: bytes it will take, to refuse before starting; 0 where unknown.

    Returns:
        `final`, links resolved.

    Raises:
        ResourceError: the disk is full or not writable; the old folder is as it was.
        Exception: whatever `build` raises; nothing stays behind.
    """
    final = settled(final).resolve()
    with _built(build, final, needed) as temporary:
        if not final.exists():
            temporary.rename(final)
        elif not _exchange(temporary, final):
            old = final.with_name(f".{final.name}{_OLD}")
            shutil.rmtree(old, ignore_errors=True)  # of a process that was killed after both renamings
            final.rename(old)
            temporary.rename(final)
            shutil.rmtree(old, ignore_errors=True)
    return final


def settled(folder: Path) -> Path:
    """The folder, put back into its place if a killed `replace_folder` left it beside."""
    whole = folder.resolve()  # "." has no name of its own
    old = whole.with_name(f".{whole.name}{_OLD}")
    if not folder.exists() and old.is_dir():
        old.rename(folder)
    return folder


def link_or_copy(source: Path, target: Path) -> None:
    """The same file under a second name, which costs no space; a copy where the file system has no such links.

    Only for files that are never written to again, such as those of a folder that is about to be replaced.
    """
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


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
    temporary = path.with_name(f".{path.name[:40]}.{secrets.token_hex(8)}{_TEMPORARY}")
    with disk_errors(path.parent, len(raw)):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.parent == Path("/dev") or (path.exists() and not path.is_file() and not path.is_dir()):
            path.write_bytes(raw)  # a device or a pipe cannot be replaced
            return
        try:
            with temporary.open("xb") as file:
                file.write(raw)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def sha256_file(path: str | Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
                f"Free some space, or set {ENVIRONMENT} to a folder on another disk."
            ) from error
        if isinstance(error, OSError) and not only_full:
            raise ResourceError(
                f"{folder} cannot be written to ({error.strerror or error}). "
                f"Give a folder that can be, or set {ENVIRONMENT} to one."
            ) from error
        raise


@contextmanager
def _built(build: Callable[[Path], None], final: Path, needed: int) -> Iterator[Path]:
    """The temporary folder, filled and written through to the disk; removed on leaving if it is still there."""
    temporary = final.with_name(f".{final.name}.{secrets.token_hex(8)}{_TEMPORARY}")
    try:
        with disk_errors(final.parent, needed):
            final.parent.mkdir(parents=True, exist_ok=True)
            _remove_left_overs(final)
            if shutil.disk_usage(final.parent).free < needed:
                raise OSError(errno.ENOSPC, "not enough space")
            temporary.mkdir()
        with disk_errors(final.parent, needed, only_full=True):
            build(temporary)
        with disk_errors(final.parent, needed):
            for path in sorted(temporary.rglob("*")):
                if path.is_file():
                    _to_disk(path)
            yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _exchange(left: Path, right: Path) -> bool:
    """Let two folders change places in one step; False where the system cannot."""
    import ctypes

    library = ctypes.CDLL(None, use_errno=True) if os.name == "posix" else None
    names = os.fsencode(left), os.fsencode(right)
    if library is not None and hasattr(library, "renameat2"):  # Linux: RENAME_EXCHANGE
        failed = library.renameat2(_HERE, names[0], _HERE, names[1], 2)
    elif library is not None and hasattr(library, "renamex_np"):  # macOS: RENAME_SWAP
        failed = library.renamex_np(*names, 2)
    else:
        return False
    if failed and ctypes.get_errno() not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(right))
    return not failed


def _rename_folder(temporary: Path, final: Path) -> None:
    try:
        temporary.rename(final)
    except OSError:
        if not final.is_dir():  # else another process was first: its folder holds the same
            raise


def _remove_left_overs(final: Path) -> None:
    for path in final.parent.glob(f".{glob.escape(final.name)}.*{_TEMPORARY}"):
        try:
            latest = max(part.stat().st_mtime for part in (path, *path.rglob("*")))
        except OSError:
            continue  # its owner is just removing it
        if time.time() - latest > LEFT_OVER_AFTER:
            shutil.rmtree(path, ignore_errors=True)


def _to_disk(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _free(folder: Path) -> str:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return _size(shutil.disk_usage(folder).free)


def _size(count: int) -> str:
    return f"{count:,} bytes ({count / 1e6:,.1f} MB)"
