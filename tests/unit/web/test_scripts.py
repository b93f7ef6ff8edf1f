"""The page's scripts: what holds for Python's names holds for theirs."""

from __future__ import annotations

import re
from importlib.resources import files

import pytest

SCRIPTS = {
    script.name: script.read_text(encoding="utf-8")
    for home in (files("factedit.web") / "static", files("factedit.markup") / "drawings")
    for script in home.iterdir()
    if script.name.endswith(".js")
}
NAMES = re.compile(r"(?<![\w.-])(own|found)\b(?!:)")  # not a property, nor a key of what is sent
BESIDE = re.compile(r'"(?:[^"\\\n]|\\.)*"|(?:^|(?<=\s))//.*')


def say_nothing(script: str) -> list[str]:
    """Names that do not say what they hold."""
    return NAMES.findall(BESIDE.sub('""', script))


@pytest.mark.parametrize("name", sorted(SCRIPTS))
def test_variables_say_what_they_hold(name: str) -> None:
    assert say_nothing(SCRIPTS[name]) == []


IMPORT = re.compile(r'^import \{ ([^}]*) \} from "\./([\w.]+)";$', re.MULTILINE)
EXPORT = re.compile(r"^export (?:async )?(?:const|function|class|let) (\w+)", re.MULTILINE)


@pytest.mark.parametrize("name", sorted(SCRIPTS))
def test_what_is_imported_is_there_and_is_used(name: str) -> None:
    for names, module in IMPORT.findall(SCRIPTS[name]):
        wanted = set(names.split(", "))
        assert wanted <= set(EXPORT.findall(SCRIPTS[module])), (module, wanted)
        unused = [one for one in wanted if len(re.findall(rf"(?<![\w.]){one}\b", SCRIPTS[name])) < 2]
        assert unused == [], module


def test_what_is_exported_is_used_elsewhere() -> None:
    """But for what the page calls by a view's name."""
    imported = {
        (module, one)
        for text in SCRIPTS.values()
        for names, module in IMPORT.findall(text)
        for one in names.split(", ")
    }
    views = {
        f"{view}.js" for view in re.findall(r'^import \* as \w+ from "\./(\w+)\.js"', SCRIPTS["app.js"], re.MULTILINE)
    }
    unused = [
        (name, one)
        for name, text in SCRIPTS.items()
        for one in EXPORT.findall(text)
        if (name, one) not in imported and not (name in views and one in ("title", "draw"))
    ]
    assert unused == []


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("const own = 1;", ["own"]),
        ("rows.map((own, n) => n)", ["own"]),
        ("for (const [key, found] of x)", ["found"]),
        ("`${found.length}`", ["found"]),
        ('set({ own: "my own" }) // of its own', []),
        ('el("div", { class: "found" }).own', []),
    ],
)
def test_ways_to_bind_a_name_are_seen(script: str, expected: list[str]) -> None:
    assert say_nothing(script) == expected
