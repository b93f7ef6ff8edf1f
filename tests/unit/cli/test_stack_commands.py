"""`factedit apply`, `revert`, `log`, `verify` on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from factedit.models.load import load
from run_command import ok, refused
from stack_cases import folder_bits, model_bits, random_edit
from tiny_folder import save


def test_the_whole_way(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    base, out = save(tmp_path / "base"), tmp_path / "m"
    model = load(str(base))
    edits = [random_edit(model, seed, layer=1) for seed in range(3)]
    folders = [edit.save(tmp_path / f"e{n}") for n, edit in enumerate(edits)]
    said = ok("apply", base, *folders[:2], "--out", out, "--json", tmp_path / "a.json", "--threads", 1)
    assert "Subject 1 is in" in said
    assert "2 edits on base" in said
    assert len(json.loads((tmp_path / "a.json").read_text())["standing"]) == 2
    ok("apply", out, folders[2])
    assert folder_bits(out) == model_bits(model, edits)
    ok("revert", out, folders[1])
    assert folder_bits(out) == model_bits(model, [edits[0], edits[2]])
    assert "to the bit (1 matrices recomputed" in ok("verify", out)
    assert "every tensor compared with the base" in ok("verify", out, "--base", base, "--json", tmp_path / "v.json")
    assert json.loads((tmp_path / "v.json").read_text())["with_base"] is True
    said = ok("log", out, "--json", tmp_path / "l.json")
    assert "revert" in said
    assert [e["kind"] for e in json.loads((tmp_path / "l.json").read_text())] == ["base", "apply", "apply", "revert"]
    ok("revert", out)
    assert load(str(out)).fingerprint() == model.fingerprint()


def test_refusals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = save(tmp_path / "base")
    edit = random_edit(load(str(base)), 0).save(tmp_path / "e")
    assert "Name a folder" in refused(capsys, 2, "apply", base, edit)
    assert "There is no folder" in refused(capsys, 1, "apply", tmp_path / "gone", edit, "--out", tmp_path / "m")
    assert "does not hold a whole edit" in refused(capsys, 1, "apply", base, base, "--out", tmp_path / "m")
    assert "holds no edits" in refused(capsys, 1, "revert", base)
    ok("apply", base, edit, "--out", tmp_path / "m", "--threads", 1)
    assert "is not one of them" in refused(capsys, 2, "revert", tmp_path / "m", "abcdef")
    assert "on the model already" in refused(capsys, 1, "apply", tmp_path / "m", edit)
    with (tmp_path / "m" / "edited-layer0-out.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x7f")
    assert "is not the file that the ledger names" in refused(capsys, 1, "verify", tmp_path / "m")


def test_a_folder_of_edits_is_shipped_with_all_it_holds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, out = save(tmp_path / "base"), tmp_path / "m"
    model = load(str(base))
    edits = [random_edit(model, seed, layer=1) for seed in range(2)]
    ok("apply", base, *(edit.save(tmp_path / f"e{n}") for n, edit in enumerate(edits)), "--out", out, "--threads", 1)
    ok("ship", out, "--as", "merged", "--out", tmp_path / "s", "--json", tmp_path / "s.json", "--threads", 1)
    found = json.loads((tmp_path / "s.json").read_text())
    assert found["requests"] == 2
    assert found["largest_logit_difference"] == 0.0
    assert load(str(tmp_path / "s")).fingerprint() == load(str(out)).fingerprint()
    said = refused(capsys, 2, "ship", base, "--as", "merged", "--out", tmp_path / "none")
    assert "holds no edits, and none is named" in said


def test_to_revert_an_edits_own_folder_is_answered_with_what_undoes_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also of an edit that no weights hold, which a user may well mean to undo so."""
    base = save(tmp_path / "base")
    random_edit(load(str(base)), 0).save(tmp_path / "edit")
    said = refused(capsys, 1, "revert", tmp_path / "edit")
    assert "It is an edit's own folder, which is in no model's weights until it is applied: leave it out" in said
    assert "Give a folder that 'factedit apply' wrote" in refused(capsys, 1, "revert", base)
    for number in ("0000", "0001"):  # as 'edit --requests' writes them
        random_edit(load(str(base)), 0).save(tmp_path / "many" / number)
    for asked in (("revert",), ("verify",), ("show",)):
        said = refused(capsys, 1, *asked, tmp_path / "many")
        assert f"It holds the folders of 2 edits: name one of them, e.g. {tmp_path / 'many' / '0000'}." in said


def test_conflicts_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from dataclasses import replace

    base = save(tmp_path / "base")
    edit = random_edit(load(str(base)), 0)
    other = replace(edit, method="other")
    edit.save(tmp_path / "a")
    other.save(tmp_path / "b")
    assert "is about the same fact as" in ok("apply", base, tmp_path / "a", tmp_path / "b", "--out", tmp_path / "m")


def test_show_audit_ship_push(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from factedit.edit.artefact import Edit

    monkeypatch.setenv("COLUMNS", "250")
    base = save(tmp_path / "base")
    edit = random_edit(load(str(base)), 1).save(tmp_path / "e")
    said = ok("show", edit, "--settings", "--json", tmp_path / "s.json")
    assert "Subject 1 is in" in said
    assert "warning: its outcome was not measured" in said
    assert json.loads((tmp_path / "s.json").read_text())["effects"][0]["rank"] == 1
    (tmp_path / "p.txt").write_text("One more prompt\n\n")
    said = ok("ship", base, edit, "--as", "peft", "--out", tmp_path / "a", "--prompts", tmp_path / "p.txt",
              "--json", tmp_path / "p.json", "--threads", 1)  # fmt: skip
    assert "9 prompts: largest difference of a logit" in said
    assert "look it up before you pass the edited model on" in said
    [export] = Edit.load(edit).exports
    assert export == json.loads((tmp_path / "p.json").read_text())
    assert "shipped" in ok("show", edit)
    ok("apply", base, edit, "--out", tmp_path / "m", "--threads", 1)
    for suspect in (tmp_path / "m", tmp_path / "a"):
        said = ok("audit", base, suspect, "--records", 20, "--json", tmp_path / "u.json", "--threads", 1)
        assert "a low-rank edit. Certain: 1 of" in said
        assert "Not certain: of 20 candidates" in said
        assert json.loads((tmp_path / "u.json").read_text())["differences"][0]["rank"] == 1
    assert "no difference. Certain" in ok("audit", base, base, "--records", 20, "--threads", 1)
    assert "The form 'onnx' is not one of" in refused(
        capsys, 2, "ship", base, edit, "--as", "onnx", "--out", tmp_path / "x"
    )
    assert "The further prompts cannot be read" in refused(
        capsys, 1, "ship", base, edit, "--as", "peft", "--out", tmp_path / "x", "--prompts", tmp_path / "none"
    )
    assert "is not a folder that 'factedit ship'" in refused(capsys, 2, "push", base, "me/x")
