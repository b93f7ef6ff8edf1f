"""Values of several layers, found together: against the loss spelled out on a whole GPT-2, and what is written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from conftest import random_moment, tiny
from factedit.edit.artefact import Edit
from factedit.edit.endings import Stop
from factedit.edit.kept_values import keeping_values
from factedit.edit.many.spread_values import SpreadValue, find_spread_values, keys_at
from factedit.edit.method_table import make_method
from factedit.edit.presets import Preset, RomeSettings
from factedit.edit.value import batches_of, find_values, prompt_rows_of
from factedit.engine.resume import Segment
from factedit.errors import UsageError
from factedit.facts import EditRequest
from factedit.models.adapter import EditableModel
from plain import Losses, encode, logits, prompt_after, token_at, value_at

CONTEXTS = ("{}", "The first time. {}", "In Paris. {}")
LAYERS = (0, 2)
REQUESTS = [
    EditRequest(subject="Danielle Darrieux", prompt="The mother tongue of {} is", target_new="Москва"),
    EditRequest(subject="LeBron James", prompt="{} plays the sport of", target_new="football"),
    EditRequest(subject="Paris", prompt="{} is the capital of", target_new="Seattle"),
]
SETTINGS = RomeSettings(steps=6, learning_rate=0.03, kl=0.2, decay=0.1, clamp=0.8, stop_loss=0.0, relative_rate=True)


@contextmanager
def added(model: EditableModel, offsets: Mapping[int, Tensor], at: int) -> Iterator[None]:
    """A GPT-2 with an offset added to what each layer's last matrix gives at one token."""

    def hook(offset: Tensor) -> Any:
        def add(_module: object, _inputs: object, output: Tensor) -> Tensor:
            here = torch.zeros_like(output)
            here[0, at] = 1.0
            return output + here * offset

        return add

    with ExitStack() as stack:
        for layer, offset in offsets.items():
            module = model.lm.transformer.h[layer].mlp.c_proj
            stack.callback(module.register_forward_hook(hook(offset)).remove)
        yield


def values_before(model: EditableModel, request: EditRequest) -> dict[int, Tensor]:
    text, last = prompt_after("{}", request)
    return {n: value_at(model, encode(model, text), n, token_at(model, text, last))[1] for n in LAYERS}


def loss(model: EditableModel, request: EditRequest, offsets: Mapping[int, Tensor]) -> Losses:
    """Eq. 4 with an offset on several layers, each with its own decay."""
    likelihoods = []
    for context in CONTEXTS:
        text, last = prompt_after(context, request)
        whole = f"{text} {request.target_new}"
        ids, first = encode(model, whole), token_at(model, whole, len(text))
        with added(model, offsets, token_at(model, text, last)):
            log_p = logits(model, ids[:-1]).log_softmax(-1)
        likelihoods.append(torch.stack([log_p[n - 1, ids[n]] for n in range(first, len(ids))]).mean())
    essence, subject_last = f"{request.subject} is a", len(request.subject) - 1
    ids, at = encode(model, essence), token_at(model, essence, subject_last)
    with added(model, offsets, at):
        edited = logits(model, ids)[at].log_softmax(-1)
    original = logits(model, ids)[at].log_softmax(-1).detach()
    before = values_before(model, request)
    decay = torch.stack([own.norm() / (before[n] ** 2).sum() for n, own in offsets.items()]).sum()
    kl = SETTINGS.kl * (edited.exp() * (edited - original)).sum()
    return Losses(-torch.stack(likelihoods).mean(), kl, SETTINGS.decay * decay)


def descended(model: EditableModel, request: EditRequest) -> tuple[dict[int, Tensor], list[tuple[float, ...]]]:
    """Adam from torch on the offsets of all layers, each with the rate and the clamp of what its matrix gave."""
    before = values_before(model, request)
    offsets = {n: torch.zeros(model.d_model, requires_grad=True) for n in LAYERS}
    groups = [{"params": [own], "lr": SETTINGS.learning_rate * float(before[n].norm())} for n, own in offsets.items()]
    adam, history = torch.optim.Adam(groups), []
    for step in range(SETTINGS.steps):
        terms = loss(model, request, offsets)
        history.append(tuple(term.item() for term in terms))
        if step == SETTINGS.steps - 1:
            break
        for own, slope in zip(offsets.values(), torch.autograd.grad(sum(terms), list(offsets.values())), strict=True):
            own.grad = slope
        adam.step()
        with torch.no_grad():
            for n, own in offsets.items():
                own *= min(1.0, float(SETTINGS.clamp * before[n].norm() / own.norm()))
    return {n: own.detach() for n, own in offsets.items()}, history


