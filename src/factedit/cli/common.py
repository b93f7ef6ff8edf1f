"""What every command shares: options, loading, progress, JSON, and errors without a traceback."""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from factedit.errors import DataError, EditError, UsageError

if TYPE_CHECKING:
    from factedit.models.adapter import EditableModel
    from factedit.stats.provide import Moments, Text

LARGEST_SEED = 2**32 - 1  # of numpy's generators
WIDE = 160  # columns of a table that goes to a file or a pipe: no number is cut short
# what users write is never read as markup
out = Console(markup=False, highlight=False, width=None if sys.stdout.isatty() else WIDE)
err = Console(stderr=True, markup=False, highlight=False)

Model = Annotated[str, typer.Argument(help="hub id, folder, .gguf file or embedded name", show_default=False)]
Edits = Annotated[list[Path], typer.Argument(help="folders that 'factedit edit' wrote, in order", show_default=False)]
Force = Annotated[bool, typer.Option("--force", help="also edits made for other weights")]
Json = Annotated[Path | None, typer.Option("--json", help="also write the result here, for machines ('-': print it)")]
Threads = Annotated[int | None, typer.Option("--threads", min=1, help="processor threads; default: all cores")]
Trained = Annotated[Path | None, typer.Option("--trained", help="folder with the networks of ke and mend")]
MomentFile = Annotated[
    Path | None, typer.Option("--second-moment", help="file instead of the cache or the shipped moment")
]
MomentText = Annotated[str | None, typer.Option("--corpus", help="text for the second moment, if it must be computed")]
Dtype = Annotated[str, typer.Option("--dtype", help="float32, bfloat16 or float16")]
Device = Annotated[str, typer.Option("--device", help="where to compute, e.g. cpu or cuda")]


def load_model(
    source: str, *, threads: int | None = None, dtype: str = "float32", device: str = "cpu"
) -> EditableModel:
    """Load the model, saying so."""
    with err.status(f"loading {source}"):
        import torch

        from factedit.memory import ask_for_huge_pages
        from factedit.models.load import load

        ask_for_huge_pages()
        # torch tells it as a surprise where the first product of its backward thread is one of ours
        warnings.filterwarnings("ignore", message="Attempting to run cuBLAS, but there was no current CUDA context")
        torch.set_num_threads(threads or os.cpu_count() or 1)
        return load(source, dtype=dtype, device=device)


def named_text(corpus: str | None) -> Text | None:
    """The text a user named, its documents mixed with seed 0, or None."""
    if corpus is None:
        return None
    from factedit.data.corpus import open_corpus
    from factedit.stats.provide import Text

    opened = open_corpus(corpus, order_seed=0)
    return Text(f"{opened.name} ({opened.fingerprint[:12]})", opened.texts)


def moments(file: Path | None, corpus: str | None) -> Moments:
    """Where second moments come from, telling when text has to be read."""
    from factedit.stats.provide import Moments

    told: list[int] = []

    def tell(name: str, read: int, total: int) -> None:
        if not told or read == total or read - told[-1] >= total // 10:
            told.append(read)
            err.print(f"second moment from {name}: {read} of {total} tokens")

    return Moments(file=file, corpus=named_text(corpus), progress=tell)


def evaluated(out_dir, loaded, data, chosen, methods, protocol, *, what, selection="", earlier=False):  # type: ignore[no-untyped-def]
    """Evaluate records of a data set into the results of a folder, with a progress bar; resumes.

    With `earlier` the methods that the folder already holds of these records stand beside those asked for.
    """
    from factedit.evaluate.run import evaluate_methods
    from factedit.evaluate.store import ResultStore

    with ResultStore(out_dir / "results.sqlite") as store, bar(what, len(chosen)) as go:
        found = evaluate_methods(
            loaded, chosen, methods, store, dataset=f"{data.name} {data.sha256}", selection=selection,
            protocol=protocol, earlier=earlier, progress=go,
        )  # fmt: skip
    for note in not_edited_notes(found):
        err.print(note, style="yellow")
    return found


def not_edited_notes(found) -> list[str]:  # type: ignore[no-untyped-def]
    """A sentence per method that could not edit some of the cases of an evaluation."""
    from factedit.report.tables import not_edited_text

    return [not_edited_text(m, cases, len(found.results[m])) for m, cases in found.not_edited().items()]


def embedded_subjects() -> list[str]:
    """The subjects of the embedded facts, on which the default noise level is measured."""
    from factedit.data.registry import load_known

    return [fact.subject for fact in load_known("worldfacts-known").records]


def seed_option(text: str) -> Any:
    """The option `--seed` with this help, within what every generator takes."""
    return typer.Option("--seed", min=0, max=LARGEST_SEED, help=text)


def method_names(text: str) -> list[str]:
    """Names of methods, written with commas.

    Raises:
        UnknownName: one that nobody knows.
    """
    from factedit.edit.method import check_method

    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        check_method(name)
    return names


def parse_layers(text: str) -> list[int]:
    """Layers as written: `"3"`, `"3-8"`, `"3,5,7-9"`.

    Raises:
        UsageError: none of these.
    """
    found: list[int] = []
    try:
        for part in text.split(","):
            first, dash, last = part.partition("-")
            found += range(int(first), int(last if dash else first) + 1)
    except ValueError:
        found = []
    if not found:
        raise UsageError(f"The layers {text!r} are not written like 3, 3-8 or 3,5,7-9.")
    return sorted(set(found))


def make_methods(loaded, named, trained, source, *, explicit):  # type: ignore[no-untyped-def]
    """The methods, and by name why some are missing; one asked for by name (`explicit`) must be there."""
    from factedit.edit.method import make_method
    from factedit.edit.trained import KINDS

    made, missing = [], {}
    for name in named:
        settings: dict[str, Any] = {"trained": trained} if name.partition("-")[0] in KINDS else {}
        try:
            made.append(make_method(name, loaded, source, **settings))
        except (UsageError, EditError) as error:
            if explicit or not settings:
                raise
            missing[name] = str(error)
            err.print(f"{name} is left out: {error}", style="yellow")
    return made, missing


def write_json(path: Path | None, value: Any) -> None:
    """Write the value to a file (whole or not at all) or, for `-`, to standard output."""
    if path is None:
        return
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False, default=_plain)
    if str(path) == "-":
        typer.echo(text)
        return
    from factedit.cache import write_atomic

    write_atomic(path, text + "\n")


def _plain(value: Any) -> Any:
    """numpy and torch values as JSON."""
    return value.tolist() if hasattr(value, "tolist") else str(value)


def without_nan(value: Any) -> Any:
    """The value with every NaN as null, which JSON can hold."""
    if isinstance(value, dict):
        return {k: without_nan(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(v) for v in value]
    return None if isinstance(value, float) and value != value else value


@contextmanager
def bar(text: str, total: int) -> Iterator[Callable[[float], None]]:
    """A progress bar on standard error; the function it gives advances it."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, transient=True) as progress:
        task = progress.add_task(text, total=total)
        yield lambda by: progress.advance(task, by)


def read_json(path: Path, what: str) -> Any:
    """A JSON file of the user.

    Raises:
        DataError: it is not there or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"The {what} {path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise DataError(f"The {what} {path} is not JSON: {error}.") from error
