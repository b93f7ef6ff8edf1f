"""The documentation site: what it takes from the code is all there. 'make docs' builds it strictly, links and all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

import factedit
from conftest import ROOT
from factedit.cli import main
from factedit.edit.method_table import METHODS
from site_pages import module

COMMANDS = get_command(main.app).commands  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def pages() -> Any:
    return module("pages")


def test_a_page_for_every_command_with_its_whole_help(pages: Any) -> None:
    found = pages.commands()
    for name, command in COMMANDS.items():
        page = found[f"commands/{name}.md"]
        assert f"({name}.md)" in found["commands/index.md"]
        for param in command.params:
            for option in param.opts if param.param_type_name == "option" and not param.hidden else ():
                assert option in page, f"{option} of {name}"
        if any("--json" in param.opts for param in command.params):
            assert f"../formats/{name}.md" in page, f"a schema of {name}: docs/formats/{name}.schema.json"


def test_every_public_name_and_every_room(pages: Any) -> None:
    found = pages.api()
    for name in factedit.__all__:
        assert f"| [`{name}`](" in found["api/index.md"], name
    for folder in (ROOT / "src" / "factedit").glob("*/__init__.py"):
        if folder.parent.name != "cli":
            assert f"::: factedit.{folder.parent.name}\n" in found[f"api/{folder.parent.name}.md"]


def test_lists_formats_and_decisions(pages: Any) -> None:
    lists = pages.lists()["lists.md"]
    assert all(f"`{name}`" in lists for name in METHODS)
    formats = pages.formats()
    assert "`target_new`" in formats["formats/requests.md"]
    json.loads(formats["formats/ledger.schema.json"])
    index = pages.decisions()["decisions/index.md"]
    for path in (ROOT / "docs" / "decisions").glob("0*.md"):
        assert f"({path.name})" in index


def test_every_page_is_in_the_navigation() -> None:
    """Those that are made are put there by the hook; strict building finds the rest, but not in these tests."""
    text = (ROOT / "mkdocs.yml").read_text()
    own = [path.relative_to(ROOT / "docs") for path in (ROOT / "docs").rglob("*.md")]
    for path in own:
        if path.parts[0] != "decisions" and not (path.parts[0] == "results" and len(path.parts) > 2):
            assert f"- {path.as_posix()}" in text, path


def test_snippets_and_guides_name_files_and_commands_that_are_there() -> None:
    for path in sorted((ROOT / "docs").rglob("*.md")):
        text = path.read_text("utf-8")
        for line in text.splitlines():
            if line.startswith("--8<--"):
                assert (ROOT / line.split('"')[1]).is_file(), line
        if path.parent.name in ("for", "extend") or path.name in ("quickstart.md", "guide.md"):
            _check_commands(path, text)


def _check_commands(path: Path, text: str) -> None:
    """Of every command in a code block the name and the options."""
    blocks = text.split("```bash")[1:]
    for line in "".join(block.split("```")[0].replace("\\\n", " ") for block in blocks).splitlines():
        for part in line.split("#")[0].split("&&"):
            words = part.split()
            if words[:1] != ["factedit"] or words[1].startswith("-"):
                continue
            known = {option for param in COMMANDS[words[1]].params for option in (*param.opts, *param.secondary_opts)}
            asked = {word for word in words[2:] if word.startswith("--")}
            assert asked <= known, f"{path}: {part}"
