"""ROME's theorems, and that an edit does what it says and nothing stays behind."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from conftest import random_moment, tiny
from factedit.edit.artefact import Edit, rows_edited
from factedit.edit.effects.low_rank import LowRank
from factedit.edit.method import make_method
from factedit.edit.methods.rome import Rome
from factedit.edit.updates import insert
from factedit.edit.value import find_values
from factedit.errors import DataError, EditError, UnknownName, UsageError
from factedit.facts import EditRequest
from factedit.models.adapter import EditableModel
from factedit.models.positions import locate
from factedit.stats.second_moment import SecondMoment

CONTEXTS = ("{}", "The first time. {}", "In Paris. {}")
REQUESTS = [
    EditRequest(subject="LeBron James", prompt="{} plays the sport of", target_new="football"),
    EditRequest(subject="Paris", prompt="{} is the capital of", target_new="Seattle"),
    EditRequest(subject="Danielle Darrieux", prompt="The mother tongue of {} is", target_new="Москва"),
]
SETTINGS = {"layer": 1, "context_templates": CONTEXTS, "steps": 6, "learning_rate": 0.2}


def rome(model: EditableModel, name: str = "rome", **changes: object) -> Rome:
    settings = {**SETTINGS, **changes}
    return make_method(name, model, lambda m, _layer: random_moment(m.d_mlp), **settings)  # type: ignore[return-value]


def value_at_subject(model: EditableModel, layer: int, template: str, request: EditRequest) -> torch.Tensor:
    found = locate(model, template.replace("{}", request.prompt, 1), request.subject)
    seen: list[torch.Tensor] = []
    with model.on_matrix(layer, lambda _k, v: seen.append(v[0, found.subject_last].clone())), torch.no_grad():
        model.lm(input_ids=torch.tensor([found.ids]))
    return seen[0]


def test_stationarity() -> None:
    """(Ŵ − W) C is rank one with rows along k*: the condition of the constrained minimum, which needs C."""
    moment, key, residual = random_moment(20), torch.randn(20).double(), torch.randn(7).double()
    delta = insert(moment.solve(key), key, residual).delta()
    torch.testing.assert_close(key @ delta, residual)  # the constraint Ŵk* = v*
    gradient = moment.matrix @ delta  # [d_mlp, d_model]: every column along k*
    torch.testing.assert_close(gradient, torch.outer(key, key @ gradient / (key @ key)))
    wrong = insert(key, key, residual).delta()  # C = I meets the constraint too,
    torch.testing.assert_close(key @ wrong, residual)
    other = moment.matrix @ wrong  # but not the condition
    assert (other - torch.outer(key, key @ other / (key @ key))).norm() > 0.05 * other.norm()


def test_it_is_the_minimum() -> None:
    """No other change that meets the constraint disturbs the stored keys less."""
    keys = torch.randn(9, 30).double()
    moment, key, residual = SecondMoment(keys @ keys.T / 30), torch.randn(9).double(), torch.randn(4).double()
    best = insert(moment.solve(key), key, residual).delta()
    for _ in range(20):
        other = torch.randn(9, 4).double()
        other -= torch.outer(key, key @ other) / (key @ key)  # leaves the constraint as it is
        assert (keys.T @ (best + 0.1 * other)).norm() > (keys.T @ best).norm()


def test_a_vanishing_denominator_is_refused() -> None:
    with pytest.raises(EditError, match="not finite"):
        insert(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]), torch.ones(2))
    with pytest.raises(EditError, match="not finite"):
        insert(torch.tensor([1.0, float("nan")]), torch.ones(2), torch.ones(2))


def test_the_value_at_the_mean_key_moves_by_delta(editable_family: EditableModel) -> None:
    """Averaged over the contexts the edited matrix's output at the subject moves by exactly δ."""
    model, request = editable_family, REQUESTS[2]
    [edit] = rome(model).edit([request]).edits
    residual = edit.effects[0].right[0] * edit.told_of(0)["denominator"]
    before = torch.stack([value_at_subject(model, 1, c, request) for c in CONTEXTS]).mean(0)
    with edit.applied_to(model):
        after = torch.stack([value_at_subject(model, 1, c, request) for c in CONTEXTS]).mean(0)
    torch.testing.assert_close(after - before, residual, atol=2e-4, rtol=1e-3)


