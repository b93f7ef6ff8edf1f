"""`factedit trace`: where is the fact?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from factedit.cli.common import (
    Cluster,
    Device,
    Dtype,
    Json,
    Model,
    Stream,
    Threads,
    Workers,
    examples,
    note,
    out,
    progress_bars,
    seed_option,
    team_and_opener,
    write_json,
)  # fmt: skip
from factedit.cli.dry import Dry, outlined, tell
from factedit.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from factedit.models.adapter import EditableModel
    from factedit.trace.effects import TraceResult
    from factedit.work.inputs import ModelSource
    from factedit.work.states import StateAsked

CORRUPTION, ANSWER, STATES, MANY = "Corruption", "Answer", "States", "Many facts"


Files = tuple[Path | None, Path | None]  # of figure and arrays


@examples(
    """factedit trace gemma3-270m "The Space Needle is in downtown" \\
      --subject "The Space Needle" --plot needle.png""",
    """factedit trace gemma3-270m "The Space Needle is in downtown" \\
      --subject "The Space Needle" --read subject:5 --read last:12:attn""",
    """factedit trace gemma3-270m "Paris is the capital of" --subject Paris \\
      --other-subject Rome --measure logit-difference --json paris.json""",
    "factedit trace gemma3-270m --facts worldfacts-known --kind severed",
    "factedit trace gpt2 --facts mine.jsonl --arrays mine.npz --plot mine.pdf",
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
    fall: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=CORRUPTION,
            help="also what is left of the answer at these noise levels, with commas: 1s,2s,3s; 'all' for ten of them",
        ),
    ] = None,
    other_subject: Annotated[
        str | None,
        typer.Option(rich_help_panel=CORRUPTION, help="instead of noise: a subject of as many tokens in its place"),
    ] = None,
    answer: Annotated[
        str | None, typer.Option(rich_help_panel=ANSWER, help="what to ask for; default: the token the model says next")
    ] = None,
    measure: Annotated[
        str, typer.Option(rich_help_panel=ANSWER, help="probability, or logit-difference to another answer")
    ] = "probability",
    against: Annotated[
        str | None,
        typer.Option(rich_help_panel=ANSWER, help="that other answer; default: what the model says of --other-subject"),
    ] = None,
    read: Annotated[
        list[str] | None,
        typer.Option(
            rich_help_panel=STATES,
            show_default=False,
            help="TOKEN:LAYER or TOKEN:LAYER:KIND: also what the logit lens and a Patchscope make of that state; TOKEN "
            "is a number, subject (its last token) or last; several times",
        ),
    ] = None,
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
    paraphrase: Annotated[
        list[str] | None,
        typer.Option(help="another complete text with the subject, to tell its experts (of a model that has some)"),
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="write the figure here (.png, .svg or .pdf)")] = None,
    arrays: Annotated[
        Path | None, typer.Option(help="write every fact's arrays here (.npz, .csv, or .parquet with pyarrow)")
    ] = None,
    json: Json = None,
    threads: Threads = None,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    workers: Workers = None,
    cluster: Cluster = None,
    stream: Stream = False,
    dry_run: Dry = False,
) -> None:
    """Trace one prompt causally, or average effects over known facts."""
    from factedit.report.arrays import check_arrays
    from factedit.report.figures import check_suffix
    from factedit.work.states import named_states

    if (prompt is None) == (facts is None) or (prompt is not None and subject is None):
        raise UsageError("Give a PROMPT with --subject, or --facts with a set of known facts, not both.")
    if facts is not None and (subject is not None or paraphrase or read or fall):
        raise UsageError("--subject, --paraphrase, --fall and --read belong to a PROMPT; known facts have their own.")
    states = named_states(read or ())
    chosen = {"answer": answer, "against": against, "other_subject": other_subject}
    if facts is not None and (measure != "probability" or any(chosen.values())):
        raise UsageError("--answer, --measure, --against and --other-subject are of a PROMPT; facts bring their own.")
    if plot is not None:
        check_suffix(plot)
    if arrays is not None:
        check_arrays(arrays)
    if dry_run:
        from factedit.work.dry_run import dry_trace

        model_outline = outlined(model, threads=threads, dtype=dtype, device=device, stream=stream)
        asked = {"kinds": kind, "window": window, "samples": samples, "seed": seed, "records": records}
        tell(dry_trace(model_outline, prompt, subject, facts=facts, **asked), json)  # type: ignore[arg-type]
        return
    if (workers or cluster) and facts is None:
        raise UsageError("--workers and --cluster share many facts; one trace is computed here. Give --facts.")
    team, source = team_and_opener(workers, cluster, model, threads=threads, dtype=dtype, device=device, stream=stream)
    settings = {"kinds": kind, "window": window, "noise": noise, "samples": samples, "seed": seed}
    if prompt is not None and subject is not None:
        prompt_settings: dict[str, Any] = {name: text or "" for name, text in chosen.items()}
        prompt_settings |= {"measure": measure, "paraphrases": tuple(paraphrase or ())}
        files = (plot, arrays)
        _one(source, prompt, subject, {**settings, **prompt_settings}, states=states, fall=fall, files=files, json=json)
    else:
        _many(source, str(facts), out_dir, (plot, arrays), json, {"records": records, "team": team, **settings})


def _one(
    model: ModelSource,
    prompt: str,
    subject: str,
    settings: dict[str, Any],
    *,
    states: Sequence[StateAsked],
    fall: str | None,
    files: Files,
    json: Path | None,
) -> None:
    from factedit.report.figures import trace_figure
    from factedit.report.tables import experts_table, states_table, trace_table
    from factedit.work.fall import fall as find_fall
    from factedit.work.fall import named_levels
    from factedit.work.inputs import opened
    from factedit.work.states import read_states
    from factedit.work.trace import trace_prompt

    with progress_bars() as progress:
        model = opened(model)
        result = trace_prompt(model, prompt, subject, progress=progress, **settings)
        read = read_states(model, result, states)
        of_noise = {name: settings[name] for name in ("samples", "seed")}
        levels = named_levels(fall or "")
        fallen = find_fall(model, prompt, subject, levels, progress=progress, **of_noise) if levels else None
    out.print(trace_table(result))
    experts = experts_table(result)
    if experts is not None:
        out.print(experts)
    if read:
        out.print(states_table(read))
    if fallen:
        table = Table("noise", "ν", f"P({fallen.answer.strip()})", title="As the subject is blurred")
        for row in [("none", "0", fallen.clean), *((b.level, f"{b.noise:.4g}", b.corrupted) for b in fallen.levels)]:
            table.add_row(*row[:2], f"{row[2]:.4f}")
        out.print(table)
    for said in result.notes():
        note(said)
    more = ({"states": [state.as_json() for state in read]} if read else {}) | (
        {"fall": fallen.as_json()} if fallen else {}
    )
    write_json(json, result.as_json() | more)
    _write(lambda: trace_figure(result), {"prompt": result}, files)


def _many(
    model: Callable[[], EditableModel],
    facts: str,
    out_dir: Path,
    files: Files,
    json: Path | None,
    settings: dict[str, Any],
) -> None:
    from factedit.report.figures import averages_figure
    from factedit.report.tables import averages_table
    from factedit.work.trace import trace_known

    with progress_bars() as progress:
        traced = trace_known(model, facts, out_dir, progress=progress, **settings)
    out.print(averages_table(traced.averages))
    note(f"traces: {traced.store}")
    write_json(json, traced.as_json())
    about = {"model": traced.about["model"], "window": traced.about["window"]}
    _write(
        lambda: averages_figure(traced.averages, **about), dict(zip(traced.names, traced.traces, strict=True)), files
    )


def _write(figure: Callable[[], Figure], traces: Mapping[str, TraceResult], files: Files) -> None:
    """Write figure and arrays where they are asked for."""
    plot, arrays = files
    if plot is not None:
        from factedit.report.figures import write_figure

        write_figure(figure(), plot)
        note(f"figure: {plot}")
    if arrays is not None:
        from factedit.report.arrays import write_arrays

        write_arrays(traces, arrays)
        note(f"arrays: {arrays}")
