"""An edit told in words: what it does, why, how it was made, how large it is, and what to beware of."""

from __future__ import annotations

import math
from collections.abc import Collection
from pathlib import Path
from typing import Any

from factedit.edit.artefact import Edit
from factedit.edit.manifest import UNKNOWN
from factedit.facts import fill
from factedit.markup import table
from factedit.markup.frozen import Drawing, in_notebook

LARGE = 0.1  # ‖ΔW‖ / ‖W‖ above which an edit is called large
_NEW = "target_new"
_SIZES = ("update_norm", "weight_norm")
FACTS_SHOWN = 20  # of an edit of many, in a table
_HEIGHT, _CURVE, _LINE = 320, 190, 78  # pixels: of a drawing, of its loss curve, of a fact of several or a warning
SPREAD = 0.05  # spill onto ordinary text above which it is called wide


def show(edit: Edit | str | Path) -> dict[str, Any]:
    """Return what there is to know about an edit, as JSON values.

    Args:
        edit: an edit, or its folder.

    Returns:
        `identity`, `method`, `model`, `facts` (per request what it does, with `before` and `after` as they were
        measured and what the method measured), `effects` (kind, where, which rank), `settings`, `size` of the whole,
        `exports`, `versions`, `warnings`.

    Raises:
        DataError, UnsafeFile: the folder does not hold a sound edit.
    """
    edit = edit if isinstance(edit, Edit) else Edit.load(edit)
    size: dict[str, float] = {key: edit.diagnostics[key] for key in _SIZES if key in edit.diagnostics}
    if size.get("weight_norm") and "update_norm" in size:
        size["relative"] = size["update_norm"] / size["weight_norm"]
    return {
        "identity": edit.identity,
        "method": edit.method,
        "model": {"name": edit.model_name, "fingerprint": edit.made_for},
        "facts": [vars(request) | vars(note) for request, note in zip(edit.requests, edit.notes, strict=True)],
        "effects": [{"kind": effect.kind, **effect.fields()} for effect in edit.effects],
        "settings": edit.settings,
        "size": size,
        "exports": list(edit.exports),
        "versions": edit.versions,
        "warnings": warnings(edit),
    }


def warnings(edit: Edit) -> list[str]:
    """Return what whoever uses the edit should know."""
    sentences = _of_facts(edit)
    if edit.made_for == UNKNOWN:
        sentences.append("it does not say which weights it was made for")
    relative = edit.diagnostics.get("update_norm", 0.0) / (edit.diagnostics.get("weight_norm") or 1.0)
    if relative > LARGE:
        sentences.append(f"the change is large: ‖ΔW‖ is {100 * relative:.0f} % of ‖W‖")
    spill = max((note.diagnostics.get("spill", 0.0) for note in edit.notes), default=0.0)
    if spill > SPREAD:
        sentences.append(f"the change is wide: {100 * spill:.0f} % of the residual lands on ordinary text")
    for export in edit.exports:
        if export["same_first_token"] < export["prompts"]:
            missed = export["prompts"] - export["same_first_token"]
            sentences.append(
                f"shipped as {export['form']}, {missed} of {export['prompts']} prompts have another first token"
            )
    return sentences


def _of_facts(edit: Edit) -> list[str]:
    """Return the warnings about outcomes; of an edit of several facts each says of how many it holds."""
    counts = {
        "its outcome was not measured": sum(not note.after for note in edit.notes),
        "the edited model does not rank the new object first on its own prompt": sum(
            bool(note.after) and not note.after.get("answers_target_new", True) for note in edit.notes
        ),
        "the model gave the new object before the edit already": sum(
            bool(note.before.get("answers_target_new")) for note in edit.notes
        ),
    }
    of = f" ({{}} of {len(edit.notes)} facts)" if len(edit.notes) > 1 else ""
    return [text + of.format(count) for text, count in counts.items() if count]


def untaken(edit: Edit, gone: Collection[int] = ()) -> list[str]:
    """Return a sentence for every fact whose new object the edited model did not rank first when it was measured.

    Args:
        edit: the edit.
        gone: numbers of its facts that were taken back since.
    """
    sentences = []
    for number, (request, note) in enumerate(zip(edit.requests, edit.notes, strict=True)):
        if number in gone or not note.after or note.after.get("answers_target_new", True):
            continue
        old, new = (f"{part[_NEW]:.4f}" if _NEW in part else "?" for part in (note.before, note.after))
        halfway = note.after.get(_NEW, 0.0) > note.after.get("target_true", math.inf)
        took = f"took halfway (it is likelier than {request.target_true!r})" if halfway else "did not take"
        sentences.append(
            f"the edit of {request.text!r} {took}: {request.target_new!r} is not ranked first, P {old} → {new}"
        )
    return sentences


def as_html(edit: Edit) -> str:
    """Return the same for a notebook, as the page draws what a change did; a small table where nothing is drawn."""
    drawing = edit_drawing(edit)
    facts, curve = len(drawing.told["facts"]), bool(drawing.told.get("losses"))
    height = _HEIGHT + _CURVE * curve + _LINE * (facts * (facts > 1) + len(drawing.told["warnings"]))
    return in_notebook(f"An edit by {edit.method}", drawing, height=height)


def edit_drawing(edit: Edit) -> Drawing:
    """Return what an edit is drawn from: its facts before and after, its size, the loss of a single fact."""
    told = show(edit)
    measured = edit.told_of(0) if len(edit.requests) == 1 else edit.diagnostics
    numbers = {
        "method": edit.method, "layers": edit.layers, "warnings": told["warnings"],
        "facts": [
            {key: fact[key] for key in ("prompt", "subject", "target_new", "target_true", "before", "after")}
            for fact in told["facts"][:FACTS_SHOWN]
        ],
        "more": max(0, len(told["facts"]) - FACTS_SHOWN),
        **{key: measured[key] for key in (*_SIZES, "spill", "losses") if key in measured},
    }  # fmt: skip
    return Drawing("outcome", numbers, _plain(edit, told))


def _plain(edit: Edit, told: dict[str, Any]) -> str:
    rows = list[tuple[str, str]]()
    for fact in told["facts"][:FACTS_SHOWN]:
        rows.append((f"{fill(fact['prompt'], fact['subject'])} → {fact['target_new']}", "asked for"))
        for key in ("before", "after"):
            if "target_new" in fact[key]:
                rows.append((f"P {fact[key]['target_new']:.4f}: {fact[key].get('continuation', '').strip()}", key))
    if len(told["facts"]) > FACTS_SHOWN:
        rows.append((f"and {len(told['facts']) - FACTS_SHOWN} more facts", "asked for"))
    for effect in told["effects"]:
        fields = ", ".join(f"{key} {value}" for key, value in effect.items() if key != "kind")
        rows.append((f"{effect['kind']}: {fields}", "effect"))
    if "relative" in told["size"]:
        rows.append((f"{told['size']['relative']:.4f}", "‖ΔW‖ / ‖W‖"))
    rows += [(text, "warning") for text in told["warnings"]]
    caption = f"{edit.method} on {told['model']['name']} ({told['identity'][:12]})"
    return table(caption, (), [(name, text) for text, name in rows])
