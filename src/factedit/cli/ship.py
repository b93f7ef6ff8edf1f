"""`factedit ship`, `push`: hand an edited model on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from factedit.cli.common import (
    Device,
    Dtype,
    Fail,
    Json,
    Model,
    Threads,
    err,
    examples,
    note,
    open_source,
    out,
    warn_untaken,
    write_json,
)
from factedit.errors import UsageError

if TYPE_CHECKING:
    from factedit.export.ship import Shipped


@examples(
    "factedit ship gemma3-270m edits/needle --as peft --out shipped",
    "factedit ship edited --as merged --out shipped",
    "factedit ship BASE.gguf edits/needle --as gguf --store-as F16 --out shipped",
)
def ship(
    model: Model,
    edits: Annotated[
        list[Path] | None,
        typer.Argument(
            help="folders that 'factedit edit' wrote, in order; a folder of edits is shipped with all it holds",
            show_default=False,
        ),
    ] = None,
    *,
    form: Annotated[str, typer.Option("--as", help="merged, peft, llama-lora or gguf")],
    out_dir: Annotated[Path, typer.Option("--out", help="the export's folder")],
    store_as: Annotated[
        str | None, typer.Option(help="merged: type of all weights; gguf: of the edited tensors (F32, F16, BF16, Q8_0)")
    ] = None,
    requantise: Annotated[
        bool,
        typer.Option("--requantise", help="gguf: quantise edited tensors anew in their own kind; the loss is told"),
    ] = False,
    rank: Annotated[int | None, typer.Option(help="peft: of this rank, padded, for servers that ask for one")] = None,
    truncate: Annotated[
        bool, typer.Option("--truncate", help="peft: cut the edits down to --rank; what is lost is told")
    ] = False,
    base: Annotated[str, typer.Option(help="how others find the base model: hub id or name; default: MODEL's")] = "",
    prompts: Annotated[Path | None, typer.Option(help="further prompts to compare on, one a line")] = None,
    force: Annotated[
        bool, typer.Option("--force", help="also edits made for other weights, and in place of an older export")
    ] = False,
    fail: Fail = False,
    json: Json = None,
    threads: Threads = None,
    dtype: Dtype = "float32",
    device: Device = "cpu",
) -> None:
    """Write edits as a merged model, a LoRA adapter or a patched GGUF file; load it back and compare."""
    from factedit.edit.artefact import Edit
    from factedit.export.notes import note_export
    from factedit.export.ship import ship as send_out
    from factedit.work.user_files import read_user_lines

    given = [Edit.load(folder) for folder in edits or ()]
    further = [] if prompts is None else read_user_lines(prompts, "further prompts")
    loaded, standing = open_source(model, threads=threads, dtype=dtype, device=device, stream=None)
    wanted = [*standing, *given]
    if not wanted:
        raise UsageError(f"{model} holds no edits, and none is named: there is nothing to ship.")
    gguf = model if model.endswith(".gguf") else None
    with err.status(f"writing and proving {form}"):
        shipped = send_out(
            loaded, wanted, out_dir, form, base=base, rank=rank, truncate=truncate, store_as=store_as, gguf=gguf,
            requantise=requantise, prompts=further, force=force, overwrite=force,
        )  # fmt: skip
    for folder, edit in zip(edits or (), given, strict=True):
        untold = note_export(folder, edit, shipped.as_json())
        if untold:
            err.print(f"warning: {untold}", style="yellow")
    for said in shipped.notes:
        note(said)
    _show(shipped)
    write_json(json, shipped.as_json())
    warn_untaken(wanted, fail=fail)


@examples("factedit push shipped owner/name")
def push(
    folder: Annotated[Path, typer.Argument(help="that 'factedit ship' or 'factedit apply' wrote", show_default=False)],
    repo: Annotated[str, typer.Argument(help="owner/name on the hub", show_default=False)],
    public: Annotated[bool, typer.Option("--public", help="a new repository is open to all")] = False,
    message: Annotated[str, typer.Option(help="of the commit")] = "Upload edited model",
    json: Json = None,
) -> None:
    """Send an export to the hub."""
    from factedit.export.push import push as send

    sent = send(folder, repo, private=not public, message=message)
    out.print(f"sent: {sent}")
    write_json(json, {"repo": repo, "sent": sent})


def _show(shipped: Shipped) -> None:
    proof = shipped.proof
    table = Table("prompt", "target", "P base", "P edited in memory", "P shipped")
    for row in proof.targets:
        table.add_row(row["prompt"], row["target"], *(f"{row[name]:.4f}" for name in ("base", "memory", "shipped")))
    out.print(table)
    out.print(
        f"loaded back with {proof.loaded_with}; {proof.prompts} prompts: largest difference of a logit "
        f"{proof.largest_logit_difference:.3g}, of a probability {proof.largest_probability_difference:.3g}, KL "
        f"{proof.largest_kl:.3g}; the same first token on {proof.same_first_token}",
    )
    for patched in shipped.stored:
        how = f"{patched.was} stored as {patched.now}, error of the change {100 * patched.error:.2g} %"
        how += f", {100 * patched.kept:.0f} % of it kept" if patched.was == patched.now else ""
        out.print(f"{patched.tensor}: {how}")
    out.print(f"licence {shipped.licence.name}: whoever passes this on has to")
    for duty in shipped.licence.duties:
        out.print(f"  - {duty}")
    if shipped.advice:
        out.print(shipped.advice)
    out.print(f"{shipped.folder}: {shipped.form}, {shipped.bytes / 1e6:,.2f} MB")


COMMANDS: dict[str, Any] = {"ship": ship, "push": push}
