"""A gated memory: what is added where by hand, rows apart, facts put in and taken out to the bit, and the method."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from beside_matrix_cases import edit_of, key_at, logits
from conftest import random_moment, tiny, tiny_tokenizer
from factedit.edit.artefact import Edit, rows_edited, weights_of
from factedit.edit.effects.memory import Memory
from factedit.edit.method_table import make_method
from factedit.edit.show import show
from factedit.errors import EditError, UsageError
from factedit.facts import EditRequest
from factedit.models.adapter import EditableModel
from plain import logits as spelled_out
from plain import token_at

REQUEST = EditRequest(subject="Paris", prompt="{} is in", target_new="Seattle", target_true="France")
SETTINGS = {"layer": 1, "steps": 3, "context_templates": ("{}",)}


@pytest.fixture(scope="module")
def model() -> EditableModel:
    return tiny("gpt2")


def memory(model: EditableModel, token: int, seed: int, *, gamma: float = 0.99, scale: float = 3.0) -> Memory:
    """A memory whose key is that of a token, of another length, with a random residual."""
    residual = torch.randn(1, model.d_model, generator=torch.Generator().manual_seed(seed))
    return Memory(1, scale * key_at(model, token)[None], residual, gamma)


@torch.no_grad()
def by_hand(model: EditableModel, added: dict[int, Tensor], layer: int = 1) -> Tensor:
    """Logits where a vector is added to the matrix's output at some tokens."""

    def add(_module: object, _inputs: object, output: Tensor) -> Tensor:
        output = output.clone()
        for token, residual in added.items():
            output[:, token] += residual
        return output

    handle = model.lm.transformer.h[layer].mlp.c_proj.register_forward_hook(add)
    try:
        return logits(model)[0]
    finally:
        handle.remove()


def test_the_residual_is_added_where_the_key_is_like_and_nowhere_else(model: EditableModel) -> None:
    own = memory(model, 2, seed=1)
    cosines = [float(torch.cosine_similarity(key_at(model, n), own.keys[0], dim=0)) for n in range(5)]
    assert [cosine > 0.99 for cosine in cosines] == [False, False, True, False, False]
    with edit_of(own).applied_to(model, force=True):
        found = logits(model)[0]
    torch.testing.assert_close(found, by_hand(model, {2: own.residuals[0]}), atol=1e-4, rtol=1e-4)
    second = sorted(cosines)[-2]
    wide = Memory(1, own.keys, own.residuals, second - 1e-3)
    with edit_of(wide).applied_to(model, force=True):
        found = logits(model)[0]
    added = {n: own.residuals[0] for n, cosine in enumerate(cosines) if cosine > second - 1e-3}
    assert len(added) == 2
    torch.testing.assert_close(found, by_hand(model, added), atol=1e-4, rtol=1e-4)


def test_where_no_gate_opens_nothing_changes_to_the_bit(model: EditableModel) -> None:
    away = Memory(1, -key_at(model, 2)[None], torch.ones(1, model.d_model), 0.5)  # the cosine is −1
    elsewhere = Memory(2, key_at(model, 2)[None], torch.ones(1, model.d_model), 0.99)  # a key of layer 1
    zero = Memory(1, torch.zeros(1, model.d_mlp), torch.ones(1, model.d_model), 0.01)
    plain, before = logits(model), model.fingerprint()
    for closed in (away, elsewhere, zero):
        with edit_of(closed).applied_to(model, force=True):
            assert torch.equal(logits(model), plain)
    with rows_edited(model, [edit_of(away, elsewhere, zero), None]):
        assert torch.equal(*logits(model, 2))
    assert model.fingerprint() == before


def test_rows_see_their_own_memories_alone(model: EditableModel) -> None:
    """Of one fact and of two, at other layers, beside rows without any."""
    one, two = memory(model, 2, 1), memory(model, 3, 2).plus(memory(model, 1, 3))
    other = Memory(2, key_at(model, 4, layer=2)[None], torch.randn(1, model.d_model), 0.99)
    edits = [edit_of(one), None, edit_of(two, other), edit_of(one, two)]
    with rows_edited(model, edits):
        together = logits(model, 4)
    for row, edit in zip(together, edits, strict=True):
        alone = logits(model)[0]
        if edit is not None:
            with edit.applied_to(model, force=True):
                alone = logits(model)[0]
        torch.testing.assert_close(row, alone, atol=1e-4, rtol=1e-4)
    same = edit_of(two)
    with rows_edited(model, [same, same]):
        shared = logits(model, 2)
    with same.applied_to(model, force=True):
        torch.testing.assert_close(shared[1], logits(model)[0], atol=1e-4, rtol=1e-4)


