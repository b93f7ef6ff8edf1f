"""The house in figures: rooms, the imports between them, how long files and functions are, how much is tested.

    python docs/rooms.py [CHECKOUT]

Figures of `docs/decisions/0014-effects-and-notes.md`; another checkout gives those of another state.
"""

from __future__ import annotations

import ast
import statistics
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent.parent


def room_of(module: str) -> str:
    """The folder below the package that a module lies in, or the module itself."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else parts[0]


def main() -> None:
    """Print the figures."""
    package = ROOT / "src" / "factedit"
    lengths: dict[Path, int] = {}
    functions: list[int] = []
    rooms: Counter[str] = Counter()
    arrows: Counter[tuple[str, str]] = Counter()
    for path in sorted(package.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        lengths[path] = len(text.splitlines())
        module = ".".join(path.relative_to(package.parent).with_suffix("").parts)
        here = room_of(module) if path.parent != package else path.stem
        rooms[here] += 1
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                functions.append((node.end_lineno or node.lineno) - node.lineno + 1)
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("factedit."):
                there = room_of(node.module or "")
                arrows[here, there] += there != here
    code = sum(lengths.values())
    tests = sum(len(p.read_text(encoding="utf-8").splitlines()) for p in (ROOT / "tests").rglob("*.py"))
    longest = max(lengths, key=lambda p: lengths[p])
    between = {pair: count for pair, count in arrows.items() if count}
    print(f"rooms: {', '.join(f'{room} {count}' for room, count in sorted(rooms.items()))}")
    print(f"arrows: {len(between)} pairs of rooms, {sum(between.values())} imports")
    print(f"files: {len(lengths)}, longest {lengths[longest]} lines ({longest.relative_to(ROOT)})")
    tenths = statistics.quantiles(functions, n=10)
    print(f"functions: {len(functions)}, median {statistics.median(functions):.0f} lines, p90 {tenths[-1]:.0f}")
    print(f"lines: code {code}, tests {tests}, ratio {tests / code:.2f}")


if __name__ == "__main__":
    main()
