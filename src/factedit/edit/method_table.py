"""Making a method by its name: of the table (`method_rows.py`), or one from outside.

Methods from outside register under the entry point group `factedit.methods`: a function that makes the method from a
model, a source of second moments and settings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from importlib import import_module
from typing import Any, cast

from factedit.edit.method import Method, MomentSource, check_is_method, check_takes
from factedit.edit.method_rows import METHODS as METHODS
from factedit.edit.presets import PRESET_KINDS, presets_of
from factedit.edit.trained import NETWORK_KINDS
from factedit.errors import UnknownName, UsageError
from factedit.models.adapter import EditableModel
from factedit.plugins import loaded_point, outside

GROUP = "factedit.methods"
STOPPING = "+stop"  # behind a method's name: its targets end in the end-of-text token


@dataclass(frozen=True)
class MethodSpec:
    """A method that is not made yet: what another process needs to make it.

    Attributes:
        name: from the table or an entry point.
        settings: departures from the preset; None means the preset's value.
        moments: gives the second moment of a layer.
        preset: which presets are looked up; see `presets_of`.
    """

    name: str
    moments: MomentSource
    settings: Mapping[str, Any] = field(default_factory=dict)
    preset: str = PRESET_KINDS[0]

    def build(self, model: EditableModel) -> Method:
        """Return the method for a model; presets are looked up by the model's shape.

        Raises:
            UnknownName: no such method or kind of preset.
            UsageError: settings that do not hold.
            EditError: what was made is no method.
        """
        maker = check_method(self.name)
        check_takes(self.name, maker, self.settings)
        with model.unchanged(), presets_of(self.preset):
            return check_is_method(self.name, maker(model, self.moments, **self.settings))


def _maker_that_ends(name: str) -> Callable[..., Any]:
    maker = check_method(name)
    if name in METHODS and not METHODS[name].ends:
        able = ", ".join(method for method, row in METHODS.items() if row.ends)
        raise UsageError(f"The method {name} trains no target, so none can be made to end. Those that do: {able}.")
    return maker


def _stopping(
    name: str, maker: Callable[..., Any], model: EditableModel, moments: MomentSource, /, **settings: Any
) -> Method:
    """Return a method whose targets end, under a name of its own."""
    check_takes(name, maker, settings)
    made: Any = maker(model, moments, **{"stop": "end"} | settings)
    return cast("Method", replace(made, name=name))


def make_method(
    name: str, model: EditableModel, moments: MomentSource, *, preset: str = PRESET_KINDS[0], **settings: Any
) -> Method:
    """Return the method of this name, set up for a model.

    Args:
        name: from the table or an entry point.
        model: presets are looked up by its shape.
        moments: gives the second moment of a layer.
        preset: `tuned`, `published` (without those that were tuned here) or `none`.
        settings: departures from the preset; None means the preset's value.

    Raises:
        UnknownName: no such method or kind of preset.
    """
    return MethodSpec(name, moments, settings, preset).build(model)


def check_method(name: str) -> Callable[..., Any]:
    """Return what makes the method of this name: of the table, of an entry point, of a network trained on a user's
    facts, or one of these with `+stop` behind it, whose targets end in the end-of-text token (`endings.py`).

    Raises:
        UnknownName: no such method.
        UsageError: `+stop` behind a method that trains no target; a package that cannot be loaded.
    """
    plain, plus, option = name.partition(STOPPING)
    if plus and not option:
        return partial(_stopping, name, _maker_that_ends(plain))
    others = outside(GROUP, METHODS)
    if name in METHODS:
        module, _, function = METHODS[name].maker.partition(":")
        maker: Callable[..., Any] = getattr(import_module(module), function)
        return maker
    if name in others:
        loaded: Callable[..., Any] = loaded_point("method", others[name])
        return loaded
    kind, _, own_data = name.partition("-")
    if kind in NETWORK_KINDS and own_data:
        home = import_module(METHODS[kind].maker.partition(":")[0])
        return cast("Callable[..., Any]", home.maker(name, home.PAPER))
    raise UnknownName("method", name, [*METHODS, *others])
