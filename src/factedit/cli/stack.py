"""`factedit apply`, `revert`, `log`, `verify`: edits on a model, in a folder that remembers them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from factedit.cli.common import (
    COMPUTING,
    UNTAKEN,
    Device,
    Dtype,
    Edits,
    Fail,
    Force,
    Json,
    Model,
    MomentFile,
    MomentText,
    Threads,
    err,
    examples,
    load_model,
    moments_for,
    note,
    open_source,
    out,
    progress_bars,
    warn_untaken,
    write_json,
)  # fmt: skip
from factedit.errors import UsageError

if TYPE_CHECKING:
    from factedit.stack.ledger import Entry

Folder = Annotated[Path, typer.Argument(help="a folder that 'factedit apply' wrote", show_default=False)]


@examples(
    "factedit apply gemma3-270m edits/needle --out edited",
    "factedit apply edited edits/another",
)
def apply(
    model: Model,
    edits: Edits,
    out_dir: Annotated[
        Path | None, typer.Option("--out", help="the new folder; not needed where MODEL is a folder of edits")
    ] = None,
    force: Force = False,
    requantise: Annotated[
        bool,
        typer.Option("--requantise", help="of a quantised model: quantise edited matrices anew; what is lost is told"),
    ] = False,
    fail: Fail = False,
    json: Json = None,
    threads: Threads = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=COMPUTING, help="float32, bfloat16 or float16; default: as the weights are stored"
        ),
    ] = None,
    device: Device = "cpu",
) -> None:
    """Put edits on a model, in order, into a folder that transformers loads; the ledger in it can undo them."""
    from factedit.edit.artefact import Edit
    from factedit.models.load import STORED
    from factedit.stack.folder import is_stack
    from factedit.stack.work import apply as put_on

    wanted = [Edit.load(folder) for folder in edits]
    how: dict[str, Any] = {"threads": threads, "dtype": dtype or STORED, "device": device, "stream": None}
    source = model if is_stack(model) else load_model(model, **how)
    entry = put_on(source, wanted, out_dir, force=force, requantise=requantise)
    for conflict in entry.conflicts:
        err.print(f"warning: {conflict}", style="yellow")
    _tell(entry, out_dir or Path(model), json)
    warn_untaken(wanted, fail=fail)


@examples(
    "factedit revert edited",
    "factedit revert edited edits/needle",
    "factedit revert edited --fact 'The Space Needle'",
)
def revert(
    folder: Folder,
    edit: Annotated[
        str | None, typer.Argument(help="the edit's folder, or the first digits of its identity; default: all")
    ] = None,
    fact: Annotated[
        str | None, typer.Option(help="instead: take out one fact, SUBJECT or 'SUBJECT: RELATION'", show_default=False)
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="also where a later edit was computed with it on")] = False,
    second_moment: MomentFile = None,
    corpus: MomentText = None,
    json: Json = None,
) -> None:
    """Take one edit off, or all: the same bits as if it had never been on; or take one fact out of a joint edit."""
    if fact is None:
        from factedit.stack.work import revert as take_off

        _tell(take_off(folder, edit, force=force), folder, json)
        return
    if edit is not None:
        raise UsageError("Give an edit to take off or --fact, not both.")
    from factedit.work.facts_of import take_back_fact

    _tell(take_back_fact(folder, fact, moments_for(second_moment, corpus), force=force), folder, json)


@examples("factedit check FOLDER", "factedit check edits/needle --model gemma3-270m --json -")
def check(
    folder: Annotated[
        Path, typer.Argument(help="a folder that 'factedit apply' wrote, or an edit with --model", show_default=False)
    ],
    model: Annotated[str | None, typer.Option(help="of an edit: the model to put it on")] = None,
    fail: Annotated[bool, typer.Option("--fail", help=f"exit with {UNTAKEN} where a fact is not written")] = False,
    json: Json = None,
    threads: Threads = None,
    dtype: Dtype = "float32",
    device: Device = "cpu",
) -> None:
    """Ask all facts of a folder of edits again, the oldest first; say which are not, or no longer, written."""
    from factedit.edit.artefact import Edit
    from factedit.report.together import checked_table, checked_words
    from factedit.stack.folder import is_stack
    from factedit.stack.stand import check_made_for
    from factedit.work.facts_of import check_facts

    if is_stack(folder) and model is not None:
        raise UsageError(f"{folder} is a folder of edits and holds its model; leave --model out.")
    if not is_stack(folder) and model is None:
        raise UsageError(f"{folder} is not a folder that 'factedit apply' wrote. Of an edit, name its model (--model).")
    further = () if model is None else (Edit.load(folder),)
    base, edits = open_source(model or str(folder), threads=threads, dtype=dtype, device=device)
    if further:
        edits = (*edits, *further)
        for said in check_made_for(base, edits):
            note(said)
    with progress_bars() as progress:
        checks = check_facts(base, edits, progress=progress)
    rows = [checked.as_json() for checked in checks]
    if any(not row["written"] for row in rows):
        out.print(checked_table(rows))
    out.print(checked_words(rows))
    write_json(json, rows)
    if fail and any(not row["written"] for row in rows):
        raise typer.Exit(UNTAKEN)


@examples("factedit log edited", "factedit log edited --json -")
def log(folder: Folder, json: Json = None) -> None:
    """Tell what was done to a folder of edits, oldest first."""
    from factedit.stack.check import log as history

    entries = history(folder)
    table = Table("", "what", "edits", "on the model afterwards", "when", "hash", title=str(folder))
    names = {standing.identity: standing.text for entry in entries for standing in entry.standing}
    for entry in entries:
        did = "\n".join(names.get(i, i[:12]) for i in entry.edits) or entry.model_name
        what = entry.kind + (" (forced)" if entry.forced else "")
        table.add_row(str(entry.number), what, did, str(len(entry.standing)), entry.time, entry.hash[:12])
    out.print(table)
    write_json(json, [entry.model_dump(mode="json") for entry in entries])


@examples("factedit verify edited", "factedit verify edited --base gemma3-270m")
def verify(
    folder: Folder,
    base: Annotated[str | None, typer.Option(help="also compare every tensor with this model")] = None,
    json: Json = None,
    threads: Threads = None,
) -> None:
    """Check that the weights of a folder are base + edits, to the bit; of an edit, that its folder is whole."""
    if (folder / "edit.json").is_file():
        _verify_edit(folder, base, json, threads)
        return
    from factedit.stack.check import log as history
    from factedit.stack.check import verify as check

    model = None if base is None else load_model(base, threads=threads, dtype=history(folder)[-1].dtype)
    verified = check(folder, model)
    out.print(
        f"{folder}: the weights are the base and {_edits(verified.edits)}, to the bit "
        f"({verified.matrices} matrices recomputed, {verified.tensors} tensors, {verified.entries} entries in the "
        f"ledger{', every tensor compared with the base' if verified.with_base else ''}).",
    )
    write_json(json, vars(verified))


def _verify_edit(folder: Path, base: str | None, json: Path | None, threads: int | None) -> None:
    """Check every file of an edit by its hash, and whether a model is the one it was made for."""
    from factedit.edit.artefact import Edit
    from factedit.errors import EditError

    edit = Edit.load(folder)
    if base is not None:
        fingerprint = load_model(base, threads=threads).fingerprint()
        if fingerprint != edit.made_for:
            raise EditError(
                f"{folder} is whole, but made for weights {edit.made_for[:12]}…; {base} has {fingerprint[:12]}…."
            )
    kinds = list(dict.fromkeys(effect.kind for effect in edit.effects))
    made = "" if base is None else f", made for {base}"
    facts = f"facts: {len(edit.requests)}"
    out.print(f"{folder}: a whole edit ({', '.join(kinds)}), {facts}; every file has its hash{made}.")
    write_json(json, {"identity": edit.identity, "facts": len(edit.requests), "kinds": kinds, "with_base": bool(made)})


def _tell(entry: Entry, folder: Path, json: Path | None) -> None:
    for standing in entry.standing:
        out.print(f"on: {standing.text}")
    out.print(f"{folder}: {_edits(len(entry.standing))} on {entry.model_name}")
    write_json(json, entry.model_dump(mode="json"))


def _edits(count: int) -> str:
    return f"{count} edit{'' if count == 1 else 's'}"


COMMANDS: dict[str, Any] = {"apply": apply, "revert": revert, "check": check, "log": log, "verify": verify}
