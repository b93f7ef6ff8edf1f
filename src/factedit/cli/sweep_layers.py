"""`factedit sweep-layers`: ROME's scores by edited layer and token (figure 5 of the paper)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from factedit.cli.common import (
    Device,
    Dtype,
    Json,
    Model,
    Threads,
    err,
    evaluated,
    load_model,
    moments,
    out,
    parse_layers,
    seed_option,
    without_nan,
    write_json,
)
from factedit.errors import UnknownName, UsageError


def command(
    model: Model,
    dataset: Annotated[str, typer.Option(help="see 'factedit datasets', or a file")] = "counterfact",
    records: Annotated[int, typer.Option(help="how many records, drawn with --seed")] = 25,
    layers: Annotated[str, typer.Option(help="which layers, e.g. 0-5,8; all")] = "all",
    tokens: Annotated[str, typer.Option(help="where to edit, with commas")] = "subject_first,subject_last,last",
    seed: Annotated[int, seed_option("of the draw")] = 0,
    batch: Annotated[int, typer.Option(help="cases edited and scored together")] = 8,
    corpus: Annotated[str | None, typer.Option(help="text for the second moments, if they must be computed")] = None,
    out_dir: Annotated[
        Path, typer.Option("--out", help="folder of figure and results; the same command goes on there")
    ] = Path("runs/layers"),
    json: Json = None,
    threads: Threads = None,
    dtype: Dtype = "float32",
    device: Device = "cpu",
) -> None:
    """Edit every record with ROME at each layer and token, score it, and draw the curves."""
    from factedit.data.registry import load_facts, select
    from factedit.edit.method import make_method
    from factedit.evaluate.chunk import UNEDITED, Protocol
    from factedit.evaluate.layer_sweep import TOKENS, RomeAt

    places = [token.strip() for token in tokens.split(",")]
    for place in places:
        if place not in TOKENS:
            raise UnknownName("token", place, TOKENS)
    if batch < 1:
        raise UsageError(f"--batch {batch} must be at least 1.")
    data = load_facts(dataset)
    chosen = select(data.records, limit=records, seed=seed, split="report")
    if not any(r.paraphrases for r in chosen) or not any(r.neighborhood for r in chosen):
        raise UsageError(
            f"{data.name} has no paraphrases or no neighbours, which the figure shows. Choose another set."
        )
    loaded = load_model(model, threads=threads, dtype=dtype, device=device)
    wanted = list(range(loaded.n_layer)) if layers == "all" else [loaded.check_layer(n) for n in parse_layers(layers)]
    found = moments(None, corpus).compute(loaded, wanted)  # one pass over the text for all layers
    made: dict[tuple[str, int], Any] = {
        (place, layer): RomeAt(make_method("rome", loaded, lambda _m, n: found[n], layer=layer), place)  # type: ignore[arg-type]
        for place in places
        for layer in wanted
    }
    protocol = Protocol(free_tokens=0, generation_tokens=0, seed=seed, chunk=batch)
    what = f"{data.name}, {len(chosen)} records, {len(made)} places"
    result = evaluated(out_dir, loaded, data, chosen, list(made.values()), protocol, what=what)
    points = {place: result.summary[method.name] for place, method in made.items()}
    _write(points, result.summary[UNEDITED], loaded.name, out_dir, json)


def _write(points, unedited, model, out_dir, json) -> None:  # type: ignore[no-untyped-def]
    from factedit.report.figures import save
    from factedit.report.figures_layers import as_json, layers_figure
    from factedit.report.tables import summary_table

    save(layers_figure(points, unedited=unedited, model=model), out_dir / "layers.png")
    named = {f"layer {layer}, {token}": row for (token, layer), row in points.items()}
    out.print(summary_table({"unedited": unedited, **named}, title=f"ROME by layer and token on {model}"))
    err.print(f"figure: {out_dir / 'layers.png'}")
    result = without_nan({"model": model, "points": as_json(points)})
    write_json(out_dir / "layers.json", result)
    write_json(json, result)
