"""What an export publishes: names and no paths, texts of others as text, and where its base is to be found."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest
import yaml

from conftest import tiny
from factedit.edit.artefact import Edit
from factedit.errors import EditError, UsageError
from factedit.export.card import plain
from factedit.export.naming import base_name, how_to_get, is_hub_id
from factedit.export.notes import note_export
from factedit.export.ship import ship
from factedit.facts import EditRequest
from factedit.models.adapter import EditableModel
from factedit.models.load import load
from factedit.stack.work import apply
from processes import end, start
from stack_cases import random_edit
from tiny_folder import save
from tiny_gguf import llama_lm, write

EVIL = "<img src=x onerror=alert(1)> ![i](http://evil/x) [a](javascript:x) | `c` **b** &lt; @all www.e \x1b[31m\u202e"
EVIL += "\x9b2J $x$ ~~y~~"


def front_matter(card: str) -> dict[str, object]:
    """What the hub reads: the YAML between the first two lines of three dashes."""
    head, _, rest = card.removeprefix("---\n").partition("\n---\n")
    assert rest
    found: dict[str, object] = yaml.safe_load(head)
    return found


@pytest.mark.parametrize("name", ["base: evil", "a\nlicense: mit\n---", "b\"'{}[]&*!|>%@`", "<script>x", "#comment"])
def test_a_folders_name_cannot_write_the_cards_head(tmp_path: Path, name: str) -> None:
    model = load(str(save(tmp_path / name)))
    ship(model, [random_edit(model, 1)], tmp_path / "out", "peft")
    card = (tmp_path / "out" / "README.md").read_text()
    assert front_matter(card) == {"license": "other", "tags": ["factedit", "model-editing"]}
    assert card.count("\n---\n") == 1
    assert "<script" not in card
    assert json.loads((tmp_path / "out" / "adapter_config.json").read_text())["base_model_name_or_path"] == name


def test_a_hub_id_stands_in_the_head(tmp_path: Path) -> None:
    model = tiny("gpt2")
    ship(model, [random_edit(model, 1)], tmp_path / "out", "peft", base="someone/tiny")
    assert front_matter((tmp_path / "out" / "README.md").read_text())["base_model"] == "someone/tiny"


def test_a_requests_text_is_text(tmp_path: Path) -> None:
    model = tiny("gpt2", n_positions=512, max_position_embeddings=512)
    request = EditRequest(subject=EVIL, prompt="{} is\n\n# in", target_new=f" {EVIL}")
    edit = replace(random_edit(model, 1), requests=(request,))
    ship(model, [edit], tmp_path / "out", "peft")
    card = (tmp_path / "out" / "README.md").read_text()
    for sign in ("<img", "![", "](", "http://", "@all", "www.", "**b**", "$", "~", "\x1b", "\u202e"):
        assert sign not in card.replace("**changed**", ""), sign
    for path in (tmp_path / "out").glob("*.json"):  # which people look at on a terminal
        said = path.read_text()
        assert not any(sign in said for sign in ("\x1b", "\u202e", "\x9b")), path.name
        assert json.loads(said)
    said = json.loads((tmp_path / "out" / "factedit-canary.json").read_text())
    assert EVIL in said["canaries"][0]["prompt"], "the same text, written otherwise"
    rows = [line for line in card.splitlines() if line.startswith("| ") and "img src" in line]
    assert [line.count("|") for line in rows] == [5, 6, 4], "of the edit, of its proof, of its canary"


def test_plain_text_stays_readable() -> None:
    import html

    assert plain("The  Space Needle\nis in_downtown (Seattle), 東京 – 50 %") == (
        "The Space Needle is in_downtown (Seattle), 東京 – 50 %"
    )
    assert html.unescape(plain("<b> & | `x` [y] *z* \\ ! # @ ://")) == "<b> & | `x` [y] *z* \\ ! # @ ://"


@pytest.mark.parametrize("form", ["merged", "peft", "llama-lora", "gguf", "a folder of edits"])
def test_nothing_published_names_a_place_of_this_machine(tmp_path: Path, form: str) -> None:
    base = write(tmp_path / "b.gguf", llama_lm(intermediate_size=256)) if form == "gguf" else save(tmp_path / "base")
    model = load(str(base))
    edit = random_edit(model, 1)
    if form == "a folder of edits":
        apply(model, [edit], tmp_path / "out")
    else:
        ship(model, [edit], tmp_path / "out", form, gguf=base if form == "gguf" else None)
    for path in (tmp_path / "out").rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert str(tmp_path).encode() not in content, path.name
            assert str(Path.home()).encode() not in content, path.name


def test_how_a_base_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    snapshot = load(str(save(tmp_path / "models--someone--tiny" / "snapshots" / "0a1b")))
    folder = load(str(save(tmp_path / "my model")))
    monkeypatch.chdir(tmp_path / "my model")
    here = load(".")
    assert [base_name(model) for model in (snapshot, folder, here)] == ["someone/tiny", "my model", "my model"]
    assert base_name(folder, "other/name") == "other/name"
    for path in (str(tmp_path), "./base", "~/base", "a/b/c", "C:/m", "..\\m"):
        with pytest.raises(UsageError, match="is a path, which others do not have"):
            base_name(folder, path)
    assert is_hub_id("google/gemma-3-270m")
    assert not any(map(is_hub_id, ("gpt2", "a/b/c", "a/../b", "a/b\n", "a--b/c", "/a", "a/")))


def test_an_adapter_says_where_its_base_is_to_be_put_and_loads_then(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    base = save(tmp_path / "base")
    model = load(str(base))
    edit = random_edit(model, 1)
    shipped = ship(model, [edit], tmp_path / "out", "peft")
    assert "put the hub id or the folder" in shipped.advice
    assert "base_model_name_or_path of adapter_config.json" in (tmp_path / "out" / "README.md").read_text()
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = str(base)
    (tmp_path / "out" / "adapter_config.json").write_text(json.dumps(config))
    import torch

    ids = torch.tensor([[5, 9, 200]])
    again = peft.AutoPeftModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    with torch.no_grad(), edit.applied_to(model):
        torch.testing.assert_close(again(input_ids=ids).logits, model.lm(input_ids=ids).logits, atol=2e-4, rtol=1e-3)
    assert how_to_get("someone/tiny", "f" * 64) == ""
    assert "pip install gemma3" in how_to_get("gemma3-270m", "f" * 64)
    assert ship(model, [edit], tmp_path / "merged", "merged").advice == ""


# -- the proof in the edit's own folder --------------------------------------------------------------


@pytest.fixture(scope="module")
def small() -> EditableModel:
    return tiny("gpt2", n_layer=2, n_embd=16, n_head=2)


def test_a_read_only_edit_is_shipped_and_it_is_said_where_the_proof_is(
    small: EditableModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = random_edit(small, 1).save(tmp_path / "e")
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    made = Path.mkdir

    def refuse(path: Path, *how: object, **more: object) -> None:
        if tmp_path in path.parents:
            raise OSError(30, "Read-only file system")
        made(path, *how, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "mkdir", refuse)
    said = note_export(folder, Edit.load(folder), {"form": "peft"})
    monkeypatch.undo()
    assert re.search(r"could not be noted in .*e .*Read-only file system.*factedit-export\.json", said)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    random_edit(small, 0).save(folder, force=True)
    assert "holds another edit by now" in note_export(folder, random_edit(small, 1), {"form": "peft"})


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_proofs_noted_at_once_are_all_there(small: EditableModel, tmp_path: Path) -> None:
    edit = random_edit(small, 1)
    folder = edit.save(tmp_path / "e")
    children = [start(lambda n=n: note_export(folder, edit, {"form": f"form {n}"})) for n in range(6)]
    assert [end(child) for child in children] == [0] * 6
    assert {export["form"] for export in Edit.load(folder).exports} == {f"form {n}" for n in range(6)}


def test_an_export_inside_its_own_model_or_file_is_refused(tmp_path: Path) -> None:
    base = save(tmp_path / "base")
    model = load(str(base))
    with pytest.raises(UsageError, match=r"lies in .*base, which is read"):
        ship(model, [random_edit(model, 1)], base / "export", "peft")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis").write_text("mine")
    with pytest.raises(EditError, match="exists and is not an export"):
        ship(model, [random_edit(model, 1)], tmp_path / "full", "peft", overwrite=True)


def test_a_card_counts_facts_and_leaves_out_those_taken_back(tmp_path: Path) -> None:
    """Before: edits were counted as facts ("1 facts"), and what was taken back stood there as the new answer."""
    model = tiny("gpt2")
    asked = [EditRequest(subject=s, prompt="{} is in", target_new="Seattle") for s in ("Paris", "France", "LeBron")]
    first = replace(random_edit(model, 1), requests=tuple(asked), notes=())
    back = replace(random_edit(model, 2), requests=(), notes=(), takes_back=((first.identity, 1),))
    shipped = ship(model, [first, back], tmp_path / "out", "peft")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "2 facts were edited and 1 taken back again of tiny-gpt2" in card
    assert [row["prompt"] for row in shipped.proof.targets] == ["Paris is in", "LeBron is in"]
    assert shipped.proof.requests == 2
    assert "France is in" not in card
    ship(model, [replace(first, requests=tuple(asked[:1]), notes=())], tmp_path / "one", "peft")
    assert "1 fact was edited of tiny-gpt2" in (tmp_path / "one" / "README.md").read_text()


def test_a_file_of_another_model_is_not_patched(tmp_path: Path) -> None:
    """Before: the edit's matrix of one model was written between the tensors of the other, with success."""
    base = write(tmp_path / "b.gguf", llama_lm(intermediate_size=256))
    other = write(tmp_path / "o.gguf", llama_lm(intermediate_size=256, seed=1))
    model = load(str(base))
    with pytest.raises(EditError, match=r"of the \.gguf file is not that of b\.gguf: the file is of another model"):
        ship(model, [random_edit(model, 1)], tmp_path / "out", "gguf", gguf=other)
    assert not (tmp_path / "out").exists()
