"""What the documentation site takes from the code: a hook of mkdocs (mkdocs.yml), run by 'make docs'.

Made here: a page per command from its own help, a page per room of the Python API (filled from the docstrings by
mkdocstrings), a page per JSON schema, the lists of methods with their settings, models, data sets, benchmarks and
metrics, an index of the decisions, and the pages that lie at the root of the repository.
"""

from __future__ import annotations

import importlib.util
import inspect
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
SOURCE = ROOT / "src" / "factedit"
SCHEMAS = DOCS / "formats"
SCHEMA = ".schema.json"
AT_THE_ROOT = {
    "changelog.md": "CHANGELOG.md", "contributing.md": "CONTRIBUTING.md", "security.md": "SECURITY.md",
    "notice.md": "NOTICE.md", "benchmarks.md": "benchmarks/README.md",
}  # fmt: skip
Pages = dict[str, str | bytes]


def commands() -> Pages:
    """A page per command, with the help that it prints, and an index."""
    from typer.main import get_command
    from typer.testing import CliRunner

    from factedit.cli import main

    program = get_command(main.app)
    rows, pages = [], {}
    for name in sorted(program.commands):  # type: ignore[attr-defined]
        told = CliRunner().invoke(main.app, [name, "--help"], prog_name="factedit", terminal_width=80).stdout
        what = first_sentence(program.commands[name].help)  # type: ignore[attr-defined]
        rows.append(f"| [`factedit {name}`]({name}.md) | {what} |")
        schema = SCHEMAS / f"{name}{SCHEMA}"
        shape = f"\nThe shape of its `--json`: [{name}](../formats/{name}.md).\n" if schema.is_file() else ""
        pages[f"commands/{name}.md"] = f"# factedit {name}\n\n{what}\n\n```text\n{told.strip()}\n```\n{shape}"
    table = "\n".join(["| command | what it does |", "|---|---|", *rows])
    return {"commands/index.md": f'# Commands\n\n--8<-- "docs/for/command-line.txt"\n\n{table}\n', **pages}


def first_sentence(text: str) -> str:
    """The first paragraph of a docstring, on one line."""
    return " ".join(inspect.cleandoc(text or "").partition("\n\n")[0].split())


def rooms() -> list[str]:
    """The packages and modules of factedit whose public names are documented."""
    packages = sorted(path.parent.name for path in SOURCE.glob("*/__init__.py"))
    return [name for name in packages if name != "cli"] + ["facts", "errors", "text", "cache"]


def api() -> Pages:
    """A page per room, and an index of the public names."""
    import factedit

    rows = []
    for name in factedit.__all__:
        home = factedit._HOME[name]
        room = home.split(".")[1]
        what = first_sentence(getattr(factedit, name).__doc__)
        rows.append(f"| [`{name}`]({room}.md#{home}.{name}) | {what} |")
    table = "\n".join(["| name | what it is |", "|---|---|", *rows])
    listed = "\n".join(f"- [`factedit.{room}`]({room}.md)" for room in rooms())
    intro = "`import factedit` gives the public names, which stay from version to version."
    head = f"# Python\n\n{intro} One function per command is in [`factedit.work`](work.md).\n\n{table}\n"
    pages = {f"api/{room}.md": f"# factedit.{room}\n\n::: factedit.{room}\n" for room in rooms()}
    return {"api/index.md": f"{head}\n## All rooms\n\n{listed}\n", **pages}


