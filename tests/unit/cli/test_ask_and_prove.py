"""`factedit ask`, `prove`, `damage`, `show --model`, `trace --fall`: what is shown is computed, in all digits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from factedit.edit.artefact import Edit
from factedit.edit.method_table import make_method
from factedit.facts import EditRequest
from factedit.models.load import load
from factedit.work.ask import ask
from factedit.work.damage import damage, true_facts
from factedit.work.edit import edit_facts
from factedit.work.reads import read_and_written
from page_server import FACT, QUICK, quick_moments
from run_command import ok, refused
from tiny_folder import save


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    place = tmp_path_factory.mktemp("asked")
    model = load(str(save(place / "model")))
    method = make_method("rome", model, quick_moments(), **QUICK)
    edit_facts(model, method, [EditRequest(**FACT)], folder=place / "edit")
    return str(place / "model"), str(place / "edit")


def test_ask_shows_both_sides(made: tuple[str, str], tmp_path: Path) -> None:
    folder, edit = made
    target = tmp_path / "asked.json"
    told = ok("ask", folder, "Paris is in", "--edit", edit, "--top", "3", "--tokens", "4", "--json", str(target))
    [found] = json.loads(target.read_text())
    [own] = ask(load(folder), ["Paris is in"], [Edit.load(edit)], top=3, tokens=4)
    assert found == json.loads(json.dumps(own.as_json()))
    assert len(found["after"]["top"]) == 3
    assert f"{found['after']['top'][0]['probability']:.4f}" in told
    assert "unedited writes:" in told


def test_prove_says_the_verdict_first(made: tuple[str, str], tmp_path: Path) -> None:
    folder, edit = made
    target = tmp_path / "proof.json"
    told = ok("prove", folder, edit, "--prompt", "In Paris the", "--json", str(target))
    [found] = json.loads(target.read_text())
    assert found["verdict"].split(":")[0] in " ".join(told.split())
    assert {"rewrite", "break", "own"} <= {row["part"] for row in found["rows"]}


@pytest.mark.parametrize(
    "given",
    [("ask", "owner/name", "Paris is in", "--edit"), ("prove", "owner/name"), ("check", "--model", "owner/name")],
    ids=lambda given: given[0],
)
def test_an_edit_that_is_not_there_is_refused_before_the_model_is_loaded(
    given: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before: minutes of loading, or of fetching, came first."""
    for place in ("factedit.work.inputs.load", "factedit.work.inputs.open_edits"):
        monkeypatch.setattr(place, lambda *_, **__: pytest.fail("the model is loaded"))
    (tmp_path / "notes").mkdir()
    for folder, said in (("missing", "missing"), ("notes", "edit.json")):
        assert said in refused(capsys, 1, *given, tmp_path / folder)


def test_damage_shows_the_facts_that_lost_most_first(made: tuple[str, str], tmp_path: Path) -> None:
    folder, edit = made
    told = ok("damage", folder, edit, "--facts", "3", "--json", str(tmp_path / "damage.json"))
    found = json.loads((tmp_path / "damage.json").read_text())
    expected = damage(load(folder), true_facts(3), [Edit.load(edit)])
    assert found == json.loads(json.dumps([row.as_json() for row in expected]))
    assert [row["moved"] for row in found] == sorted(row["moved"] for row in found)
    assert f"{found[0]['probability'][1]:.3f}" in told
    assert [row["moved"] for row in found] != [0.0] * 3, "the edit is on"


def test_show_with_the_model_tells_what_is_read_and_written(made: tuple[str, str], tmp_path: Path) -> None:
    folder, edit = made
    told = ok("show", edit, "--model", folder, "--json", str(tmp_path / "show.json"))
    [found] = json.loads((tmp_path / "show.json").read_text())["read_and_written"]
    [expected] = read_and_written(load(folder), Edit.load(edit))
    assert found == json.loads(json.dumps(expected.as_json()))
    assert "layer 1 (out) reads: Paris 1.00" in " ".join(told.split())
    assert "read_and_written" not in ok("show", edit, "--json", "-")


def test_trace_tells_how_the_answer_falls(made: tuple[str, str], tmp_path: Path) -> None:
    how = (made[0], "In Paris the", "--subject", "Paris", "--samples", "2", "--noise", "0.5")
    told = ok("trace", *how, "--fall", "0.5, 2", "--json", str(tmp_path / "trace.json"))
    found = json.loads((tmp_path / "trace.json").read_text())
    assert [own["level"] for own in found["fall"]["levels"]] == ["0.5", "2"]
    assert found["fall"]["levels"][0]["corrupted"] == found["corrupted"], "the trace's own noise"
    assert found["fall"]["clean"] == found["clean"]
    assert f"{found['fall']['levels'][1]['corrupted']:.4f}" in told


def test_a_fall_is_of_a_prompt_and_its_levels_are_levels(
    made: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert "--fall" in refused(capsys, 2, "trace", made[0], "--facts", "worldfacts-known", "--fall", "all")
    said = refused(capsys, 2, "trace", made[0], "In Paris the", "--subject", "Paris", "--noise", "1", "--fall", "loud")
    assert "'loud'" in said
