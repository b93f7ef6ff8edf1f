"""Saved edits of every form put on a model of transformers: what it writes, and the bits afterwards."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
import torch

from conftest import random_moment, tiny, tiny_lm, tiny_tokenizer
from factedit.edit.artefact import Edit
from factedit.edit.effects.memory import Memory
from factedit.edit.loaded import load_edited
from factedit.edit.method_table import make_method
from factedit.errors import DataError, EditError, UsageError
from factedit.export.ship import ship
from factedit.facts import EditRequest
from factedit.models.adapter import EditableModel

REQUEST = EditRequest(subject="Paris", prompt="{} is in", target_new="Seattle")
ROME = EditRequest(subject="Rome", prompt="{} is in", target_new="Seattle")
IDS = torch.tensor([[5, 17, 99, 40, 7]])
SETTINGS = {"rome": {"layer": 1, "steps": 3, "learning_rate": 0.5, "context_templates": ("{}",)},
            "memory": {"layer": 1, "steps": 3, "learning_rate": 0.5, "context_templates": ("{}",)}}  # fmt: skip


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Edits of every form for the tiny GPT-2."""
    model, place = tiny("gpt2"), tmp_path_factory.mktemp("saved")
    moments = lambda m, _layer: random_moment(m.d_mlp)  # noqa: E731
    found = {}
    for name in ("ice", "retrieval", "memory", "rome"):
        [edit] = make_method(name, model, moments, **SETTINGS.get(name, {})).edit([REQUEST]).edits
        found[name] = edit.save(place / name)
    [second] = make_method("ice", model, moments).edit([ROME]).edits
    found["ice2"] = second.save(place / "ice2")
    return found


@torch.no_grad()
def written(lm: object, text: str, tokens: int) -> str:
    """What a model of transformers writes greedily."""
    tokenizer = tiny_tokenizer()
    ids = torch.tensor([tokenizer(text)["input_ids"]])
    for _ in range(tokens):
        new = lm(input_ids=ids).logits[0, -1].argmax()  # type: ignore[operator]
        ids = torch.cat([ids, new[None, None]], 1)
    return str(tokenizer.decode(ids[0, -tokens:], skip_special_tokens=True))


@pytest.mark.parametrize("names", [("ice",), ("ice", "ice2"), ("retrieval",), ("memory",), ("rome", "ice")])
def test_it_writes_what_the_edited_model_writes_and_is_undone(saved: dict[str, Path], names: tuple[str, ...]) -> None:
    lm = tiny_lm("gpt2")
    before = EditableModel(lm, tiny_tokenizer(), name="x").fingerprint()
    with torch.no_grad():
        plain = lm(input_ids=IDS).logits
    edited = load_edited([saved[name] for name in names], lm, tiny_tokenizer())
    facts = {"ice": "New Fact: Paris is in Seattle\n", "ice2": "New Fact: Rome is in Seattle\n"}
    front = "".join(facts.get(name.replace("retrieval", "ice"), "") for name in names)
    asked = f"{front}Prompt: Paris is in" if front else "Paris is in"
    assert edited.prompts(["Paris is in"]) == [asked]
    assert edited.answer("Paris is in", tokens=4, eos_token_id=None) == written(lm, asked, 4), "hooks act on any run"
    if "memory" in names or "rome" in names:
        other = tiny_lm("gpt2")
        assert not torch.equal(
            lm(**{"input_ids": _ids("Paris is in")}).logits, other(input_ids=_ids("Paris is in")).logits
        )
    edited.undo()
    edited.undo()
    assert edited.prompts(["x"]) == ["x"]
    with torch.no_grad():
        assert torch.equal(lm(input_ids=IDS).logits, plain)
    assert EditableModel(lm, tiny_tokenizer(), name="x").fingerprint() == before
    with pytest.raises(EditError, match="were taken off this model"):
        edited.answer("x")


def _ids(text: str) -> torch.Tensor:
    return torch.tensor([tiny_tokenizer()(text)["input_ids"]])


def test_it_is_taken_off_after_an_error_too(saved: dict[str, Path]) -> None:
    model = tiny("gpt2")
    before = model.fingerprint()
    with suppress(ZeroDivisionError), load_edited([saved["rome"], saved["memory"]], model) as edited:
        assert edited.model.fingerprint() != before
        raise ZeroDivisionError
    assert model.fingerprint() == before
    edited = load_edited(saved["ice"], model)
    with torch.no_grad():
        model.weight(0)[0, 0] += 1
    with pytest.raises(EditError, match="something else changed its weights"):
        edited.undo()


def test_what_does_not_fit_is_refused(saved: dict[str, Path], tmp_path: Path) -> None:
    other = tiny("gpt2", seed=1)
    with pytest.raises(EditError, match=r"was made for weights .*, and tiny-gpt2 has"):
        load_edited(saved["ice"], other)
    with load_edited(saved["ice"], other, force=True) as edited:
        assert edited.prompts(["x"])[0].endswith("Prompt: x")
    with pytest.raises(UsageError, match="Give the model's tokenizer"):
        load_edited(saved["ice"], other.lm)
    with pytest.raises(UsageError, match="nothing to load"):
        load_edited([], other)
    with pytest.raises(DataError, match="does not hold a whole edit"):
        load_edited(tmp_path, other)
    narrow = Edit(method="by hand", requests=(), made_for=other.fingerprint(),
                  effects=(Memory(1, torch.ones(1, 7), torch.ones(1, 5), 0.5),))  # fmt: skip
    before = other.fingerprint()
    with pytest.raises(EditError, match="was made for another model"):
        load_edited(narrow.save(tmp_path / "narrow"), other)
    assert other.fingerprint() == before


def test_ship_says_which_forms_can_hold_it(saved: dict[str, Path], tmp_path: Path) -> None:
    model = tiny("gpt2")
    for name, kind in (("ice", "prompt"), ("retrieval", "retrieved"), ("memory", "memory")):
        with pytest.raises(EditError, match=rf"acts by '{kind}'.*none of merged, peft, .* holds it.*own folder"):
            ship(model, [Edit.load(saved[name])], tmp_path / "out", "peft")
    assert not (tmp_path / "out").exists()


def test_an_edit_that_is_named_twice_is_refused(saved: dict[str, Path]) -> None:
    """Before: it was put on twice, and its change with it."""
    model = tiny("gpt2")
    before = model.fingerprint()
    for name in ("rome", "ice"):
        with pytest.raises(EditError, match="is named twice"):
            load_edited([saved[name], saved[name]], model, force=True)
    assert model.fingerprint() == before
