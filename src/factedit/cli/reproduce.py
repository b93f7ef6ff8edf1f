"""`factedit reproduce`: a table of the ROME paper, with every method in it, on any model."""

from __future__ import annotations

import json as jsonlib
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from factedit.cli.common import (
    LARGEST_SEED,
    Device,
    Dtype,
    Json,
    Threads,
    err,
    evaluated,
    load_model,
    moments,
    out,
    without_nan,
    write_json,
)
from factedit.errors import UnknownName, UsageError


def command(
    which: Annotated[str, typer.Argument(help="zsre (Table 1) or counterfact (Table 4)", show_default=False)],
    model: Annotated[str, typer.Option(help="hub id, folder, .gguf file or embedded name")] = "gemma3-270m",
    records: Annotated[int | None, typer.Option(help="how many records, drawn with --seed; default: all")] = None,
    methods: Annotated[
        str, typer.Option(help="methods with commas; all: every row of the table whose network is trained")
    ] = "all",
    trained: Annotated[Path | None, typer.Option(help="folder with the networks of ke and mend")] = None,
    seed: Annotated[int, typer.Option(min=0, max=LARGEST_SEED, help="of the draw and of sampled texts")] = 0,
    fluency: Annotated[bool, typer.Option("--fluency/--no-fluency", help="GE and RS too (slow)")] = True,
    fluency_records: Annotated[
        int | None, typer.Option(help="GE and RS over this many of the records only, the first drawn; default: all")
    ] = None,
    references: Annotated[
        Path | None, typer.Option(help="texts about objects for RS, JSON; default: the data set's own facts")
    ] = None,
    batch: Annotated[int, typer.Option(help="cases edited and scored together")] = 8,
    second_moment: Annotated[Path | None, typer.Option(help="file instead of the cache or the shipped moment")] = None,
    corpus: Annotated[str | None, typer.Option(help="text for the second moment, if it must be computed")] = None,
    out_dir: Annotated[
        Path, typer.Option("--out", help="folder of table and results; goes on there, and keeps its other rows")
    ] = Path("runs/table"),
    json: Json = None,
    threads: Threads = None,
    dtype: Dtype = "float32",
    device: Device = "cpu",
) -> None:
    """Run the unedited model and all methods over a data set, and write the paper's table with ours beside it."""
    from factedit.data.registry import load_facts, select
    from factedit.evaluate.consistency import consistency_with
    from factedit.report.paper import TABLES

    if which not in TABLES:
        raise UnknownName("table", which, TABLES)
    for option, value in (("--batch", batch), ("--fluency-records", fluency_records)):
        if value is not None and value < 1:
            raise UsageError(f"{option} {value} must be at least 1.")
    named = _named(which, methods)
    data = load_facts(which)
    chosen = select(data.records, limit=records, seed=seed, split="report")
    loaded = load_model(model, threads=threads, dtype=dtype, device=device)
    made, missing = make_methods(loaded, named, trained, moments(second_moment, corpus), explicit=methods != "all")
    refuse_trained_on(made, chosen)
    with_texts = consistency_with(data.records, references) if fluency and which == "counterfact" else None
    written = 0 if with_texts is None else min(fluency_records or len(chosen), len(chosen))
    found = _evaluate(out_dir, loaded, data, chosen, made, with_texts, written=written, seed=seed, batch=batch)
    found = _in_order(found, which)
    shown = methods if methods == "all" else ",".join(list(found.summary)[1:])
    asked = _command(which, model, records, shown, seed, fluency, fluency_records, batch)
    notes = {"command": f"`{asked}`", "data": f"{data.name}, sha256 {data.sha256[:16]}"}
    notes |= {f"{name} left out": why for name, why in missing.items() if name not in found.summary}
    if with_texts is not None:
        notes["reference texts of RS"] = with_texts.references.source
        notes["n of GE and RS"] = str(written)
    _write(found, which, loaded, notes, out_dir, json)


