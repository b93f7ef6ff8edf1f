"""The model card of an export: what it is, what was changed, what was proven, what its licence asks."""

from __future__ import annotations

import re
from collections.abc import Sequence

from factedit.edit.artefact import Edit
from factedit.edit.standing import facts_on
from factedit.export.licence import Licence
from factedit.export.naming import is_hub_id
from factedit.export.prove import ExportProof
from factedit.safe import safe_text

_OBEYED = re.compile(r"[&<>|`*\[\]!\\#@$~]|://|www\.")


def card(
    base: str,
    fingerprint: str,
    edits: Sequence[Edit],
    form: str,
    proof: ExportProof,
    licence: Licence,
    *,
    advice: str = "",
    serving: Sequence[str] = (),
) -> str:
    """Return the text of README.md.

    Args:
        base: the base model, as its user finds it.
        fingerprint: of its weights.
        edits: in order.
        form: of the export.
        proof: of the export.
        licence: of the base.
        advice: how to get the base.
        serving: lines on how to serve it.
    """
    head = ["---", f"license: {licence.name}" if licence.name != "unknown" else "license: other"]
    head += [f"base_model: {base}"] if is_hub_id(base) else []  # the hub takes its own names alone
    head += ["tags:", "- factedit", "- model-editing", "---", ""]
    base = plain(base)
    lines = [
        f"# {base}, edited",
        "",
        f"The files here are **changed**: {_counted(edits)} of {base} (weights `{fingerprint[:16]}`) with "
        f"factedit, shipped as `{form}`. What the model says about these facts is what was asked for below, not "
        "what its makers trained into it; whoever passes it on answers for that.",
        "",
        *_facts(edits),
        *([plain(advice), ""] if advice else []),
        *_checked(proof),
        *serving,
        "## Licence",
        "",
        *([licence.notice + ("" if licence.notice.endswith(".") else "."), ""] if licence.notice else []),
        "Whoever passes this on has to:",
        "",
        *(f"- {duty}" for duty in licence.duties),
        "",
    ]
    return "\n".join([*head, *lines])


def _counted(edits: Sequence[Edit]) -> str:
    """How many facts the edits hold, and how many of theirs were taken back again."""
    count, gone = len(facts_on(edits)), sum(len(edit.takes_back) for edit in edits)
    changed = "1 fact was edited" if count == 1 else f"{count} facts were edited"
    return changed if not gone else f"{changed} and {gone} taken back again"


def _facts(edits: Sequence[Edit]) -> list[str]:
    rows = [
        "| " + " | ".join([plain(r.text), plain(r.target_new), plain(e.method), f"`{e.identity[:16]}`"]) + " |"
        for e, r in ((fact.edit, fact.request) for fact in facts_on(edits))
    ]
    return ["| prompt | new answer | method | edit |", "|---|---|---|---|", *rows, ""]


def _checked(proof: ExportProof) -> list[str]:
    rows = [
        f"| {plain(t['prompt'])} | {plain(t['target'])} | {t['base']:.4f} | {t['memory']:.4f} | {t['shipped']:.4f} |"
        for t in proof.targets
    ]
    return [
        "## Checked",
        "",
        f"Loaded back with {proof.loaded_with} and compared with the edited model in memory on {proof.prompts} "
        f"prompts: largest difference of a logit {proof.largest_logit_difference:.3g}, of a probability "
        f"{proof.largest_probability_difference:.3g}; the same first token on {proof.same_first_token} of "
        f"{proof.prompts}.",
        "",
        "| prompt | target (first token) | P, base | P, edited in memory | P, shipped |",
        "|---|---|---|---|---|",
        *rows,
        "",
    ]


def plain(text: str) -> str:
    """Return a text of a user or a model as Markdown shows it: on one line, no HTML, image, link, code or order to a
    terminal.

    Signs that Markdown or HTML would obey become character references, which every reader of Markdown shows as the
    sign itself.
    """
    return _OBEYED.sub(lambda match: "".join(f"&#{ord(sign)};" for sign in match[0]), safe_text(" ".join(text.split())))
