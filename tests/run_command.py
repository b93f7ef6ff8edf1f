"""Run a command of factedit, which must succeed or be refused in one line."""

from __future__ import annotations

import sys

import pytest
from typer.testing import CliRunner

from factedit.cli import main as cli


def ok(*arguments: object) -> str:
    """What a command that succeeds prints."""
    result = CliRunner().invoke(cli.app, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def refused(capsys: pytest.CaptureFixture[str], code: int, *arguments: object) -> str:
    """The one error line of a refused command."""
    old, sys.argv = sys.argv, ["factedit", *map(str, arguments)]
    try:
        with pytest.raises(SystemExit) as stopped:
            cli.main()
    finally:
        sys.argv = old
    said = " ".join(capsys.readouterr().err.split())
    assert stopped.value.code == code, said
    assert "Traceback" not in said
    return said
