"""The demo's page: one HTML file that needs nothing else."""

from __future__ import annotations

import base64
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from factedit import __version__, markup
from factedit.cache import write_atomic
from factedit.edit.artefact import Edit
from factedit.report.figures import NAMES, as_bytes, trace_figure
from factedit.report.story import Story
from factedit.trace.effects import TraceResult

EXPLAINED = {
    "size of the change": "the length of what is added to the matrix, as a share of the matrix’s own",
    "rank": "how many directions of the matrix are changed: a single fact needs one",
    "spill onto ordinary text": "how much of the change reaches text that is not about the subject",
    "evaluations of the loss": "steps in which the new value was sought, and how the loss fell",
}
PARTS = {
    "rewrite": "The edited prompt",
    "paraphrase": "Other wordings: these should change too",
    "neighbour": "Neighbours: these should stay",
    "open": "Free writing",
}


def render(story: Story, *, notice: str = "", seconds: float | None = None) -> str:
    """Return the page as text.

    Args:
        story: what happened.
        notice: the model's licence notice.
        seconds: how long it took.
    """
    template = (files("factedit.report") / "page.html.j2").read_text(encoding="utf-8")
    page = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True).from_string(
        template
    )
    size = size_of(story.edit)
    parts = {part: title for part, title in PARTS.items() if any(answer.part == part for answer in story.answers)}
    return page.render(
        story=story, request=story.record.request, size=size, figures=_figures(story), notice=notice, colours=markup,
        moment=story.edit.told_of(0).get("second_moment"), seconds=seconds, version=__version__, parts=parts,
        where=where(story.trace), notes=story.trace.notes(), zip=zip,
        words={label: EXPLAINED[label] for label, _, _ in size if label in EXPLAINED},
    )  # fmt: skip


def _figures(story: Story) -> list[tuple[str, str]]:
    """Per kind of state what its heat map shows, and the map, in which the edited layer is framed."""
    figures = []
    for kind, table in story.trace.scores.items():
        figure = trace_figure(replace(story.trace, scores={kind: table}), edited=story.edit.layers)
        alt = f"Heat map: {story.trace.measured} after restoring {NAMES[kind]}, by token and layer"
        figures.append((alt, base64.b64encode(as_bytes(figure, ".png")).decode()))
    return figures


def size_of(edit: Edit) -> list[tuple[str, str, str]]:
    """Return what is known of an edit's place and size: a label, the number, and what it is of."""
    told = edit.told_of(0)
    layers = ", ".join(map(str, edit.layers))
    rows = [("matrix" if len(edit.layers) == 1 else "matrices", f"layer {layers}", "")]
    if told.get("weight_norm"):
        share = 100 * told["update_norm"] / told["weight_norm"]
        rows.append(("size of the change", f"{share:.2f} %", "of the matrix’s norm"))
    ranks = [fields["rank"] for effect in edit.effects if "rank" in (fields := effect.fields())]
    if ranks and None not in ranks:
        rows.append(("rank", ", ".join(map(str, ranks)), ""))
    if "spill" in told:
        rows.append(("spill onto ordinary text", f"{100 * told['spill']:.1f} %", "of the residual, root mean square"))
    if told.get("losses"):
        first, last = told["losses"][0][0], told["losses"][-1][0]
        rows.append(("evaluations of the loss", str(len(told["losses"])), f"{first:.2f} → {last:.2f} nats"))
    return rows


def where(trace: TraceResult) -> str:
    """Say where the traces peak at the subject's last token."""
    names = {"hidden": "a hidden state", "mlp": "MLP outputs", "attn": "attention outputs"}
    peaks = [(name, *trace.at_subject_last(kind)) for kind, name in names.items() if kind in trace.scores]
    token = trace.tokens[trace.subject_range[1] - 1].strip()
    told = "; ".join(f"{name} +{effect:.2f} at layer {layer}" for name, layer, effect in peaks)
    return f"(at the subject’s last token, “{token}”) {told}"


def write_page(story: Story, path: Path, *, notice: str = "", seconds: float | None = None) -> Path:
    """Write the page; it appears whole or not at all.

    Raises:
        ResourceError: the file cannot be written.
    """
    write_atomic(path, render(story, notice=notice, seconds=seconds))
    return path
