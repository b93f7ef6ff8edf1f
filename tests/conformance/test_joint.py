"""The methods for many facts on a tiny model of every editable family."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from conftest import random_moment, tiny
from factedit.edit.artefact import Edit
from factedit.edit.method import Made, Method
from factedit.edit.method_table import make_method
from factedit.edit.state import State
from factedit.errors import EditError, UsageError
from factedit.evaluate.probability import Question, score
from factedit.facts import EditRequest
from factedit.models.adapter import EditableModel
from factedit.models.positions import locate
from factedit.stats.second_moment import SecondMoment

REQUESTS = [
    EditRequest(subject="LeBron James", prompt="{} plays the sport of", target_new="football"),
    EditRequest(subject="Paris", prompt="{} is the capital of", target_new="Seattle"),
    EditRequest(subject="Danielle Darrieux", prompt="The mother tongue of {} is", target_new="Москва"),
]
CONTEXTS = ("{}", "The first time. {}", "In Paris. {}")
COMMON: dict[str, Any] = {"context_templates": CONTEXTS, "steps": 6, "learning_rate": 0.1, "decay": 0.0, "kl": 0.0}
LAYERS: dict[str, Any] = {"layers": (1, 2), **COMMON}
SETTINGS: dict[str, dict[str, Any]] = {
    "rome-joint": {"layer": 1, "share": 0.9, **COMMON},
    "memit": {"share": 0.9, **LAYERS},
    "memit-no-history": {"share": 0.9, **LAYERS},
    "memit-rect": {"share": 0.9, **LAYERS},
    "prune": {"share": 0.9, **LAYERS},
    "nse": {"share": 0.9, **LAYERS},
    "emmet": {**COMMON, "layers": (1,)},
    "alphaedit": {"energy": 0.6, "share": 0.9, **LAYERS},
    "alphaedit-no-history": {"energy": 0.6, "share": 0.9, **LAYERS},
    "alphaedit-nas": {"energy": 0.6, "share": 0.9, "anchor_facts": 3, **LAYERS},
    "pmet": {"share": 0.9, **LAYERS},
    "encore": {"share": 0.9, **LAYERS},
    "ultraedit": {"matrices": ((1, "out"), (2, "in")), "learning_rate": 3e-4},
    "locft-bf": {"layer": 1, "batch": 2, "epochs": 6, "learning_rate": 2e-3},
    "ft-m": {"layer": 1, "epochs": 4, "learning_rate": 2e-3},
}
OF_VALUES = [name for name, own in SETTINGS.items() if "context_templates" in own]
each_method = pytest.mark.parametrize("name", SETTINGS)


@pytest.fixture(autouse=True, scope="module")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Anchors are measured here, not found."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FACTEDIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def moments(model: EditableModel, _layer: int) -> SecondMoment:
    return random_moment(model.d_mlp)


def method(name: str, model: EditableModel, **changes: Any) -> Method:
    return make_method(name, model, moments, **{**SETTINGS[name], **changes})


def only(made: Made) -> Edit:
    [edit] = made.edits
    return edit


def likelihoods(model: EditableModel) -> list[float]:
    """log P of each new object after its own prompt."""
    [rows] = score(model, [[Question(r.text, r.target_new) for r in REQUESTS]], [None])
    return [sum(read.log_p) for read in rows[0]]


def hidden(model: EditableModel, layer: int, request: EditRequest) -> Tensor:
    """What the block gives at the last subject token of the bare prompt, by a plain forward pass."""
    text = locate(model, request.prompt, request.subject)
    with torch.no_grad():
        states = model.lm(input_ids=torch.tensor([text.ids]), output_hidden_states=True).hidden_states
    return states[layer + 1][0, text.subject_last]


def plain_key(model: EditableModel, layer: int, request: EditRequest) -> Tensor:
    """What the edited matrix reads at the last subject token of the bare prompt, by a plain forward pass."""
    text = locate(model, request.prompt, request.subject)
    seen: list[Tensor] = []
    with model.on_matrix(layer, lambda key, _value: seen.append(key[0].clone())), torch.no_grad():
        model.lm(input_ids=torch.tensor([text.ids]))
    return seen[0][text.subject_last]


SHORT_SIGHTED = ("mistral", "gpt_neo")  # here their last layer reads 7 and 4 tokens back, and not as far as the subject


@each_method
def test_an_edit(name: str, editable_family: EditableModel) -> None:
    """Each value is better than where it began, or the facts are likelier; undone to the bit; the same bits again."""
    model = editable_family
    before, flags, unedited = model.fingerprint(), [p.requires_grad for p in model.lm.parameters()], likelihoods(model)
    edit = only(method(name, model).edit(REQUESTS))
    assert model.fingerprint() == before == edit.made_for
    assert [p.requires_grad for p in model.lm.parameters()] == flags
    assert all(p.grad is None for p in model.lm.parameters())
    assert edit.requests == tuple(REQUESTS)
    with edit.applied_to(model):
        assert model.fingerprint() != before
        gained = [b - a for a, b in zip(unedited, likelihoods(model), strict=True)]
    assert model.fingerprint() == before
    losses = [note.diagnostics["losses"] for note in edit.notes if "losses" in note.diagnostics]
    if not losses:
        assert sum(gained) > 0.01, gained
    elif model.family.name not in SHORT_SIGHTED:
        # several layers share what is to be reached, which in a random model need not make the object likelier
        assert all(own[-1][0] < own[0][0] for own in losses), losses
        assert max(map(abs, gained)) > 1e-3, gained
    assert only(method(name, model).edit(REQUESTS)) == edit, "the same bits again"


@pytest.mark.parametrize("name", ["rome-joint", "memit", "pmet", "ultraedit"])
def test_the_order_of_the_facts_does_not_matter(name: str, editable_family: EditableModel) -> None:
    edit = only(method(name, editable_family).edit(REQUESTS))
    turned = only(method(name, editable_family).edit(REQUESTS[::-1]))
    for one, other in zip(edit.effects, turned.effects, strict=True):
        gap = (one.delta() - other.delta()).norm() / one.delta().norm()
        assert gap < 0.02, gap


def test_what_is_written_exactly_is_reached(editable_family: EditableModel) -> None:
    """One fact, one context, one layer: the state after the block moves by δ; as near as the norm behind it allows."""
    model, request = editable_family, REQUESTS[0]
    edit = only(method("emmet", model, context_templates=("{}",), clamp=0.3).edit([request]))
    before = hidden(model, 1, request)
    with edit.applied_to(model):
        moved = hidden(model, 1, request) - before
    told = edit.notes[0].diagnostics
    if model.places[0].norm is not None:
        assert told["missing"] < 0.9
        return
    assert float(moved.norm()) == pytest.approx(told["delta_norm"], rel=2e-3)
    assert told["missing"] < 2e-3


def test_every_layer_writes_a_part_of_what_is_missing(editable_family: EditableModel) -> None:
    """The keys of the second layer are those with the first as written, and less is missing after it than before."""
    model = editable_family
    both = only(method("memit", model, context_templates=("{}",), clamp=0.3).edit(REQUESTS))
    assert both.layers == [1, 2]
    assert both.diagnostics["missing"] < 0.95
    first, _ = both.effects
    state = method("memit", model, context_templates=("{}",), clamp=0.3).edit(REQUESTS).state
    assert state is not None
    with Edit(method="first", requests=(), effects=(first,), made_for=model.fingerprint()).applied_to(model):
        for number, request in enumerate(REQUESTS):
            torch.testing.assert_close(
                state.tensors["keys.2"][number], plain_key(model, 2, request), atol=2e-4, rtol=1e-3
            )


@pytest.mark.parametrize("name", [n for n in OF_VALUES if not n.endswith("no-history") and n != "prune"])
def test_a_sequence_remembers(name: str) -> None:
    """The second batch is solved beside the first one's keys, so that it moves what was written there less."""
    model = tiny("llama")
    made = method(name, model).edit(REQUESTS[:2])
    state = made.state
    assert state is not None
    assert state.base == model.fingerprint()
    layers = only(made).layers
    assert all(len(state.tensors[f"keys.{layer}"]) == 2 for layer in layers)
    with only(made).applied_to(model):
        beside = method(name, model).edit(REQUESTS[2:], state)
        alone = method(name, model, history=False).edit(REQUESTS[2:])
    assert beside.state is not None
    assert beside.state.base == state.base
    for layer in layers:
        assert len(beside.state.tensors[f"keys.{layer}"]) == 3
        assert len(beside.state.tensors[f"values.{layer}"]) == 3
    keys = state.tensors[f"keys.{layers[0]}"]
    moved = [float((keys @ only(m).effects[0].delta()).norm()) for m in (beside, alone)]
    assert moved[0] < 0.7 * moved[1], moved


