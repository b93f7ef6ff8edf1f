"""`factedit reproduce`: a table of the ROME paper, with every method in it, on any model."""

from __future__ import annotations

import json as jsonlib
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from factedit.cli.common import (
    Device,
    Dtype,
    Json,
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
from factedit.errors import UnknownName, UsageError


def command(
    which: Annotated[str, typer.Argument(help="zsre (Table 1) or counterfact (Table 4)", show_default=False)],
    model: Annotated[str, typer.Option(help="hub id, folder, .gguf file or embedded name")] = "gemma3-270m",
    records: Annotated[int | None, typer.Option(help="how many records, drawn with --seed; default: all")] = None,
    methods: Annotated[
        str, typer.Option(help="methods with commas; all: every row of the table whose network is trained")
    ] = "all",
    trained: Trained = None,
    seed: Annotated[int, seed_option("of the draw and of sampled texts")] = 0,
    fluency: Annotated[bool, typer.Option("--fluency/--no-fluency", help="GE and RS too (slow)")] = True,
    fluency_records: Annotated[
        int | None, typer.Option(help="GE and RS over the first so many of the records only; default: all")
    ] = None,
    references: Annotated[
        Path | None, typer.Option(help="texts about objects for RS, JSON; default: the data set's own facts")
    ] = None,
    batch: Annotated[int, typer.Option(help="cases edited and scored together")] = 8,
    second_moment: MomentFile = None,
    corpus: MomentText = None,
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
    if (references or fluency_records) and not (fluency and which == "counterfact"):
        raise UsageError("--references and --fluency-records are for GE and RS, which are scores of CounterFact.")
    named = list(TABLES[which].methods) if methods == "all" else method_names(methods)
    data = load_facts(which)
    chosen = select(data.records, limit=records, seed=seed, split="report")
    loaded = load_model(model, threads=threads, dtype=dtype, device=device)
    made, missing = make_methods(loaded, named, trained, moments(second_moment, corpus), explicit=methods != "all")
    with_texts = consistency_with(data.records, references) if fluency and which == "counterfact" else None
    written = 0 if with_texts is None else min(fluency_records or len(chosen), len(chosen))
    found = _evaluate(out_dir, loaded, data, chosen, made, with_texts, written=written, seed=seed, batch=batch)
    found = _in_order(found, which)
    asked = _command(
        which, model, records=records, methods=methods if methods == "all" else ",".join(list(found.summary)[1:]),
        seed=seed, batch=batch, no_fluency=not fluency and which == "counterfact",
        fluency_records=fluency_records, references=references, trained=trained, second_moment=second_moment,
        corpus=corpus, dtype=None if dtype == "float32" else dtype, device=None if device == "cpu" else device,
    )  # fmt: skip
    notes = {"command": f"`{asked}`", "data": f"{data.name}, sha256 {data.sha256[:16]}", **_of_rows(found)}
    notes |= {f"{name} left out": why for name, why in missing.items() if name not in found.summary}
    if with_texts is not None:
        notes["reference texts of RS"] = with_texts.references.source
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
    of_texts = {method: {name: row[name] for name in ("GE", "RS") if name in row} for method, row in part.items()}
    return replace(found, summary={method: row | of_texts.get(method, {}) for method, row in found.summary.items()})


def _of_rows(found) -> dict[str, str]:  # type: ignore[no-untyped-def]
    """What one must know of the rows: where they were computed, the networks, and n where it is another."""
    common = next(iter(found.settings.values()))
    notes = {"computed": f"{common['dtype'].removeprefix('torch.')} on {common['device']}"}
    own = {method: settings.get("settings", {}) for method, settings in found.settings.items()}
    notes |= {f"network of {method}": _network(each) for method, each in own.items() if "training" in each}
    told = not_edited_notes(found)
    notes |= {"not edited": ". ".join(told)} if told else {}
    for score in ("GE", "RS"):
        counts = {row[score].n for row in found.summary.values() if score in row}
        notes |= {f"n of {score}": ", ".join(map(str, sorted(counts)))} if counts else {}
    return notes | {"settings of every row": "in table.json; where our presets are from: `factedit models`"}


def _command(which: str, model: str, **options: Any) -> str:
    """The command that gives this table again: options that are set, files by their names alone."""
    parts = [f"factedit reproduce {which} --model {_without_place(model)}"]
    for name, value in options.items():
        if value is not None and value is not False:
            parts.append(f"--{name.replace('_', '-')}" + ("" if value is True else f" {_without_place(value)}"))
    return " ".join(parts)


def _without_place(value: Any) -> str:
    return Path(value).name if isinstance(value, str | Path) and Path(value).exists() else str(value)


def _network(settings: dict[str, Any]) -> str:
    """How a network was trained, in words."""
    training, size = settings["training"], ", ".join(f"{k} {v}" for k, v in settings["network"].items())
    return (
        f"{size}; step {settings['best_step']} of at most {training['steps']} of {training['batch']} examples, "
        f"{settings['records']} records of {settings['data']['name']}"
    )


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
    memory = {method: row["peak_memory_mb"] for method, row in rows.items()}
    versions = installed()
    notes = {**notes, "versions": ", ".join(f"{k} {v}" for k, v in versions.items())}
    about = {"model": loaded.name, "memory": memory}
    comparison = found.comparison()
    write_atomic(out_dir / "table.md", markdown(which, found.summary, comparison, notes=notes, **about))
    write_atomic(out_dir / "table.csv", csv_text(which, found.summary, **about))
    result = {"table": which, "model": loaded.name, "fingerprint": loaded.fingerprint(), "notes": notes, "rows": rows}
    result["settings"] = {method: found.settings[method] for method in rows}
    write_atomic(out_dir / "table.json", jsonlib.dumps(result, indent=1, allow_nan=False) + "\n")
    out.print(summary_table(found.summary, title=f"{TABLES[which].title} on {loaded.name}"))
    out.print(in_words(found.summary, comparison))
    err.print(f"table: {out_dir / 'table.md'}")
    write_json(json, result)
