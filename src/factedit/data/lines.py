"""The lines of text files, plain or gzipped, with errors that name the line."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from factedit.errors import DataError, first_line

PIECE, UNPACKED, MOST_TIMES = 1 << 24, 1 << 27, 200  # bytes at once; what packed text may unpack to, or times its size


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines of a text file, gzipped if its name says so, with their numbers (from 1).

    Raises:
        DataError: naming file and line: no such file, not UTF-8, a broken gzip stream.
    """
    line = 0
    try:
        with _open(path) as file:
            packed = path.stat().st_size if path.suffix == ".gz" else 0
            for line, raw in enumerate(_lines(file, path, packed), 1):
                yield line, raw.decode("utf-8-sig" if line == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}, line {line}: not UTF-8 text ({error.reason} at byte {error.start}).") from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(
            f"{path}, line {line + 1}: the gzip stream is broken ({first_line(error)}). Copy or download it again."
        ) from error
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file.") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}).") from error


def read_text(path: Path) -> str:
    """Return the whole text of a file, gzipped if its name says so.

    Raises:
        DataError: as `read_lines`.
    """
    return "".join(line for _, line in read_lines(path))


def _lines(file: IO[bytes], path: Path, packed: int) -> Iterator[bytes]:
    """The lines of a file, read in pieces; refused where a packed one unpacks to what text never does.

    Raises:
        DataError: a gzip bomb.
    """
    parts: list[bytes] = []
    total = 0
    while piece := file.readline(PIECE):
        total += len(piece)
        if packed and total > max(UNPACKED, MOST_TIMES * packed):
            raise DataError(f"{path} unpacks to more than {MOST_TIMES} times its size, which is no file of records.")
        parts.append(piece)
        if piece.endswith(b"\n"):
            yield b"".join(parts)
            parts = []
    if parts:
        yield b"".join(parts)


def _open(path: Path) -> IO[bytes]:
    if path.exists() and not path.is_file():
        raise DataError(f"{path} cannot be read (it is a folder or a pipe). Give a file.")
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]
