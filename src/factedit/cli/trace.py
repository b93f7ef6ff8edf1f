"""`factedit trace`: where is the fact?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from factedit.cli.common import (
    Device,
    Dtype,
    Json,
    Model,
    Threads,
    bar,
    embedded_subjects,
    err,
    load_model,
    out,
    seed_option,
    without_nan,
    write_json,
)
from factedit.errors import UsageError


def command(
    model: Model,
    prompt: Annotated[str | None, typer.Argument(help="a complete prompt; leave out with --facts")] = None,
    subject: Annotated[str | None, typer.Option(help="the part of the prompt the fact is about")] = None,
    facts: Annotated[str | None, typer.Option(help="instead of a prompt: a set of known facts to average over")] = None,
    records: Annotated[int, typer.Option(min=1, help="with --facts: how many facts")] = 200,
    kind: Annotated[
        str,
        typer.Option(
            help="hidden, mlp, attn, hidden-mlp-severed, hidden-attn-severed, several with commas, all, or severed"
        ),
    ] = "all",
    window: Annotated[
        int | None, typer.Option(min=1, help="layers restored together for mlp and attn; default 10/48 of all")
    ] = None,
    noise: Annotated[
        str, typer.Option(help="3s: three standard deviations of subjects' embeddings; or a number")
    ] = "3s",
    samples: Annotated[int, typer.Option(min=1, help="noise samples")] = 10,
    seed: Annotated[int, seed_option("of the noise; with --facts also of the draw")] = 1,
    out_dir: Annotated[
        Path, typer.Option("--out", help="with --facts: folder of the traces; the same command goes on there")
    ] = Path("runs"),
    plot: Annotated[Path | None, typer.Option(help="write the figure here (.png or .svg)")] = None,
    json: Json = None,
    threads: Threads = None,
    dtype: Dtype = "float32",
    device: Device = "cpu",
) -> None:
    """Causal trace of one prompt, or average effects over known facts."""
    from factedit.report.figures import check_suffix
    from factedit.trace.corrupt import parse_noise
    from factedit.trace.sweep import KINDS, SEVERED, check_kinds, default_window

    kinds = {"all": KINDS, "severed": ("hidden", *SEVERED)}.get(kind, tuple(dict.fromkeys(kind.split(","))))
    if (prompt is None) == (facts is None) or (prompt is not None and subject is None):
        raise UsageError("Give a PROMPT with --subject, or --facts with a set of known facts, not both.")
    if facts is not None and subject is not None:
        raise UsageError("--subject belongs to a PROMPT; known facts have their own.")
    check_kinds(kinds)
    parse_noise(noise)
    if plot is not None:
        check_suffix(plot)
    loaded = load_model(model, threads=threads, dtype=dtype, device=device)
    width = window or default_window(loaded.n_layer)
    err.print(f"window: {width} of {loaded.n_layer} layers")
    settings = {"kinds": kinds, "window": width, "samples": samples, "seed": seed}
    if prompt is not None and subject is not None:
        _one(loaded, prompt, subject, noise, settings, plot, json)
    else:
        _many(loaded, str(facts), records, noise, settings, plot, json, out_dir)


def _one(loaded, prompt, subject, noise, settings, plot, json) -> None:  # type: ignore[no-untyped-def]
    from factedit.report.tables import trace_table
    from factedit.trace.corrupt import noise_level
    from factedit.trace.sweep import trace_fact

    with bar("tracing", 1) as advance:
        result = trace_fact(
            loaded, prompt, subject, noise=noise_level(loaded, noise, embedded_subjects()),
            progress=lambda _done, total: advance(1 / total), **settings,
        )  # fmt: skip
    out.print(trace_table(result))
    write_json(json, result.as_json())
    if plot:
        from factedit.report.figures import save, trace_figure

        save(trace_figure(result), plot)
        err.print(f"figure: {plot}")


def _many(loaded, facts, records, noise, settings, plot, json, out_dir) -> None:  # type: ignore[no-untyped-def]
    from factedit.data.registry import load_known, select
    from factedit.evaluate.store import ResultStore
    from factedit.evaluate.traces import stored_traces
    from factedit.report.tables import averages_table
    from factedit.trace.corrupt import noise_level
    from factedit.trace.effects import average

    known, seed = load_known(facts), settings["seed"]
    chosen = select(known.records, limit=min(records, len(known.records)), ids=None, seed=seed, split="all")
    level = noise_level(loaded, noise, [fact.subject for fact in known.records])
    with ResultStore(out_dir / "traces.sqlite") as store, bar("tracing facts", len(chosen)) as advance:
        traces = stored_traces(
            loaded, chosen, store, dataset=f"{known.name} {known.sha256}", noise=level, progress=advance, **settings
        )
    averages = average(traces, asked=len(chosen))
    out.print(averages_table(averages))
    err.print(f"traces: {out_dir / 'traces.sqlite'}")
    about = {"model": loaded.name, "fingerprint": loaded.fingerprint(), "dataset": known.name, "noise": level}
    write_json(json, without_nan({**about, **settings, **averages.as_json()}))
    if plot:
        from factedit.report.figures import averages_figure, save

        save(averages_figure(averages), plot)
        err.print(f"figure: {plot}")
