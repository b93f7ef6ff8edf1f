"""`factedit evaluate`: what methods do to many facts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from factedit.cli.common import (
    Device,
    Dtype,
    Json,
    Model,
    MomentFile,
    MomentText,
    Threads,
    Trained,
    err,
    evaluated,
    load_model,
    make_methods,
    method_names,
    moments,
    not_edited_notes,
    out,
    seed_option,
    without_nan,
    write_json,
)


def command(
    model: Model,
    dataset: Annotated[str, typer.Option(help="see 'factedit datasets', or a file")] = "worldfacts",
    method: Annotated[str, typer.Option(help="one or more of 'factedit methods', with commas")] = "rome",
    trained: Trained = None,
    records: Annotated[int | None, typer.Option(help="how many records, drawn with --seed; default: all")] = None,
    ids: Annotated[str | None, typer.Option(help="instead: these case ids, with commas")] = None,
    split: Annotated[str, typer.Option(help="report: records not used for tuning presets; tune; all")] = "report",
    seed: Annotated[int, seed_option("of the draw and of sampled texts")] = 0,
    fluency: Annotated[bool, typer.Option("--fluency", help="GE and RS too (slow)")] = False,
    references: Annotated[
        Path | None, typer.Option(help="texts about objects for RS, JSON; default: the data set's own facts")
    ] = None,
    free: Annotated[bool, typer.Option("--free/--no-free", help="greedy free-running match")] = True,
    batch: Annotated[int, typer.Option(help="cases edited and scored together")] = 32,
    second_moment: MomentFile = None,
    corpus: MomentText = None,
    out_dir: Annotated[
        Path, typer.Option("--out", help="folder of the results; the same command goes on there")
    ] = Path("runs"),
    json: Json = None,
    threads: Threads = None,
    dtype: Dtype = "float32",
    device: Device = "cpu",
) -> None:
    """Edit every record on its own and score it before and after; resumes where it stopped."""
    from factedit.data.registry import load_facts, select
    from factedit.errors import UsageError
    from factedit.evaluate.chunk import FREE_TOKENS, GENERATION_TOKENS, Protocol
    from factedit.evaluate.consistency import consistency_with

    if batch < 1:
        raise UsageError(f"--batch {batch} must be at least 1.")
    names = method_names(method)
    data = load_facts(dataset)
    wanted = None if ids is None else ids.split(",")
    chosen = select(data.records, limit=records, ids=wanted, seed=seed, split="all" if wanted else split)
    loaded = load_model(model, threads=threads, dtype=dtype, device=device)
    protocol = Protocol(
        free_tokens=FREE_TOKENS if free else 0, generation_tokens=GENERATION_TOKENS if fluency else 0,
        seed=seed, chunk=batch,
        consistency=consistency_with(data.records, references) if fluency else None,
    )  # fmt: skip
    methods, _ = make_methods(loaded, names, trained, moments(second_moment, corpus), explicit=True)
    found = evaluated(
        out_dir, loaded, data, chosen, methods, protocol,
        what=f"{data.name}, {len(chosen)} records",
        selection=f"{split} split, seed {seed}" if wanted is None else "ids",
    )  # fmt: skip
    _report(found, data.name, out_dir, json)


def _report(found, name, out_dir, json) -> None:  # type: ignore[no-untyped-def]
    from factedit.report.tables import write_summary

    as_json, notes = without_nan(found.as_json()), not_edited_notes(found)
    out.print(write_summary(found.summary, out_dir, title=name, as_json=as_json, notes=notes))
    err.print(f"results: {out_dir / 'results.sqlite'}, summary: {out_dir / 'summary.json'}")
    write_json(json, as_json)
