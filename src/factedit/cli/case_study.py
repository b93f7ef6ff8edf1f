"""`factedit case-study`: what each method makes the model write about the same facts (figure 6 of the paper)."""

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
    bar,
    err,
    load_model,
    make_methods,
    method_names,
    moments,
    seed_option,
    write_json,
)
from factedit.errors import UsageError


def command(
    model: Model,
    dataset: Annotated[str, typer.Option(help="see 'factedit datasets', or a file")] = "counterfact",
    ids: Annotated[str | None, typer.Option(help="case ids, with commas; default: the first --records drawn")] = None,
    records: Annotated[int, typer.Option(help="how many records, drawn with --seed")] = 3,
    methods: Annotated[str, typer.Option(help="with commas")] = "ft,ft-l,kn,rome",
    trained: Trained = None,
    tokens: Annotated[int, typer.Option(help="tokens written at most")] = 40,
    seed: Annotated[int, seed_option("of the draw")] = 0,
    second_moment: MomentFile = None,
    corpus: MomentText = None,
    page: Annotated[Path, typer.Option("--out", help="the page")] = Path("case_study.html"),
    json: Json = None,
    threads: Threads = None,
    dtype: Dtype = "float32",
    device: Device = "cpu",
) -> None:
    """Edit a few facts with every method, let the model write, and put it all on one page."""
    from factedit.data.registry import load_facts, select
    from factedit.report.case_study import study, write_study

    if tokens < 1:
        raise UsageError(f"--tokens {tokens} must be at least 1.")
    named = method_names(methods)
    data = load_facts(dataset)
    which = {"ids": ids.split(",")} if ids else {"limit": records, "seed": seed, "split": "report"}
    chosen = select(data.records, **which)
    loaded = load_model(model, threads=threads, dtype=dtype, device=device)
    made, _ = make_methods(loaded, named, trained, moments(second_moment, corpus), explicit=True)
    with bar("editing and writing", len(chosen)) as go:
        cases = study(loaded, chosen, made, tokens=tokens, step=go)
    write_study(cases, page, model=loaded.name, tokens=tokens)
    err.print(f"page: {page}")
    rows = [{"case_id": c.record.case_id, "prompts": c.prompts, "texts": c.texts} for c in cases]
    write_json(json, rows)
