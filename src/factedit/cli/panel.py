"""`factedit panel`: which true facts an edit costs, the worst hit first, and which it is likely to touch."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from factedit.cli.common import (
    Device,
    Dtype,
    Json,
    Model,
    MomentFile,
    MomentText,
    Threads,
    examples,
    model_opener,
    note,
    open_source,
    out,
    progress_bars,
    write_json,
)  # fmt: skip
from factedit.cli.dry import Dry, outlined, tell
from factedit.errors import UsageError


@examples(
    "factedit panel gemma3-270m edits/needle --panel clare_facts.jsonl.gz",
    "factedit panel gemma3-270m --facts wanted.jsonl",
)
def command(
    model: Model,
    edits: Annotated[
        list[Path] | None, typer.Argument(help="folders that 'factedit edit' wrote, in order", show_default=False)
    ] = None,
    panel: Annotated[
        Path | None, typer.Option(help="true facts: prompt, subject, target; default: the embedded ones")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="so many of them, drawn with seed 0; default: all")] = None,
    facts: Annotated[
        str | None,
        typer.Option(help="instead of edits: what is to be edited, a data set or a file", show_default=False),
    ] = None,
    records: Annotated[int | None, typer.Option(min=1, help="so many of --facts, drawn with seed 0")] = None,
    layer: Annotated[int | None, typer.Option(help="of --facts: the layer to be edited; default: the preset's")] = None,
    shown: Annotated[int, typer.Option("--list", min=0, help="how many facts to list")] = 20,
    second_moment: MomentFile = None,
    corpus: MomentText = None,
    json: Json = None,
    threads: Threads = None,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    dry_run: Dry = False,
) -> None:
    """Ask true facts with edits on; list the worst hit beside what was to be expected from the keys alone."""
    from factedit.work.panel import ask_panel, predict_panel

    if facts is not None and edits:
        raise UsageError("Give edits that are made, or with --facts what is to be edited, not both.")
    given: dict[str, Any] = {"panel": panel, "limit": limit, "second_moment": second_moment, "corpus": corpus}
    place: dict[str, Any] = {"threads": threads, "dtype": dtype, "device": device}
    if dry_run:
        from factedit.work.dry_studies import dry_panel

        planned = dry_panel(
            outlined(model, **place), edits or [], source=model, facts=facts, records=records, layer=layer,
            panel=panel, limit=limit, ready=second_moment is not None, own_text=corpus is None,
        )  # fmt: skip
        tell(planned, json)
        return
    with progress_bars() as progress:
        if facts is not None:
            source = model_opener(model, **place)
            answers = predict_panel(source, facts, records=records, layer=layer, **given, progress=progress)
        else:
            answers = ask_panel(partial(open_source, model, **place), edits or [], **given, progress=progress)
    for text in answers.notes:
        note(text)
    row = answers.as_json()
    out.print(_table(row, shown, edited=answers.edited))
    out.print(_in_words(row, edited=answers.edited), soft_wrap=False)
    write_json(json, row)


def _table(row: dict[str, Any], shown: int, *, edited: bool) -> Table:
    title = "Facts that are hit worst" if edited else "Facts that are likely to be touched"
    table = Table("fact", *(("still answered", "KL, nats") if edited else ()), "share at its key", title=title)
    for fact in row["facts"][:shown]:
        after = ("yes" if fact["still"] else "no", _number(fact["kl"])) if edited else ()
        table.add_row(f"{fact['prompt']} → {fact['answer']}", *after, _number(fact["predicted"]))
    return table


def _in_words(row: dict[str, Any], *, edited: bool) -> str:
    known = f"The unedited model answers {row['known']} of {row['asked']} facts."
    if not edited:
        return f"{known} Shares of an edit's residual at their keys, layer {row['layer']}, before v* is known."
    lines = f"{known} Still answered: {row['kept']:.1f} %; KL {row['kl']:.4f} nats on average."
    if row["layer"] is None:
        return lines + " No prediction: the edits change no MLP output matrix."
    told = _number(row["rank_correlation"])
    return f"{lines} Rank correlation of the shares at layer {row['layer']}, in size, with KL: {told}."


def _number(value: float | None) -> str:
    return "–" if value is None or value != value else f"{value:.3f}"
