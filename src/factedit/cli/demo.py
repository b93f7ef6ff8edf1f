"""`factedit demo`: the whole story on the embedded model, into one page."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from factedit.cli.common import Threads, embedded_subjects, err, load_model, moments, out


def command(
    out_file: Annotated[Path, typer.Option("--out", help="where the page goes")] = Path("demo/report.html"),
    model: Annotated[str, typer.Option(help="any model; the embedded one by default")] = "gemma3-270m",
    threads: Threads = None,
) -> None:
    """Find, change, test and undo one fact; write one HTML page."""
    began = time.perf_counter()
    from factedit.files.embedded import EMBEDDED

    notice = EMBEDDED[model].notice if model in EMBEDDED else ""
    if notice:
        out.print(notice)
    loaded = load_model(model, threads=threads)

    from factedit.edit.method import make_method
    from factedit.report.page import write_page
    from factedit.report.story import tell
    from factedit.trace.corrupt import noise_level

    noise = noise_level(loaded, "3s", embedded_subjects())
    method = make_method("rome", loaded, moments(None, None))
    story = tell(loaded, method, noise=noise, step=lambda text: err.print(f"· {text}"))
    seconds = time.perf_counter() - began
    write_page(story, out_file, notice=notice, seconds=seconds)
    before, after = story.scores
    out.print(f"P({story.record.request.target_new}) on the edited prompt: {story.answers[0].new}")
    out.print(f"scores before: {_scores(before)}")
    out.print(f"scores after:  {_scores(after)}")
    out.print(f"weights restored to the bit: {story.restored}")
    out.print(f"page: {out_file} ({seconds:.0f} s)")


def _scores(numbers: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.1f}" for name, value in numbers.items())