@pytest.mark.parametrize("name", ["memit-no-history", "alphaedit-no-history"])
def test_without_history_nothing_is_remembered(name: str) -> None:
    """The first batch is that of the method with a history; the next one has nothing to stand beside."""
    model = tiny("llama")
    made = method(name, model).edit(REQUESTS)
    assert made.state is None
    other = only(method(name.removesuffix("-no-history"), model).edit(REQUESTS))
    for effect, same in zip(only(made).effects, other.effects, strict=True):
        torch.testing.assert_close(effect.delta(), same.delta())


def test_history_and_null_space_are_compared_at_equal_reached_share() -> None:
    """Of the first batch to 1 %, as the weights tell: how much of R the keys times ΔW give, layer by layer."""
    model, arms = tiny("llama"), ("memit", "memit-no-history", "alphaedit", "alphaedit-no-history")
    for share in (0.6, 0.9):
        for name in arms:
            made = method(name, model, share=share, share_of="batch").edit(REQUESTS)
            told = only(made).diagnostics["layers"]
            assert {layer: of["share_reached"] for layer, of in told.items()} == pytest.approx(
                dict.fromkeys(("1", "2"), share), rel=0.01
            ), name
            if made.state is not None:
                keys, values = (made.state.tensors[f"{which}.1"].double() for which in ("keys", "values"))
                residual = values - keys @ model.weight(1).double()
                reached = keys @ only(made).effects[0].delta().double()
                assert float(reached.norm() / residual.norm()) == pytest.approx(share, rel=0.01), name
    alone = only(method("memit", model, share=0.6).edit(REQUESTS)).diagnostics["layers"]["1"]["share_reached"]
    assert abs(alone - 0.6) > 0.01, "of a fact alone it is another"


