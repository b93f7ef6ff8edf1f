"""The modules of docs/ that make pages, which are no package."""

from __future__ import annotations

import importlib.util
from typing import Any

from conftest import ROOT


def module(name: str) -> Any:
    """A module of docs/ by its name."""
    spec = importlib.util.spec_from_file_location(f"docs_{name}", ROOT / "docs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found
