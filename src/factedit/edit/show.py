"""An edit told in words: what it does, why, how it was made, how large it is, and what to beware of."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

from factedit.edit.artefact import Edit

LARGE = 0.1  # ‖ΔW‖ / ‖W‖ above which an edit is called large
_SIZES = ("update_norm", "weight_norm", "spill", "denominator")
SPREAD = 0.05  # spill onto ordinary text above which it is called wide


def show(edit: Edit | str | Path) -> dict[str, Any]:
    """What there is to know about an edit, as JSON values.

    Args:
        edit: an edit, or its folder.

    Returns:
        `identity`, `method`, `model`, `facts` (what it does), `changes` (where, which rank), `settings`,
        `outcome` (before and after, as it was measured), `size`, `exports`, `versions`, `warnings`.

    Raises:
        DataError, UnsafeFile: the folder does not hold a sound edit.
    """
    edit = edit if isinstance(edit, Edit) else Edit.load(edit)
    notes = edit.diagnostics
    size: dict[str, float] = {key: notes[key] for key in _SIZES if key in notes}
    if size.get("weight_norm"):
        size["relative"] = size["update_norm"] / size["weight_norm"]
    return {
        "identity": edit.identity,
        "method": edit.method,
        "model": {"name": edit.model_name, "fingerprint": edit.model_fingerprint},
        "facts": [vars(request) for request in edit.requests],
        "changes": [
            {"layer": c.layer, "matrix": c.matrix, "shape": list(c.shape), "kind": type(c).__name__, "rank": c.rank}
            for c in edit.changes
        ],
        "settings": edit.settings,
        "outcome": {key: notes[key] for key in ("before", "after") if key in notes},
        "size": size,
        "exports": list(edit.exports),
        "versions": edit.versions,
        "warnings": warnings(edit),
    }


def warnings(edit: Edit) -> list[str]:
    """What whoever uses the edit should know."""
    notes, found = edit.diagnostics, []
    before, after = notes.get("before", {}), notes.get("after", {})
    if not after:
        found.append("its outcome was not measured")
    elif not after.get("answers_target_new", True):
        found.append("the edited model does not rank the new object first on its own prompt")
    if before.get("answers_target_new"):
        found.append("the model gave the new object before the edit already")
    if not edit.model_fingerprint:
        found.append("it is not bound to the weights it was made for")
    relative = notes.get("update_norm", 0.0) / (notes.get("weight_norm") or 1.0)
    if relative > LARGE:
        found.append(f"the change is large: ‖ΔW‖ is {100 * relative:.0f} % of ‖W‖")
    if notes.get("spill", 0.0) > SPREAD:
        found.append(f"the change is wide: {100 * notes['spill']:.0f} % of the residual lands on ordinary text")
    for export in edit.exports:
        if export["same_first_token"] < export["prompts"]:
            missed = export["prompts"] - export["same_first_token"]
            found.append(
                f"shipped as {export['form']}, {missed} of {export['prompts']} prompts have another first token"
            )
    return found


def as_html(edit: Edit) -> str:
    """The same for a notebook: a small table, every value escaped."""
    told = show(edit)
    rows = [(f"{f['prompt'].replace('{}', f['subject'], 1)} → {f['target_new']}", "asked for") for f in told["facts"]]
    for key in ("before", "after"):
        row = told["outcome"].get(key, {})
        if "target_new" in row:
            rows.append((f"P {row['target_new']:.4f}: {row.get('continuation', '').strip()}", key))
    rows += [(f"layer {c['layer']}, {c['matrix']}: {c['kind']}, rank {c['rank']}", "changes") for c in told["changes"]]
    if "relative" in told["size"]:
        rows.append((f"{told['size']['relative']:.4f}", "‖ΔW‖ / ‖W‖"))
    rows += [(text, "warning") for text in told["warnings"]]
    cells = "".join(f"<tr><th>{escape(name)}</th><td>{escape(text)}</td></tr>" for text, name in rows)
    caption = f"{told['method']} on {told['model']['name']} ({told['identity'][:12]})"
    return f"<table><caption>{escape(caption)}</caption>{cells}</table>"
