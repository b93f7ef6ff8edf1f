"""`factedit demo`: the whole story on the embedded model, into one page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from factedit.cli.common import Threads, examples, model_opener, note, out, progress_bars


@examples("factedit demo", "factedit demo --model smollm2-135m --out demo/smollm2.html")
def command(
    out_file: Annotated[Path, typer.Option("--out", help="where the page goes")] = Path("demo/report.html"),
    model: Annotated[str, typer.Option(help="any model; the embedded one by default")] = "gemma3-270m",
    threads: Threads = None,
) -> None:
    """Find, change, test and undo one fact; write one HTML page."""
    from factedit.report.page import write_page
    from factedit.work.demo import demonstrate

    with progress_bars() as progress:
        found = demonstrate(model_opener(model, threads=threads), progress=progress)
    story, (before, after) = found.story, found.story.scores
    write_page(story, out_file, notice=found.notice, seconds=found.seconds)
    if found.notice:
        out.print(found.notice)
    out.print(f"P({story.record.request.target_new}) on the edited prompt: {story.answers[0].new}")
    out.print(f"scores before: {_scores(before)}")
    out.print(f"scores after:  {_scores(after)}")
    out.print(f"weights restored to the bit: {story.restored}")
    note(f"page: {out_file} ({found.seconds:.0f} s)")


def _scores(numbers: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.1f}" for name, value in numbers.items())
