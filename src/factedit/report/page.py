"""The demo's page: one HTML file that needs nothing else."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from factedit import __version__
from factedit.cache import write_atomic
from factedit.edit.artefact import Edit
from factedit.markup import table
from factedit.markup.frozen import Drawing, frozen
from factedit.report.story import Answer, Story
from factedit.trace.effects import TraceResult
from factedit.trace.show import trace_drawing

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
    trace = trace_drawing(story.trace, edited=story.edit.layers, marked="which is edited below")
    answers = answers_of(story)
    body = page.render(
        story=story, request=story.record.request, size=size, notice=notice, seconds=seconds, version=__version__,
        moment=story.edit.told_of(0).get("second_moment"), where=where(story.trace), zip=zip,
        trace=Markup(trace.in_place()), answers=Markup(answers.in_place()),  # every text in them is escaped
        words={label: EXPLAINED[label] for label, _, _ in size if label in EXPLAINED},
    )  # fmt: skip
    return frozen("factedit: one fact, found, changed, tested, undone", body, [trace, answers])


def answers_of(story: Story) -> Drawing:
    """Return what is drawn of the answers before and after, part by part."""
    request = story.record.request
    rows = [
        {"part": a.part, "prompt": a.prompt, "new": a.new, "old": a.true, "text": [text.strip() for text in a.text]}
        for a in story.answers
    ]
    columns = (f"P({request.target_new})", f"P({request.target_true})", "it writes")
    head = ["prompt", *(f"{name} {when}" for name in columns for when in ("before", "after"))]
    plain = table("Before and after the edit", head, map(_plain, story.answers))
    return Drawing("answers", {"request": vars(request), "parts": PARTS, "rows": rows}, plain)


def _plain(answer: Answer) -> list[str]:
    """A prompt as a row of the plain table; of free writing no probabilities were asked."""
    asked = [f"{value:.3f}" for pair in (answer.new, answer.true) for value in pair or ()]
    return [answer.prompt, *(asked or [""] * 4), *(text.strip() for text in answer.text)]


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
