"""Write some files of a folder that holds other things too, so that all of them count or none.

The files are built in `STAGE`, inside the folder; one renaming to `COMMIT` makes them valid; then each is moved into
place. A process killed after the renaming leaves moves to be done, which `finish_commit` does: it can be called again
at any point. The file that makes the others valid goes first and comes last, so that who looks meanwhile finds an
incomplete folder and no mixture of old and new.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from factedit.disk import disk_errors, require_space, sync, sync_all
from factedit.errors import UnsafeFile, UsageError

STAGE, COMMIT = ".factedit.tmp", ".factedit.commit"
_GONE, _FILES = "gone.json", "files"  # in both: what will be removed, and what will be put into place


def commit_files(
    build: Callable[[Path], None], folder: Path, old: set[str], *, needed: int = 0, last: str = ""
) -> None:
    """Write files into a folder in place of one's own older ones; its lock is held, and it is settled.

    Args:
        build: called with an empty temporary folder, to fill it.
        folder: which exists.
        old: paths from it, with `/`, of the files that may be replaced; those not built again are removed.
        needed: bytes it will take, to refuse before starting; 0 where unknown.
        last: the file that makes the others valid.

    Raises:
        UsageError: a file to be written is there and not one's own.
        UnsafeFile: a folder on the way to one of the files is a link.
        ResourceError: the disk is full or not writable; the old files are as they were.
    """
    stage = folder / STAGE
    try:
        with disk_errors(folder, needed):
            shutil.rmtree(stage, ignore_errors=True)  # of a killed process: the lock is free
            require_space(folder, needed)
            (stage / _FILES).mkdir(parents=True)
        with disk_errors(folder, needed, only_full=True):
            build(stage / _FILES)
        new = _files_of(stage / _FILES)
        _check_room(folder, old, new)
        gone = {"gone": sorted(old - set(new)), "last": last}
        with disk_errors(folder, needed):
            (stage / _GONE).write_text(json.dumps(gone), encoding="utf-8")
            sync_all(stage)
            stage.rename(folder / COMMIT)  # from here on the new files count
            sync(folder)
    finally:
        shutil.rmtree(stage, ignore_errors=True)
    finish_commit(folder)


def _files_of(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if not p.is_dir() or p.is_symlink())


def _check_room(folder: Path, old: set[str], new: list[str]) -> None:
    """Refuse to write over what is not one's own, or through a link."""
    for name in new:
        _refuse_linked_parents(folder, name)
        there = folder / name
        if (there.exists() or there.is_symlink()) and (name not in old or there.is_dir()):
            raise UsageError(
                f"{there} is there and was not written by factedit, so it is not replaced. Move it, or name another "
                "folder."
            )


def finish_commit(folder: Path) -> None:
    """Move the files of a commit into place; what was moved before is not there any more.

    A folder from elsewhere may hold a forged commit: nothing outside the folder is touched.
    """
    commit = folder / COMMIT
    with disk_errors(folder):
        if commit.is_symlink() or not commit.is_dir():
            return
        if (commit / _GONE).is_file():
            gone, last = _read_gone(folder)
            new = sorted(_files_of(commit / _FILES), key=lambda name: (name == last, name))
            for name in (*new, *gone):
                _refuse_linked_parents(folder, name)
            if last in new:
                (folder / last).unlink(missing_ok=True)
            for name in new:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (commit / _FILES / name).replace(folder / name)
            for name in gone:
                (folder / name).unlink(missing_ok=True)
                _remove_empty(folder, PurePosixPath(name))
            for parent in {(folder / name).parent for name in new}:
                sync(parent)
            (commit / _GONE).unlink()
        shutil.rmtree(commit)
        sync(folder)


def _read_gone(folder: Path) -> tuple[list[str], str]:
    """[files to be removed, the file to be moved last], each a plain path inside the folder."""
    path = folder / COMMIT / _GONE
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        gone, last = said["gone"], said["last"]
        plain = isinstance(gone, list) and all(isinstance(n, str) and _is_plain(n) for n in (*gone, last or "none"))
    except (ValueError, LookupError, TypeError, RecursionError):
        plain = False
    if not plain or (folder / COMMIT / _FILES).is_symlink():
        raise UnsafeFile(f"{path} was not written by factedit. Remove the folder {path.parent} to use the rest.")
    return sorted(gone, key=lambda name: (name != last, name)), last


def _is_plain(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return bool(parts) and not name.startswith("/") and not any(p in ("..", COMMIT) or "\0" in p for p in parts)


def _refuse_linked_parents(folder: Path, name: str) -> None:
    for parent in list(PurePosixPath(name).parents)[:-1]:
        if (folder / parent).is_symlink():
            raise UnsafeFile(f"{folder / parent} is a link, and is not written through. Name another folder.")


def _remove_empty(folder: Path, name: PurePosixPath) -> None:
    for parent in list(name.parents)[:-1]:
        try:
            (folder / parent).rmdir()
        except OSError:  # it holds something
            return