def _evaluate(out_dir, loaded, data, chosen, methods, with_texts, *, written, seed, batch):  # type: ignore[no-untyped-def]
    """The scores of all chosen records; with GE and RS over the first `written` of them."""
    from factedit.evaluate.chunk import GENERATION_TOKENS, Protocol

    scores = Protocol(seed=seed, chunk=batch)
    texts = replace(scores, generation_tokens=GENERATION_TOKENS, consistency=with_texts)
    run = lambda records, protocol: evaluated(  # noqa: E731
        out_dir, loaded, data, records, methods, protocol, earlier=True,
        what=f"{data.name}, {len(methods)} methods, {len(records)} records",
    )  # fmt: skip
    if written == len(chosen):
        return run(chosen, texts)
    found = run(chosen, scores)
    if not written:
        return found
    part = run(chosen[:written], texts).summary
    of_texts = {method: {name: row[name] for name in ("GE", "RS")} for method, row in part.items()}
    return replace(found, summary={method: row | of_texts.get(method, {}) for method, row in found.summary.items()})


def _named(which: str, methods: str) -> list[str]:
    from factedit.edit.method import check_method
    from factedit.report.paper import TABLES

    named = list(TABLES[which].methods) if methods == "all" else [m.strip() for m in methods.split(",") if m.strip()]
    for name in named:
        check_method(name)
    return named


def make_methods(loaded, named, trained, source, *, explicit):  # type: ignore[no-untyped-def]
    """The methods, and by name why some of the paper's are missing; one asked for by name must be there."""
    from factedit.edit.method import make_method
    from factedit.edit.trained import KINDS

    made, missing = [], {}
    for name in named:
        settings: dict[str, Any] = {"trained": trained} if name.partition("-")[0] in KINDS else {}
        try:
            made.append(make_method(name, loaded, source, **settings))
        except UsageError as error:
            if explicit or not settings:
                raise
            missing[name] = str(error)
            err.print(f"{name} is left out: {error}", style="yellow")
    return made, missing


def refuse_trained_on(methods, records) -> None:  # type: ignore[no-untyped-def]
    """Refuse to evaluate a method on what its network was trained on.

    Raises:
        DataError: listing the records.
    """
    from factedit.errors import DataError

    for method in methods:
        known = method.trained_on(records) if hasattr(method, "trained_on") else []
        if known:
            raise DataError(
                f"The network of {method.name} was trained on {len(known)} of the {len(records)} records: "
                f"{', '.join(known[:20])}{' …' if len(known) > 20 else ''}. Evaluate on others, or train it on others."
            )


def _command(
    which: str, model: str, records: int | None, methods: str, seed: int, fluency: bool, written: int | None, batch: int
) -> str:
    """The command that gives this table again, without places on this machine."""
    parts = [f"factedit reproduce {which} --model {Path(model).name if Path(model).exists() else model}"]
    parts += [f"--records {records}"] if records is not None else []
    parts += [f"--methods {methods}", f"--seed {seed}", f"--batch {batch}"]
    if which == "counterfact":
        parts += ["--no-fluency"] if not fluency else [f"--fluency-records {written}"] if written else []
    return " ".join(parts)


def _in_order(found, which):  # type: ignore[no-untyped-def]
    """The rows as the paper orders them, methods that it does not have last."""
    from factedit.evaluate.chunk import UNEDITED
    from factedit.report.paper import TABLES

    order = {method: n for n, method in enumerate((UNEDITED, *TABLES[which].methods))}
    rows = sorted(found.summary.items(), key=lambda row: order.get(row[0], len(order)))
    return replace(found, summary=dict(rows))


def _write(found, which, loaded, notes, out_dir, json) -> None:  # type: ignore[no-untyped-def]
    from factedit.cache import write_atomic
    from factedit.edit.manifest import installed
    from factedit.report.paper import TABLES, csv_text, markdown
    from factedit.report.tables import summary_table
    from factedit.report.verdict import in_words

    rows = without_nan(found.as_json())
    memory = {method: row["peak_memory_mb"] for method, row in found.as_json().items()}
    versions = installed()
    notes = {**notes, "versions": ", ".join(f"{k} {v}" for k, v in versions.items())}
    about = {"model": loaded.name, "memory": memory}
    comparison = found.comparison()
    write_atomic(out_dir / "table.md", markdown(which, found.summary, comparison, notes=notes, **about))
    write_atomic(out_dir / "table.csv", csv_text(which, found.summary, **about))
    result = {"table": which, "model": loaded.name, "fingerprint": loaded.fingerprint(), "notes": notes, "rows": rows}
    write_atomic(out_dir / "table.json", jsonlib.dumps(result, indent=1, allow_nan=False) + "\n")
    out.print(summary_table(found.summary, title=f"{TABLES[which].title} on {loaded.name}"))
    out.print(in_words(found.summary, comparison))
    err.print(f"table: {out_dir / 'table.md'}")
    write_json(json, result)