def spread(model: EditableModel, requests: Sequence[EditRequest] = REQUESTS, **changes: Any) -> list[SpreadValue]:
    settings = SETTINGS.model_copy(update=changes)
    return find_spread_values(model, LAYERS, prompt_rows_of(model, requests, CONTEXTS, settings), settings)


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda own: own.subject)
def test_the_way_down_is_that_of_the_loss_over_all_layers(tiny_gpt2: EditableModel, request_: EditRequest) -> None:
    [found] = spread(tiny_gpt2, [request_])
    offsets, history = descended(tiny_gpt2, request_)
    assert [own[1:] for own in found.losses] == [pytest.approx(own, rel=2e-3, abs=1e-5) for own in history]
    assert history[-1][0] < history[0][0] - 0.01, "the target became likelier, so the comparison is not vacuous"
    for n, layer in enumerate(LAYERS):
        assert torch.allclose(found.initial[n], values_before(tiny_gpt2, request_)[layer], atol=1e-5)
        assert torch.nn.functional.cosine_similarity(found.delta[n], offsets[layer], dim=0) > 0.999
        assert float(found.delta[n].norm()) == pytest.approx(float(offsets[layer].norm()), rel=5e-3)
        assert float(found.delta[n].norm()) > 0.1 * float(found.initial[n].norm()), "every layer takes a part"


def test_each_layers_offset_is_clamped_by_what_its_own_matrix_gives(tiny_gpt2: EditableModel) -> None:
    for own in spread(tiny_gpt2, clamp=0.05, learning_rate=1.0):
        assert torch.allclose(own.delta.norm(dim=1), 0.05 * own.initial.norm(dim=1), rtol=1e-4)


def test_facts_do_not_depend_on_which_are_optimised_together(tiny_gpt2: EditableModel) -> None:
    together = spread(tiny_gpt2)
    for request, own in zip(REQUESTS, together, strict=True):
        [alone] = spread(tiny_gpt2, [request])
        assert torch.allclose(own.delta, alone.delta, atol=1e-4), request.subject


def test_one_layer_is_the_value_of_rome(tiny_gpt2: EditableModel) -> None:
    rows = prompt_rows_of(tiny_gpt2, REQUESTS, CONTEXTS, SETTINGS)
    alone = find_values(tiny_gpt2, 1, REQUESTS, CONTEXTS, SETTINGS)
    for own, value in zip(find_spread_values(tiny_gpt2, (1,), rows, SETTINGS), alone, strict=True):
        assert torch.equal(own.delta[0], value.delta)
        assert torch.equal(own.initial[0], value.initial)
        assert own.losses == value.losses


def test_kept_values_of_several_layers_are_not_those_of_others(tiny_gpt2: EditableModel, tmp_path: Path) -> None:
    rows = prompt_rows_of(tiny_gpt2, REQUESTS, CONTEXTS, SETTINGS)
    with keeping_values(tmp_path):
        found = {layers: find_spread_values(tiny_gpt2, layers, rows, SETTINGS) for layers in ((0, 2), (0, 1), (0,))}
        again = find_spread_values(tiny_gpt2, (0, 2), rows, SETTINGS)
    assert len({own[0].delta.sum().item() for own in found.values()}) == 3
    assert all(torch.equal(a.delta, b.delta) and a.losses == b.losses for a, b in zip(found[0, 2], again, strict=True))


def rome_joint(model: EditableModel, **changes: Any) -> Any:
    settings = {**SETTINGS.model_dump(exclude={"layer"}), "share": 1.0, "layers": LAYERS, "context_templates": CONTEXTS}
    return make_method("rome-joint", model, lambda m, _layer: random_moment(m.d_mlp), **{**settings, **changes})


def edit_of(method: Any, requests: Sequence[EditRequest] = REQUESTS) -> Edit:
    [edit] = method.edit(requests).edits
    return edit


@torch.no_grad()
def mean_key(model: EditableModel, layer: int, request: EditRequest) -> Tensor:
    """The mean over the contexts of what a GPT-2's last matrix reads at the last subject token, by whole passes."""
    keys = []
    for context in CONTEXTS:
        text, last = prompt_after(context, request)
        keys.append(value_at(model, encode(model, text), layer, token_at(model, text, last))[0])
    return torch.stack(keys).mean(0)


def test_each_layer_gives_its_part_at_the_keys_of_the_model_as_written_below(tiny_gpt2: EditableModel) -> None:
    """With share 1, k* ΔW = stretch · δ at every layer, k* read from the model with the layers below as written."""
    edit, values = edit_of(rome_joint(tiny_gpt2, stretch=1.5)), spread(tiny_gpt2)
    changes = {effect.place[0]: effect.left.double() @ effect.right.double() for effect in edit.effects}
    assert list(changes) == list(LAYERS)
    moved = [mean_key(tiny_gpt2, LAYERS[1], request) for request in REQUESTS]
    with tiny_gpt2.with_weight(LAYERS[0], tiny_gpt2.weight(LAYERS[0]) + changes[LAYERS[0]].float()):
        above = [mean_key(tiny_gpt2, LAYERS[1], request) for request in REQUESTS]
    assert all((a - b).norm() > 1e-3 * b.norm() for a, b in zip(above, moved, strict=True)), (
        "the lower layer moves them"
    )
    below = [mean_key(tiny_gpt2, LAYERS[0], request) for request in REQUESTS]
    for number, (layer, keys) in enumerate(zip(LAYERS, (below, above), strict=True)):
        for key, value in zip(keys, values, strict=True):
            given, wanted = key.double() @ changes[layer], 1.5 * value.delta[number].double()
            assert torch.allclose(given, wanted, atol=2e-4 * float(wanted.norm()) + 1e-6), layer


