"""The command line: one file per command, gathered here; every error is one line."""

from __future__ import annotations

import errno
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from factedit import __version__
from factedit.cli import (
    ability,
    account,
    ask,
    case_study,
    demo,
    edit,
    evaluate,
    lists,
    locate,
    panel,
    report,
    reproduce,
    serve,
    ship,
    stack,
    stats,
    sweep_layers,
    trace,
    train,
    verdict,
)  # fmt: skip
from factedit.cli.console import err, flush_all, keep_for_json, survive_any_encoding
from factedit.cli.help import Group, register
from factedit.cli.stop import received, say_stopped
from factedit.cli.unforeseen import package_at_fault, say_unforeseen
from factedit.errors import FacteditError, UsageError, shown
from factedit.text import is_unicode

PARSER_ERROR = typer.BadParameter.__mro__[2]  # the parser's base of errors, which typer keeps under changing names

app = typer.Typer(
    cls=Group,
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for module in (
    demo, serve, trace, stats, edit, evaluate, report, train, reproduce, sweep_layers, locate, verdict, case_study,
    panel, ability,
):  # fmt: skip
    register(app, module.__name__.rpartition(".")[2].replace("_", "-"), module.command)
for name, command in (ask.COMMANDS | account.COMMANDS | stack.COMMANDS | ship.COMMANDS | lists.COMMANDS).items():
    register(app, name, command)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"factedit {__version__}")
        raise typer.Exit


@app.callback()
def start(
    context: typer.Context,
    version: Annotated[  # noqa: ARG001 - its callback does the work
        bool, typer.Option("--version", is_eager=True, callback=_version, help="Show the version and exit.")
    ] = False,
) -> None:
    """Find where a language model keeps a fact, change it, prove what the change did, undo it."""
    keep_for_json(alone=False)
    if context.invoked_subcommand is None:
        err.print(context.get_help())
        raise typer.Exit(2)


def main() -> None:
    """Run; exit code 0 done, 1 failed, 2 wrong usage, 130 interrupted (Ctrl-C), 143 terminated, 129 hung up."""
    survive_any_encoding()
    try:
        _check_arguments(sys.argv[1:])
        code = app(prog_name="factedit", standalone_mode=False)
        flush_all()
    except SystemExit as error:
        if received() is not None or not package_at_fault(error):
            raise
        sys.exit(_say(error))  # a stranger's code asked the program to end: nothing was done
    except KeyboardInterrupt as error:  # without the handler of `stop`, which raises its own
        say_stopped(error, "interrupted")
        sys.exit(130)
    except Exception as error:
        if received() is not None:  # the signal's exception, made another on its way
            raise
        sys.exit(_say(error))
    sys.exit(code if isinstance(code, int) else 0)


def _check_arguments(arguments: Sequence[str]) -> None:
    """Refuse what is not UTF-8, whatever it stands for: no tokenizer reads it, and no file that is written holds it.

    Raises:
        UsageError: quoting it.
    """
    wrong = next((argument for argument in arguments if not is_unicode(argument)), None)
    if wrong is not None:
        raise UsageError(
            f"{shown(wrong)} is not UTF-8: a terminal or script of another encoding wrote it, or a file is called so. "
            "Write it in UTF-8, or rename the file."
        )


def _say(error: Exception | SystemExit) -> int:
    """Print one error and give its exit code."""
    if isinstance(error, Exception) and isinstance(error, PARSER_ERROR):
        context = getattr(error, "ctx", None)
        hint = "" if context is None else f" See '{context.command_path} -h'."
        err.print(f"error: {error.format_message()}{hint}", style="red")  # type: ignore[attr-defined]
        return int(error.exit_code)  # type: ignore[attr-defined]
    if isinstance(error, FacteditError):
        err.print(f"error: {error}", style="red")
        return 2 if isinstance(error, UsageError) else 1
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        err.print(f"error: There is no room for what is written ({error.strerror}). Make room, or write elsewhere.")
        return 1
    if isinstance(error, MemoryError | RuntimeError):
        from factedit.memory import is_out_of_memory, out_of_memory

        if is_out_of_memory(error):
            err.print(f"error: {out_of_memory(error)}", style="red")
            return 1
    err.print(f"error: {say_unforeseen(error)}", style="red")
    return 1
