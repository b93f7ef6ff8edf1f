"""Codebooks put into one another: GRACE's algorithm spelled out in plain numbers, and who answers where balls meet."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from math import dist
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from beside_matrix_cases import edit_of, key_at, logits
from conftest import tiny, tiny_tokenizer
from factedit.edit.artefact import rows_edited
from factedit.edit.effects.asked import join_effects
from factedit.edit.effects.codebook import Codebook
from factedit.edit.loaded import EditedModel, load_edited
from factedit.edit.method_table import make_method
from factedit.facts import EditRequest
from factedit.models.adapter import EditableModel


class Entry(NamedTuple):
    """An entry in plain numbers."""

    key: tuple[float, ...]
    value: float
    radius: float
    name: str


def put_in(entries: list[Entry], new: Entry) -> list[Entry]:
    """GRACE (arXiv 2211.11031), algorithm 1, written out: what becomes of a codebook when an entry comes."""
    near = min(range(len(entries)), key=lambda n: dist(entries[n].key, new.key))
    own, between = entries[near], dist(entries[near].key, new.key)
    if between > own.radius + new.radius:
        return [*entries, new]
    if own.name == new.name:
        widened = own._replace(radius=max(own.radius, between))
        return [widened if n == near else entry for n, entry in enumerate(entries)]
    half = between / 2
    shrunk = [entry._replace(radius=half) if n == near else entry for n, entry in enumerate(entries)]
    return [*shrunk, new._replace(radius=half)]


def book(*entries: Entry, layer: int = 1) -> Codebook:
    return Codebook(
        layer, torch.tensor([entry.key for entry in entries]), torch.tensor([[entry.value] for entry in entries]),
        torch.tensor([entry.radius for entry in entries]), tuple(entry.name for entry in entries),
    )  # fmt: skip


def entries_of(one: Codebook) -> list[Entry]:
    rows = zip(one.keys.tolist(), one.values[:, 0].tolist(), one.radii.tolist(), one.objects, strict=True)
    return [Entry(tuple(key), value, radius, name) for key, value, radius, name in rows]


@pytest.mark.parametrize("seed", range(12))
def test_entries_come_in_as_the_algorithm_says(seed: int) -> None:
    """Ten entries of three objects at random places; none at one place, so that the printed rule is all there is."""
    drawn = random.Random(seed)
    new = [
        Entry((drawn.uniform(1, 9), drawn.uniform(1, 9)), float(n), drawn.uniform(0.2, 2.5), drawn.choice("abc"))
        for n in range(10)
    ]
    expected = [new[0]]
    for entry in new[1:]:
        expected = put_in(expected, entry)
    [found] = join_effects([book(entry) for entry in new])
    assert isinstance(found, Codebook)
    for mine, theirs in zip(entries_of(found), expected, strict=True):
        assert mine.name == theirs.name
        assert mine.value == theirs.value
        assert mine.radius == pytest.approx(theirs.radius, rel=1e-5)
        assert mine.key == pytest.approx(theirs.key)
    assert 1 < len(found.keys) <= len(new)


def test_no_two_balls_of_different_objects_overlap_after_two_entries() -> None:
    """Half the way for each: at most one of two different objects claims a place between them."""
    [both] = join_effects([book(Entry((0.0, 0.0), 1.0, 4.0, "a")), book(Entry((3.0, 4.0), 2.0, 4.0, "b"))])
    assert isinstance(both, Codebook)
    assert both.radii.tolist() == [2.5, 2.5]


def test_the_entries_put_in_stay_what_they_were() -> None:
    """An edit that is on a model with others is the same edit afterwards."""
    first = book(Entry((0.0, 1.0), 1.0, 2.0, "a"))
    second, third = book(Entry((1.0, 1.0), 2.0, 2.0, "b")), book(Entry((0.0, 1.0), 3.0, 2.0, "c"))
    before = [entries_of(one) for one in (first, second, third)]
    join_effects([first, second, third])
    assert [entries_of(one) for one in (first, second, third)] == before


def test_of_two_objects_at_one_key_the_later_is_kept() -> None:
    """The same prompt edited again: half of no way would leave two balls of radius 0, and neither would answer."""
    old, new = Entry((3.0, 4.0), 1.0, 2.0, "Seattle"), Entry((3.0, 4.0), 7.0, 0.5, "Boston")
    [found] = join_effects([book(old), book(new)])
    assert isinstance(found, Codebook)
    assert entries_of(found) == [Entry((3.0, 4.0), 7.0, 2.0, "Boston")]
    rounded = new._replace(key=(3.0, 4.004))
    [found] = join_effects([book(old), book(rounded)])
    assert isinstance(found, Codebook)
    assert [entry.name for entry in entries_of(found)] == ["Boston"], "what rounding moves a key by is no way"
    apart = new._replace(key=(3.0, 4.2))
    [found] = join_effects([book(old), book(apart)])
    assert isinstance(found, Codebook)
    assert [entry.radius for entry in entries_of(found)] == pytest.approx([0.1, 0.1], abs=1e-6)


def test_the_later_object_at_one_key_comes_to_the_right_entry_of_several() -> None:
    others = [Entry((9.0, 0.0), 1.0, 0.5, "x"), Entry((0.0, 9.0), 2.0, 0.5, "y"), Entry((9.0, 9.0), 3.0, 0.5, "z")]
    [found] = join_effects([book(*others), book(Entry((0.0, 9.0), 8.0, 0.5, "new"))])
    assert isinstance(found, Codebook)
    assert [(entry.name, entry.value) for entry in entries_of(found)] == [("x", 1.0), ("new", 8.0), ("z", 3.0)]


def test_codebooks_beside_other_matrices_stay_apart() -> None:
    one = book(Entry((0.0, 1.0), 1.0, 1.0, "a"))
    other = replace(one, matrix="in")
    assert one.followed_by(other) is None
    assert one.followed_by(replace(one, layer=2)) is None
    assert len(join_effects([one, other, one])) == 2


# -- on a model -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model() -> EditableModel:
    return tiny("gpt2")


def drawn(model: EditableModel, seed: int) -> Tensor:
    return torch.randn(1, model.d_model, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def given(model: EditableModel, run: Callable[[], Tensor], layer: int = 1) -> Tensor:
    """What a layer's last matrix gives in the end, with whatever stands beside it."""
    seen: list[Tensor] = []
    with model.on_matrix(layer, lambda _key, value: seen.append(value.clone())):
        run()
    return seen[0]


