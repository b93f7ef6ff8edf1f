"""What every command asks of its outputs before it begins: see `factedit.outputs`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from factedit.errors import UsageError
from factedit.safe import own_json

MODELS = ("model", "named_model", "base", "suspect", "corpus", "probe")  # a folder or a file, or a name
LISTS = ("dataset", "data", "candidates", "facts")  # a file, or a name
# by command: the store that makes a folder its own, what it writes beside it, and another command's sign
RESULTS = {
    "evaluate": ("results.sqlite", ("table.md", "table.csv", "summary.json", "many.png", "many.svg"), "table.json"),
    "reproduce": ("results.sqlite", ("table.md", "table.csv", "table.json"), "summary.json"),
    "locate": ("locate.sqlite", ("locate.png", "locate.md", "locate.json"), ""),
    "verdict": ("verdict.json", ("verdict.html", "verdict.md"), ""),
    "sweep-layers": ("results.sqlite", ("layers.png", "layers.json"), ""),
}
OLDER = " (If it is JSON that an earlier version of factedit wrote, which is not told from others', remove it.)"
PATHS = (
    "requests",
    "contexts",
    "trained",
    "references",
    "second_moment",
    "prompts",
    "panel",
    "abilities",
    "folder",
    "folders",
    "edits",
    "edit",
)


def as_text(value: Any) -> str:
    """Return JSON as factedit's files hold it; `is_own_json` knows it again."""
    return own_json(value, _plain)


def is_own_json(content: bytes) -> bool:
    """Return whether content is JSON of a command of factedit: an object or list, with its layout and end."""
    try:
        text = content.decode()
        value = json.loads(text)
        return isinstance(value, dict | list) and text == as_text(value)
    except (ValueError, RecursionError):
        return False


def check_outputs(given: Mapping[str, Any], command: str = "") -> None:
    """Refuse outputs that cannot be written, would replace what is not factedit's own, or lie in an input.

    Args:
        given: the command's arguments and options by name.
        command: its name.

    Raises:
        UsageError, ResourceError: see `factedit.outputs`.
    """
    from factedit.outputs import check_apart, check_file, check_name, check_results, check_writable, is_made_here

    kinds: dict[str, Callable[[bytes], bool] | None] = {
        "json": is_own_json, "plot": is_made_here, "arrays": None, "page": is_made_here, "out_file": is_made_here,
        "save": None,
    }  # fmt: skip
    files = {name: given[name] for name in kinds if isinstance(given.get(name), Path) and str(given[name]) != "-"}
    folder = given.get("out_dir") or given.get("write")
    if "facts" in given and given["facts"] is None:
        folder = None  # the folder of traces belongs to --facts
    for path in (*files.values(), *([folder] if folder else [])):
        check_name(path)
    inputs = _inputs(given)
    same = folder is not None and any(folder.resolve() == path.resolve() for path in inputs)
    in_place = same and "edits" in given and "form" not in given  # 'apply' on a folder of edits
    check_apart([*files.values(), *([folder] if folder and not in_place else [])], inputs)
    for name, path in files.items():
        hint = OLDER if name == "json" else ""
        check_file(path, kinds[name], force=name == "save" and bool(given.get("force")), hint=hint)
    if folder is not None:
        if folder.exists() and not folder.is_dir():
            raise UsageError(f"{folder} is a file, and a folder is to be written there. Name another place.")
        check_writable(folder)
        if command in RESULTS:
            check_results(folder, *RESULTS[command])
        if command == "verdict":
            check_file(folder / "verdict.json", is_own_json)


def _inputs(given: Mapping[str, Any]) -> list[Path]:
    """The files and folders that are read."""
    paths: list[Path] = []
    for name in (*MODELS, *LISTS, *PATHS):
        value = given.get(name)
        paths += [Path(one) for one in (value if isinstance(value, list) else [value]) if one and _is_read(name, one)]
    return paths


def _is_read(name: str, value: str | Path) -> bool:
    """Whether a value is a path, where it may also be a name that a folder happens to have."""
    try:
        path = Path(value)
        if name in MODELS and path.is_dir():
            return name == "corpus" or (path / "config.json").is_file()
        return path.is_file() or (name in PATHS and path.is_dir())
    except (OSError, ValueError):
        return False


def _plain(value: Any) -> Any:
    """numpy and torch values as JSON."""
    return value.tolist() if hasattr(value, "tolist") else str(value)
