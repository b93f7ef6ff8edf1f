"""How folders come into being and are replaced: whole, or not at all.

A folder is built under a temporary name, written through to the disk, and put into place in one step. Whoever changes
a folder holds its lock (`locks.py`) meanwhile; a temporary folder that is there when the lock is free is what a killed
process left, whatever its age, and is removed by whoever next builds something beside it.

| function | what becomes of what is there |
|---|---|
| `publish_folder` | it is kept, and nothing is built |
| `replace_folder` | all of it is replaced |
| `replace_files` | the files named as one's own are replaced, everything else is kept |
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

from factedit.commits import COMMIT, STAGE, commit_files, finish_commit
from factedit.disk import (
    disk_errors,
    require_space,
    sync,
    sync_all,
    temporaries_of,
    temporary_folders,
    temporary_name,
)
from factedit.errors import ResourceError, UsageError
from factedit.locks import INSIDE, is_held, locked

_OLD = ".old"
_HERE = -100  # AT_FDCWD: names are taken from the working folder


def publish_folder(
    build: Callable[[Path], None], final: Path, *, needed: int = 0, is_whole: Callable[[Path], bool] = Path.is_dir
) -> Path:
    """Make a folder that appears complete or not at all.

    An existing folder is kept if it is whole; who comes while another is building it waits and takes that one's.

    Args:
        build: called with an empty temporary folder, to fill it.
        final: the folder's name when it is complete.
        needed: bytes it will take, to refuse before starting; 0 where unknown.
        is_whole: whether a folder is there and can be kept; one that cannot is replaced.

    Returns:
        `final`.

    Raises:
        ResourceError: the disk is full or not writable; the message names the folder and the bytes.
        Exception: whatever `build` raises; nothing stays behind.
    """
    if is_whole(final):
        return final
    with locked(final):
        if is_whole(final):
            return final
        if final.is_dir():
            replace_folder(build, final, needed=needed)
        else:
            with _built(build, final, needed) as temporary:
                _rename_folder(temporary, final)
                sync(final.parent)
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
    final = final.resolve()
    with locked(final):
        settled(final)
        with _built(build, final, needed) as temporary:
            if not final.exists():
                temporary.rename(final)
            elif not _exchange(temporary, final):
                old = _old(final)
                shutil.rmtree(old, ignore_errors=True)  # of a process that was killed after both renamings
                final.rename(old)
                temporary.rename(final)
                shutil.rmtree(old, ignore_errors=True)
            sync(final.parent)
    return final


def replace_files(
    build: Callable[[Path], None], folder: Path, *, old: Collection[str] = (), needed: int = 0, last: str = ""
) -> Path:
    """Write files into a folder in place of one's own older ones; whatever else lies there is kept.

    A folder that is new, or holds nothing but `old`, is replaced in one step. In any other the files are first written
    beside the old ones; then one renaming makes them valid, and they are moved into place. A process killed after it
    leaves moves to be done, which `settled` does before anybody reads or changes the folder.

    Args:
        build: called with an empty temporary folder, to fill it; it may read the old one.
        folder: where to; it need not exist.
        old: paths from the folder, with `/`, of the files that may be replaced; those not built again are removed.
        needed: bytes it will take, to refuse before starting; 0 where unknown.
        last: the file that makes the others valid (the one with their hashes): moved last, removed first.

    Returns:
        `folder`, links resolved.

    Raises:
        UsageError: a file to be written is there and not one's own.
        UnsafeFile: a folder on the way to one of the files is a link.
        ResourceError: the disk is full or not writable; the old files are as they were.
        Exception: whatever `build` raises; nothing stays behind.
    """
    folder = folder.resolve()
    with locked(folder):
        settled(folder)
        if folder.is_dir() and (holds_others(folder, old) or is_worked_in(folder)):
            commit_files(build, folder, set(old), needed=needed, last=last)
        elif folder.exists() and not folder.is_dir():
            raise UsageError(f"{folder} is a file, and a folder is to be written there. Name another place.")
        else:
            replace_folder(build, folder, needed=needed)
    return folder


def holds_others(folder: Path, names: Collection[str]) -> bool:
    """Return whether a folder holds anything but the files named: another file, an empty folder, a link to a folder."""
    known = set(names)
    above = {parent.as_posix() for name in known for parent in PurePosixPath(name).parents} - {"."}
    for place, folders, files in os.walk(folder):
        inner = Path(place).relative_to(folder)
        for name in files:
            if (inner / name).as_posix() not in known and name != INSIDE:
                return True
        for name in folders:
            if (inner / name).as_posix() not in above or (Path(place) / name).is_symlink():
                return True
    return False


def settled(folder: Path) -> Path:
    """Return the folder, once what a killed `replace_folder` or `replace_files` left undone is done.

    Raises:
        ResourceError: something is to be done, and the folder cannot be written to.
    """
    if not folder.exists():
        whole = folder.resolve()  # "." has no name of its own
        if _old(whole).is_dir():
            with locked(whole):
                if not whole.exists() and _old(whole).is_dir():
                    _old(whole).rename(whole)
    elif (folder / COMMIT).is_dir() and not (folder / COMMIT).is_symlink():
        with locked(folder):
            finish_commit(folder.resolve())
    elif (folder / STAGE).is_dir():
        _remove_left(folder, folder / STAGE)
    return folder


def _remove_left(folder: Path, temporary: Path) -> None:
    """Remove a temporary folder that was to become (a part of) another, if whoever built it is gone."""
    if temporary.is_symlink() or is_held(folder):
        return
    with suppress(ResourceError), locked(folder, wait=0):
        shutil.rmtree(temporary, ignore_errors=True)


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file a second name, which costs no space; make a copy where the file system has no such links.

    Only for files that are never written to again, such as those of a folder that is about to be replaced.
    """
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def is_worked_in(folder: Path) -> bool:
    """Return whether it is, or holds, the working folder, which would be gone from under the shell if it were
    exchanged.
    """
    try:
        return Path.cwd().is_relative_to(folder.resolve())
    except OSError:
        return False


@contextmanager
def _built(build: Callable[[Path], None], final: Path, needed: int) -> Iterator[Path]:
    """The temporary folder, filled and written through to the disk; removed on leaving if it is still there.

    The lock of `final` is held.
    """
    temporary = temporary_name(final)
    try:
        with disk_errors(final.parent, needed):
            final.parent.mkdir(parents=True, exist_ok=True)
            for left in temporaries_of(final):
                if left.is_dir() and not left.is_symlink():
                    shutil.rmtree(left, ignore_errors=True)
            for name, left in temporary_folders(final.parent):
                _remove_left(final.parent / name, left)
            require_space(final.parent, needed)
            temporary.mkdir()
        with disk_errors(final.parent, needed, only_full=True):
            build(temporary)
        with disk_errors(final.parent, needed):
            if final.is_dir():
                shutil.copymode(final, temporary)
            sync_all(temporary)
            yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _old(final: Path) -> Path:
    return final.with_name(f".{final.name}{_OLD}")


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
        if not final.is_dir():  # else a process without this lock was first: its folder holds the same
            raise
