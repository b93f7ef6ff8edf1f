"""What --help shows: groups, defaults, examples that can be typed; and what every command has."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from factedit import __version__
from factedit.cli import help as helping
from factedit.cli import main
from factedit.cli.train import command as train_command
from factedit.edit.network_mend import MendSettings
from factedit.train.loop import TrainSettings

PROGRAM = get_command(main.app)
COMMANDS = sorted(PROGRAM.commands)  # type: ignore[attr-defined]
EXAMPLES = [line for lines in helping._EXAMPLES.values() for line in lines]


def shown(*arguments: str) -> str:
    result = CliRunner().invoke(main.app, list(arguments), catch_exceptions=False, prog_name="factedit")
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command(name: str) -> None:
    text = shown(name, "-h")
    assert text == shown(name, "--help")
    assert max(map(len, text.splitlines())) <= 80
    output = text.split("\nOutput:\n")[1]
    assert "-q, --quiet" in output
    assert "-v, --verbose" in output
    told = text.split("\n\n")[1].split()
    assert told == PROGRAM.commands[name].help.split("\n\n")[0].split(), "nothing is cut"  # type: ignore[attr-defined]


def test_options_stand_in_their_groups_with_defaults() -> None:
    text = shown("trace", "--help")
    heads = [line for line in text.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert heads == [
        "Arguments:",
        "Options:",
        "Corruption:",
        "Answer:",
        "States:",
        "Many facts:",
        "Computing:",
        "Output:",
        "Examples:",
    ]
    group = text.split("Computing:\n")[1].split("\n\n")[0]
    assert [line.split()[0].rstrip(",") for line in group.splitlines() if line.startswith("  --")] == [
        "--threads", "--dtype", "--device", "--workers", "--cluster", "--stream", "--dry-run",
    ]  # fmt: skip
    assert "[default: float32]" in group
    assert "[default: 3s]" in text
    assert "E[k kᵀ]" in shown("stats", "-h"), "no markup"


def test_the_defaults_of_a_training_are_those_it_takes() -> None:
    text = " ".join(shown("train", "--help").split())
    own = TrainSettings.model_fields
    rows = {
        f"--{name.replace('_', '-')}": own[name].default for name in own if name not in ("clip", "patience", "diverged")
    }
    rows["--updates"] = rows.pop("--steps")  # which of an edit are evaluations of the loss
    rows["--rank"] = MendSettings.model_fields["rank"].default
    for option, default in rows.items():
        said = text.split(f"{option} <")[1].split("[default: (")[1].split(")")[0]
        assert float(said) == default, option
    assert set(rows) - {"--rank", "--updates"} <= {f"--{p.replace('_', '-')}" for p in train_command.__annotations__}


@pytest.mark.parametrize("line", EXAMPLES)
def test_an_example_can_be_typed(line: str) -> None:
    """Its options exist and its values are of their kinds; and it stands unbroken in the help."""
    program, name, *rest = shlex.split(line.replace("\\\n", " "))
    assert program == "factedit"
    PROGRAM.commands[name].make_context(name, rest)  # type: ignore[attr-defined]
    assert "\n".join(f"  {part}" for part in line.splitlines()) in shown(name, "--help")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_examples(name: str) -> None:
    assert "\nExamples:\n" in shown(name, "-h")


def test_the_program() -> None:
    text = shown("-h")
    assert text == shown("--help")
    assert "--install-completion" in text
    for name in COMMANDS:
        assert f"\n  {name} " in text
    assert "Trace one prompt causally, or average effects over known facts." in " ".join(text.split())
    assert shown("--version") == f"factedit {__version__}\n"
    nothing = CliRunner().invoke(main.app, [], catch_exceptions=False)
    assert nothing.exit_code == 2
    assert nothing.stdout == ""
    assert "Commands:" in nothing.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_the_same_thing_has_the_same_name(name: str) -> None:
    """MODEL is positional and comes first among models, methods are `--method`; older names are still taken."""
    params = {param.name: param for param in PROGRAM.commands[name].params}  # type: ignore[attr-defined]
    shown_options = {o for p in params.values() if p.param_type_name == "option" and not p.hidden for o in p.opts}
    assert "--methods" not in shown_options or "--method" in shown_options
    if "model" in params and name not in ("check", "show"):  # whose model belongs to an edit
        assert params["model"].param_type_name == "argument"
    for option, default in (("--dtype", "float32"), ("--device", "cpu"), ("--threads", None), ("--json", None)):
        for param in params.values():
            if option in param.opts and name != "apply":  # which keeps the type of the weights
                assert param.default == default, option


def test_completion(tmp_path: Path) -> None:
    result = CliRunner().invoke(
        main.app, [], prog_name="factedit", catch_exceptions=False,
        env={"_FACTEDIT_COMPLETE": "complete_bash", "COMP_WORDS": "factedit tr", "COMP_CWORD": "1"},
    )  # fmt: skip
    assert result.stdout.split() == ["trace", "train"]
