"""The published programs' numbers for methods without hidden values: UltraEdit and LocFT-BF."""

from __future__ import annotations

import random
from contextlib import ExitStack

import pytest
import torch

from factedit.edit.many.gradients import GradientNormaliser, gradient_rows, observed
from factedit.edit.method_table import make_method
from factedit.edit.state import State
from factedit.edit.target_rows import target_row
from factedit.models.adapter import EditableModel
from factedit.stats.second_moment import SecondMoment
from many_reference import Reference, distance, reference_model

TENSORS = 1e-3  # relative Frobenius distance


def no_moments(_model: EditableModel, _layer: int) -> SecondMoment:
    raise AssertionError("these methods need no second moment")


def test_ultraedit_rows_and_normaliser() -> None:
    """The gradient batch of the first turn: rows by falling length, and what the normaliser makes of them."""
    reference, model = Reference("ultraedit"), reference_model()
    facts = [reference.requests[n] for n in reference.batches[0]]
    rows = [target_row(model, fact.text, fact.target_new) for fact in facts]
    rows.sort(key=lambda row: -len(row.ids))
    found = gradient_rows(model, rows, [(layer, "out") for layer in reference.layers])
    for layer in reference.layers:
        assert distance(found[layer, "out"].inputs, reference.tensors[f"0.k.{layer}"]) < TENSORS
        assert distance(found[layer, "out"].slopes, reference.tensors[f"0.grad.{layer}"]) < TENSORS
    [normaliser] = observed({}, found).values()
    assert normaliser.count == reference.steps[0]["rows_seen"]
    assert distance(normaliser.mean, reference.tensors["0.mean"]) < TENSORS
    assert distance(normaliser.deviation, reference.tensors["0.std"]) < TENSORS


@pytest.mark.parametrize("program", ["ultraedit", "ultraedit-two-batches"])
def test_ultraedit(program: str) -> None:
    reference, model = Reference(program), reference_model()
    before, own = model.fingerprint(), reference.settings
    method = make_method(
        "ultraedit",
        model,
        no_moments,
        matrices=tuple((layer, "out") for layer in reference.layers),
        learning_rate=own["lr"],
        batch=own["batch_size"],
    )
    state: State | None = None
    with ExitStack() as stack:
        for turn, facts in enumerate(reference.batches):
            made = method.edit([reference.requests[n] for n in facts], state)
            [edit], state = made
            assert state is not None
            [width] = {mean.shape[0] for name, mean in state.tensors.items() if name.startswith("mean")}
            mean, total, count = (state.tensors[f"{part}.256x{width - 256}"] for part in ("mean", "total", "count"))
            assert distance(mean, reference.of(turn, "mean")) < TENSORS
            assert distance((total / (float(count) - 1)).sqrt(), reference.of(turn, "std")) < TENSORS
            for effect in edit.effects:
                expected = reference.update(turn, effect.layer)
                if len(expected):
                    assert distance(effect.delta(), expected) < TENSORS
                norm = reference.steps[turn]["update_norm"][reference.layers.index(effect.layer)]
                assert float(effect.delta().norm()) == pytest.approx(norm, rel=TENSORS)
            stack.enter_context(edit.applied_to(model))
            logits = reference.of(turn, "logits_post")
            if len(logits):
                assert distance(reference.logits(model), logits) < TENSORS
    assert model.fingerprint() == before


def test_a_single_row_does_not_poison_the_normaliser() -> None:
    """The program's is NaN from a gradient batch of one target token on."""
    rows = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    found = GradientNormaliser.empty(6, rows.device).after(rows[:1]).after(rows[1:])
    assert torch.isfinite(found.deviation).all()
    torch.testing.assert_close(found.mean, rows.mean(0))


def test_locft_bf() -> None:
    """Batches of one: the program pads no row, so its positions are right there."""
    reference, model = Reference("locft-bf-batch-1"), reference_model()
    own = reference.settings
    order, shuffler = list(range(len(reference.requests))), random.Random(own["shuffle_seed"])
    for expected in reference.json["orders"]:
        shuffler.shuffle(order)
        assert order == expected
    settings = {"layer": own["layer"], "learning_rate": own["lr"], "batch": own["batch_size"], "epochs": own["epochs"]}
    method = make_method("locft-bf", model, no_moments, shuffle_seed=own["shuffle_seed"], **settings)
    [edit] = method.edit(reference.requests).edits
    assert edit.diagnostics["batch_losses"] == pytest.approx(reference.json["batch_losses"], abs=1e-4)
    assert edit.diagnostics["epoch_losses"] == pytest.approx(reference.json["epoch_losses"], abs=1e-4)
    [effect] = edit.effects
    assert distance(effect.delta(), reference.tensors["delta.3"]) < TENSORS
    with edit.applied_to(model):
        assert distance(reference.logits(model), reference.tensors["logits_post"]) < TENSORS


def plain_loss(facts: list[int], *, padded: bool) -> float:
    """The mean over rows of the mean over target tokens, by whole passes; padded left as in the program, or not at all.

    The program gives no positions, so the shorter row of a batch is read at shifted ones.
    """
    reference, model = Reference("locft-bf"), reference_model()
    end = model.tokenizer.convert_tokens_to_ids(reference.settings["eos"])
    rows = []
    for fact in facts:
        request = reference.requests[fact]
        prompt, whole = (model.tokenizer(text)["input_ids"] for text in
                         (request.text, f"{request.text} {request.target_new}"))  # fmt: skip
        rows.append(([*whole, end], len(prompt)))
    longest = max(len(ids) for ids, _ in rows)
    losses = []
    for ids, first in rows:
        before = longest - len(ids) if padded else 0
        row = torch.tensor([[reference.settings["pad_token_id"]] * before + ids])
        mask = (torch.arange(len(row[0])) >= before).long()[None]
        with torch.no_grad():
            read = model.lm(row, attention_mask=mask, position_ids=torch.arange(len(row[0]))[None]).logits[0]
        log_p = read.log_softmax(-1)[before + first - 1 : -1].gather(1, row[0, before + first :, None])
        losses.append(-float(log_p.mean()))
    return sum(losses) / len(losses)


def test_locft_bf_in_batches_reads_every_row_at_its_own_positions() -> None:
    """Where the program pads, it reads the shorter row elsewhere: its first loss is that, ours is that of the row."""
    reference, model = Reference("locft-bf"), reference_model()
    own = reference.settings
    settings = {"layer": own["layer"], "learning_rate": own["lr"], "batch": own["batch_size"], "epochs": own["epochs"]}
    method = make_method("locft-bf", model, no_moments, shuffle_seed=own["shuffle_seed"], **settings)
    [edit] = method.edit(reference.requests).edits
    losses, first = edit.diagnostics["batch_losses"], reference.json["orders"][0][:2]
    assert reference.json["batch_losses"][0] == pytest.approx(plain_loss(first, padded=True), abs=2e-4)
    assert losses[0] == pytest.approx(plain_loss(first, padded=False), abs=2e-4)
    assert len(losses) == len(reference.json["batch_losses"])
    expected = reference.tensors["delta.3"]
    assert distance(edit.effects[0].delta(), expected) < 1, "the same way, from other positions"