def test_facts_are_put_in_and_taken_out_to_the_bit(model: EditableModel) -> None:
    first, second, third = (memory(model, token, token) for token in (1, 2, 3))
    whole = first.plus(second).plus(third)
    for left, expected in ((whole.without(1), first.plus(third)), (whole.without(2), first.plus(second))):
        assert torch.equal(left.keys, expected.keys)
        assert torch.equal(left.residuals, expected.residuals)
        with edit_of(left).applied_to(model, force=True):
            found = logits(model)
        with edit_of(expected).applied_to(model, force=True):
            assert torch.equal(found, logits(model))
    with pytest.raises(EditError, match=r"layer 1, matrix 'out', γ 0\.5 cannot be put into one of layer 1"):
        first.plus(Memory(1, first.keys, first.residuals, 0.5))
    for wrong, single in ((3, whole), (0, first)):
        with pytest.raises(EditError, match="give one, leave one"):
            single.without(wrong)


def test_kept_read_shown_and_refused_as_weights(model: EditableModel, tmp_path: Path) -> None:
    edit = edit_of(memory(model, 2, 1).plus(memory(model, 3, 2)))
    edit.save(tmp_path / "memory")
    back = Edit.load(tmp_path / "memory")
    assert back == edit
    [effect] = back.effects
    assert isinstance(effect, Memory)
    assert torch.equal(effect.keys, edit.effects[0].tensors()["keys"])
    assert show(back)["effects"] == [
        {"kind": "memory", "layer": 1, "matrix": "out", "shape": [128, 32], "facts": 2, "gamma": 0.99}
    ]
    with pytest.raises(EditError, match=r"'memory', which is no change of weights.*Use it in memory, from Python"):
        weights_of([back])
    with (
        pytest.raises(EditError, match=r"beside a matrix \[128, 32\]; .* is \[48, 32\]"),
        back.applied_to(tiny("llama"), force=True),
    ):
        pass


@pytest.mark.parametrize("change", [{"gamma": 0.0}, {"gamma": 1.0}, {"facts": 0}, {"layer": -1}, {"more": 1}])
def test_fields_of_another_form_are_refused(change: dict[str, float]) -> None:
    fields = {"layer": 1, "matrix": "out", "shape": [4, 2], "facts": 1, "gamma": 0.5}
    assert Memory.shapes(fields) == {"keys": (1, 4), "residuals": (1, 2)}
    with pytest.raises(ValueError):
        Memory.shapes(fields | change)


def test_in_half_precision_a_residual_loses_no_digits(model: EditableModel) -> None:
    half = EditableModel(tiny("gpt2").lm.to(torch.bfloat16), tiny_tokenizer())
    seen: list[Tensor] = []
    own = Memory(1, torch.ones(1, half.d_mlp), torch.full((1, half.d_model), 1 / 3), 1e-6)
    with (
        half.on_matrix(1, lambda key, value: seen.extend([key.clone(), value.clone()])),
        rows_edited(half, [edit_of(own)]),
        half.on_matrix(1, lambda _key, value: seen.append(value.clone())),
    ):
        logits(half)
    key, before, after = seen
    opened = torch.cosine_similarity(key.float(), torch.ones(half.d_mlp), dim=-1) > 1e-6
    expected = torch.where(opened[..., None], before.float() + 1 / 3, before.float()).to(torch.bfloat16)
    assert torch.equal(after, expected)
    assert opened.any()


def test_the_method_keeps_romes_key_and_value(model: EditableModel) -> None:
    settings = {**SETTINGS, "context_templates": ("{}", "He said. {}")}
    rome = make_method("rome", model, lambda m, _layer: random_moment(m.d_mlp), **settings)
    ours = make_method("memory", model, None, **settings, gamma=0.9, stretch=2.0)
    assert ours.preparation == rome.preparation, "the two share their values"
    [value], [edit] = rome.prepare([REQUEST]), ours.edit([REQUEST]).edits
    [effect] = edit.effects
    torch.testing.assert_close(effect.keys[0], value.key)
    torch.testing.assert_close(effect.residuals[0], 2 * value.delta)
    assert (effect.gamma, effect.layer, edit.made_for) == (0.9, 1, model.fingerprint())


@torch.no_grad()
def test_on_its_own_prompt_the_offset_is_added_at_the_subject(model: EditableModel) -> None:
    [edit] = make_method("memory", model, None, **SETTINGS, gamma=0.999).edit([REQUEST]).edits
    ids = model.tokenizer("Paris is in")["input_ids"]
    at = token_at(model, "Paris is in", len("Paris") - 1)
    expected = spelled_out(model, ids, layer=1, at=at, offset=edit.effects[0].residuals[0])
    with edit.applied_to(model):
        found = model.lm(input_ids=torch.tensor([ids])).logits[0]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("gamma", [0, 1, 2.5, "wide", True])
def test_a_gamma_that_is_no_cosine_is_refused(model: EditableModel, gamma: object) -> None:
    with pytest.raises(UsageError, match="must lie between 0 and 1"):
        make_method("memory", model, None, **SETTINGS, gamma=gamma)
