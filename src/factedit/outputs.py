"""Where a result may go, asked before it is computed: nothing of the user's is written over, no input, no older result.

| what is there | what happens |
|---|---|
| nothing, an empty file or folder | it is used |
| a file that factedit made (a page, a figure, JSON) | it is replaced |
| a folder with an older result | only with `--force`, and then factedit's own files alone |
| anything else | refused |
"""

from __future__ import annotations

import stat
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path, PurePosixPath

from factedit.disk import sha256_file
from factedit.errors import ResourceError, UsageError, shown
from factedit.paths import is_name

# how pages (now and before), .png, .svg and .pdf figures name the program that made them
_MARKS = (
    b'<meta name="generator" content="factedit', b"<title>factedit:", b"Software\0factedit", b"<dc:title>factedit",
    b"/Creator (factedit",
)  # fmt: skip
# how tables begin, or what stands below their title
_TABLES = {
    "table.md": (b"| method | n |", b"| editor | n |"), "table.csv": (b"method,n", b"model,editor"),
    "summary.json": (b"{",), "table.json": (b"{",), "layers.json": (b"{", b"["), "locate.json": (b"{", b"["),
}  # fmt: skip
_HEAD = 1 << 16  # bytes that are searched for them
_LARGEST = 1 << 28  # bytes of a file that may be factedit's own


def check_name(path: Path) -> None:
    """Refuse an output that has no name of its own, one that no file can have, or is a link that leads nowhere.

    Raises:
        UsageError: quoting it.
    """
    if not is_name(path) or path.resolve() == Path(path.anchor or "/").resolve():
        raise UsageError(f"{shown(str(path))} is no name that a result can have. Name another place.")
    if path.is_symlink() and not path.exists():
        raise UsageError(f"{path} is a link that leads nowhere. Name another place.")


def check_writable(path: Path) -> None:
    """Refuse a file or folder that could not be written, by making and removing a file where it would be.

    Raises:
        ResourceError: naming the folder and what the operating system says.
    """
    try:
        place = path.resolve()
        while not place.exists():
            place = place.parent
        if place.is_dir():
            with tempfile.TemporaryFile(dir=place):
                return
        if place != path.resolve():
            raise NotADirectoryError(0, f"{place} is a file")
        with tempfile.TemporaryFile(dir=place.parent):  # files are replaced, not written into
            return
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ResourceError(f"{path} cannot be written to ({reason}). Name another place.") from error


def check_file(
    path: Path, is_own: Callable[[bytes], bool] | None = None, *, force: bool = False, hint: str = ""
) -> None:
    """Refuse to write a file over one that is not factedit's own; a device or a pipe is written to as it is.

    Args:
        path: where to.
        is_own: whether content is of the kind that would be written; None takes none for it.
        force: write over whatever is there, but for folders.
        hint: what else to say where the file is refused.

    Raises:
        UsageError: a folder, or somebody's file.
        ResourceError: it could not be written.
    """
    if path.is_dir():
        raise UsageError(f"{path} is a folder, and a file is to be written. Name a file in it.")
    if _is_special(path):
        return
    check_name(path)
    if path.exists() and not force and path.stat().st_size:
        content = path.read_bytes() if path.stat().st_size <= _LARGEST else b""
        if is_own is None or not is_own(content):
            raise UsageError(f"{path} is there and is not replaced. Move it, or name another file.{hint}")
    check_writable(path)


def check_apart(outputs: Iterable[Path], inputs: Iterable[Path]) -> None:
    """Refuse an output that is an input or lies inside one, and two outputs in one place.

    Raises:
        UsageError: naming both.
    """
    read = [path for path in inputs if path.exists() and not _is_special(path)]
    seen: list[Path] = []
    for output in outputs:
        if str(output) == "-" or _is_special(output):
            continue
        for path in read:
            if output.resolve().is_relative_to(path.resolve()):
                where = "is" if output.resolve() == path.resolve() else "lies in"
                raise UsageError(f"The output {output} {where} {path}, which is read. Name another place.")
        if any(output.resolve() == other.resolve() for other in seen):
            raise UsageError(f"Two outputs are to be written to {output}. Name a place for each.")
        seen.append(output)


def check_results(folder: Path, store: str, written: Iterable[str], other: str) -> None:
    """Refuse a folder in which tables and figures of results would replace somebody's files, or other results' tables.

    Args:
        folder: of the results.
        store: the file that shows that the folder holds results.
        written: what is written beside it.
        other: a file that shows that its tables are another command's; empty for none.

    Raises:
        UsageError: naming the file.
    """
    if (folder / store).exists():
        theirs = [other] if other and (folder / other).exists() else []
    else:
        theirs = [name for name in written if (folder / name).exists()]
    if theirs:
        raise UsageError(f"{folder / theirs[0]} is there, and is not of these results. Name another folder.")
    check_tables(folder, written)


def check_tables(folder: Path, names: Iterable[str]) -> None:
    """Refuse a folder in which one of the tables that would be replaced is nothing that factedit writes.

    Raises:
        UsageError: naming it.
    """
    for name in names:
        path = folder / name
        if name in _TABLES and path.exists() and not is_table(name, path):
            raise UsageError(f"{path} is there, and is no table of factedit's: it is not replaced. Move it.")


def is_table(name: str, path: Path) -> bool:
    """Return whether a file could be the table of that name: an empty one, or one with the head of ours."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        content = file.read(_HEAD).lstrip()
    marks = _TABLES[name]
    return not content or content.startswith(marks) or (name == "table.md" and any(mark in content for mark in marks))


def unchanged_files(folder: Path, hashes: Mapping[str, object]) -> set[str]:
    """Return those of a folder's files that are still as a list of hashes has them: what factedit may replace or
    remove.

    The list may be forged: a name that is no plain path inside the folder is passed over.
    """
    unchanged = set()
    for name, sha256 in hashes.items():
        parts = PurePosixPath(name).parts
        path = folder / name
        plain = parts and not name.startswith("/") and ".." not in parts and "\0" not in name
        if plain and path.is_file() and not path.is_symlink() and sha256_file(path) == sha256:
            unchanged.add(name)
    return unchanged


def is_made_here(content: bytes) -> bool:
    """Return whether a page or a figure names factedit as its maker."""
    return any(mark in content[:_HEAD] for mark in _MARKS)


def _is_special(path: Path) -> bool:
    """Whether it is a device, a pipe or the like, or would be a file in `/dev`."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return path.parent == Path("/dev")
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)
