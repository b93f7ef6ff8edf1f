"""`factedit trace`: where is the fact?"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from factedit.cli.common import (
    Device,
    Dtype,
    Json,
    Model,
    Threads,
    examples,
    model_opener,
    note,
    out,
    progress_bars,
    seed_option,
    without_nan,
    write_json,
)  # fmt: skip
from factedit.cli.dry import Dry, outlined, tell
from factedit.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from factedit.models.adapter import EditableModel

CORRUPTION, MANY = "Corruption", "Many facts"


@examples(
    """factedit trace gemma3-270m "The Space Needle is in downtown" \\
      --subject "The Space Needle" --plot needle.png""",
    "factedit trace gemma3-270m --facts worldfacts-known --kind severed",
)
def command(
    model: Model,
    prompt: Annotated[str | None, typer.Argument(help="a complete prompt; leave out with --facts")] = None,
    subject: Annotated[str | None, typer.Option(help="the part of the prompt the fact is about")] = None,
    kind: Annotated[
        str,
        typer.Option(
            help="hidden, mlp, attn, hidden-mlp-severed, hidden-attn-severed, several with commas, all, or severed"
        ),
    ] = "all",
    window: Annotated[
        int | None, typer.Option(min=1, help="layers restored together for mlp and attn; default: 10/48 of all")
    ] = None,
    noise: Annotated[
        str,
        typer.Option(
            rich_help_panel=CORRUPTION, help="3s: three standard deviations of subjects' embeddings; or a number"
        ),
    ] = "3s",
    samples: Annotated[int, typer.Option(min=1, rich_help_panel=CORRUPTION, help="noise samples")] = 10,
    seed: Annotated[int, seed_option("of the noise; with --facts also of the draw")] = 1,
    facts: Annotated[
        str | None, typer.Option(rich_help_panel=MANY, help="instead of a prompt: a set of known facts to average over")
    ] = None,
    records: Annotated[int, typer.Option(min=1, rich_help_panel=MANY, help="with --facts: how many facts")] = 200,
    out_dir: Annotated[
        Path,
        typer.Option(
            "--out", rich_help_panel=MANY, help="with --facts: folder of the traces; the same command goes on there"
        ),
    ] = Path("runs"),
    plot: Annotated[Path | None, typer.Option(help="write the figure here (.png or .svg)")] = None,
    json: Json = None,
    threads: Threads = None,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    dry_run: Dry = False,
) -> None:
    """Causal trace of one prompt, or average effects over known facts."""
    from factedit.report.figures import check_suffix

    if (prompt is None) == (facts is None) or (prompt is not None and subject is None):
        raise UsageError("Give a PROMPT with --subject, or --facts with a set of known facts, not both.")
    if facts is not None and subject is not None:
        raise UsageError("--subject belongs to a PROMPT; known facts have their own.")
    if plot is not None:
        check_suffix(plot)
    if dry_run:
        from factedit.work.dry_run import dry_trace

        model_outline = outlined(model, threads=threads, dtype=dtype, device=device)
        asked = {"kinds": kind, "window": window, "samples": samples, "seed": seed, "records": records}
        tell(dry_trace(model_outline, prompt, subject, facts=facts, **asked), json)  # type: ignore[arg-type]
        return
    source = model_opener(model, threads=threads, dtype=dtype, device=device)
    settings = {"kinds": kind, "window": window, "noise": noise, "samples": samples, "seed": seed}
    if prompt is not None and subject is not None:
        _one(source, prompt, subject, plot, json, settings)
    else:
        _many(source, str(facts), out_dir, plot, json, {"records": records, **settings})


def _one(
    model: Callable[[], EditableModel],
    prompt: str,
    subject: str,
    plot: Path | None,
    json: Path | None,
    settings: dict[str, Any],
) -> None:
    from factedit.report.figures import trace_figure
    from factedit.report.tables import trace_table
    from factedit.work.trace import trace_prompt

    with progress_bars() as progress:
        result = trace_prompt(model, prompt, subject, progress=progress, **settings)
    out.print(trace_table(result))
    write_json(json, result.as_json())
    _draw(lambda: trace_figure(result), plot)


def _many(
    model: Callable[[], EditableModel],
    facts: str,
    out_dir: Path,
    plot: Path | None,
    json: Path | None,
    settings: dict[str, Any],
) -> None:
    from factedit.report.figures import averages_figure
    from factedit.report.tables import averages_table
    from factedit.work.trace import trace_known

    with progress_bars() as progress:
        found = trace_known(model, facts, out_dir, progress=progress, **settings)
    out.print(averages_table(found.averages))
    note(f"traces: {found.store}")
    write_json(json, without_nan(found.as_json()))
    _draw(lambda: averages_figure(found.averages), plot)


def _draw(figure: Callable[[], Figure], plot: Path | None) -> None:
    if plot is not None:
        from factedit.report.figures import save

        save(figure(), plot)
        note(f"figure: {plot}")