def schemas() -> dict[str, dict[str, Any]]:
    """Every JSON schema by its name: those of docs/formats, and those of the files that pydantic checks on reading."""
    from factedit.edit.manifest import Manifest
    from factedit.stack.ledger import Entry

    found = {path.name.removesuffix(SCHEMA): json.loads(path.read_text("utf-8")) for path in SCHEMAS.glob(f"*{SCHEMA}")}
    own = {"edit-folder": ("The file edit.json of an edit", Manifest), "ledger": ("An entry of a ledger", Entry)}
    for name, (title, kind) in own.items():
        schema = kind.model_json_schema() | {"title": title, "description": " ".join((kind.__doc__ or "").split())}
        found[name] = {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
    return dict(sorted(found.items()))


def formats() -> Pages:
    """A page per JSON schema: what it is, its fields, and the schema whole."""
    rows, pages = [], {}
    for name, schema in schemas().items():
        rows.append(f"| [`{name}`]({name}.md) | {schema['title']} |")
        raw = json.dumps(schema, indent=2, ensure_ascii=False)
        fields = "\n\n".join(_fields(schema))
        pages[f"formats/{name}.md"] = (
            f"# {name}\n\n{schema['title']}. {schema.get('description', '')}\n\n{fields}\n\n"
            f"## Schema\n\n[{name}{SCHEMA}]({name}{SCHEMA})\n\n```json\n{raw}\n```\n"
        )
        pages[f"formats/{name}{SCHEMA}"] = raw + "\n"
    table = "\n".join(["| file or command | what it holds |", "|---|---|", *rows])
    intro = (SCHEMAS / "intro.txt").read_text(encoding="utf-8")
    return {"formats/index.md": f"# Files and JSON\n\n{intro}\n\n{table}\n", **pages}


def _fields(schema: dict[str, Any], title: str = "Fields") -> Iterator[str]:
    """A table of the fields of every object in a schema that describes some."""
    own = schema.get("properties", {})
    if own:
        lines = [f"## {title}", "", "| field | type | meaning |", "|---|---|---|"]
        must = schema.get("required", [])
        for name, one in own.items():
            mark = "" if name in must else " (where there is one)"
            lines.append(f"| `{name}`{mark} | {_type(one)} | {one.get('description', '')} |")
        yield "\n".join(lines)
    for part in ("items", "additionalProperties"):
        if isinstance(schema.get(part), dict):
            yield from _fields(schema[part], "Fields of each entry" if title == "Fields" else title)
    for one in (*schema.get("oneOf", ()), *schema.get("anyOf", ())):
        yield from _fields(one, one.get("title", title))
    for name, one in schema.get("$defs", {}).items():
        yield from _fields(one, name)


def _type(schema: dict[str, Any]) -> str:
    """The type of a value in a few characters."""
    if "$ref" in schema:
        return schema["$ref"].rpartition("/")[2]
    if "enum" in schema or "const" in schema:
        return ", ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    found = schema.get("type", "any")
    return " or ".join(found) if isinstance(found, list) else str(found)


def lists() -> Pages:
    """What there is: the tables of the README, and benchmarks and metrics with their scores."""
    from factedit.work.lists import list_benchmarks, list_metrics

    tables = _module("tables")
    heads = {"methods": "Methods", "models": "Models", "forms": "Forms of an export", "presets": "Presets",
             "datasets": "Data sets"}  # fmt: skip
    parts = [f"## {head}\n\n{tables.TABLES[name]()}" for name, head in heads.items()]
    for head, found in (("Benchmarks", list_benchmarks()), ("Metrics", list_metrics())):
        parts.append(f"## {head}")
        for name, row in found.items():
            scores = [[f"`{s['name']}`", s["what"], s["better"]] for s in row["scores"]]
            parts.append(f"### {name}\n\n{row['what']} ({row['source']})\n")
            parts.append(tables.table(["score", "what it is", "better"], scores))
    intro = "Made from the registries when this site was built; `factedit methods` and its likes also list plug-ins."
    return {"lists.md": "\n\n".join(["# What there is", intro, *parts, *_settings(tables)]) + "\n"}


def _settings(tables: Any) -> Iterator[str]:
    """The settings by their classes, with the methods that take them."""
    settings = _module("settings")
    yield "## Settings\n\nGiven as `--set NAME=VALUE`, or from Python as arguments of `make_method`."
    for kind, methods in settings.kinds().items():
        taken = (
            "\n".join(f"- `{name}`: {said}" for name, said in methods.items()) or "Of a training (`factedit train`)."
        )
        yield f"### {kind.__name__}\n\n{settings.about(kind)}\n\n{taken}\n"
        yield tables.table(["setting", "default", "what it is"], settings.rows(kind))


def decisions() -> Pages:
    """An index of the decisions by their titles."""
    rows = [f"- [{path.stem[:4]}: {_title(path)}]({path.name})" for path in sorted((DOCS / "decisions").glob("0*.md"))]
    return {"decisions/index.md": "# Decisions\n\nOne page per hard choice.\n\n" + "\n".join(rows) + "\n"}


def notebook() -> Pages:
    """The notebook as it was kept, with its figures."""
    import base64

    cells, pages = json.loads((DOCS / "one_fact.ipynb").read_text(encoding="utf-8"))["cells"], {}
    parts = []
    for n, cell in enumerate(cells):
        text = "".join(cell["source"])
        parts.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
        for k, output in enumerate(cell.get("outputs", ())):
            data = output.get("data", {})
            if "image/png" in data:
                pages[f"images/notebook-{n}-{k}.png"] = base64.b64decode("".join(data["image/png"]))
                parts.append(f"![Output of the cell above](images/notebook-{n}-{k}.png)")
            elif "text/html" in data:
                parts.append("".join(data["text/html"]))
            else:
                parts.append("```text\n" + "".join(output.get("text", data.get("text/plain", ""))).rstrip() + "\n```")
    return {"notebook.md": "\n\n".join(parts) + "\n", **pages}


def at_the_root() -> Pages:
    """The pages that lie outside docs/, with links into docs/ made relative to it."""
    pages = {}
    for name, path in AT_THE_ROOT.items():
        text = (ROOT / path).read_text(encoding="utf-8")
        pages[name] = re.sub(r"\]\((?:\.\./)?docs/", "](", text)
    return pages


def all_pages() -> Pages:
    """Every page that is made, by its path under docs/."""
    return commands() | api() | formats() | lists() | decisions() | notebook() | at_the_root()


def _title(path: Path) -> str:
    return path.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ").strip()


def _module(name: str) -> Any:
    """A module of docs/."""
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    if spec is None or spec.loader is None:
        raise ImportError(name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def on_config(config: Any) -> Any:
    """Put the pages that are made into the navigation: 'commands/' there stands for all in that folder."""
    sys.path.insert(0, str(SOURCE.parent))
    made = all_pages()
    config["factedit_pages"] = made
    config["nav"] = [_filled(entry, made) for entry in config["nav"]]
    return config


def _filled(entry: Any, made: Pages) -> Any:
    if not isinstance(entry, dict):
        return entry
    [(title, value)] = entry.items()
    if not (isinstance(value, str) and value.endswith("/")):
        return entry
    there = {path.relative_to(DOCS).as_posix() for path in (DOCS / value).glob("*.md")}
    names = sorted(there | {name for name in made if name.startswith(value) and name.endswith(".md")})
    index = f"{value}index.md"
    return {title: [index, *(name for name in names if name != index)]}


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that are made."""
    from mkdocs.structure.files import File

    for name, text in config["factedit_pages"].items():
        if files.get_file_from_path(name) is not None:  # a schema of docs/formats, as it lies there
            continue
        files.append(File.generated(config, name, content=text))
    return files