def test_original_moves_the_bare_prompt_by_delta(tiny_gpt2: EditableModel) -> None:
    request = REQUESTS[0]
    [edit] = rome(tiny_gpt2, "rome-original").edit([request]).edits
    residual = edit.effects[0].right[0] * edit.told_of(0)["denominator"]
    before = value_at_subject(tiny_gpt2, 1, "{}", request)
    with edit.applied_to(tiny_gpt2):
        after = value_at_subject(tiny_gpt2, 1, "{}", request)
    torch.testing.assert_close(after - before, residual, atol=1e-4, rtol=1e-3)
    assert edit.method == "rome-original"


def test_the_target_becomes_likelier(editable_family: EditableModel) -> None:
    model = editable_family
    for edit in rome(model, clamp=100.0, decay=0.0, kl=0.0).edit(REQUESTS).edits:
        nll = [losses[1] for losses in edit.told_of(0)["losses"]]
        assert min(nll) < nll[0] - 0.002, nll


def test_many_at_once_equal_one_by_one(editable_family: EditableModel) -> None:
    model = editable_family
    together = rome(model).edit(REQUESTS).edits
    for request, edit in zip(REQUESTS, together, strict=True):
        [alone] = rome(model).edit([request]).edits
        torch.testing.assert_close(edit.effects[0].delta(), alone.effects[0].delta(), atol=2e-4, rtol=1e-3)
        torch.testing.assert_close(
            torch.tensor(edit.told_of(0)["losses"]), torch.tensor(alone.told_of(0)["losses"]), atol=1e-3, rtol=1e-3
        )


def test_a_fact_that_stops_early_rests(tiny_gpt2: EditableModel) -> None:
    """A fact whose loss is below the threshold keeps its δ while the others go on."""
    settings = rome(tiny_gpt2).settings
    losses = find_values(tiny_gpt2, 1, REQUESTS, CONTEXTS, settings)
    threshold = sorted(v.losses[3].total for v in losses)[0] + 1e-4
    stopping = settings.model_copy(update={"stop_loss": threshold})
    together = find_values(tiny_gpt2, 1, REQUESTS, CONTEXTS, stopping)
    assert len({len(v.losses) for v in together}) > 1, "the facts stop at different steps"
    for request, value in zip(REQUESTS, together, strict=True):
        [alone] = find_values(tiny_gpt2, 1, [request], CONTEXTS, stopping)
        assert len(alone.losses) == len(value.losses)
        torch.testing.assert_close(alone.delta, value.delta, atol=2e-4, rtol=1e-3)


def test_a_model_in_float64_gives_the_same_values(tiny_gpt2: EditableModel) -> None:
    """A more exact model is edited too, and by as much as float32's rounding allows the same."""
    exact = EditableModel(copy.deepcopy(tiny_gpt2.lm).double(), tiny_gpt2.tokenizer)
    settings = rome(tiny_gpt2).settings
    for own, other in zip(*(find_values(m, 1, REQUESTS, CONTEXTS, settings) for m in (tiny_gpt2, exact)), strict=True):
        torch.testing.assert_close(own.delta.double(), other.delta.double(), atol=2e-4, rtol=1e-3)
        assert [losses.total for losses in own.losses] == pytest.approx([losses.total for losses in other.losses], 1e-4)


def test_clamp_and_number_of_evaluations(tiny_gpt2: EditableModel) -> None:
    [edit] = rome(tiny_gpt2, clamp=0.02, steps=5).edit(REQUESTS[:1]).edits
    assert len(edit.told_of(0)["losses"]) == 5
    assert edit.told_of(0)["residual_norm"] == pytest.approx(0.02 * edit.told_of(0)["value_norm"], rel=1e-4)
    [none] = rome(tiny_gpt2, steps=1).edit(REQUESTS[:1]).edits
    assert none.told_of(0)["residual_norm"] == 0.0, "one evaluation, no update"


def test_a_relative_rate_moves_every_value_by_the_same_share(tiny_gpt2: EditableModel) -> None:
    share = {}
    for relative in (False, True):
        one_update = rome(tiny_gpt2, steps=2, learning_rate=0.01, relative_rate=relative, decay=0.0)
        notes = [edit.told_of(0) for edit in one_update.edit(REQUESTS).edits]
        share[relative] = [note["residual_norm"] / note["value_norm"] for note in notes]
    expected = 0.01 * tiny_gpt2.d_model**0.5  # Adam's first step is the rate in every entry
    assert share[True] == pytest.approx([expected] * len(REQUESTS), rel=1e-3)
    assert max(share[False]) > 1.05 * min(share[False]), "with one rate for all, short values move further"


