"""`factedit show`, `audit`: what an edit is, and whether a model was edited."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from factedit.cli.common import Device, Json, Model, Threads, examples, model_opener, out, write_json

DIFFERS = 3  # the exit code of `audit --fail`


@examples(
    "factedit show edits/needle",
    "factedit show edits/needle --settings --json -",
    "factedit show edits/needle --model gemma3-270m",
)
def show(
    folder: Annotated[Path, typer.Argument(help="that 'factedit edit' wrote", show_default=False)],
    settings: Annotated[bool, typer.Option("--settings", help="all settings, too")] = False,
    model: Annotated[
        str | None,
        typer.Option(help="that it was made for: also tell which subjects' keys it reads and which tokens it writes"),
    ] = None,
    json: Json = None,
) -> None:
    """Show what an edit does, how it was made, its outcome, its size, and what to beware of."""
    from factedit.work.account import describe_edit

    told = describe_edit(folder, model)
    table = Table("", "", show_header=False, title=f"{folder}: {told['method']}, edit {told['identity'][:12]}")
    for fact in told["facts"]:
        table.add_row("asked for", f"{fact['prompt'].replace('{}', fact['subject'], 1)} → {fact['target_new']}")
        for key in ("before", "after"):
            if fact[key]:
                table.add_row(
                    f"{key}, as recorded", ", ".join(f"{name} {_short(value)}" for name, value in fact[key].items())
                )
    table.add_row("made for", f"{told['model']['name']} (weights {told['model']['fingerprint'][:12]})")
    for effect in told["effects"]:
        fields = ", ".join(f"{name} {value}" for name, value in effect.items() if name != "kind")
        table.add_row("effect", f"{effect['kind']}: {fields}")
    table.add_row("size", ", ".join(f"{name} {_short(value)}" for name, value in told["size"].items()))
    for export in told["exports"]:
        table.add_row("shipped", f"{export['form']}: largest logit difference {export['largest_logit_difference']:.3g}")
    table.add_row("versions", ", ".join(f"{name} {version}" for name, version in told["versions"].items()))
    if settings:
        for name, value in told["settings"].items():
            table.add_row(name, str(value))
    out.print(table)
    for row in told.get("read_and_written", []):
        reads = ", ".join(f"{subject['subject']} {subject['share']:.2f}" for subject in row["subjects"])
        writes = ", ".join(repr(token["text"]) for token in row["tokens"]) or "–"
        out.print(f"layer {row['layer']} ({row['matrix']}) reads: {reads}")
        out.print(f"layer {row['layer']} ({row['matrix']}) writes: {writes}")
    for warning in told["warnings"]:
        out.print(f"warning: {warning}", style="yellow")
    write_json(json, told)


@examples(
    "factedit audit gpt2 downloads/gpt2-new",
    "factedit audit gpt2 downloads/gpt2-new --candidates counterfact --records 500",
)
def audit(
    base: Model,
    suspect: Annotated[str, typer.Argument(help="as MODEL, or the folder of a PEFT adapter", show_default=False)],
    candidates: Annotated[
        str, typer.Option(help="facts that may have been edited: a data set or a file")
    ] = "worldfacts",
    records: Annotated[int | None, typer.Option(help="so many of them, drawn with seed 0; default: all")] = None,
    fail: Annotated[bool, typer.Option("--fail", help=f"exit with {DIFFERS} where the two differ")] = False,
    json: Json = None,
    threads: Threads = None,
    device: Device = "cpu",
) -> None:
    """Compare two checkpoints: what differs, of what rank, and which candidate facts it looks like an edit of."""
    from factedit.work.account import audit_model

    source = model_opener(base, threads=threads, device=device)
    outcome = audit_model(source, suspect, candidates=candidates, records=records)
    if outcome.differences:
        table = Table("tensor", "rank", "‖difference‖ / ‖base‖", "singular values")
        for d in outcome.differences[:20]:
            values = ", ".join(f"{value:.3g}" for value in d.values[:5])
            table.add_row(d.tensor, "–" if d.rank is None else str(d.rank), f"{d.relative:.3g}", values)
        out.print(table)
    if outcome.suspicions:
        table = Table("candidate", "prompt", "score", "rises most there (before, after)", "through the head alone")
        for s in outcome.suspicions:
            rises = ", ".join(f"{token!r} ({before:.3f}, {after:.3f})" for token, before, after in s.promoted[:3])
            table.add_row(s.subject, s.prompt, f"{s.score:.3f}", rises, ", ".join(map(repr, s.through_head[:3])))
        out.print(table)
    out.print(f"{outcome.verdict}. {outcome.statement()}")
    write_json(json, outcome.as_json())
    if fail and outcome.differences:
        raise typer.Exit(DIFFERS)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value).strip()


COMMANDS: dict[str, Any] = {"show": show, "audit": audit}
