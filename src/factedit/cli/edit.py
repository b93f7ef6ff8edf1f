"""`factedit edit`: change a fact."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from factedit.cli.common import (
    Device,
    Dtype,
    Json,
    Model,
    MomentText,
    Threads,
    Trained,
    bar,
    err,
    load_model,
    moments,
    out,
    read_json,
    write_json,
)  # fmt: skip
from factedit.errors import UsageError

if TYPE_CHECKING:
    from factedit.edit.artefact import Edit
    from factedit.facts import EditRequest


def command(
    model: Model,
    subject: Annotated[str | None, typer.Option(help="what the fact is about")] = None,
    prompt: Annotated[str | None, typer.Option(help="the relation as a template with one {}")] = None,
    target: Annotated[str | None, typer.Option(help="the new object")] = None,
    true_target: Annotated[str | None, typer.Option(help="the present object, to compare with")] = None,
    requests: Annotated[
        Path | None, typer.Option(help="instead: a .jsonl of subject, prompt, target_new[, target_true]")
    ] = None,
    method: Annotated[
        str | None, typer.Option(help="see 'factedit methods'; default: rome, and with --together rome-joint")
    ] = None,
    together: Annotated[
        bool, typer.Option("--together", rich_help_panel=MANY, help="one edit of all facts, by a joint method")
    ] = False,
    batch: Annotated[
        int | None,
        typer.Option(min=1, rich_help_panel=MANY, help="facts of one edit, the next edited beside it; default: all"),
    ] = None,
    also_known: Annotated[
        bool, typer.Option("--also-known", rich_help_panel=MANY, help="edit facts that the model writes already, too")
    ] = False,
    settings: Set = None,
    layer: Annotated[int | None, typer.Option(help="the edited layer; default: the preset's")] = None,
    steps: Annotated[int | None, typer.Option(help="evaluations of the loss")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Adam's")] = None,
    clamp: Annotated[float | None, typer.Option(help="‖δ‖ at most this times ‖v0‖")] = None,
    decay: Annotated[float | None, typer.Option(help="weight of ‖δ‖/‖v0‖²")] = None,
    kl: Annotated[float | None, typer.Option(help="weight of the essence's KL divergence")] = None,
    ridge: Annotated[float | None, typer.Option(help="added to C, as a share of its mean eigenvalue")] = None,
    subject_weight: Annotated[float | None, typer.Option(help="rome: weight of other subjects' names beside C")] = None,
    stretch: Annotated[float | None, typer.Option(help="rome: δ times this is inserted")] = None,
    contexts: Annotated[
        Path | None, typer.Option(help="a JSON list of templates with one {} each, instead of sampled ones")
    ] = None,
    second_moment: Annotated[
        Path | None, typer.Option(help="safetensors with the tensor second_moment [d_mlp, d_mlp]")
    ] = None,
    corpus: MomentText = None,
    trained: Trained = None,
    out_dir: Annotated[Path | None, typer.Option("--out", help="save the edit in this folder")] = None,
    full: Annotated[bool, typer.Option("--full", help="direction and residual whole in the JSON")] = False,
    json: Json = None,
    threads: Threads = None,
    dtype: Dtype = "float32",
    device: Device = "cpu",
) -> None:
    """Compute an edit, show the probabilities before and after, and save it; the model is not changed."""
    records = _records(subject, prompt, target, true_target, requests)
    templates = None if contexts is None else read_json(contexts, "contexts")
    if templates is not None and not isinstance(templates, list):
        raise UsageError(f"{contexts} must hold a JSON list of templates, each with one '{{}}'.")
    from factedit.edit.method_table import check_method, make_method
    from factedit.report.tables import edit_table
    from factedit.work.edit import describe, edit_facts

    check_method(method)
    loaded = load_model(model, threads=threads, dtype=dtype, device=device)
    changes = {
        "layer": layer, "steps": steps, "learning_rate": learning_rate, "clamp": clamp, "decay": decay, "kl": kl,
        "ridge": ridge, "subject_weight": subject_weight, "stretch": stretch, "context_templates": templates,
        "trained": trained,
    }  # fmt: skip
    if layer is not None:
        loaded.check_layer(layer)
    with bar("editing", len(asked)) as advance:
        given = {name: value for name, value in changes.items() if value is not None}
        made = make_method(method, loaded, moments(second_moment, corpus), **given)
        found = edit_facts(loaded, made, asked, folder=out_dir, progress=advance)
    for edited in found:
        _warn(edited.edit)
    rows = [describe(edited, full=full) for edited in found]
    for row in rows:
        out.print(edit_table(row))
    write_json(json, rows[0] if len(rows) == 1 else rows)


def _requests(
    subject: str | None, prompt: str | None, target: str | None, true_target: str | None, requests: Path | None
) -> list[EditRequest]:
    from factedit.facts import EditRequest

    if requests is not None:
        if subject or prompt or target:
            raise UsageError("Give --requests or --subject, --prompt and --target, not both.")
        from factedit.data.requests import read_requests

        return read_requests(requests)
    if subject is None or prompt is None or target is None:
        missing = [n for n, v in (("--subject", subject), ("--prompt", prompt), ("--target", target)) if v is None]
        raise UsageError(f"Missing {', '.join(missing)} (or give --requests with a file of facts).")
    return [EditRequest(subject=subject, prompt=prompt, target_new=target, target_true=true_target)]


def _warn(edit: Edit) -> None:
    """Say which facts the model gave before the edit already."""
    for request, note in zip(edit.requests, edit.notes, strict=True):
        if note.before["answers_target_new"]:
            err.print(f"warning: the model already answers {request.target_new!r} to {request.text!r}", style="yellow")
