"""`factedit ask`, `prove`, `damage`: what a model says, and what an edit did, before and after."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from factedit.cli.common import (
    Device,
    Dtype,
    Edits,
    Json,
    Model,
    Threads,
    examples,
    open_source,
    out,
    progress_bars,
    write_json,
)  # fmt: skip

if TYPE_CHECKING:
    from factedit.work.ask import Reply

EditOption = Annotated[
    list[Path] | None,
    typer.Option("--edit", show_default=False, help="a folder that 'factedit edit' wrote; may be given several times"),
]


@examples(
    'factedit ask gemma3-270m "The Space Needle is located in the city of"',
    'factedit ask gemma3-270m "The Space Needle is in" --edit edits/needle --top 5',
)
def ask(
    model: Model,
    prompts: Annotated[list[str], typer.Argument(help="one or several texts", show_default=False)],
    edits: EditOption = None,
    top: Annotated[int, typer.Option(min=1, help="likeliest next tokens that are shown")] = 10,
    tokens: Annotated[int, typer.Option(min=1, help="tokens written at most")] = 24,
    json: Json = None,
    threads: Threads = None,
    dtype: Dtype = "float32",
    device: Device = "cpu",
) -> None:
    """Show the likeliest next tokens and what the model writes by itself, unedited and with edits on it."""
    from factedit.work.ask import ask as ask_model
    from factedit.work.inputs import with_edits

    base, on = with_edits(partial(open_source, model, threads=threads, dtype=dtype, device=device), edits or [])
    answers = ask_model(base, prompts, on, top=top, tokens=tokens)
    for asked in answers:
        table = Table("unedited", "P", *(["edited", "P"] if asked.after else []), title=asked.prompt)
        for row in zip(*(_cells(reply) for reply in (asked.before, asked.after) if reply), strict=True):
            table.add_row(*(cell for cells in row for cell in cells))
        out.print(table)
        out.print(f"unedited writes: {asked.before.text!r}")
        if asked.after:
            out.print(f"edited writes:   {asked.after.text!r}")
    write_json(json, [asked.as_json() for asked in answers])


@examples(
    "factedit prove gemma3-270m edits/needle",
    'factedit prove gemma3-270m edits/needle --prompt "To see it, fly to" --json -',
)
def prove(
    model: Model,
    edits: Edits,
    prompts: Annotated[
        list[str] | None,
        typer.Option("--prompt", show_default=False, help="a prompt of your own that should give the new object"),
    ] = None,
    json: Json = None,
    threads: Threads = None,
    dtype: Dtype = "float32",
    device: Device = "cpu",
) -> None:
    """Ask what an edit should change, what it should not, and what may break it, before and after."""
    from factedit.work.inputs import with_edits
    from factedit.work.proof import prove as prove_fact
    from factedit.work.proof import records_on

    base, on = with_edits(partial(open_source, model, threads=threads, dtype=dtype, device=device), edits)
    with progress_bars() as progress:
        proofs = [prove_fact(base, r, on, prompts=prompts or (), progress=progress) for r in records_on(on)]
    for proof in proofs:
        table = Table("test", "prompt", "wanted", "P new", "before", "after", "", title=proof.verdict)
        for row in proof.rows:
            shares = " → ".join(f"{p:.3f}" for p in row.new)
            table.add_row(row.part, row.prompt, row.wanted, shares, *(text.strip() for text in row.text), row.state)
        out.print(table)
    write_json(json, [proof.as_json() for proof in proofs])


@examples("factedit damage gemma3-270m edits/needle", "factedit damage gemma3-270m edits/needle --facts 120 --json -")
def damage(
    model: Model,
    edits: Edits,
    count: Annotated[
        int, typer.Option("--facts", min=1, help="how many true facts of the embedded set are asked")
    ] = 24,
    json: Json = None,
    threads: Threads = None,
    dtype: Dtype = "float32",
    device: Device = "cpu",
) -> None:
    """Ask true facts that have nothing to do with the edits, before and after; those that lost most stand first."""
    from factedit.work.damage import damage as find_damage
    from factedit.work.damage import true_facts
    from factedit.work.inputs import with_edits

    base, on = with_edits(partial(open_source, model, threads=threads, dtype=dtype, device=device), edits)
    with progress_bars() as progress:
        rows = find_damage(base, true_facts(count), on, progress=progress)
    table = Table("fact", "answer", "P before", "P after", "writes before", "writes after")
    for row in rows:
        table.add_row(row.prompt, row.answer, *(f"{p:.3f}" for p in row.probability), *(t.strip() for t in row.text))
    out.print(table)
    write_json(json, [row.as_json() for row in rows])


def _cells(reply: Reply) -> list[tuple[str, str]]:
    return [(repr(token.text), f"{token.probability:.4f}") for token in reply.top]


COMMANDS: dict[str, Any] = {"ask": ask, "prove": prove, "damage": damage}
