"""`factedit locate`: does tracing tell where to edit (arXiv 2301.04213)?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from factedit.cli.common import (
    Device,
    Dtype,
    Json,
    Model,
    MomentText,
    Set,
    Threads,
    examples,
    model_opener,
    note,
    out,
    parse_layers,
    progress_bars,
    seed_option,
    without_nan,
    write_json,
)  # fmt: skip
from factedit.cli.dry import Dry, outlined, tell
from factedit.errors import UsageError


@examples(
    "factedit locate gemma3-270m --facts counterfact --records 100",
    "factedit locate gpt2 --facts mine.jsonl --method rome,ft,memit --layers 0-11",
)
def command(
    model: Model,
    facts: Annotated[str, typer.Option(help="facts to trace and edit: see 'factedit datasets', or a file")],
    methods: Annotated[
        str, typer.Option("--method", "--methods", help="what edits at every layer, with commas")
    ] = "rome,ft",
    records: Annotated[
        int, typer.Option(min=2, help="facts drawn with --seed, of which those are used that the model answers")
    ] = 50,
    layers: Annotated[str, typer.Option(help="which layers, e.g. 0-5,8; all")] = "all",
    windows: Annotated[str, typer.Option(help="layers restored together, one trace for each")] = "1,3,5,10",
    kind: Annotated[str, typer.Option(help="what is restored: mlp, attn or hidden")] = "mlp",
    noise: Annotated[
        str, typer.Option(help="3s: three standard deviations of subjects' embeddings; or a number")
    ] = "3s",
    samples: Annotated[int, typer.Option(min=1, help="noise samples")] = 10,
    seed: Annotated[int, seed_option("of the draw, the noise and the permutation test")] = 0,
    settings: Set = None,
    batch: Annotated[int, typer.Option(min=1, help="facts edited together; a matter of memory only")] = 8,
    corpus: MomentText = None,
    out_dir: Annotated[
        Path, typer.Option("--out", help="folder of table, figure and results; the same command goes on there")
    ] = Path("runs/locate"),
    json: Json = None,
    threads: Threads = None,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    dry_run: Dry = False,
) -> None:
    """Compare where tracing finds facts with where edits of them succeed, layer by layer."""
    from factedit.cache import write_atomic
    from factedit.report.figures import write_figure
    from factedit.report.figures_locate import locate_figure, locate_markdown, locate_table
    from factedit.work.locate import locate_facts

    try:
        widths = [int(part) for part in windows.split(",")]
    except ValueError as error:
        raise UsageError(f"The windows {windows!r} are not written like 1,3,5,10.") from error
    asked: dict[str, Any] = {
        "methods": methods, "records": records, "layers": None if layers == "all" else parse_layers(layers),
        "windows": widths, "kind": kind, "noise": noise, "samples": samples, "seed": seed, "settings": settings or (),
        "batch": batch, "corpus": corpus,
    }  # fmt: skip
    place: dict[str, Any] = {"threads": threads, "dtype": dtype, "device": device}
    if dry_run:
        from factedit.work.dry_studies import dry_locate

        tell(dry_locate(outlined(model, **place), facts, **asked), json)
        return
    with progress_bars() as progress:
        located = locate_facts(model_opener(model, **place), facts, out_dir, **asked, progress=progress)
    name, words = str(located.about["model"]), located.words()
    figure = locate_figure(located.layers, located.effects, located.success, located.fits, model=name, kind=kind)
    write_figure(figure, out_dir / "locate.png")
    told = "".join(f"\n- {text}\n" for text in words)
    write_atomic(out_dir / "locate.md", locate_markdown(located.fits) + told)
    rows = without_nan(located.as_json())
    write_json(out_dir / "locate.json", rows)
    out.print(locate_table(located.fits, title=f"Success of edits by layer on {name}"))
    for text in words:
        out.print(text)
    note(f"figure: {out_dir / 'locate.png'}")
    write_json(json, rows)
