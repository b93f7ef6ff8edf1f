"""Views that need nothing else: the page's drawings with their numbers, as a file and as a notebook's output.

A drawing (`drawings/*.js`) takes its numbers, as JSON, and gives an element. A file holds the style sheet, the scripts,
the numbers, and the same numbers as plain tables, which is what stands where no script runs. Its policy lets no other
script run and asks nobody for anything.
"""

from __future__ import annotations

import hashlib
import json
import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from functools import cache
from html import escape
from importlib.resources import files
from typing import Any, NamedTuple

from factedit import __version__
from factedit.safe import safe_text, without_nan

ENTRY = "frozen"
LARGEST = 240_000  # characters of a notebook's output; above, the tables stand alone
_IMPORT = re.compile(r'^import (\{[^}]*\}) from "\./(\w+)\.js";$', re.MULTILINE)
_EXPORT = re.compile(r"^export ((?:async )?(?:function|const|class) (\w+))", re.MULTILINE)
_SLOT = re.compile(r"%%(\w+)%%")
_POLICY = (
    "default-src 'none'; script-src 'sha256-{script}'; style-src-elem 'sha256-{style}'; "
    "style-src-attr 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
_BESIDE = "<style>.factedit-drawn+.factedit-plain{display:none}</style>"


class Drawing(NamedTuple):
    """What a drawing is drawn from.

    Attributes:
        name: of the drawing, as in `drawings/drawings.js`.
        told: its numbers: JSON values; what JSON cannot hold is drawn as missing.
        plain: markup of the same numbers, where no script runs.
    """

    name: str
    told: Mapping[str, Any]
    plain: str

    def in_place(self) -> str:
        """Return the markup that stands where it is drawn."""
        return f'<div class="scroll" data-drawing="{self.name}">{self.plain}</div>'


def frozen(title: str, body: str, drawings: Sequence[Drawing], *, root: str = "") -> str:
    """Return a file of HTML that needs nothing else.

    Args:
        title: of the window.
        body: markup; it holds each drawing's `in_place()`, in the order of `drawings`.
        drawings: what is drawn in it.
        root: the class of the whole.
    """
    told = json.dumps(without_nan([drawing.told for drawing in drawings]), allow_nan=False).replace("<", "\\u003c")
    kind = f' class="{root}"' if root else ""
    slots = {"title": escape(safe_text(title)), "body": body, "numbers": told, "root": kind}
    return _SLOT.sub(lambda slot: slots[slot[1]], form(style()))


def in_notebook(title: str, drawing: Drawing, *, height: int) -> str:
    """Return a drawing as a notebook's output: a frame of its own in which its script alone may run, and the tables,
    which stand where frames do not.

    Args:
        title: read out for the frame.
        drawing: what is drawn.
        height: of the frame, in pixels.
    """
    plain = f'<div class="factedit-plain" style="overflow-x: auto">{drawing.plain}</div>'
    file = frozen(title, f"<main>{drawing.in_place()}</main>", [drawing], root="framed")
    frame = (
        f'<iframe class="factedit-drawn" title="{escape(safe_text(title))}" sandbox="allow-scripts" '
        f'style="width: 100%; height: {height}px; border: 0" srcdoc="{_attribute(file)}"></iframe>'
    )
    whole = f"<div>{_BESIDE}{frame}{plain}</div>"
    return whole if len(whole) <= LARGEST else f"<div>{plain}</div>"


@cache
def form(style_sheet: str) -> str:
    """Return the file with `%%title%%`, `%%root%%`, `%%body%%` and `%%numbers%%` still to be filled in, for a browser
    that saves what it shows.

    Args:
        style_sheet: that it bears.
    """
    text = (files("factedit.markup") / "drawings" / "frozen.html").read_text(encoding="utf-8")
    policy = _POLICY.format(script=_digest(script()), style=_digest(style_sheet))
    slots = {"style": style_sheet, "script": script(), "policy": policy, "version": __version__}
    return _SLOT.sub(lambda slot: slots.get(slot[1], slot[0]), text)


@cache
def style() -> str:
    """Return the style sheet of drawings."""
    return lean((files("factedit.markup") / "drawings" / "drawings.css").read_text(encoding="utf-8"))


@cache
def script() -> str:
    """Return all drawings as one script: each module a function that is called once, after those it imports."""
    modules = dict[str, str]()
    _add(ENTRY, modules)
    return "\n".join(["(() => {", "const modules = {};", *modules.values(), "})();"])


def _add(name: str, modules: dict[str, str]) -> None:
    text = (files("factedit.markup") / "drawings" / f"{name}.js").read_text(encoding="utf-8")
    for imported in _IMPORT.findall(text):
        if imported[1] not in modules:
            _add(imported[1], modules)
    exported = ", ".join(name for _, name in _EXPORT.findall(text))
    text = lean(_EXPORT.sub(r"\1", _IMPORT.sub(r"const \1 = modules.\2;", text)))
    modules[name] = f"modules.{name} = (() => {{\n{text}\nreturn {{ {exported} }};\n}})();"


def lean(text: str) -> str:
    """Return a script or a style sheet without indentation, empty lines and lines of comment."""
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL) if text.lstrip().startswith("/*") else text
    lines = (line.strip() for line in text.splitlines())
    return "\n".join(line for line in lines if line and not line.startswith("//"))


def _digest(text: str) -> str:
    return b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _attribute(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