def test_whoever_shares_a_batch_the_nearest_ball_answers(model: EditableModel) -> None:
    """Two codebooks of one edit whose balls overlap: alone, in rows that are alike and in rows that are not.

    Before, rows that were alike (and an edit put on by itself) saw one codebook after the other: the later won.
    """
    key = key_at(model, 2)
    near = Codebook(1, key[None], drawn(model, 1), torch.tensor([9.0]), ("one",))
    far = Codebook(1, key[None] + 0.02, drawn(model, 2), torch.tensor([9.0]), ("other",))
    edit = edit_of(near, far)
    [both] = join_effects(edit.effects)
    assert isinstance(both, Codebook)
    assert both.radii[0] > 0
    expected = near.values[0]

    with edit.applied_to(model, force=True):
        alone = given(model, lambda: logits(model))
    with rows_edited(model, [edit, edit]):
        alike = given(model, lambda: logits(model, 2))
    with rows_edited(model, [edit, None]):
        apart = given(model, lambda: logits(model, 2))
    torch.testing.assert_close(alone[0, 2], expected)
    torch.testing.assert_close(alike[:, 2], expected.expand(2, -1))
    torch.testing.assert_close(apart[0, 2], expected)
    assert torch.equal(alone[0], alike[0])


def test_a_key_on_the_sphere_is_inside(model: EditableModel) -> None:
    """`<=` of GRACE's deferral; the next smaller radius leaves the token alone, to the bit."""
    key, plain = key_at(model, 2), given(model, lambda: logits(model))
    centre = key.clone()
    centre[0] += 0.25
    radius = (key - centre).norm()
    on = Codebook(1, centre[None], drawn(model, 3), radius[None], ("x",))
    with edit_of(replace(on, radii=on.radii * (1 + 1e-6))).applied_to(model, force=True):
        torch.testing.assert_close(given(model, lambda: logits(model))[0, 2], on.values[0])
    with edit_of(replace(on, radii=on.radii * (1 - 1e-4))).applied_to(model, force=True):
        assert torch.equal(given(model, lambda: logits(model)), plain)
    point = replace(on, keys=key[None], radii=torch.zeros(1))
    with edit_of(point).applied_to(model, force=True):
        found = given(model, lambda: logits(model))
    torch.testing.assert_close(found[0, 2], on.values[0], msg="a token at the key itself is at distance 0")
    assert torch.equal(found[0, [0, 1, 3, 4]], plain[0, [0, 1, 3, 4]])


def test_codebooks_of_several_layers_act_at_each(model: EditableModel) -> None:
    books = [
        Codebook(layer, key_at(model, 3, layer)[None], drawn(model, layer), torch.tensor([1e-3]), ("x",))
        for layer in (0, 2)
    ]
    both = edit_of(*books)
    assert both.first_layer == 0
    assert both.layers == [], "no matrix changes"
    with both.applied_to(model, force=True):
        torch.testing.assert_close(given(model, lambda: logits(model), 0)[0, 3], books[0].values[0])
        # the upper key is another one now that the lower value is: its ball is not met
        assert not torch.allclose(given(model, lambda: logits(model), 2)[0, 3], books[1].values[0])
    with rows_edited(model, [edit_of(books[1]), both]):
        upper = given(model, lambda: logits(model, 2), 2)
    torch.testing.assert_close(upper[0, 3], books[1].values[0])


