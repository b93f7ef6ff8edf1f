"""The page's scripts: what holds for Python's names holds for theirs."""

from __future__ import annotations

import re
from importlib.resources import files

import pytest

SCRIPTS = {
    script.name: script.read_text(encoding="utf-8")
    for script in (files("factedit.web") / "static").iterdir()
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
