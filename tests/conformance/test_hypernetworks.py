"""KE and MEND on a tiny model of every editable family: trained a little, and then editing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from conftest import EDITABLE, tiny
from factedit.edit.artefact import Edit
from factedit.edit.effects.low_rank import LowRank
from factedit.edit.effects.weights import weights_changed
from factedit.edit.factors import gradient_factors, last_matrices, products_added
from factedit.edit.method_table import make_method
from factedit.edit.target_rows import TargetBatch, target_row
from factedit.edit.trained import NETWORK_KINDS, NetworkKind
from factedit.evaluate.probability import Question, score
from factedit.models.adapter import EditableModel
from tiny_training import RECORDS, train_tiny

REQUESTS = [RECORDS[n].request for n in (0, 7, 22)]


@pytest.fixture(
    scope="module", params=[(f, k) for f in EDITABLE for k in NETWORK_KINDS], ids=lambda p: f"{p[0]}-{p[1]}"
)
def trained(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[EditableModel, NetworkKind, Path]:
    family, kind = request.param
    model, folder = tiny(family), tmp_path_factory.mktemp("trained") / "network"
    train_tiny(model, kind, folder)
    return model, kind, folder


def compute(trained: tuple[EditableModel, NetworkKind, Path], requests=REQUESTS) -> list[Edit]:
    model, kind, folder = trained
    method = make_method(f"{kind}-zsre", model, lambda *_: None, trained=folder)  # type: ignore[arg-type, return-value]
    return method.edit(requests).edits


def test_edits_make_the_target_likelier(trained: tuple[EditableModel, NetworkKind, Path]) -> None:
    model = trained[0]
    cases = [[Question(r.text, r.target_new)] for r in REQUESTS]
    before, after = score(model, cases, [None, compute(trained)])
    gains = [sum(a[0].log_p) - sum(b[0].log_p) for b, a in zip(before, after, strict=True)]
    assert sum(gains) / len(gains) > 0.05, gains


def test_the_model_is_untouched_and_the_edit_undone(trained: tuple[EditableModel, NetworkKind, Path]) -> None:
    model = trained[0]
    before, flags = model.fingerprint(), [p.requires_grad for p in model.lm.parameters()]
    edits = compute(trained)
    assert model.fingerprint() == before
    assert [p.requires_grad for p in model.lm.parameters()] == flags
    assert all(p.grad is None for p in model.lm.parameters())
    with edits[0].applied_to(model):
        assert model.fingerprint() != before
    assert model.fingerprint() == before


def test_many_at_once_equal_one_by_one(trained: tuple[EditableModel, NetworkKind, Path]) -> None:
    for request, edit in zip(REQUESTS, compute(trained), strict=True):
        [alone] = compute(trained, [request])
        assert [(c.layer, c.matrix) for c in alone.effects] == list(last_matrices(trained[0], 3))
        for one, other in zip(alone.effects, edit.effects, strict=True):
            torch.testing.assert_close(one.delta(), other.delta(), atol=1e-5, rtol=1e-3)


def test_the_same_bits_again(trained: tuple[EditableModel, NetworkKind, Path]) -> None:
    assert [e.identity for e in compute(trained)] == [e.identity for e in compute(trained)]


def test_the_factors_are_the_gradient(editable_family: EditableModel) -> None:
    """Σ x δᵀ is what automatic differentiation gives for the matrix itself."""
    model = editable_family
    places = last_matrices(model, 2)
    rows = [target_row(model, r.text, r.target_new) for r in REQUESTS[:2]]
    factors = gradient_factors(TargetBatch(model, places[0][0], rows), places)
    for n, request in enumerate(REQUESTS[:2]):
        row = target_row(model, request.text, request.target_new)
        parameters = [model.matrix(*place).parameter for place in places]
        logits = model.lm(input_ids=torch.tensor([row.ids])).logits[0, list(row.reads)]
        loss = torch.nn.functional.cross_entropy(logits, torch.tensor(row.targets))
        for place, gradient in zip(places, torch.autograd.grad(loss, parameters), strict=True):
            plain = gradient if model.family.stored_in_out else gradient.T
            ours = factors.inputs[place][n].T @ factors.slopes[place][n]
            torch.testing.assert_close(ours, plain, atol=2e-5, rtol=1e-3)


def test_products_on_rows_equal_changed_weights(editable_family: EditableModel) -> None:
    """What training sees of an edit is what the edit does to the weights."""
    model = editable_family
    places = last_matrices(model, 2)
    rows = [target_row(model, r.text, r.target_new) for r in REQUESTS[:2]]
    batch, random = TargetBatch(model, places[0][0], rows), torch.Generator().manual_seed(0)
    products = {}
    for place in places:
        d_in, d_out = model.weight(*place).shape
        products[place] = tuple(0.2 * torch.randn(2, *s, generator=random) for s in ((d_in, 2), (2, d_out)))
    with torch.no_grad(), products_added(model, products):
        together = batch.losses()
    for n, row in enumerate(rows):
        own = [LowRank(p[0], left[n], right[n], p[1]) for p, (left, right) in products.items()]
        with weights_changed(model, own), torch.no_grad():
            alone = TargetBatch(model, 0, [row]).losses()
        torch.testing.assert_close(together[n], alone[0], atol=1e-4, rtol=1e-3)
    with torch.no_grad():
        assert float((together - batch.losses()).abs().max()) > 1e-3, "the products do something"
