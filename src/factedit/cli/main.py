"""The command line: one file per command, gathered here; errors printed without a traceback."""

from __future__ import annotations

import sys

import typer

from factedit.cli import (
    account,
    case_study,
    demo,
    edit,
    evaluate,
    lists,
    report,
    reproduce,
    ship,
    stack,
    stats,
    sweep_layers,
    trace,
    train,
)  # fmt: skip
from factedit.cli.common import err
from factedit.errors import FacteditError, UsageError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Find where a language model keeps a fact, change it, prove what the change did, undo it.",
)
for module in (demo, trace, stats, edit, evaluate, report, train, reproduce, sweep_layers, case_study):
    app.command(name=module.__name__.rpartition(".")[2].replace("_", "-"))(module.command)
for name, command in (account.COMMANDS | stack.COMMANDS | ship.COMMANDS | lists.COMMANDS).items():
    app.command(name=name)(command)


def main() -> None:
    """Run; exit code 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    try:
        app()
    except FacteditError as error:
        err.print(f"error: {error}", style="red")
        sys.exit(2 if isinstance(error, UsageError) else 1)
    except KeyboardInterrupt:
        err.print("interrupted; what was stored is safe, the same command goes on", style="yellow")
        sys.exit(130)
    except (MemoryError, RuntimeError) as error:
        from factedit.memory import is_out_of_memory, out_of_memory

        if not is_out_of_memory(error):
            raise
        err.print(f"error: {out_of_memory(error)}", style="red")
        sys.exit(1)
