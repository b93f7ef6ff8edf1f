"""What the checks of many facts are asked, and what they found, as a table of text and as JSON."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def asks(about: str | None) -> argparse.ArgumentParser:
    """Return the options that the checks of many facts share.

    Args:
        about: the check's own docstring.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--dataset", default="counterfact-reconstructed")
    parser.add_argument("--set", action="append", help="settings of the method, or of all, name=value")
    parser.add_argument("--second-moment", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    return parser


def tell(folder: Path, name: str, about: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    """Print rows as a Markdown table, and write it and the figures as `folder/name.md` and `folder/name.json`.

    Args:
        folder: where to.
        name: of the two files.
        about: what was run.
        rows: figures by column; a column that a row lacks is a dash.
    """
    columns = list(dict.fromkeys(column for row in rows for column in row))
    lines = [columns, ["---"] * len(columns), *([_cell(row.get(column)) for column in columns] for row in rows)]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    said = ", ".join(f"{key} {value}" for key, value in about.items())
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.md").write_text(f"{said}\n\n{table}\n", encoding="utf-8")
    (folder / f"{name}.json").write_text(json.dumps({"about": dict(about), "rows": list(rows)}, indent=1) + "\n")
    sys.stdout.write(f"{said}\n\n{table}\n")
    return table


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text.replace("|", "¦").replace("\n", " ")