@pytest.mark.parametrize("family", ["gemma3_text", "opt", "llama"])
@pytest.mark.parametrize("stop", ["none", "sentence"])
def test_an_edit_over_layers_of_other_families(family: str, stop: Stop) -> None:
    """Beside a norm behind the matrix and biases: the loss falls, and the model has the same bits afterwards."""
    model = tiny(family)
    before = model.fingerprint()
    method = rome_joint(model, stop=stop, layers=(1, 2), share=0.9, decay=0.0, kl=0.0)
    edit = edit_of(method)
    assert model.fingerprint() == before == edit.made_for
    assert {effect.place[0] for effect in edit.effects} == {1, 2}
    for note in edit.notes:
        losses = note.diagnostics["losses"]
        assert losses[-1][0] < losses[0][0]
    with edit.applied_to(model):
        assert model.fingerprint() != before
    assert model.fingerprint() == before
    assert edit_of(method) == edit, "the same bits again"


def test_keys_are_read_from_the_model_as_it_is(tiny_gpt2: EditableModel) -> None:
    rows = prompt_rows_of(tiny_gpt2, REQUESTS, CONTEXTS, SETTINGS)
    for (mean, bare), request in zip(keys_at(tiny_gpt2, 3, rows), REQUESTS, strict=True):
        text, last = prompt_after("{}", request)
        assert torch.allclose(mean, mean_key(tiny_gpt2, 3, request), atol=1e-5)
        assert torch.allclose(
            bare, value_at(tiny_gpt2, encode(tiny_gpt2, text), 3, token_at(tiny_gpt2, text, last))[0], atol=1e-5
        )


@pytest.mark.parametrize("layers", [(3, 1), (1, 1), (1, 9)])
def test_layers_ascend_and_are_the_models(tiny_gpt2: EditableModel, layers: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match=r"ascend|layers 0 to 3|has 4 layers"):
        rome_joint(tiny_gpt2, layers=layers)


def test_one_layer_that_is_asked_for_is_not_overruled_by_a_presets_layers(
    tiny_gpt2: EditableModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    preset = Preset(model="tiny", family="gpt2", n_layer=4, d_model=32, settings={"layers": (0, 2)})
    monkeypatch.setattr("factedit.edit.methods.rome_joint.ROME_JOINT_PRESETS", (preset,))
    make = lambda **own: rome_joint(tiny_gpt2, **own).describe()["layers"]  # noqa: E731
    assert make(layers=None) == [0, 2]
    assert make(layers=None, layer=3) == [3]
    assert make(layers=(1, 2)) == [1, 2]
    with pytest.raises(UsageError, match=r"both layer 3 and layers \(1, 2\)"):
        make(layers=(1, 2), layer=3)


def test_keys_of_many_facts_are_read_a_few_at_a_time(tiny_gpt2: EditableModel, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, read = prompt_rows_of(tiny_gpt2, REQUESTS, CONTEXTS, SETTINGS), list[int]()
    whole = keys_at(tiny_gpt2, 2, rows)

    def counted(model: EditableModel, layer: int, own: Any, kind: Any, **how: Any) -> Any:
        read.append(len(own))
        return batches_of(model, layer, own, kind, **how)

    monkeypatch.setattr("factedit.edit.many.spread_values.batches_of", counted)
    monkeypatch.setattr("factedit.engine.budget.tokens_optimised", lambda *_: 1)
    for own, before in zip(keys_at(tiny_gpt2, 2, rows), whole, strict=True):
        assert torch.allclose(own[0], before[0], atol=1e-6)
        assert torch.allclose(own[1], before[1], atol=1e-6)
    assert read == [1, 1, 1]


def test_keys_take_no_token_through_a_layer_above(any_family: EditableModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens before the subjects were run through the whole model for the keys of a low layer."""
    rows = prompt_rows_of(any_family, REQUESTS, CONTEXTS, SETTINGS)
    highest, run = list[int](), Segment.run

    def noted(segment: Segment, hidden: Tensor, layers: range, **how: Any) -> Tensor:
        highest.extend(layers[-1:])
        return run(segment, hidden, layers, **how)

    monkeypatch.setattr(Segment, "run", noted)
    read = keys_at(any_family, 1, rows)
    assert max(highest) == 1
    through_all = lambda *args, **_how: batches_of(*args)  # noqa: E731
    monkeypatch.setattr("factedit.edit.many.spread_values.batches_of", through_all)
    for now, before in zip(read, keys_at(any_family, 1, rows), strict=True):
        assert torch.equal(now[0], before[0])
        assert torch.equal(now[1], before[1])
    assert max(highest) == any_family.n_layer - 1
