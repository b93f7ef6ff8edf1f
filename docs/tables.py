"""Write the tables that come from the registries into README.md; with --check, fail where they are stale."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from factedit.data.registry import DATASETS
from factedit.edit.method_table import METHODS
from factedit.edit.presets import PRESETS
from factedit.export.ship import FORMS
from factedit.files.embedded import EMBEDDED
from factedit.models.family_table import FAMILIES

README = Path(__file__).parent.parent / "README.md"


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def methods() -> str:
    """The methods."""
    return table(["method", "what it does", "source"], [[f"`{n}`", m.what, m.paper] for n, m in METHODS.items()])


def models() -> str:
    """Embedded models and architectures."""
    embedded = table(
        ["name", "package", "licence"], [[f"`{m.name}`", f"`{m.package}`", m.licence] for m in EMBEDDED.values()]
    )
    rows = FAMILIES.items()
    edited = ", ".join(n for n, row in rows if not row.experts and not row.refused)
    experts = ", ".join(n for n, row in rows if row.experts)
    traced = "; ".join(f"{n} ({row.refused})" for n, row in rows if row.refused)
    return (
        f"{embedded}\n\n{len(rows)} architectures. Traced and edited: {edited}.\n\n"
        f"The same, with experts: {experts}.\n\nTraced only: {traced}.\n\n"
        f"Multimodal models around one of these (Gemma 3 and 4, Mistral 3, Llama 4, Qwen 3.5, LLaVA, …) are traced and "
        f"edited in their text model, and written back whole. `factedit models` says which architectures cannot be "
        f"read, and why; `factedit models --probe FOLDER` finds and proves a row for one that is not here."
    )


def _setting(value: object) -> str:
    """A setting's value; of contexts how many tokens each has, of texts that they begin with these."""
    if not isinstance(value, tuple):
        return str(value)
    return " / ".join(f"{v[0]} of {v[1]} tokens" if isinstance(v, tuple) else repr(v) for v in value)


def presets() -> str:
    """The presets."""
    rows = []
    for p in PRESETS:
        rest = ", ".join(f"{k} {_setting(v)}" for k, v in p.settings.items() if k != "layer")
        rows.append([p.model, str(p.settings["layer"]), rest or "published defaults", p.source])
    return table(["model", "layer", "other settings", "source"], rows)


def datasets() -> str:
    """The data sets."""
    return table(["data set", "what", "source"], [[f"`{d.name}`", d.what, d.source] for d in DATASETS.values()])


def forms() -> str:
    """The forms in which an edit is shipped."""
    return table(["form", "what is written"], [[f"`{name}`", what] for name, what in FORMS.items()])


TABLES = {"methods": methods, "models": models, "presets": presets, "datasets": datasets, "forms": forms}


def filled(text: str) -> str:
    """The text with every marked table made anew."""
    for name, make in TABLES.items():
        pattern = re.compile(rf"(<!-- table: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        if not pattern.search(text):
            raise SystemExit(f"README.md has no place for the table {name!r}")
        content = make()
        text = pattern.sub(lambda m, c=content: f"{m.group(1)}{c}\n{m.group(2)}", text)
    return text


def main() -> None:
    """Write, or check."""
    text = README.read_text(encoding="utf-8")
    new = filled(text)
    if "--check" in sys.argv[1:]:
        if new != text:
            raise SystemExit("README.md: the tables are stale; run 'make docs'")
    else:
        README.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()
