"""The command `factedit`, also as `python -m factedit`: ready for Ctrl-C before anything slow is loaded."""

from __future__ import annotations

from factedit.cli.stop import stoppable


def main() -> None:
    """Run the command line; see `factedit.cli.main.main` for the exit codes."""
    with stoppable():
        from factedit.cli.main import main as run

        run()


if __name__ == "__main__":
    main()
