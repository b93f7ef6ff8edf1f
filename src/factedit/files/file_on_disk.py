"""A file whose bytes are read where they are asked for, and which must stay what it was when it was opened.

Files are read, not mapped: a mapped file that somebody cuts short ends the process with a signal, and its pages count
as the process's own memory until they are given back. What the file was when it was opened (size, time of change,
inode) is looked at before every reading, so that one that was changed, cut or removed meanwhile is one error
(docs/decisions/0028-larger-than-memory.md).
"""

from __future__ import annotations

import os
import weakref
from pathlib import Path

from factedit.errors import DataError

AT_ONCE = 1 << 26  # bytes of one reading


class FileOnDisk:
    """A file of weights, open until nobody has it any more.

    Args:
        path: the file.

    Attributes:
        path: the file.
        close: closes it.

    Raises:
        DataError: it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._descriptor = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise DataError(f"The weights {path} cannot be read: {error.strerror}. Get the model again.") from error
        self.close = weakref.finalize(self, os.close, self._descriptor)
        self._was = _state(os.fstat(self._descriptor))

    def start(self, length: int, begin: int = 0) -> bytes:
        """Return some bytes, fewer where the file ends; for its header.

        Raises:
            OSError: the disk refuses.
        """
        return os.pread(self._descriptor, min(length, self._was[0]), begin)  # a length that a file says may be any

    def fill(self, view: memoryview, begin: int) -> None:
        """Read bytes into memory.

        Args:
            view: is filled.
            begin: the first byte's place in the file.

        Raises:
            DataError: the file was changed, cut off or removed since it was opened.
        """
        self._check_same()
        done = 0
        while done < len(view):
            try:
                count = os.preadv(self._descriptor, [view[done : done + AT_ONCE]], begin + done)
            except OSError as error:
                raise changed_file(self.path, f"it cannot be read: {error.strerror}") from error
            if not count:
                raise changed_file(self.path, "it ends too early")
            done += count
        self._check_same()  # it may have been written to while it was read

    def _check_same(self) -> None:
        try:
            now = _state(self.path.stat())  # of the name: a file put in its place is another
        except OSError as error:
            raise changed_file(self.path, "it is gone") from error
        if now != self._was:
            raise changed_file(self.path, "its size, time or file is another")


def _state(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_size, status.st_mtime_ns, status.st_ino


def changed_file(path: Path, why: str) -> DataError:
    """Return the error for weights that are not what they were when they were opened."""
    return DataError(
        f"The weights {path} were changed while the model was read from them ({why}). What was stored so far is kept. "
        "Put the file back, or get the model again, and repeat the command."
    )
