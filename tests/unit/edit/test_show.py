"""An edit told in words and as HTML."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from conftest import tiny
from factedit.edit.artefact import Edit, Notes
from factedit.edit.show import show, untaken, warnings
from factedit.facts import EditRequest
from factedit.work.edit import said_of_untaken
from seen_markup import framed
from stack_cases import random_edit

WHOLE = {"update_norm": 0.3, "weight_norm": 10.0}
OWN = {"spill": 0.01, "denominator": 2.0}


def measured(**changes: object) -> Edit:
    edit = replace(random_edit(tiny("gpt2"), 1), diagnostics=WHOLE, notes=(Notes(diagnostics=OWN),))
    before = {"target_new": 0.01, "answers_target_new": False, "continuation": " <b>no"}
    after = {"target_new": 0.9, "answers_target_new": True, "continuation": " yes"}
    edit = edit.with_outcomes([(before, after)])
    return replace(edit, **changes)  # type: ignore[arg-type]


def test_everything_is_told(tmp_path: Path) -> None:
    edit = measured()
    told = show(edit.save(tmp_path / "e"))
    assert told == show(edit)
    assert told["identity"] == edit.identity
    assert told["facts"][0]["subject"] == "Subject 1"
    assert told["effects"] == [{"kind": "low-rank", "layer": 1, "matrix": "out", "shape": [128, 32], "rank": 1}]
    assert told["facts"][0]["after"]["target_new"] == 0.9
    assert told["size"]["relative"] == pytest.approx(0.03)
    assert {"factedit", "torch", "transformers"} <= told["versions"].keys()
    assert told["warnings"] == []


@pytest.mark.parametrize(
    ("notes", "warning"),
    [
        ({"after": {}}, "its outcome was not measured"),
        ({"after": {"answers_target_new": False}}, "does not rank the new object first"),
        ({"before": {"answers_target_new": True}}, "before the edit already"),
        ({"update_norm": 2.0}, "the change is large: ‖ΔW‖ is 20 %"),
        ({"spill": 0.2}, "the change is wide: 20 %"),
    ],
)
def test_warnings(notes: dict[str, object], warning: str) -> None:
    edit = measured()
    note = {**vars(edit.notes[0]), **{key: notes[key] for key in ("before", "after") if key in notes}}
    note["diagnostics"] = OWN | {key: notes[key] for key in ("spill",) if key in notes}
    whole = WHOLE | {key: notes[key] for key in WHOLE if key in notes}
    [found] = warnings(replace(edit, diagnostics=whole, notes=(Notes(**note),)))
    assert warning in found


def test_what_did_not_take_is_told_with_its_numbers() -> None:
    took = measured()
    assert untaken(took) == []
    before = {"target_new": 0.0011, "answers_target_new": False, "target_true": 0.5}
    missed = took.with_outcomes([(before, {"target_new": 0.00112, "answers_target_new": False, "target_true": 0.6})])
    assert untaken(missed) == [
        "the edit of 'Subject 1 is in' did not take: 'Space' is not ranked first, P 0.0011 → 0.0011"
    ]
    after = {"target_new": 0.3, "answers_target_new": False, "target_true": 0.1}
    [half] = untaken(replace(missed.with_outcomes([(before, after)]), requests=(
        replace(took.requests[0], target_true="Rome"),)))  # fmt: skip
    assert "took halfway (it is likelier than 'Rome')" in half
    assert untaken(replace(took, notes=(Notes(),))) == [], "what was not measured is not called so"
    assert said_of_untaken([took, missed]) == untaken(missed)
    assert said_of_untaken([missed] * 22) == [*untaken(missed) * 20, "and 2 more facts"]


def test_warnings_about_binding_and_exports() -> None:
    assert warnings(measured(made_for="unknown")) == ["it does not say which weights it was made for"]
    export = {"form": "gguf", "prompts": 8, "same_first_token": 7}
    assert warnings(measured(exports=(export,))) == ["shipped as gguf, 1 of 8 prompts have another first token"]


def test_html_is_escaped() -> None:
    request = EditRequest(subject="<script>", prompt="{} is in", target_new="x & y")
    page, inside = framed(measured(requests=(request,))._repr_html_())
    assert "script" not in page.tags
    assert "<script> is in → x & y" in page.text
    assert "<b>no" in page.text
    assert len(inside.scripts) == 2, "the numbers, and what draws them"


def test_what_a_notebook_draws_is_what_is_told() -> None:
    edit = measured()
    _, inside = framed(edit._repr_html_())
    [drawn] = json.loads(inside.scripts[0])
    told = show(edit)
    [fact] = drawn["facts"]
    assert fact == {key: told["facts"][0][key] for key in fact}
    assert {"prompt", "subject", "target_new", "before", "after"} <= fact.keys()
    assert (drawn["update_norm"], drawn["weight_norm"], drawn["spill"]) == (0.3, 10.0, 0.01)
    assert (drawn["warnings"], drawn["layers"], drawn["more"]) == (told["warnings"], edit.layers, 0)


def test_of_many_facts_the_first_are_drawn_and_the_others_counted() -> None:
    edit = measured()
    many = replace(edit, requests=edit.requests * 25, notes=edit.notes * 25)
    _, inside = framed(many._repr_html_())
    [drawn] = json.loads(inside.scripts[0])
    assert (len(drawn["facts"]), drawn["more"]) == (20, 5)
    assert "spill" not in drawn, "that is told of each"
    assert "and 5 more facts" in inside.text
