"""LoRA: the merged edit is what peft computes, its loss is the target's, and the copy is all that changes."""

from __future__ import annotations

import sys

import pytest
import torch

from conftest import tiny
from factedit.edit.effects.low_rank import LowRank
from factedit.edit.method_table import make_method
from factedit.edit.methods.lora import LoraSettings, _tune, lora_factors, with_factors
from factedit.edit.target_rows import target_row
from factedit.errors import UsageError
from factedit.facts import EditRequest
from factedit.models.adapter import EditableModel
from plain import encode

REQUESTS = [
    EditRequest(subject="Paris", prompt="{} is in", target_new="Seattle"),
    EditRequest(subject="LeBron James", prompt="{} plays the sport of", target_new="football"),
]
GIVEN = {"layers": (1, 2), "steps": 12, "rank": 3, "learning_rate": 0.02}
NAMES = {"gpt2": "transformer.h.{}.mlp.c_proj", "llama": "model.layers.{}.mlp.down_proj"}


def edit_of(model: EditableModel, **changes: object):  # type: ignore[no-untyped-def]
    [edit] = make_method("lora", model, None, **{**GIVEN, **changes}).edit(REQUESTS).edits  # type: ignore[arg-type]
    return edit


@torch.no_grad()
def mean_loss(lm: object, model: EditableModel) -> float:
    each = []
    for request in REQUESTS:
        ids = encode(model, f"{request.text} {request.target_new}")
        first = len(encode(model, request.text))
        log_p = lm(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)  # type: ignore[operator]
        each.append(-float(log_p[range(first - 1, len(ids) - 1), ids[first:]].mean()))
    return sum(each) / len(each)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_the_merged_edit_is_what_peft_computes(family: str) -> None:
    model = tiny(family)
    before, modules = model.fingerprint(), [type(m) for m in model.lm.modules()]
    edit = edit_of(model)
    assert model.fingerprint() == before
    assert [type(m) for m in model.lm.modules()] == modules, "the factors were put beside a copy"
    assert [(type(e), e.layer, e.rank) for e in edit.effects] == [(LowRank, 1, 3), (LowRank, 2, 3)]
    losses = edit.diagnostics["losses"]
    assert losses[0] == pytest.approx(mean_loss(model.lm, model), abs=1e-4)
    assert losses[-1] < 0.7 * losses[0]
    with edit.applied_to(model):
        assert mean_loss(model.lm, model) == pytest.approx(losses[-1], abs=1e-3)
    own = LoraSettings(rank=3, steps=12, learning_rate=0.02)
    names = [NAMES[family].format(layer) for layer in (1, 2)]
    torch.manual_seed(0)
    tuned = with_factors(model, names, own)
    _tune(model, tuned, [target_row(model, r.text, r.target_new) for r in REQUESTS], own)
    for effect, name in zip(edit.effects, names, strict=True):
        left, right = lora_factors(tuned, name)
        torch.testing.assert_close(effect.left @ effect.right, left @ right)
    merged = tuned.merge_and_unload()
    ids = torch.tensor([[5, 17, 99, 40]])
    with edit.applied_to(model), torch.no_grad():
        torch.testing.assert_close(model.lm(input_ids=ids).logits, merged(input_ids=ids).logits, atol=1e-4, rtol=1e-4)


def test_the_same_bits_again_and_facts_in_batches() -> None:
    model = tiny("gpt2")
    state = torch.get_rng_state()
    one, two, other = edit_of(model, steps=3), edit_of(model, steps=3), edit_of(model, steps=3, seed=1)
    assert torch.equal(torch.get_rng_state(), state), "no seed of the process is moved"
    assert one.identity == two.identity != other.identity
    by_one = edit_of(model, steps=4, batch=1).diagnostics["losses"]
    whole = edit_of(model, steps=1).diagnostics["losses"][0]
    assert len(by_one) == 4
    assert abs(by_one[0] - whole) > 1e-3, "the loss of one fact"
    early = edit_of(model, stop_loss=whole + 1).diagnostics["losses"]
    assert early == pytest.approx([whole])


def test_the_end_and_the_layers() -> None:
    model = tiny("gpt2")
    made = make_method("lora+stop", model, None, steps=1)  # type: ignore[arg-type]
    assert made.describe()["stop"] == "end"
    assert made.describe()["layers"] == [0, 1, 2, 3]
    [edit] = made.edit(REQUESTS).edits
    assert [note.diagnostics["target_tokens"] for note in edit.notes] == [
        len(encode(model, f"{r.text} {r.target_new}")) - len(encode(model, r.text)) + 1 for r in REQUESTS
    ]
    with pytest.raises(UsageError, match="layer"):
        make_method("lora", model, None, layers=(9,))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"settings of lora do not hold: rank 0"):
        make_method("lora", model, None, rank=0)  # type: ignore[arg-type]


def test_without_peft_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UsageError, match=r"pip install 'factedit\[peft\]'"):
        edit_of(tiny("gpt2"))
