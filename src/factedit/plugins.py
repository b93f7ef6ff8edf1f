"""What other packages add: methods, effects, benchmarks, metrics, each under an entry point group of its own."""

from __future__ import annotations

import hashlib
import inspect
import logging
import sys
from collections.abc import Callable, Collection, Iterable, Iterator
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import CodeType
from typing import Any

from factedit.errors import UsageError, first_line

OWN = __name__.partition(".")[0]
MAIN = "__main__"  # a script or a notebook
CODE = (".py", ".so", ".pyd")
TOLD = {"torch", "transformers", "numpy", "pydantic"}  # whose versions stand beside results, or matter to none
_said: set[str] = set()
logger = logging.getLogger("factedit")


def outside(group: str, taken: Collection[str] = ()) -> dict[str, EntryPoint]:
    """Return the entry points of a group by name, e.g. of `"factedit.methods"`; nothing is loaded yet.

    Args:
        group: which.
        taken: names of factedit's own. Who asks for one of them, or for that of another package, is told of once.
    """
    points: dict[str, EntryPoint] = {}
    for point in entry_points(group=group):
        first = points.setdefault(point.name, point)
        if point.name in taken:
            _say_once(f"{group}: {point.name} ({point.value}) has the name of one of factedit's own and is left out.")
        elif first.value != point.value:
            _say_once(f"{group}: {point.name} is both {first.value} and {point.value}; the first is used.")
    return {name: point for name, point in points.items() if name not in taken}


def loaded_point(kind: str, point: EntryPoint) -> Any:
    """Return what an entry point holds.

    Args:
        kind: what it is, in a word.
        point: of another package.

    Raises:
        UsageError: its code fails, or asks the program to end.
    """
    try:
        return point.load()
    except BaseException as error:  # whatever a stranger's module raises
        if is_stop(error):
            raise
        why = f"{type(error).__name__}: {first_line(error)}"
        raise UsageError(
            f"The {kind} {point.name} ({point.value}) cannot be loaded: {why}. Mend its package."
        ) from error


def is_stop(error: BaseException) -> bool:
    """Return whether an exception is Ctrl-C's or a signal's own, which has to pass, and no stranger's `sys.exit`."""
    return not isinstance(error, Exception) and type(error) is not SystemExit


def _say_once(text: str) -> None:
    if text not in _said:
        _said.add(text)
        logger.warning("%s", text)


def code_of(*things: Any) -> dict[str, str]:
    """Return the code of strangers that things run: per top-level package or module a hash of its source files.

    Nothing for things of factedit's own, which its version tells.

    Args:
        things: objects, e.g. methods; their classes and what these are made of count, and functions they hold.

    Returns:
        By name of the package 16 hexadecimal digits.
    """
    hashes = {
        name: _hash_of_main(owner) if name.startswith(f"{MAIN}.") else _hash_of(name)
        for name, owner in _strangers(things).items()
    }
    return dict(sorted(hashes.items()))


def strangers_of(*things: Any) -> list[str]:
    """Return the names of `code_of`, for which no file is read."""
    return sorted(_strangers(things))


def _strangers(things: Iterable[Any]) -> dict[str, Any]:
    """By name of a stranger's package or module one of its classes or functions that things run; what was written into
    a script or a notebook each under a name of its own.
    """
    by_name = dict[str, Any]()
    for owner in (owner for thing in things for owner in _owners(thing)):
        name = str(owner.__module__).partition(".")[0]
        if name == MAIN:
            by_name[f"{name}.{owner.__qualname__}"] = owner
        elif name not in {OWN, *TOLD} and name not in sys.stdlib_module_names:
            by_name[name] = owner
    return by_name


def _owners(thing: Any) -> Iterator[Any]:
    """The classes and functions whose code a stranger's thing runs."""
    if type(thing).__module__.partition(".")[0] == OWN:
        return
    yield from type(thing).__mro__
    held = vars(thing).values() if hasattr(thing, "__dict__") else ()
    for value in held:
        function = getattr(value, "func", value)  # a partial's own
        if inspect.isfunction(function) or inspect.ismethod(function):
            yield function
            yield from type(function.__self__).__mro__ if inspect.ismethod(function) else ()


def _hash_of(name: str) -> str:
    """A hash of a package's source and compiled files, or of a module's."""
    module = sys.modules[name]
    roots = [Path(place) for place in getattr(module, "__path__", ())]
    files = [path for root in roots for path in sorted(root.rglob("*")) if path.suffix in CODE]
    file = getattr(module, "__file__", None)
    files += [Path(file)] if not roots and file else []
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.name} ".encode("utf-8", "surrogateescape") + path.read_bytes())
    return digest.hexdigest()[:16]


def _hash_of_main(owner: Any) -> str:
    """A hash of what was written into a script or a notebook."""
    try:
        text = inspect.getsource(owner).encode()
    except (OSError, TypeError):
        text = b"".join(code.co_code + repr(code.co_names).encode() for code in _codes(owner))
    return hashlib.sha256(text).hexdigest()[:16]


def _codes(owner: Any) -> list[CodeType]:
    functions: list[Callable[..., Any]] = list(vars(owner).values()) if inspect.isclass(owner) else [owner]
    return [function.__code__ for function in functions if hasattr(function, "__code__")]
