"""A codebook: what is replaced where by hand, how entries come together, and the method on tiny models."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from beside_matrix_cases import edit_of, key_at, logits
from conftest import tiny
from factedit.edit.artefact import Edit, rows_edited, weights_of
from factedit.edit.effects.asked import join_effects
from factedit.edit.effects.codebook import Codebook
from factedit.edit.method_table import make_method
from factedit.errors import EditError, UsageError
from factedit.evaluate.together import Together
from factedit.facts import EditRequest
from factedit.models.adapter import EditableModel
from plain import encode, value_at
from plain import logits as spelled_out

REQUESTS = [
    EditRequest(subject="Paris", prompt="{} is in", target_new="Seattle"),
    EditRequest(subject="LeBron James", prompt="{} plays the sport of", target_new="football"),
]


@pytest.fixture(scope="module")
def model() -> EditableModel:
    return tiny("gpt2")


def entry(model: EditableModel, token: int, seed: int, *, radius: float = 1e-3) -> Codebook:
    value = torch.randn(1, model.d_model, generator=torch.Generator().manual_seed(seed))
    return Codebook(1, key_at(model, token)[None], value, torch.tensor([radius]), (f"object {seed}",))


@torch.no_grad()
def by_hand(model: EditableModel, instead: dict[int, Tensor]) -> Tensor:
    def put(_module: object, _inputs: object, output: Tensor) -> Tensor:
        output = output.clone()
        for token, value in instead.items():
            output[:, token] = value
        return output

    handle = model.lm.transformer.h[1].mlp.c_proj.register_forward_hook(put)
    try:
        return logits(model)[0]
    finally:
        handle.remove()


def test_the_value_is_replaced_inside_the_ball_and_nowhere_else(model: EditableModel) -> None:
    own = entry(model, 2, 1)
    with edit_of(own).applied_to(model, force=True):
        torch.testing.assert_close(logits(model)[0], by_hand(model, {2: own.values[0]}), atol=1e-4, rtol=1e-4)
    gaps = sorted(float((key_at(model, n) - own.keys[0]).norm()) for n in range(5))
    wide = entry(model, 2, 1, radius=(gaps[1] + gaps[2]) / 2)
    inside = [n for n in range(5) if float((key_at(model, n) - own.keys[0]).norm()) <= float(wide.radii[0])]
    assert len(inside) == 2
    with edit_of(wide).applied_to(model, force=True):
        expected = by_hand(model, dict.fromkeys(inside, own.values[0]))
        torch.testing.assert_close(logits(model)[0], expected, atol=1e-4, rtol=1e-4)
    plain = logits(model)
    away = Codebook(1, own.keys + 1.0, own.values, own.radii, own.objects)
    with edit_of(away).applied_to(model, force=True):
        assert torch.equal(logits(model), plain), "deferral: to the bit"


def test_the_nearest_of_overlapping_balls_answers(model: EditableModel) -> None:
    far = Codebook(1, key_at(model, 2)[None] + 0.02, torch.ones(1, model.d_model), torch.tensor([9.0]), ("far",))
    near = entry(model, 2, 1, radius=9.0)
    both = Codebook(1, torch.cat([far.keys, near.keys]), torch.cat([far.values, near.values]),
                    torch.cat([far.radii, near.radii]), ("far", "near"))  # fmt: skip
    distances = torch.cdist(torch.stack([key_at(model, n) for n in range(5)]), both.keys)
    assert distances[2].argmin() == 1
    expected = {n: both.values[row.argmin()] for n, row in enumerate(distances) if row.min() <= 9.0}
    with edit_of(both).applied_to(model, force=True):
        torch.testing.assert_close(logits(model)[0], by_hand(model, expected), atol=1e-4, rtol=1e-4)


def test_rows_see_their_own_codebooks_alone(model: EditableModel) -> None:
    one, two = entry(model, 2, 1), entry(model, 3, 2)
    edits = [edit_of(one), None, edit_of(two), edit_of(one, two)]
    with rows_edited(model, edits):
        together = logits(model, 4)
    expected = [{2: one.values[0]}, {}, {3: two.values[0]}, {2: one.values[0], 3: two.values[0]}]
    for row, instead in zip(together, expected, strict=True):
        torch.testing.assert_close(row, by_hand(model, instead), atol=1e-4, rtol=1e-4)
    same = edit_of(two)
    with rows_edited(model, [same, same]):
        torch.testing.assert_close(logits(model, 2)[1], by_hand(model, expected[2]), atol=1e-4, rtol=1e-4)


def at(x: float, radius: float, name: str, layer: int = 1) -> Codebook:
    return Codebook(layer, torch.tensor([[x, 0.0]]), torch.tensor([[x]]), torch.tensor([float(radius)]), (name,))


def test_how_entries_come_together() -> None:
    """On a line: apart both stay; of one object near the first widens; of two objects they meet half way."""
    [apart] = join_effects([at(0, 1, "a"), at(5, 1, "b")])
    assert isinstance(apart, Codebook)
    assert apart.radii.tolist() == [1, 1]
    assert apart.keys[:, 0].tolist() == [0, 5]
    [alike] = join_effects([at(0, 1, "a"), at(1.5, 1, "a")])
    assert (alike.keys[:, 0].tolist(), alike.radii.tolist()) == ([0.0], [1.5])  # type: ignore[attr-defined]
    [inside] = join_effects([at(0, 2, "a"), at(1.5, 1, "a")])
    assert inside.radii.tolist() == [2.0], "a ball never shrinks for its own object"  # type: ignore[attr-defined]
    [split] = join_effects([at(0, 1, "a"), at(1.5, 1, "b"), at(9, 1, "c")])
    assert (split.objects, split.radii.tolist()) == (("a", "b", "c"), [0.75, 0.75, 1.0])  # type: ignore[attr-defined]
    assert len(join_effects([at(0, 1, "a"), at(0, 1, "a", layer=2)])) == 2


@pytest.mark.parametrize("family", ["gpt2", "gemma3_text", "llama"])
def test_the_edited_model_gives_the_object_on_its_prompt_and_defers_elsewhere(family: str) -> None:
    model = tiny(family)
    before = model.fingerprint()
    edits = make_method("grace", model, None, layer=1, steps=20, share=0.05).edit(REQUESTS).edits  # type: ignore[arg-type]
    assert model.fingerprint() == before
    for request, edit in zip(REQUESTS, edits, strict=True):
        losses = [row[1] for row in edit.told_of(0)["losses"]]
        assert losses[-1] < losses[0] - 0.3
        ids = torch.tensor([encode(model, f"{request.text} {request.target_new}")])
        count = len(encode(model, request.text))

        def mean_loss(ids: Tensor = ids, count: int = count) -> float:
            with torch.no_grad():
                log_p = model.lm(input_ids=ids).logits[0].log_softmax(-1)
            return -float(log_p[range(count - 1, ids.shape[1] - 1), ids[0, count:]].mean())

        plain = mean_loss()
        with edit.applied_to(model):
            assert mean_loss() == pytest.approx(losses[-1], abs=2e-3), "what was optimised is what is put on"
            other = torch.tensor([encode(model, "Basketball was never")])
            with torch.no_grad():
                found = model.lm(input_ids=other).logits
        with torch.no_grad():
            assert torch.equal(found, model.lm(input_ids=other).logits)
        assert plain == pytest.approx(losses[0], abs=2e-3)
    together = Together(model).plus(edits)
    assert len(together.others) == 1


def test_key_and_radius_are_the_prompts_last_token(model: EditableModel) -> None:
    given = {"layer": 1, "steps": 2}
    [edit] = make_method("grace", model, None, **given).edit(REQUESTS[:1]).edits  # type: ignore[arg-type]
    [effect] = edit.effects
    ids = encode(model, "Paris is in")
    key, value = value_at(model, ids, 1, len(ids) - 1)
    torch.testing.assert_close(effect.keys[0], key)
    assert float(effect.radii[0]) == pytest.approx(0.3 * float(key.norm()), rel=1e-4)
    assert not torch.equal(effect.values[0], value)
    [fixed] = make_method("grace", model, None, **given, epsilon=2.5).edit(REQUESTS[:1]).edits  # type: ignore[arg-type]
    assert fixed.effects[0].radii.tolist() == [2.5]
    assert spelled_out(model, ids).shape[0] == len(ids)


def test_kept_read_and_refused_as_weights(model: EditableModel, tmp_path: Path) -> None:
    edit = edit_of(entry(model, 2, 1).followed_by(entry(model, 3, 2)))  # type: ignore[arg-type]
    edit.save(tmp_path / "codebook")
    back = Edit.load(tmp_path / "codebook")
    assert back == edit
    assert back.effects[0].objects == ("object 1", "object 2")  # type: ignore[attr-defined]
    with pytest.raises(EditError, match=r"'codebook', which is no change of weights.*factedit\.load_edited"):
        weights_of([back])
    with (
        pytest.raises(EditError, match=r"beside a matrix \[128, 32\]; .* is \[48, 32\]"),
        back.applied_to(tiny("llama"), force=True),
    ):
        pass
    with pytest.raises(UsageError, match=r"settings of grace do not hold: share 3"):
        make_method("grace", model, None, share=3)  # type: ignore[arg-type]