def test_undo_restores_the_bits(editable_family: EditableModel) -> None:
    model = editable_family
    before = model.fingerprint()
    flags = [p.requires_grad for p in model.lm.parameters()]
    edits = rome(model).edit(REQUESTS).edits
    assert model.fingerprint() == before, "computing does not change the model"
    for edit in edits:
        with edit.applied_to(model):
            assert model.fingerprint() != before
        assert model.fingerprint() == before

    def fail_inside() -> None:
        with edits[0].applied_to(model), edits[1].applied_to(model, force=True):
            raise KeyError

    with pytest.raises(KeyError):
        fail_inside()
    assert model.fingerprint() == before
    assert [p.requires_grad for p in model.lm.parameters()] == flags
    assert all(p.grad is None for p in model.lm.parameters())


@torch.no_grad()
def test_rows_of_a_batch_carry_their_own_edits(editable_family: EditableModel) -> None:
    model = editable_family
    edits = [*rome(model, clamp=50.0).edit(REQUESTS[:2]).edits, None]
    ids = torch.tensor([[5, 17, 99, 40, 7]]).repeat(3, 1)
    with rows_edited(model, edits):
        together = model.lm(input_ids=ids).logits
    for row, edit in enumerate(edits):
        if edit is None:
            alone = model.lm(input_ids=ids[:1]).logits
        else:
            with edit.applied_to(model):
                alone = model.lm(input_ids=ids[:1]).logits
        torch.testing.assert_close(together[row], alone[0], atol=5e-4, rtol=1e-3)
    assert (together[0] - together[2]).abs().max() > 1e-3


def test_save_and_load(tmp_path: Path, tiny_gpt2: EditableModel) -> None:
    [edit] = rome(tiny_gpt2).edit(REQUESTS[:1]).edits
    edit = edit.with_outcomes([({"a": 1}, {"a": 2})])
    again = Edit.load(edit.save(tmp_path / "edit"))
    assert again.manifest() == edit.manifest()
    assert torch.equal(again.effects[0].delta(), edit.effects[0].delta())
    edit.save(tmp_path / "edit")  # over an older edit
    (tmp_path / "edit" / "edit.safetensors").write_bytes(b"short")
    with pytest.raises(DataError, match="does not hold a whole edit"):
        Edit.load(tmp_path / "edit")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(EditError, match="is not an edit"):
        edit.save(tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "precious"


def test_another_model_is_refused_unless_forced(tiny_gpt2: EditableModel) -> None:
    [edit] = rome(tiny_gpt2).edit(REQUESTS[:1]).edits
    edit = edit.with_outcomes([({}, {})])
    other = tiny("gpt2", seed=5)
    with pytest.raises(EditError, match="Edits do not carry over"), edit.applied_to(other):
        pass
    with edit.applied_to(other, force=True):
        assert other.fingerprint() != tiny("gpt2", seed=5).fingerprint()
    with pytest.raises(EditError, match=r"changes a matrix \[128, 32\]"), edit.applied_to(tiny("llama"), force=True):
        pass


def test_non_finite_changes_are_refused(tiny_gpt2: EditableModel) -> None:
    before = tiny_gpt2.fingerprint()
    change = LowRank(1, torch.full((128, 1), float("inf")), torch.ones(1, 32))
    bad = Edit(method="x", requests=(), effects=(change,), made_for=before)
    with pytest.raises(EditError, match="not finite"), bad.applied_to(tiny_gpt2):
        pass
    assert tiny_gpt2.fingerprint() == before


def test_wrong_names_layers_and_contexts(tiny_gpt2: EditableModel) -> None:
    with pytest.raises(UnknownName, match="Did you mean rome"):
        rome(tiny_gpt2, "rom")
    with pytest.raises(UsageError, match="Layer 9 was asked for; tiny-gpt2 has layers 0 to 3"):
        rome(tiny_gpt2, layer=9)
    with pytest.raises(UsageError, match="exactly one"):
        rome(tiny_gpt2, context_templates=["{}", "no braces"])


@pytest.mark.parametrize("name", ["rome", "rome-original"])
def test_an_edit_of_half_precision_weights_keeps_the_digits_of_float32(name: str) -> None:
    model = tiny("gpt2")
    model.lm.to(torch.bfloat16)
    edits = rome(model, name).edit(REQUESTS).edits
    for edit in edits:
        [change] = edit.effects
        assert isinstance(change, LowRank)
        for factor in (change.left, change.right):
            assert factor.dtype == torch.float32
            assert not torch.equal(factor, factor.bfloat16().float())
    whole = EditableModel(model.lm.float(), model.tokenizer)  # the same weights, summed in float32
    for half, full in zip(edits, rome(whole, name).edit(REQUESTS).edits, strict=True):
        ours, exact = half.effects[0].delta(), full.effects[0].delta()
        assert (ours - exact).norm() < 0.2 * exact.norm()
