"""`factedit edit`: change a fact, or many of them together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from factedit.cli.common import (
    UNTAKEN,
    Device,
    Dtype,
    Fail,
    Json,
    Model,
    MomentText,
    PresetName,
    Set,
    Stream,
    Threads,
    TrainedFolder,
    bar,
    err,
    examples,
    moments_for,
    open_source,
    out,
    progress_bars,
    warn_untaken,
    without_nan,
    write_json,
)  # fmt: skip
from factedit.cli.dry import Dry, outlined, tell
from factedit.errors import EditError, UsageError

if TYPE_CHECKING:
    from factedit.edit.artefact import Edit
    from factedit.edit.method import Method
    from factedit.facts import EditRequest, FactRecord
    from factedit.models.adapter import EditableModel
    from factedit.stats.provide import Moments
    from factedit.work.auto import Choice
    from factedit.work.dry_run import DryRun

MANY = "Many facts"
ALONE, JOINT = "rome", "rome-joint"  # the methods where none is named


@examples(
    "factedit edit gpt2 --subject Paris --prompt '{} is in' --target Rome --out new",
    "factedit edit gemma3-270m --requests facts.jsonl --together --out edits/all",
    "factedit edit FOLDER --requests more.jsonl --together --batch 100 --out more",
)
def command(
    model: Model,
    subject: Annotated[str | None, typer.Option(help="what the fact is about")] = None,
    prompt: Annotated[str | None, typer.Option(help="the relation as a template with one {}")] = None,
    target: Annotated[str | None, typer.Option(help="the new object")] = None,
    true_target: Annotated[str | None, typer.Option(help="the present object, to compare with")] = None,
    requests: Annotated[
        Path | None,
        typer.Option(
            help="instead: a file of facts: subject, prompt, target_new[, target_true] a line, or a data set's format"
        ),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            help="see 'factedit methods'; default: rome, and with --together rome-joint; auto tries joint ones"
        ),
    ] = None,
    stop: Annotated[bool, typer.Option("--stop", help="train the end of the answer, too: the method's +stop")] = False,
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
    minutes: Annotated[
        float,
        typer.Option(min=0, rich_help_panel=MANY, help="of --method auto: begin no trial that would end later"),
    ] = 15,
    settings: Set = None,
    preset: PresetName = "tuned",
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
    trained: TrainedFolder = None,
    out_dir: Annotated[Path | None, typer.Option("--out", help="save the edit in this folder")] = None,
    force: Annotated[bool, typer.Option("--force", help="also in place of older edits")] = False,
    fail: Fail = False,
    full: Annotated[bool, typer.Option("--full", help="direction and residual whole in the JSON")] = False,
    json: Json = None,
    threads: Threads = None,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    stream: Stream = False,
    dry_run: Dry = False,
) -> None:
    """Compute an edit, show the probabilities before and after, and save it; the model is not changed."""
    from factedit.edit.place import check_place

    if out_dir is not None and requests is None and method is None and not together:
        check_place(out_dir, force=force)  # before anything slow is loaded
    from factedit.edit.method_table import make_method
    from factedit.work.auto import AUTO
    from factedit.work.fact_list import asked_records
    from factedit.work.settings import read_settings

    records = asked_records(subject, prompt, target, true_target, requests)
    changes = {
        "layer": layer, "steps": steps, "learning_rate": learning_rate, "clamp": clamp, "decay": decay, "kl": kl,
        "ridge": ridge, "subject_weight": subject_weight, "stretch": stretch, "context_templates": _templates(contexts),
        "trained": trained,
    }  # fmt: skip
    name = _name(method, together=together, stop=stop)
    given = {key: value for key, value in changes.items() if value is not None}
    given |= read_settings(settings or (), [name])[name]
    if dry_run:
        outline = outlined(model, threads=threads, dtype=dtype, device=device, stream=stream)
        moment_ready, own_text = second_moment is not None, corpus is None
        tell(_planned(outline, name, records, given, preset=preset, ready=moment_ready, own_text=own_text), json)
        return
    base, earlier = open_source(model, threads=threads, dtype=dtype, device=device, stream=stream)
    if layer is not None:
        base.check_layer(layer)
    source = moments_for(second_moment, corpus)
    choice = None
    if name == AUTO:
        if given:
            raise UsageError(f"--method auto chooses the settings itself; leave out {', '.join(given)}.")
        choice = _chosen(base, source, records, earlier, minutes, preset)
        name, given = choice.chosen.method, dict(choice.chosen.settings)
    made = make_method(name, base, source, preset=preset, **given)
    if together or made.scope == "joint":
        _refuse_single(full=full, force=force)
        _together(
            base, made, records, earlier, batch=batch, folder=out_dir, also_known=also_known, fail=fail, json=json,
            choice=choice,
        )  # fmt: skip
        return
    if batch or also_known:
        raise UsageError(f"--batch and --also-known are for edits of many facts together; {name} edits each alone.")
    asked = [record.request for record in records]
    _each(base, made, asked, earlier, folder=out_dir, force=force, fail=fail, full=full, json=json)


def _templates(contexts: Path | None) -> list[Any] | None:
    from factedit.work.user_files import read_user_json

    templates = None if contexts is None else read_user_json(contexts, "contexts")
    if templates is not None and not isinstance(templates, list):
        raise UsageError(f"{contexts} must hold a JSON list of templates, each with one '{{}}'.")
    return templates


def _name(method: str | None, *, together: bool, stop: bool) -> str:
    from factedit.edit.method_table import STOPPING, check_method
    from factedit.work.auto import AUTO

    name = method or (JOINT if together else ALONE)
    if name == AUTO:
        if stop:
            raise UsageError(
                "--method auto tries methods as they are; name one to train the end, too (--method … --stop)."
            )
        return name
    name = name if not stop or name.endswith(STOPPING) else f"{name}{STOPPING}"
    check_method(name)
    return name


def _planned(
    outline: EditableModel,
    name: str,
    records: Sequence[FactRecord],
    given: dict[str, Any],
    *,
    preset: str,
    ready: bool,
    own_text: bool,
) -> DryRun:
    from factedit.work.auto import AUTO
    from factedit.work.dry_run import dry_edit

    if name == AUTO:
        raise UsageError("--method auto finds the method by trying; name one for --dry-run.")
    asked = [record.request for record in records]
    return dry_edit(outline, name, asked, given, preset=preset, ready=ready, own_text=own_text)


def _refuse_single(*, full: bool, force: bool) -> None:
    if full:
        raise UsageError("--full shows one insertion whole; an edit of many facts has none.")
    if force:
        raise UsageError("--force replaces edits of single facts; an edit of many facts goes into a new folder.")


def _chosen(
    base: EditableModel,
    source: Moments,
    records: Sequence[FactRecord],
    earlier: Sequence[Edit],
    minutes: float,
    preset: str,
) -> Choice:
    from factedit.report.together import trials_table
    from factedit.work.auto import choose

    with progress_bars() as progress:
        choice = choose(base, source, records, earlier=earlier, seconds=60 * minutes, preset=preset, progress=progress)
    out.print(trials_table([trial.as_json() for trial in choice.trials]))
    out.print(f"chosen: {choice.why}")
    return choice


def _together(
    base: EditableModel,
    method: Method,
    records: Sequence[FactRecord],
    earlier: Sequence[Edit],
    *,
    batch: int | None,
    folder: Path | None,
    also_known: bool,
    fail: bool,
    json: Path | None,
    choice: Choice | None = None,
) -> None:
    from factedit.report.together import facts_table, row_in_words
    from factedit.work.together import FAILED, edit_together

    with progress_bars() as progress:
        edited = edit_together(
            base, method, records, earlier=earlier, batch=batch, folder=folder, also_known=also_known, progress=progress
        )
    row = edited.as_json() | ({} if choice is None else {"choice": without_nan(choice.as_json())})
    if any(fact["status"] != "took" for fact in row["facts"]):
        out.print(facts_table(row))
    out.print(row_in_words(row))
    write_json(json, row)
    failed = next((fact for fact in row["facts"] if fact["why"] and fact["status"] == FAILED), None)
    if failed is not None and not row["edits"]:
        raise EditError(f"No fact was edited, and nothing was saved. {failed['why']}")
    if fail and any(fact["status"] not in ("took", "known") for fact in row["facts"]):
        raise typer.Exit(UNTAKEN)


def _each(
    base: EditableModel,
    method: Method,
    requests: Sequence[EditRequest],
    earlier: Sequence[Edit],
    *,
    folder: Path | None,
    force: bool,
    fail: bool,
    full: bool,
    json: Path | None,
) -> None:
    from factedit.edit.artefact import weights_of
    from factedit.edit.effects.weights import weights_changed
    from factedit.report.tables import edit_table
    from factedit.work.edit import describe, edit_facts

    with bar("editing", len(requests)) as advance, weights_changed(base, weights_of(earlier)):
        saved = edit_facts(base, method, requests, folder=folder, force=force, progress=advance)
    for edited in saved:
        _warn(edited.edit)
    rows = [describe(edited, full=full) for edited in saved]
    for row in rows:
        out.print(edit_table(row))
    write_json(json, {**(rows[0] if len(rows) == 1 else {}), "edits": rows})
    warn_untaken([edited.edit for edited in saved], fail=fail)


def _warn(edit: Edit) -> None:
    """Say which facts the model gave before the edit already."""
    for request, note in zip(edit.requests, edit.notes, strict=True):
        if note.before["answers_target_new"]:
            err.print(f"warning: the model already answers {request.target_new!r} to {request.text!r}", style="yellow")
