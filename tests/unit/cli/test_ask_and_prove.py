"""`factedit ask` and `prove`: what is shown is what is computed, and the JSON holds it with all digits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from factedit.edit.method_table import make_method
from factedit.facts import EditRequest
from factedit.models.load import load
from factedit.work.ask import ask
from factedit.work.edit import edit_facts
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
    from factedit.edit.artefact import Edit

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