@pytest.mark.parametrize(("family", "matrix"), [("gpt2", "in"), ("llama", "gate"), ("llama", "in")])
def test_beside_the_first_matrices_the_key_is_the_hidden_state(family: str, matrix: str) -> None:
    """The matrices `in` and `gate` read the hidden state `[d_model]` and give `[d_mlp]`."""
    model = tiny(family)
    seen: list[tuple[Tensor, Tensor]] = []
    with model.on_matrix(1, lambda key, value: seen.append((key.clone(), value.clone())), matrix):
        logits(model)
    [(key, plain)] = seen
    assert key.shape[-1] == model.d_model
    value = torch.randn(1, plain.shape[-1], generator=torch.Generator().manual_seed(0))
    own = Codebook(1, key[0, 1][None], value, torch.tensor([1e-3]), ("x",), matrix)
    assert own.fields()["shape"] == list(model.weight(1, matrix).shape)
    with edit_of(own).applied_to(model, force=True), model.on_matrix(1, lambda k, v: seen.append((k, v)), matrix):
        logits(model)
    found = seen[1][1]
    torch.testing.assert_close(found[0, 1], value[0])
    assert torch.equal(found[0, [0, 2, 3, 4]], plain[0, [0, 2, 3, 4]])


def test_in_half_precision_distances_are_taken_in_float32() -> None:
    """A ball so small that bfloat16 could not tell its key's neighbour from it still tells them apart."""
    half = EditableModel(tiny("gpt2").lm.to(torch.bfloat16), tiny_tokenizer())
    seen: list[Tensor] = []
    with half.on_matrix(1, lambda key, _value: seen.append(key.clone())):
        logits(half)
    key = seen[0][0, 2].float()
    value = torch.full((1, half.d_model), 1 / 3)
    at = Codebook(1, key[None], value, torch.tensor([1e-6]), ("x",))
    beside = Codebook(1, key[None] * (1 + 1e-5), value, torch.tensor([1e-6]), ("x",))
    with edit_of(at).applied_to(half, force=True):
        found = given(half, lambda: logits(half))
    assert found.dtype == torch.bfloat16
    assert torch.equal(found[0, 2], value[0].to(torch.bfloat16)), "rounded once"
    with edit_of(beside).applied_to(half, force=True):
        assert not torch.equal(given(half, lambda: logits(half))[0, 2], value[0].to(torch.bfloat16))


def test_the_same_prompt_edited_again_says_the_later_object(model: EditableModel, tmp_path: Path) -> None:
    """Through the files, as a user puts them on; before, the earlier entry answered alone, in a ball of radius 0."""
    method = make_method("grace", model, None, layer=1, steps=12)  # type: ignore[arg-type]
    edits = []
    for name in ("Seattle", "France"):
        [edit] = method.edit([EditRequest(subject="Paris", prompt="{} is in", target_new=name)]).edits
        edit.save(tmp_path / name)
        edits.append(edit)
    asked = torch.tensor([model.tokenizer("Paris is in")["input_ids"]])

    def last_value(edited: EditedModel) -> Tensor:
        return given(edited.model, lambda: edited.model.lm(input_ids=asked).logits)[0, -1]

    for order in (("Seattle", "France"), ("France", "Seattle")):
        later = next(edit for edit in edits if edit.requests[0].target_new == order[-1])
        with load_edited([tmp_path / name for name in order], model) as both:
            torch.testing.assert_close(last_value(both), later.effects[0].values[0])  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "change", [{"objects": []}, {"objects": "ab"}, {"layer": -1}, {"matrix": "up"}, {"shape": [4]}, {"radii": [1.0]}]
)
def test_fields_of_another_form_are_refused(change: dict[str, object]) -> None:
    fields = {"layer": 1, "matrix": "out", "shape": [4, 2], "objects": ["a", "b", "a"]}
    assert Codebook.shapes(fields) == {"keys": (3, 4), "values": (3, 2), "radii": (3,)}
    with pytest.raises(ValueError):
        Codebook.shapes(fields | change)


def test_what_is_kept_is_float32_and_comes_back() -> None:
    own = book(Entry((1.0, 2.0), 3.0, 0.5, "a"), Entry((4.0, 5.0), 6.0, 0.25, "b"))
    wide = replace(own, keys=own.keys.double(), values=own.values.double(), radii=own.radii.double())
    assert {tensor.dtype for tensor in wide.tensors().values()} == {torch.float32}
    back = Codebook.read(wide.fields(), wide.tensors())
    assert entries_of(back) == entries_of(own)
    assert (back.layer, back.matrix, back.first_layer()) == (1, "out", 1)
    assert back.on_prompt("as it is") == "as it is"
