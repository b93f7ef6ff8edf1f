"""`factedit serve`: the page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from factedit.cli.common import Device, Dtype, Threads, err, examples, note, open_source, out
from factedit.cli.unforeseen import say_unforeseen

REACH = "Who may reach it"


@examples(
    "factedit serve",
    "factedit serve gemma3-270m --folder edits/needle --out exports",
    "factedit serve gpt2 --folder downloads/gpt2-new --folder runs/cf --port 0",
)
def command(
    model: Annotated[
        str, typer.Argument(help="hub id, folder (also of edits), .gguf file or embedded name")
    ] = "gemma3-270m",
    folders: Annotated[
        list[Path] | None,
        typer.Option(
            "--folder",
            show_default=False,
            help="an edit, a model or adapter to audit, or results; may be given several times",
        ),
    ] = None,
    out_dir: Annotated[Path | None, typer.Option("--out", help="where exports go; without it there are none")] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one")] = 8000,
    no_open: Annotated[bool, typer.Option("--no-open", help="do not open a browser")] = False,
    host: Annotated[
        str, typer.Option(rich_help_panel=REACH, help="where it listens; another than this needs --open-to-others")
    ] = "127.0.0.1",
    open_to_others: Annotated[
        bool, typer.Option("--open-to-others", rich_help_panel=REACH, help="let other machines reach the page")
    ] = False,
    threads: Threads = None,
    dtype: Dtype = "float32",
    device: Device = "cpu",
) -> None:
    """Open the page: see a fact, change it, try to break it, undo it; on this machine alone."""
    from factedit.web.serve import ServerSettings, check_settings, serve

    settings = ServerSettings(model, tuple(folders or ()), out_dir, host, port, open_to_others, not no_open)
    warning = check_settings(settings)
    if warning:
        err.print(f"warning: {warning}", style="yellow")

    def say(address: str) -> None:
        out.print(address, soft_wrap=True)
        note("the page is open to who has this address; Ctrl-C ends it")

    opener = lambda: open_source(model, threads=threads, dtype=dtype, device=device)  # noqa: E731
    serve(settings, opener, say=say, unforeseen=say_unforeseen)
