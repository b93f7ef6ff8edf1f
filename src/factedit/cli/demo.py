"""`factedit demo`: the whole story of one fact, into one page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from factedit.cli.common import (
    Json,
    NamedModel,
    OptionalModel,
    Threads,
    examples,
    model_opener,
    note,
    out,
    progress_bars,
    which_model,
    write_json,
)  # fmt: skip
from factedit.cli.dry import Dry, outlined, tell
from factedit.errors import UsageError

FACT = "A fact of your own"


@examples(
    "factedit demo",
    "factedit demo smollm2-135m --out demo/smollm2.html",
    """factedit demo --subject "Marie Curie" --prompt "{} was born in" \\
      --target Paris --true-target Warsaw --out demo/curie.html""",
    "factedit demo --requests mine.json --edit edits/mine --out demo/mine.html",
)
def command(
    model: OptionalModel = None,
    out_file: Annotated[Path, typer.Option("--out", help="where the page goes")] = Path("demo/report.html"),
    named_model: NamedModel = None,
    subject: Annotated[str | None, typer.Option(rich_help_panel=FACT, help="what the fact is about")] = None,
    prompt: Annotated[
        str | None, typer.Option(rich_help_panel=FACT, help="the relation as a template with one {}")
    ] = None,
    target: Annotated[str | None, typer.Option(rich_help_panel=FACT, help="the new object")] = None,
    true_target: Annotated[
        str | None, typer.Option(rich_help_panel=FACT, help="the present object; default: what the model writes now")
    ] = None,
    requests: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel=FACT,
            help="instead: a file whose first fact is taken; CounterFact's format holds other wordings and neighbours",
        ),
    ] = None,
    edit: Annotated[
        Path | None, typer.Option(rich_help_panel=FACT, help="test this saved edit instead of making one")
    ] = None,
    method: Annotated[str, typer.Option(help="see 'factedit methods'; one that edits each fact alone")] = "rome",
    json: Json = None,
    threads: Threads = None,
    dry_run: Dry = False,
) -> None:
    """Find, change, test and undo one fact, the embedded one or yours; write one HTML page."""
    from factedit.report.page import write_page
    from factedit.work.demo import demonstrate
    from factedit.work.fact_list import asked_records

    has_fact = any((subject, prompt, target, true_target, requests))
    records = asked_records(subject, prompt, target, true_target, requests) if has_fact else [None]
    if len(records) > 1:
        note(f"the first of {len(records)} facts is shown; 'factedit evaluate' takes them all")
    if edit is not None and method != "rome":
        raise UsageError("--edit tests an edit as it is; leave --method out.")
    chosen = which_model(model, named_model)
    if dry_run:
        from factedit.work.dry_studies import dry_demo

        outline = outlined(chosen, threads=threads, dtype="float32", device="cpu")
        tell(dry_demo(outline, record=records[0], method=method, edit=edit), json)
        return
    with progress_bars() as progress:
        source = model_opener(chosen, threads=threads)
        demo = demonstrate(source, record=records[0], method=method, edit=edit, progress=progress)
    story, (before, after) = demo.story, demo.story.scores
    write_page(story, out_file, notice=demo.notice, seconds=demo.seconds)
    if demo.notice:
        out.print(demo.notice)
    out.print(": ".join(story.verdict))
    out.print(f"P({story.record.request.target_new}) on the edited prompt: {story.answers[0].new}")
    out.print(f"scores before: {_scores(before)}")
    out.print(f"scores after:  {_scores(after)}")
    out.print(f"weights restored to the bit: {story.restored}")
    note(f"page: {out_file} ({demo.seconds:.0f} s)")
    write_json(json, {"page": str(out_file), **demo.as_json()})


def _scores(numbers: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.1f}" for name, value in numbers.items() if value == value)
