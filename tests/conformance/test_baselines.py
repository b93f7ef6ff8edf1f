"""Fine-tuning and knowledge neurons on a tiny model of every editable family."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
import torch

from conftest import tiny
from factedit.edit.artefact import Edit
from factedit.edit.attribution import attributions
from factedit.edit.method_table import make_method
from factedit.engine.resume import next_token
from factedit.evaluate.probability import Question, score
from factedit.facts import EditRequest
from factedit.models.adapter import EditableModel
from factedit.models.positions import continuation

REQUESTS = [
    EditRequest(subject="LeBron James", prompt="{} plays the sport of", target_new="football", target_true="Paris"),
    EditRequest(subject="Paris", prompt="{} is the capital of", target_new="Seattle"),
    EditRequest(subject="Danielle Darrieux", prompt="The mother tongue of {} is", target_new="Москва"),
]
SETTINGS = {"ft": {"layer": 1, "steps": 6}, "ft-l": {"layer": 1, "steps": 6, "epsilon": 1e-3}, "kn": {"steps": 4}}
NAMES = sorted(SETTINGS)


def compute(name: str, model: EditableModel, requests: list[EditRequest] = REQUESTS, **changes: object) -> list[Edit]:
    def moments(_model: EditableModel, _layer: int) -> None:
        raise AssertionError("these methods need no second moment")

    return make_method(name, model, moments, **{**SETTINGS[name], **changes}).edit(requests).edits  # type: ignore[arg-type]


def log_p(model: EditableModel, edits: list[Edit], target: str = "target_new") -> list[tuple[float, float]]:
    cases = [[Question(r.text, getattr(r, target))] for r in REQUESTS[: len(edits)]]
    before, after = score(model, cases, [None, edits])
    return [(sum(b[0].log_p), sum(a[0].log_p)) for b, a in zip(before, after, strict=True)]


@pytest.mark.parametrize("name", ["ft", "ft-l"])
def test_the_target_becomes_likelier(name: str, editable_family: EditableModel) -> None:
    edits = compute(name, editable_family)
    for before, after in log_p(editable_family, edits):
        assert after > before + 1e-3
    for edit in edits:
        losses = [loss for [loss] in edit.told_of(0)["losses"]]
        assert losses[-1] < losses[0]


def test_the_loss_is_the_mean_over_the_target(editable_family: EditableModel) -> None:
    """The first loss is −1/|o*| log P(o*), as the evaluation reads it off another way."""
    edits = compute("ft", editable_family, steps=1)
    for request, edit in zip(REQUESTS, edits, strict=True):
        [[read]] = score(editable_family, [[Question(request.text, request.target_new)]], [None])[0]
        assert edit.told_of(0)["losses"][0][0] == pytest.approx(-sum(read.log_p) / len(read.log_p), abs=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_many_at_once_equal_one_by_one(name: str, editable_family: EditableModel) -> None:
    for request, edit in zip(REQUESTS, compute(name, editable_family), strict=True):
        [alone] = compute(name, editable_family, [request])
        assert len(alone.effects) == len(edit.effects)
        for one, other in zip(alone.effects, edit.effects, strict=True):
            # Adam divides by the gradient's size: where that is nearly nothing, rounding decides the entry
            gap = (one.delta() - other.delta()).norm() / one.delta().norm()
            assert gap < 0.02, gap


@pytest.mark.parametrize("name", NAMES)
def test_the_model_is_untouched_and_the_edit_undone(name: str, editable_family: EditableModel) -> None:
    before = editable_family.fingerprint()
    flags = [p.requires_grad for p in editable_family.lm.parameters()]
    edits = compute(name, editable_family)
    assert editable_family.fingerprint() == before
    assert [p.requires_grad for p in editable_family.lm.parameters()] == flags
    assert all(p.grad is None for p in editable_family.lm.parameters())
    for edit in edits:
        with edit.applied_to(editable_family):
            assert editable_family.fingerprint() != before
        assert editable_family.fingerprint() == before


@pytest.mark.parametrize("name", NAMES)
def test_the_same_bits_again(name: str, editable_family: EditableModel) -> None:
    first, second = compute(name, editable_family), compute(name, editable_family)
    assert [edit.identity for edit in first] == [edit.identity for edit in second]


@pytest.mark.parametrize("signed", [False, True])
def test_neurons_are_those_the_answer_hangs_on(signed: bool, editable_family: EditableModel) -> None:
    """The neurons' rows of W move by two embeddings of the new object less two of the old, and no other row does."""
    model, request = editable_family, REQUESTS[0]
    [edit] = compute("kn", model, [request], signed=signed)
    words = model.lm.get_output_embeddings().weight.detach()
    new, old = model.tokenizer.convert_tokens_to_ids(["f", "Pa"])  # not the Ġ before them: a space is no answer
    starts = [continuation(model, request.text, str(t)) for t in (request.target_new, request.target_true)]
    assert [ids[first:][:2] for ids, first in starts] == [
        tuple(model.tokenizer.convert_tokens_to_ids(pieces)) for pieces in (["Ġ", "f"], ["Ġ", "Pa"])
    ]
    neurons = {(layer, entry) for layer, entry in edit.told_of(0)["neurons"]}
    moved = {(c.layer, int(n)) for c in edit.effects for n in c.delta().any(1).nonzero()[:, 0]}
    assert moved == neurons
    row, seen = 2 * (words[new] - words[old]), {}
    with ExitStack() as stack, torch.no_grad():
        for layer in range(model.n_layer):
            stack.enter_context(model.on_matrix(layer, lambda k, _v, n=layer: seen.update({n: k[0, -1].clone()})))
        model.lm(input_ids=torch.tensor([starts[1][0][: starts[1][1] + 1]]))  # up to the space before the old object
    for change in edit.effects:
        for n in change.delta().any(1).nonzero()[:, 0]:
            sign = seen[change.layer][n].sign() if signed else 1.0
            torch.testing.assert_close(change.delta()[n], sign * row)
        if signed:  # so that each neuron adds the new object and takes off the old, whatever its sign
            moved = seen[change.layer] @ change.delta() @ row
            assert float(moved) > 0


