"""The model card of an export: what it is, what was changed, what was proven, what its licence asks."""

from __future__ import annotations

from collections.abc import Sequence

from factedit.edit.artefact import Edit
from factedit.export.licence import Licence
from factedit.export.prove import Proof


def card(base: str, fingerprint: str, edits: Sequence[Edit], form: str, proof: Proof, licence: Licence) -> str:
    """The text of README.md.

    Args:
        base: the base model, as its user finds it.
        fingerprint: of its weights.
        edits: in order.
        form: of the export.
        proof: of the export.
        licence: of the base.
    """
    head = ["---", f"license: {licence.name}" if licence.name != "unknown" else "license: other"]
    head += [f"base_model: {base}", "tags:", "- factedit", "- model-editing", "---", ""]
    rows = [
        "| " + " | ".join([_cell(r.text), _cell(r.target_new), e.method, f"`{e.identity[:16]}`"]) + " |"
        for e in edits
        for r in e.requests
    ]
    targets = [
        f"| {_cell(t['prompt'])} | {_cell(t['target'])} | {t['base']:.4f} | {t['memory']:.4f} | {t['shipped']:.4f} |"
        for t in proof.targets
    ]
    lines = [
        f"# {base}, edited",
        "",
        f"The files here are **changed**: {len(edits)} facts of {base} (weights `{fingerprint[:16]}`) were edited with "
        f"factedit and are shipped as `{form}`. What the model says about these facts is what was asked for below, not "
        "what its makers trained into it; whoever passes it on answers for that.",
        "",
        "| prompt | new answer | method | edit |",
        "|---|---|---|---|",
        *rows,
        "",
        "## Checked",
        "",
        f"Loaded back with {proof.loaded_with} and compared with the edited model in memory on {proof.prompts} "
        f"prompts: largest difference of a logit {proof.largest_logit_difference:.3g}, of a probability "
        f"{proof.largest_probability_difference:.3g}; the same first token on {proof.same_first_token} of "
        f"{proof.prompts}.",
        "",
        "| prompt | target (first token) | P, base | P, edited in memory | P, shipped |",
        "|---|---|---|---|---|",
        *targets,
        "",
        "## Licence",
        "",
        *([licence.notice + ("" if licence.notice.endswith(".") else "."), ""] if licence.notice else []),
        "Whoever passes this on has to:",
        "",
        *(f"- {duty}" for duty in licence.duties),
        "",
    ]
    return "\n".join([*head, *lines])


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
