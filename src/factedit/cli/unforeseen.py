"""What nobody foresaw: one error line, and a file with the traceback that can be sent; never a bare traceback."""

from __future__ import annotations

import platform
import shlex
import sys
import tempfile
import time
import traceback
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from factedit import __version__
from factedit.cache import cache_dir, write_atomic
from factedit.errors import FacteditError
from factedit.plugins import outside

LIBRARIES = ("torch", "transformers", "tokenizers", "safetensors", "numpy", "typer", "rich")
GROUPS = ("factedit.methods", "factedit.metrics", "factedit.benchmarks", "factedit.effects")
QUOTED = 200  # characters of the error that are shown


def say_unforeseen(error: BaseException) -> str:
    """Write the report and give the line to show: what it was, where the report is, what to do with it."""
    what = f"{type(error).__name__}: {error}".splitlines()[0][:QUOTED]
    path = write_report(error)
    where = (
        f"{path} holds the command and what went before: please send it with a bug report (it may name your files)"
        if path is not None
        else "no report of it could be written, as neither the cache nor the temporary folder takes files"
    )
    package = package_at_fault(error)
    if package:
        return f"this is a fault of {package}, which is no part of factedit ({what}); {where}."
    return f"this is a fault of factedit, not of yours ({what}); {where}."


def package_at_fault(error: BaseException) -> str:
    """Return the package of others (a method, a metric, …) whose code ran when the error was raised; else nothing.

    Only what entry points name counts: libraries that factedit calls are factedit's affair.
    """
    names = {
        point.value.partition(":")[0].partition(".")[0]: point for group in GROUPS for point in outside(group).values()
    }
    for frame, _ in reversed(list(traceback.walk_tb(error.__traceback__))):
        point = names.get(str(frame.f_globals.get("__name__", "")).partition(".")[0])
        if point is not None:
            return point.dist.name if point.dist is not None else point.value
    return ""


def write_report(error: BaseException) -> Path | None:
    """Write the traceback, the command and the versions to a file of the cache, or of the system's temporary folder.

    Returns:
        The file; None where no folder takes it.
    """
    name = f"error-{time.strftime('%Y%m%d-%H%M%S')}-{error.__class__.__name__}.txt"
    for place in (_of_the_cache, tempfile.gettempdir):
        try:
            folder = Path(place())
            write_atomic(folder / name, _report(error).encode("utf-8", "backslashreplace"))
        except (FacteditError, OSError):
            continue
        return folder / name
    return None


def _of_the_cache() -> Path:
    return cache_dir() / "errors"


def _report(error: BaseException) -> str:
    libraries = ", ".join(f"{name} {_version(name)}" for name in LIBRARIES)
    lines = [
        f"factedit {__version__}, Python {platform.python_version()}, {platform.platform()}",
        libraries,
        f"command: factedit {shlex.join(sys.argv[1:])}",
        "",
        *traceback.format_exception(error),
    ]
    return "\n".join(lines)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