def test_attributions_add_up(editable_family: EditableModel) -> None:
    """Completeness: Σ over a layer's entries is P[o] with its key less P[o] without."""
    model = editable_family
    if model.places[0].norm is not None:
        pytest.skip("the norm after the matrix gives P[o] a jump where the key vanishes, which no sum over steps sees")
    ids = model.tokenizer(REQUESTS[0].text)["input_ids"]
    answer = next_token(model, ids)
    found = attributions(model, ids, answer, steps=400).scores
    for layer in (0, 3):

        def silent(key: torch.Tensor, value: torch.Tensor, layer: int = layer) -> torch.Tensor:
            taken = value.clone()
            taken[:, -1] -= key[:, -1] @ model.weight(layer)
            return taken

        with torch.no_grad():
            whole = model.lm(input_ids=torch.tensor([ids])).logits[0, -1].softmax(-1)[answer]
            with model.on_matrix(layer, silent):
                without = model.lm(input_ids=torch.tensor([ids])).logits[0, -1].softmax(-1)[answer]
        assert float(found[layer].sum()) == pytest.approx(float(whole - without), abs=2e-3 + 0.02 * float(whole))


def test_ft_l_stays_within_its_bound() -> None:
    model = tiny("gpt2")
    [bounded] = compute("ft-l", model, REQUESTS[:1], epsilon=2e-4)
    delta = bounded.effects[0].delta()
    assert float(delta.abs().max()) == pytest.approx(2e-4)
    assert float((delta.abs() > 1.99e-4).float().mean()) > 0.2, "Adam reaches the bound in one step"
    [free] = compute("ft", model, REQUESTS[:1])
    assert float(free.effects[0].delta().abs().max()) > 4e-4


def test_a_fact_that_stops_early_rests() -> None:
    """A fact whose loss is below the threshold keeps its change while the others go on."""
    model = tiny("gpt2")
    losses = [[row[0] for row in edit.told_of(0)["losses"]] for edit in compute("ft", model)]
    threshold = min(own[3] for own in losses) + 1e-4
    together = compute("ft", model, stop_loss=threshold)
    assert len({len(edit.told_of(0)["losses"]) for edit in together}) > 1, "the facts stop at different steps"
    for request, edit in zip(REQUESTS, together, strict=True):
        [alone] = compute("ft", model, [request], stop_loss=threshold)
        assert len(alone.told_of(0)["losses"]) == len(edit.told_of(0)["losses"])
        gap = (alone.effects[0].delta() - edit.effects[0].delta()).norm() / alone.effects[0].delta().norm()
        assert gap < 0.02, gap
