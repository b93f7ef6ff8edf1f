"""Spoilt files of every format, read one after the other, and what came of each counted.

Counted are refused (one clear error), accepted and equal, accepted and different (must be 0), traceback (0), hang (0),
lost (0: a file that the reader changed or took away). The same seed gives the same inputs.

    PYTHONPATH=tests python -m fuzz.run --inputs 500 --seed 0 [--only gguf] [--keep FOLDER]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import random
import shutil
import signal
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from factedit.errors import FacteditError
from fuzz.formats import FORMATS, Format, copied, digest, snapshot
from fuzz.mutations import Random, damaged, forged, forged_safetensors, forged_text, written

SECONDS = 20  # for one input
REFUSED, EQUAL, DIFFERENT, TRACEBACK, HANG, LOST, UNCLEAR = (
    "refused", "accepted and equal", "accepted and different", "traceback", "hang", "lost", "unclear message"
)  # fmt: skip
BAD = (DIFFERENT, TRACEBACK, HANG, LOST, UNCLEAR)
LONGEST = 1500  # characters of a message; what it quotes of a file is a line at most


class _TooLong(BaseException):
    """Raised by the alarm; no reader catches it."""


@contextlib.contextmanager
def _at_most(seconds: int) -> Iterator[None]:
    def ring(*_: object) -> None:
        raise _TooLong

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def spoil(form: Format, path: Path, rng: Random) -> str:
    """Spoil one file of a copy, and say how."""
    files = sorted({p for pattern in form.files for p in ([path] if pattern == "." else path.glob(pattern))})
    file = rng.choice([p for p in files if p.is_file()])
    raw, kind = file.read_bytes(), rng.random()
    if kind < 0.02:
        file.unlink()
        return f"{file.name} removed"
    if kind < 0.03:
        file.unlink()
        file.mkdir()
        return f"{file.name} a folder"
    if kind < 0.04:
        file.unlink()
        os.mkfifo(file)
        return f"{file.name} a named pipe"
    if kind < 0.55 and file.suffix == ".json":
        value = json.loads(raw)
        for _ in range(rng.choice((1, 1, 2))):
            value = forged(value, rng)
        file.write_bytes(written(value, rng))
        return f"{file.name} forged"
    if kind < 0.55 and file.suffix == ".jsonl":
        lines = raw.decode().splitlines()
        at = rng.randrange(len(lines))
        lines[at] = written(forged(json.loads(lines[at]), rng), rng).decode("utf-8", "surrogatepass")
        file.write_bytes("\n".join(lines).encode("utf-8", "surrogatepass"))
        return f"{file.name} forged"
    if kind < 0.45 and file.suffix == ".safetensors":
        file.write_bytes(forged_safetensors(raw, rng))
        return f"{file.name} forged"
    if kind < 0.1 and file.suffix == ".txt":
        file.write_text(forged_text(file.read_text(), rng), errors="surrogatepass")
        return f"{file.name} forged"
    file.write_bytes(damaged(raw, rng))
    return f"{file.name} damaged"


def outcome(form: Format, path: Path, sound: str) -> tuple[str, str]:
    """What came of reading a spoilt copy, and the words for it."""
    before = snapshot(path)
    try:
        with _at_most(SECONDS):
            found = digest(form.read(path))
    except _TooLong:
        return HANG, ""
    except FacteditError as error:
        if snapshot(path) != before:
            return LOST, str(error)
        text = str(error)
        clear = text.strip() and len(text) <= LONGEST and "\n" not in text.strip()
        return (REFUSED if clear else UNCLEAR), text
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return TRACEBACK, "".join(traceback.format_exception(error))
    if snapshot(path) != before:
        return LOST, "accepted"
    if found == sound:
        return EQUAL, ""
    return (EQUAL if _is_what_the_file_says(form, path, found) else DIFFERENT), "not what was written"


def _is_what_the_file_says(form: Format, path: Path, found: str) -> bool:
    """Whether content that no hash guards is what an independent reading gives."""
    if form.says is None:
        return False
    try:
        with _at_most(SECONDS):
            said = form.says(path)
            return _agrees(form.read(path), said) or digest(said) == found
    except Exception:
        return False


def _agrees(found: Any, said: Any) -> bool:
    """For readers whose result has another form than the independent reading."""
    if isinstance(said, list) and isinstance(found, list) and len(found) == 2 and isinstance(found[1], int):
        return len(found[0]) + found[1] == len(said)  # facts: every object is a record or is counted
    if isinstance(said, dict) and said and all(isinstance(value, float) for value in said.values()):
        sums = sorted(abs(float(t.double().sum())) for t in found.values() if hasattr(t, "double"))
        return len(sums) >= len(said)  # gguf: every tensor that the file lists has been read
    return False


def fuzz(
    inputs: int, seed: int, only: str = "", keep: Path | None = None, place: Path | None = None
) -> dict[str, Counter[str]]:
    """Per format how often what came of an input.

    Args:
        inputs: per format.
        seed: of all of it.
        only: one format.
        keep: where inputs that went wrong are left, with what was said.
        place: a folder to work in.
    """
    found: dict[str, Counter[str]] = {}
    with tempfile.TemporaryDirectory(dir=place) as folder:
        os.environ["FACTEDIT_CACHE"] = str(Path(folder) / "cache")
        for name, form in FORMATS.items():
            if only and only != name:
                continue
            home = Path(folder) / name.replace(" ", "-")
            home.mkdir()
            sound = form.make(home)
            whole = digest(form.read(sound))
            if digest(form.read(sound)) != whole:
                raise AssertionError(f"{name}: a sound one is not read alike twice")
            found[name] = Counter()
            for n in range(inputs):
                _one(form, sound, whole, Path(folder) / "work", f"{seed}/{name}/{n}", found[name], keep)
    return found


def _one(form: Format, sound: Path, whole: str, work: Path, key: str, counts: Counter[str], keep: Path | None) -> None:
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    path = copied(sound, work)
    how = spoil(form, path, random.Random(key))
    kind, said = outcome(form, path, whole)
    counts[kind] += 1
    if kind in BAD and keep is not None:
        target = keep / key.replace("/", "-").replace(" ", "-")
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        with contextlib.suppress(OSError, shutil.Error):
            (shutil.copytree if path.is_dir() else shutil.copy)(path, target / path.name)
        (target / "said.txt").write_text(f"{kind}\n{how}\n{said}\n", errors="backslashreplace")


def table(found: dict[str, Counter[str]]) -> str:
    """The counts as text, a line per format."""
    kinds = (REFUSED, EQUAL, *BAD)
    width = max(map(len, found))
    lines = [" ".join([" " * width, *kinds])]
    for name, counts in found.items():
        lines.append(" ".join([name.ljust(width), *(str(counts[kind]).rjust(len(kind)) for kind in kinds)]))
    total = sum(found.values(), Counter[str]())
    return "\n".join([*lines, " ".join(["all".ljust(width), *(str(total[kind]).rjust(len(kind)) for kind in kinds)])])


def quiet() -> None:
    """Warnings of libraries about damaged files are no matter here."""
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)


def main() -> None:
    """Run, print the counts, and leave with 1 where something went wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=500, help="per format")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", choices=["", *FORMATS])
    parser.add_argument("--keep", type=Path, default=None, help="folder for inputs that went wrong")
    given = parser.parse_args()
    quiet()
    found = fuzz(given.inputs, given.seed, given.only, given.keep)
    sys.stdout.write(table(found) + "\n")
    sys.exit(any(counts[kind] for counts in found.values() for kind in BAD))


if __name__ == "__main__":
    main()
