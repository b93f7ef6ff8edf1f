"""What every command shares: options, opening a model, progress, and JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from factedit.cli.console import ShowProgress, err, into_nothing, keep_for_json, note, out, progress_bars
from factedit.cli.help import OUTPUT, examples
from factedit.cli.places import as_text
from factedit.errors import ResourceError, UsageError
from factedit.safe import safe_text, without_nan
from factedit.text import numbers_in_ranges

if TYPE_CHECKING:
    from factedit.edit.artefact import Edit
    from factedit.models.adapter import EditableModel
    from factedit.stats import provide
    from factedit.work.team import Team

__all__ = [
    "Cluster",
    "Device",
    "Dtype",
    "Edits",
    "Force",
    "Json",
    "Model",
    "MomentFile",
    "MomentText",
    "NamedModel",
    "OptionalModel",
    "Set",
    "ShowProgress",
    "Stream",
    "Threads",
    "TrainedFolder",
    "Workers",
    "bar",
    "err",
    "examples",
    "load_model",
    "model_opener",
    "moments_for",
    "note",
    "open_source",
    "out",
    "parse_layers",
    "progress_bars",
    "seed_option",
    "team_and_opener",
    "which_model",
    "without_nan",
    "write_json",
]  # fmt: skip
LARGEST_SEED = 2**32 - 1  # of numpy's generators
UNTAKEN = 3  # the exit code of --fail where an edit did not take
DEFAULT_MODEL = "gemma3-270m"
COMPUTING, MOMENT = "Computing", "Second moment"  # groups of options


def _json_alone(path: Path | None) -> Path | None:
    keep_for_json(alone=path is not None and str(path) == "-")
    return path


Model = Annotated[str, typer.Argument(help="hub id, folder, .gguf file or embedded name", show_default=False)]
NamedModel = Annotated[
    str | None, typer.Option("--model", hidden=True)
]  # as it was asked for before it was an argument
OptionalModel = Annotated[
    str | None, typer.Argument(help=f"as elsewhere; default: the embedded {DEFAULT_MODEL}", show_default=False)
]
Edits = Annotated[list[Path], typer.Argument(help="folders that 'factedit edit' wrote, in order", show_default=False)]
Force = Annotated[bool, typer.Option("--force", help="also edits made for other weights")]
Fail = Annotated[
    bool, typer.Option("--fail", help=f"exit with {UNTAKEN} where a new object is not ranked first, as recorded")
]
Json = Annotated[
    Path | None,
    typer.Option(
        "--json", callback=_json_alone, rich_help_panel=OUTPUT,
        help="also write the result here, for machines ('-': print it on standard output, alone)",
    ),
]  # fmt: skip
Threads = Annotated[
    int | None,
    typer.Option("--threads", min=1, rich_help_panel=COMPUTING, help="processor threads; default: all it may use"),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", show_default=False, help="a setting of the method, e.g. steps=30; may be given several times"
    ),
]
PresetName = Annotated[
    str,
    typer.Option("--preset", help="settings to begin with: tuned, published (without those tuned here) or none"),
]
TrainedFolder = Annotated[Path | None, typer.Option("--trained", help="folder with the networks of ke and mend")]
MomentFile = Annotated[
    Path | None,
    typer.Option("--second-moment", rich_help_panel=MOMENT, help="file instead of the cache or the shipped moment"),
]
MomentText = Annotated[
    str | None,
    typer.Option("--corpus", rich_help_panel=MOMENT, help="text for the second moment, if it must be computed"),
]
Dtype = Annotated[str, typer.Option("--dtype", rich_help_panel=COMPUTING, help="float32, bfloat16 or float16")]
Device = Annotated[
    str,
    typer.Option(
        "--device", "--device-map", rich_help_panel=COMPUTING,
        help="where to compute: cpu, cuda; auto: accelerate places the model on cards, in memory, on disk",
    ),
]  # fmt: skip


Stream = Annotated[
    bool,
    typer.Option(
        "--stream", rich_help_panel=COMPUTING, help="read layers from disk as they run: for models beyond memory"
    ),
]
Cluster = Annotated[
    str | None,
    typer.Option("--cluster", rich_help_panel=COMPUTING, help="workers of a Ray cluster instead: auto or its address"),
]
Workers = Annotated[
    int | None,
    typer.Option(
        "--workers", min=1, rich_help_panel=COMPUTING, help="so many processes, each with the model and --threads (1)"
    ),
]


def which_model(argument: str | None, option: str | None) -> str:
    """Return the model that is asked for, the embedded one where none is.

    Raises:
        UsageError: two different ones.
    """
    if argument is not None and option is not None and argument != option:
        raise UsageError(f"Two models are named, {argument!r} and {option!r}. Name one.")
    return argument or option or DEFAULT_MODEL


def seed_option(text: str, *, default: str | bool = True) -> Any:
    """Return the option `--seed` with this help, within what generators take; `default` where it stands elsewhere."""
    return typer.Option("--seed", min=0, max=LARGEST_SEED, help=text, show_default=default)


def load_model(
    source: str, *, threads: int | None = None, dtype: str = "float32", device: str = "cpu", stream: bool | None = False
) -> EditableModel:
    """Load the model, saying so."""
    with err.status(Text(safe_text(f"loading {source}"))):
        from factedit.work.inputs import load_model as load

        return load(source, threads=threads, dtype=dtype, device=device, stream=stream)


def model_opener(
    source: str, *, threads: int | None = None, dtype: str = "float32", device: str = "cpu", stream: bool = False
) -> Callable[[], EditableModel]:
    """Return what loads the model, saying so, when a job wants it: after it has checked what was asked."""
    return partial(load_model, source, threads=threads, dtype=dtype, device=device, stream=stream)


def team_and_opener(
    workers: int | None,
    cluster: str | None,
    source: str,
    *,
    threads: int | None,
    dtype: str,
    device: str,
    stream: bool = False,
) -> tuple[Team | None, Callable[[], EditableModel]]:
    """Return the workers that were asked for, if any, and what loads the model here, with as many threads as each."""
    if workers is None and cluster is None:
        return None, model_opener(source, threads=threads, dtype=dtype, device=device, stream=stream)
    if stream:
        raise UsageError("Workers hold the model; --stream reads it from disk in one process. Give one of them.")
    from factedit.work.team import team_of

    team = team_of(workers, source, cluster=cluster, threads=threads, dtype=dtype, device=device)
    return team, model_opener(source, threads=threads or 1, dtype=dtype, device=device)


def open_source(
    source: str, *, threads: int | None = None, dtype: str = "float32", device: str = "cpu", stream: bool | None = False
) -> tuple[EditableModel, tuple[Edit, ...]]:
    """Return the unedited model and the edits on it: of a folder of edits what it began as and holds, else none."""
    with err.status(Text(safe_text(f"loading {source}"))):
        from factedit.work.inputs import open_source as open_it

        return open_it(source, threads=threads, dtype=dtype, device=device, stream=stream)


def parse_layers(text: str) -> list[int]:
    """Return layers as written: `"3"`, `"3-8"`, `"3,5,7-9"`.

    Raises:
        UsageError: none of these.
    """
    try:
        return numbers_in_ranges(text)
    except ValueError as error:
        raise UsageError(f"The layers {text!r} are not written like 3, 3-8 or 3,5,7-9.") from error


def write_json(path: Path | None, value: Any) -> None:
    """Write the value to a file (whole or not at all) or, for `-`, to standard output; what is not finite as null."""
    if path is None:
        return
    text = as_text(without_nan(value))
    if str(path) == "-":
        if sys.stdout is None:  # as `>&-` leaves it
            raise ResourceError("--json - writes to standard output, which is closed. Open it, or name a file.")
        if "utf" not in (sys.stdout.encoding or "").lower():
            text = json.dumps(json.loads(text), indent=1, allow_nan=False) + "\n"
        try:
            sys.stdout.write(text)
            sys.stdout.flush()
        except BrokenPipeError:
            into_nothing(sys.stdout)
        return
    from factedit.cache import write_atomic

    write_atomic(path, text)


@contextmanager
def bar(text: str, total: int) -> Iterator[Callable[[float], None]]:
    """Show a progress bar on standard error; the function it gives advances it."""
    from factedit.work.progress import advancing

    with progress_bars() as show:
        yield advancing(show, text, total)


def warn_untaken(edits: Sequence[Edit], *, fail: bool) -> None:
    """Say which new objects the edited model did not rank first when the edits were measured.

    Args:
        edits: that were made, or read from files, where their outcomes are as they were recorded.
        fail: leave with the exit code `UNTAKEN` where there is one.
    """
    from factedit.work.edit import said_of_untaken

    said = said_of_untaken(edits)
    for text in said:
        err.print(f"warning: {text}", style="yellow")
    if fail and said:
        raise typer.Exit(UNTAKEN)


def moments_for(file: Path | None, corpus: str | None) -> provide.Moments:
    """Return where second moments come from, telling when text has to be read."""
    from factedit.work.inputs import moments_from

    told: list[float] = []

    def tell(what: str, done: float, total: float) -> None:
        if not told or done == total or done - told[-1] >= total // 10:
            told.append(done)
            note(f"{what}: {done:g} of {total:g}")

    return moments_from(file, corpus, progress=tell)
