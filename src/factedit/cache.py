"""The cache: what can be made again, and is made again, with a word, where it was damaged.

An entry carries the hash of its content, checked each time it is read: a file in its first line (`write_entry`), a
folder in `checksums.json` (`write_checksums`), checked once per process.
How files and folders appear whole is in `disk.py` and `folders.py`, who may change them in `locks.py`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
from pathlib import Path

from factedit.disk import ENVIRONMENT, cache_dir, disk_errors, sha256_file, write_atomic, writing
from factedit.folders import holds_others, link_or_copy, publish_folder, replace_files, replace_folder, settled
from factedit.locks import locked

__all__ = [
    "ENVIRONMENT", "cache_dir", "disk_errors", "found_or_earlier", "holds_others", "is_sound_folder", "link_or_copy",
    "locked", "publish_folder", "read_entry", "replace_files", "replace_folder", "set_aside", "settled", "sha256_file",
    "write_atomic", "write_checksums", "write_entry", "writing",
]  # fmt: skip

CHECKSUMS = "checksums.json"
DAMAGED = ".damaged"
_MOST = 1 << 20  # bytes of a list of checksums
_checked: dict[Path, tuple[tuple[str, int, int, int], ...]] = {}  # folders found sound by this process
logger = logging.getLogger("factedit")


def write_entry(path: Path, content: bytes) -> None:
    """Write a cache file whose first line is the hash of the rest.

    Raises:
        ResourceError: the disk is full or not writable.
    """
    write_atomic(path, hashlib.sha256(content).hexdigest().encode() + b"\n" + content)


def read_entry(path: Path) -> bytes | None:
    """Return the content of a cache file; None where there is none, or a damaged one, which is set aside."""
    try:
        if not path.is_file():
            return None
        said, _, content = path.read_bytes().partition(b"\n")
    except OSError:
        return None
    if said.decode("ascii", "replace") == hashlib.sha256(content).hexdigest():
        return content
    set_aside(path, "its content is not what was written")
    return None


def found_or_earlier(path: Path, earlier: Path) -> Path:
    """Return where an entry is: under its own name, or else under that of earlier versions, which told less apart."""
    return earlier if earlier.is_file() and not path.is_file() else path


def set_aside(path: Path, reason: str) -> None:
    """Rename a damaged cache file to `NAME.damaged`, so that it is made again; said by the logger `factedit`.

    Args:
        path: the file.
        reason: what is wrong, as a message about the file says it; what it advises is left out, since it is done here.
    """
    reason = reason.replace(str(path), "it").removeprefix("it is damaged: ").partition(". ")[0].removesuffix(".")
    aside = path.with_name(f"{path.name}{DAMAGED}")
    with contextlib.suppress(OSError):
        path.replace(aside)
        logger.warning("%s is damaged (%s). It was renamed to %s and is made again.", path, reason, aside.name)


def write_checksums(folder: Path) -> None:
    """Write the hashes of all files of a folder into it, to be checked by `is_sound_folder`."""
    files = {p.relative_to(folder).as_posix(): sha256_file(p) for p in sorted(folder.rglob("*")) if p.is_file()}
    (folder / CHECKSUMS).write_text(json.dumps(files, indent=1) + "\n", encoding="utf-8")


def is_sound_folder(folder: Path) -> bool:
    """Return whether a folder's files are those that `write_checksums` saw, all of them and to the bit.

    A folder found sound is not read again by this process as long as its files keep size and time.
    """
    try:
        if (folder / CHECKSUMS).stat().st_size > _MOST:
            return False
        said = json.loads((folder / CHECKSUMS).read_text(encoding="utf-8"))
        if not said:
            return False
        seen = []
        for name in said:
            status = (folder / name).stat()
            seen.append((str(name), status.st_size, status.st_mtime_ns, status.st_ino))
        if _checked.get(folder) != tuple(seen):
            if not all(sha256_file(folder / name) == sha256 for name, sha256 in said.items()):
                return False
            _checked[folder] = tuple(seen)
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return False
    return True
