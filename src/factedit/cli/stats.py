"""`factedit stats`: second moments of the keys."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from factedit.cli.common import (
    Device,
    Dtype,
    Json,
    Model,
    Threads,
    bar,
    load_model,
    named_text,
    out,
    parse_layers,
    write_json,
)
from factedit.errors import UsageError


def command(
    model: Model,
    layers: Annotated[str, typer.Option(help="which layers, e.g. 3-8; 'preset' takes the preset's")] = "preset",
    corpus: Annotated[
        str | None,
        typer.Option(help="file or folder of text, or hf:DATASET:CONFIG; default: text the model writes itself"),
    ] = None,
    tokens: Annotated[int | None, typer.Option(help="how many tokens to read; default: 10 per entry of a key")] = None,
    save: Annotated[Path | None, typer.Option(help="also write the (single) layer's moment here, packed")] = None,
    json: Json = None,
    threads: Threads = None,
    dtype: Dtype = "float32",
    device: Device = "cpu",
) -> None:
    """Compute E[k kᵀ] for layers, in one pass over the text; resumes, and keeps the result in the cache."""
    from factedit.edit.presets import settings_for
    from factedit.stats.store import write_moment

    wanted = None if layers == "preset" else parse_layers(layers)
    if tokens is not None and tokens < 1:
        raise UsageError(f"--tokens {tokens} must be at least 1.")
    loaded = load_model(model, threads=threads, dtype=dtype, device=device)
    chosen = [loaded.check_layer(n) for n in (wanted or [settings_for(loaded).layer or 0])]
    if save and len(chosen) > 1:
        raise UsageError("--save takes one layer at a time.")
    found = compute(loaded, chosen, corpus, tokens)
    table = Table("layer", "tokens", "condition number", "ridge needed", "text")
    for layer, moment in found.items():
        table.add_row(
            str(layer), str(moment.tokens), f"{moment.condition:.2e}", f"{moment.ridge_used:g}", moment.corpus
        )
    out.print(table)
    if save:
        write_moment(save, found[chosen[0]], packed=True)
    rows = [
        {"layer": n, "tokens": m.tokens, "condition": m.condition, "ridge": m.ridge_used, "corpus": m.corpus}
        for n, m in found.items()
    ]
    write_json(json, {"model": loaded.name, "fingerprint": loaded.fingerprint(), "layers": rows})


def compute(loaded, layers, corpus, tokens):  # type: ignore[no-untyped-def]
    """The moments of the layers, with a progress bar."""
    from factedit.stats.provide import TOKENS_PER_KEY_ENTRY, Moments

    total = tokens or TOKENS_PER_KEY_ENTRY * loaded.d_mlp
    with bar("reading text (tokens)", total) as advance:
        seen = 0

        def told(_name: str, read: int, _total: int) -> None:
            nonlocal seen
            advance(read - seen)
            seen = read

        return Moments(corpus=named_text(corpus), tokens=tokens, progress=told).compute(loaded, layers)
