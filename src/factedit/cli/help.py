"""What `--help` shows: options in groups with their defaults, and examples as they are typed.

Here `-q` and `-v` come to every command.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup

from factedit.cli.console import set_verbosity
from factedit.cli.places import check_outputs

OTHERS = "Options"  # the group of options that name none
OUTPUT = "Output"
Quiet = Annotated[
    int,
    typer.Option(
        "--quiet", "-q", count=True, show_default=False, rich_help_panel=OUTPUT, help="say less; twice: errors only"
    ),
]
Verbose = Annotated[
    int, typer.Option("--verbose", "-v", count=True, show_default=False, rich_help_panel=OUTPUT, help="say more")
]
Function = TypeVar("Function", bound=Callable[..., None])
_EXAMPLES: dict[Callable[..., None], tuple[str, ...]] = {}


def examples(*lines: str) -> Callable[[Function], Function]:
    """Show these lines under the command's help; a decorator.

    Args:
        lines: each a whole command as one types it, at most 76 characters so that none is broken.
    """

    def note(function: Function) -> Function:
        _EXAMPLES[function] = lines
        return function

    return note


class Command(TyperCommand):
    """A command whose help shows its options in groups and its examples unbroken."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Format arguments, then each group of options (`rich_help_panel`) under its name, `Options` first."""
        groups: dict[str, list[tuple[str, str]]] = {"Arguments": [], OTHERS: []}
        for param in self.get_params(ctx):
            row = param.get_help_record(ctx)
            if row is not None:
                argument = param.param_type_name == "argument"
                name = "Arguments" if argument else getattr(param, "rich_help_panel", None) or OTHERS
                groups.setdefault(name, []).append(row)
        groups[OUTPUT] = groups.pop(OUTPUT, [])
        for name, rows in groups.items():
            if rows:
                with formatter.section(name):
                    formatter.write_dl(rows)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Format the examples, one a line."""
        if self.epilog:
            with formatter.section("Examples"):
                for line in self.epilog.splitlines():
                    formatter.write(f"  {line}\n")


class Group(TyperGroup):
    """The program: its commands, each with the whole first paragraph of its help."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Format one row per command, wrapped and never cut."""
        rows = [(name, command.help or "") for name in self.list_commands(ctx) if (command := self.commands.get(name))]
        with formatter.section("Commands"):
            formatter.write_dl([(name, " ".join(text.partition("\n\n")[0].split())) for name, text in rows])


def register(app: typer.Typer, name: str, function: Callable[..., None]) -> None:
    """Make a function a command of that name, with `-q`, `-v` and its examples."""
    signature = inspect.signature(function, eval_str=True)
    further = [
        inspect.Parameter(option, inspect.Parameter.KEYWORD_ONLY, default=0, annotation=annotation)
        for option, annotation in (("quiet", Quiet), ("verbose", Verbose))
    ]

    @functools.wraps(function)
    def run(*, quiet: int, verbose: int, **given: Any) -> None:
        set_verbosity(verbose - quiet)
        check_outputs(given, name)
        function(**given)

    keyword_only = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in signature.parameters.values()]
    run.__signature__ = signature.replace(parameters=[*keyword_only, *further])  # type: ignore[attr-defined]
    app.command(name=name, cls=Command, epilog="\n".join(_EXAMPLES.get(function, ())) or None)(run)