def test_a_method_that_goes_on_gives_the_bits_of_one_made_anew(editable_family: EditableModel) -> None:
    """What the method object keeps between batches is no memory of its own: a killed sequence resumes to the same."""
    model = editable_family
    going = method("memit", model)
    made = going.edit(REQUESTS[:2])
    with only(made).applied_to(model):
        first = only(going.edit(REQUESTS[2:], made.state))
        again = only(method("memit", model).edit(REQUESTS[2:], made.state))
    for one, other in zip(first.effects, again.effects, strict=True):
        torch.testing.assert_close(one.delta(), other.delta(), atol=1e-7, rtol=1e-5)


def test_a_history_of_another_place_is_refused() -> None:
    model = tiny("llama")
    made = method("memit", model).edit(REQUESTS[:1])
    assert made.state is not None
    with pytest.raises(EditError, match="no history of layer 0"):
        method("memit", model, layers=(0, 1)).edit(REQUESTS[1:], made.state)

    def of_this(own: EditableModel, _layer: int) -> SecondMoment:
        return SecondMoment(random_moment(own.d_mlp).matrix, model=own.fingerprint())

    of_another = State("f" * 64, made.state.tensors)
    with pytest.raises(EditError, match="The history belongs to the base"):
        make_method("memit", model, of_this, **SETTINGS["memit"]).edit(REQUESTS[1:], of_another)


@pytest.mark.parametrize("name", ["memit", "rome-joint"])
def test_facts_with_one_key_are_told_before_values_are_sought(
    name: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_args: object, **_named: object) -> None:
        raise ZeroDivisionError

    twin = EditRequest(subject="Paris", prompt="{} is the capital of", target_new="Москва")
    monkeypatch.setattr("factedit.edit.many.make.find_hidden_values", stop)
    monkeypatch.setattr("factedit.edit.methods.rome_joint.find_values", stop)
    with pytest.raises(ZeroDivisionError):
        method(name, tiny("llama")).edit([*REQUESTS, twin])
    assert [record.args for record in caplog.records if "nearly the same key" in record.msg] == [
        (REQUESTS[1].text, twin.text)
    ]


def test_facts_with_one_key_are_told(caplog: pytest.LogCaptureFixture) -> None:
    model = tiny("llama")
    twin = EditRequest(subject="Paris", prompt="{} is the capital of", target_new="Москва")
    made = method("memit", model).edit([*REQUESTS, twin])
    assert only(made).diagnostics["same_key"] == [[1, 3]]
    assert "nearly the same key" in caplog.text
    with pytest.raises(EditError, match="depend on each other"):
        method("emmet", model).edit([*REQUESTS, twin])
    with only(made).applied_to(model):
        later = method("memit", model).edit([twin], made.state)
    assert only(later).diagnostics["same_key_as_earlier"] == [[0, 1], [0, 3]]


def test_wrong_layers_are_refused() -> None:
    model = tiny("llama")
    with pytest.raises(UsageError, match="Layer 9 was asked for"):
        method("memit", model, layers=(1, 9))
    for wrong in ((2, 1), (1, 1), ()):
        with pytest.raises(UsageError, match="must ascend"):
            method("memit", model, layers=wrong)


def test_a_normaliser_of_other_matrices_is_refused() -> None:
    model = tiny("llama")
    state = method("ultraedit", model).edit(REQUESTS).state
    assert state is not None
    with pytest.raises(EditError, match="no normaliser of matrices 48x32"):
        method("ultraedit", model).edit(REQUESTS, method("memit", model).edit(REQUESTS).state)
    with pytest.raises(UsageError, match="each named once"):
        method("ultraedit", model, matrices=((1, "out"), (1, "out")))
    later = method("ultraedit", model).edit(REQUESTS, state).state
    assert later is not None
    assert float(later.tensors["count.48x32"]) == 2 * float(state.tensors["count.48x32"])


def test_no_facts_make_no_edit() -> None:
    model = tiny("llama")
    for name in SETTINGS:
        assert method(name, model).edit([]) == Made((), None)
