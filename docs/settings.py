"""The settings of every method and of a training, for the site: name, default and meaning, from the classes."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from importlib import import_module

from pydantic import BaseModel

from factedit.edit.method_table import METHODS

TRAINING = ("factedit.train.loop", "factedit.edit.network_ke", "factedit.edit.network_mend")  # of hypernetworks
ARGUMENT = re.compile(r"^    (\w[\w, ]*): (.*(?:\n {6,}.*)*)", re.MULTILINE)


def kinds() -> dict[type[BaseModel], dict[str, str]]:
    """Every class of settings: per method that takes it what its maker says of them; of a training nothing."""
    made: dict[str, str] = {}
    for name, row in METHODS.items():
        module, function = row.maker.split(":")
        made[name] = getattr(import_module(module), function).__doc__ or ""
    of_training = {kind for module in TRAINING for kind in vars(import_module(module)).values() if _is_settings(kind)}
    by_name = {kind.__name__: kind for kind in _below(BaseModel) if _is_settings(kind)}
    taken: dict[type[BaseModel], dict[str, str]] = {}
    for name, said in made.items():
        other = re.search(r"settings as for `([\w-]+)`", said)
        named = re.search(r"settings as in `(\w+)`", made[other[1]] if other else said)
        if named:
            taken.setdefault(by_name[named[1]], {})[name] = " ".join(said.split("\n\n")[0].split()).partition("; ")[2]
    return taken | {kind: {} for kind in sorted(of_training - taken.keys(), key=lambda kind: kind.__name__)}


def rows(kind: type[BaseModel]) -> list[list[str]]:
    """A row per setting: its name, its default, and what the class or one that it is made from says of it."""
    said = dict(pair for base in reversed(kind.__mro__) for pair in _arguments(base))
    return [[f"`{name}`", _default(field.default), said.get(name, "")] for name, field in kind.model_fields.items()]


def about(kind: type[BaseModel]) -> str:
    """What a class says of itself before its arguments."""
    return " ".join(inspect.cleandoc(kind.__doc__ or "").partition("\n\nArgs:")[0].split())


def _is_settings(kind: object) -> bool:
    return (
        isinstance(kind, type) and issubclass(kind, BaseModel)
        and kind.__module__.startswith("factedit.") and kind.__name__.endswith("Settings") and bool(kind.model_fields)
    )  # fmt: skip


def _below(kind: type[BaseModel]) -> Iterator[type[BaseModel]]:
    for inner in kind.__subclasses__():
        yield inner
        yield from _below(inner)


def _arguments(kind: type) -> Iterator[tuple[str, str]]:
    for names, text in ARGUMENT.findall(inspect.cleandoc(kind.__doc__ or "")):
        for name in names.split(", "):
            yield name, " ".join(text.split())


def _default(value: object) -> str:
    return "–" if value is None else f"`{value!r}`"
