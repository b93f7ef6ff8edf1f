"""Views as files and as notebooks' outputs: one policy, one script, numbers that end no script."""

from __future__ import annotations

import hashlib
import json
import math
import re
from base64 import b64encode
from importlib.resources import files

import pytest

from factedit.markup import frozen as frozen_views
from factedit.markup import table
from factedit.markup.frozen import Drawing, form, frozen, in_notebook, lean, script, style
from seen_markup import Seen, framed

HOSTILE = "</script><script>alert(1)</script><!--\u2028\u202e\x1b[31m%%body%% ]]> é"
SCRIPTS = {
    entry.name: entry.read_text(encoding="utf-8")
    for entry in (files("factedit.markup") / "drawings").iterdir()
    if entry.name.endswith(".js")
}


def drawing(**changes: object) -> Drawing:
    given = {"name": "scores", "told": {"name": HOSTILE, "rows": {}}, "plain": table(HOSTILE, (), [("a", "0.5")])}
    return Drawing(**{**given, **changes})  # type: ignore[arg-type]


def file_of(*drawings: Drawing) -> str:
    return frozen(HOSTILE, "".join(one.in_place() for one in drawings), drawings)


def test_every_script_is_in_it_and_none_asks_for_another() -> None:
    for name in SCRIPTS:
        assert script().count(f"modules.{name.removesuffix('.js')} = (() =>") == 1, name
    assert not re.search(r"^\s*(import|export)\b", script(), re.MULTILINE)


def test_a_module_comes_after_those_it_imports() -> None:
    order = re.findall(r"^modules\.(\w+) = ", script(), re.MULTILINE)
    for name, text in SCRIPTS.items():
        imported = re.findall(r'from "\./(\w+)\.js"', text)
        here = order.index(name.removesuffix(".js"))
        assert all(order.index(other) < here for other in imported), name


def test_what_is_exported_is_given_on() -> None:
    for name, text in SCRIPTS.items():
        exported = set(re.findall(r"^export (?:const|function) (\w+)", text, re.MULTILINE))
        part = script().split(f"modules.{name.removesuffix('.js')} = ")[1].split("})();")[0]
        assert set(re.findall(r"\w+", part.rpartition("return {")[2])) == exported, name


@pytest.mark.parametrize("text", [script(), style()], ids=["script", "style"])
def test_what_stands_between_tags_ends_none_of_them(text: str) -> None:
    assert not re.search(r"</|<!--|\r|%%", text)


def test_nothing_of_it_can_be_turned_into_markup() -> None:
    for name, text in SCRIPTS.items():
        assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|new Function", text), name


def test_comments_and_indentation_are_left_out() -> None:
    assert lean("// said\nif (a) {\n\n  b('// kept');\n}\n") == "if (a) {\nb('// kept');\n}"
    assert lean("/* two\n   lines */\na {\n  b: c;\n}\n") == "a {\nb: c;\n}"


def test_the_policy_lets_this_script_and_this_sheet_in_and_nothing_else() -> None:
    file = file_of(drawing())
    seen = Seen(file)
    policy = dict(
        part.strip().partition(" ")[::2]
        for part in re.findall(r'Content-Security-Policy" content="([^"]*)"', file)[0].split(";")
    )
    digest = {
        kind: b64encode(hashlib.sha256(text.encode()).digest()).decode()
        for kind, text in (("script", seen.scripts[1]), ("style", seen.sheets[0]))
    }
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == f"'sha256-{digest['script']}'"
    assert policy["style-src-elem"] == f"'sha256-{digest['style']}'"
    assert "connect-src" not in policy, "nobody is asked for anything"
    assert (len(seen.scripts), len(seen.sheets)) == (2, 1)


def test_numbers_and_texts_of_a_model_end_no_script() -> None:
    file = file_of(drawing(), drawing(told={"value": 0.1 + 0.2, "none": math.nan, "far": [math.inf], "pair": (1, 2)}))
    seen = Seen(file)
    assert not {"\u2028", "\u202e", "\x1b"} & set(file)
    [one, other] = json.loads(seen.scripts[0])
    assert one["name"] == HOSTILE
    assert other == {"value": 0.1 + 0.2, "none": None, "far": [None], "pair": [1, 2]}
    assert seen.text.count("</script><script>alert(1)</script>") == 3, "of the title and of two tables, as text"
    assert seen.tags.count("script") == 2


def test_a_text_that_looks_like_a_place_of_the_form_stays_a_text() -> None:
    assert file_of(drawing()).count("%%body%%") == 3


def test_a_form_has_each_place_once() -> None:
    places = re.findall(r"%%(\w+)%%", form("a { b: c; }"))
    assert sorted(places) == ["body", "numbers", "root", "title"]
    assert "<style>a { b: c; }</style>" in form("a { b: c; }")


def test_drawings_stand_in_the_order_of_their_numbers() -> None:
    file = file_of(drawing(name="trace", told={"n": 0}), drawing(name="answers", told={"n": 1}))
    assert re.findall(r'data-drawing="(\w+)"', file) == ["trace", "answers"]
    assert [told["n"] for told in json.loads(Seen(file).scripts[0])] == [0, 1]


def test_a_notebook_has_a_frame_that_may_run_scripts_alone_and_the_table_beside() -> None:
    outside, inside = framed(in_notebook('a "title"', drawing(), height=123))
    assert outside.frame["sandbox"] == "allow-scripts", "of no origin, and it opens nothing"
    assert outside.frame["title"] == 'a "title"'
    assert "height: 123px" in str(outside.frame["style"])
    assert outside.cells == inside.cells == ["0.5"]
    assert outside.scripts == []
    assert inside.tags[0] == "html"


def test_the_table_is_hidden_beside_its_frame_alone() -> None:
    """Where frames are taken out, and with them or without them style sheets, the table is there."""
    outside, _ = framed(in_notebook("t", drawing(), height=1))
    assert outside.sheets == [".factedit-drawn+.factedit-plain{display:none}"]
    assert outside.tags == ["div", "style", "iframe", "div", "table", "caption", "tr", "th", "td"]


def test_what_is_too_large_for_a_notebook_is_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = in_notebook("t", drawing(), height=1)
    monkeypatch.setattr(frozen_views, "LARGEST", len(whole))
    assert in_notebook("t", drawing(), height=1) == whole
    monkeypatch.setattr(frozen_views, "LARGEST", len(whole) - 1)
    alone = Seen(in_notebook("t", drawing(), height=1))
    assert (alone.frames, alone.cells, alone.sheets) == ([], ["0.5"], [])


def test_an_output_is_small() -> None:
    assert len(in_notebook("t", drawing(), height=1)) < 80_000
