"""`factedit train`: the networks of KE and MEND."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from factedit.cli.common import (
    Device,
    Dtype,
    Json,
    Model,
    Threads,
    bar,
    err,
    load_model,
    named_text,
    out,
    seed_option,
    without_nan,
    write_json,
)
from factedit.errors import UnknownName, UsageError

PIECES = 4000


def command(
    kind: Annotated[str, typer.Argument(help="ke or mend", show_default=False)],
    model: Model,
    data: Annotated[str, typer.Option(help="general, zsre, counterfact, or a file of facts")] = "general",
    out_dir: Annotated[
        Path | None, typer.Option("--out", help="folder of the network; the same command goes on there")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="updates at most")] = None,
    batch: Annotated[int | None, typer.Option(help="examples per update")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Adam's, of the network")] = None,
    rate_learning_rate: Annotated[float | None, typer.Option(help="Adam's, of MEND's learned rates")] = None,
    c_edit: Annotated[float | None, typer.Option(help="weight of taking up the edit")] = None,
    c_loc: Annotated[float | None, typer.Option(help="weight of leaving other texts alone")] = None,
    validate_every: Annotated[int | None, typer.Option(help="updates between validations and checkpoints")] = None,
    validation: Annotated[int | None, typer.Option(help="examples held out for validation")] = None,
    rank: Annotated[int | None, typer.Option(help="MEND: of the low-rank maps")] = None,
    blocks: Annotated[int | None, typer.Option(help="how many last blocks are edited")] = None,
    seed: Annotated[int | None, seed_option("of the initial weights, the split and the draws")] = None,
    corpus: Annotated[str | None, typer.Option(help="general text; default: text the model writes itself")] = None,
    json: Json = None,
    threads: Threads = None,
    dtype: Dtype = "float32",
    device: Device = "cpu",
) -> None:
    """Train the network that an editing method needs; resumes, and keeps the best on held-out examples."""
    from factedit.edit.presets_baselines import checked
    from factedit.edit.trained import KINDS, NETWORK_SETTINGS, default_folder, method_name
    from factedit.train.loop import TrainSettings, train
    from factedit.train.prepare import check_data, prepare

    if kind not in KINDS:
        raise UnknownName("network", kind, KINDS)
    if kind != "mend" and rank is not None:
        raise UsageError("--rank is a setting of mend.")
    check_data(data)
    changes: dict[str, Any] = {
        "steps": steps, "batch": batch, "learning_rate": learning_rate, "rate_learning_rate": rate_learning_rate,
        "c_edit": c_edit, "c_loc": c_loc, "validate_every": validate_every, "validation": validation,
        "blocks": blocks, "seed": seed,
    }  # fmt: skip
    settings = checked(TrainSettings, "the training", {}, changes)
    network = checked(NETWORK_SETTINGS[kind], kind, {}, {"rank": rank})
    loaded = load_model(model, threads=threads, dtype=dtype, device=device)
    source, about = prepare(loaded, data, named_text(corpus), pieces=PIECES)
    folder = out_dir or default_folder(loaded, method_name(kind, about["name"]))
    err.print(f"training {method_name(kind, about['name'])} on {len(source.names)} records into {folder}")
    with bar(f"{kind} on {about['name']}", settings.steps) as advance:
        record = train(
            loaded, kind, source, folder, data=about, settings=settings, network=network,
            progress=_telling(advance, settings.validate_every),
        )  # fmt: skip
    _report(record, folder, json)


def _telling(advance, every):  # type: ignore[no-untyped-def]
    """Advance the bar, and every so often a line with the mean losses since the last one."""
    seen: list[tuple[float, float]] = []
    done, began = 0, time.perf_counter()

    def told(step: int, losses: Any) -> None:
        nonlocal done, began
        advance(step - done)
        done = step
        if losses is None:  # before the first step
            began = time.perf_counter()
            return
        seen.append((losses.edit, losses.drift))
        if step % max(1, every // 5) == 0:
            edit, drift = (sum(row[k] for row in seen) / len(seen) for k in (0, 1))
            each = (time.perf_counter() - began) / len(seen)
            err.print(f"step {step}: edit {edit:.3f}, drift {drift:.4f}, {each:.2f} s a step")
            seen.clear()
            began = time.perf_counter()

    return told


def _report(record, folder, json) -> None:  # type: ignore[no-untyped-def]
    from rich.table import Table

    table = Table("step", "validation loss", "−log P of the edit", "drift", title=f"{record.name}: {record.why}")
    for step, total, edit, drift in record.validation:
        mark = " ← kept" if step == record.best_step else ""
        table.add_row(f"{step:.0f}{mark}", f"{total:.4f}", f"{edit:.3f}", f"{drift:.4f}")
    out.print(table)
    size = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
    err.print(f"network: {folder} ({size:.1f} MB), {record.seconds:.0f} s in all")
    write_json(json, without_nan({"folder": str(folder), **record.model_dump(mode="json")}))
