"""One edit of many facts: its norms, what it says of layers, and facts whose keys are nearly one."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
import torch

from conftest import random_moment
from factedit.edit.artefact import Notes
from factedit.edit.effects.dense import Dense
from factedit.edit.effects.low_rank import LowRank
from factedit.edit.many.conflicts import near_keys
from factedit.edit.many.one_edit import PAIRS_TOLD, base_of, one_edit, same_keys, tell_near, update_norm
from factedit.edit.state import State
from factedit.errors import EditError
from factedit.facts import EditRequest
from factedit.models.adapter import EditableModel
from factedit.stats.preserved import Preserved

FACTS = [EditRequest(subject=f"Subject {n}", prompt="{} is in", target_new="x") for n in range(40)]


def random(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("rank", [1, 3, 9])
def test_the_norm_of_a_product_is_that_of_the_whole_change(rank: int) -> None:
    effect = LowRank(1, random(1, 20, rank), random(2, rank, 7))
    assert update_norm(effect) == pytest.approx(float((effect.left @ effect.right).norm()), rel=1e-5)
    dense = Dense(1, effect.left @ effect.right, "out")
    assert update_norm(dense) == pytest.approx(update_norm(effect), rel=1e-5)


def test_norms_of_an_edit_are_over_all_its_matrices(tiny_gpt2: EditableModel) -> None:
    model = tiny_gpt2
    effects = [LowRank(layer, random(layer, model.d_mlp, 2), random(9, 2, model.d_model)) for layer in (1, 2)]
    edit = one_edit("m", model, FACTS[:2], effects, notes=[Notes(), Notes()], settings={"a": 1},
                    layers={1: {"scale": 3.0}}, diagnostics={"missing": 0.5})  # fmt: skip
    norms = [float((e.left @ e.right).norm()) for e in effects]
    weights = [float(model.weight(layer).norm()) for layer in (1, 2)]
    assert edit.diagnostics["update_norm"] == pytest.approx(sum(n**2 for n in norms) ** 0.5, rel=1e-5)
    assert edit.diagnostics["weight_norm"] == pytest.approx(sum(n**2 for n in weights) ** 0.5, rel=1e-5)
    assert edit.diagnostics["layers"]["1"] == {"scale": 3.0, "update_norm": pytest.approx(norms[0], rel=1e-5)}
    assert edit.diagnostics["layers"]["2"] == {"update_norm": pytest.approx(norms[1], rel=1e-5)}
    assert (edit.diagnostics["missing"], edit.settings, edit.made_for) == (0.5, {"a": 1}, model.fingerprint())


def test_a_sequence_begins_with_the_weights_of_its_first_batch(tiny_gpt2: EditableModel) -> None:
    kept = Preserved(tiny_gpt2, 1, random_moment(tiny_gpt2.d_mlp))
    of_base = replace(kept, moment=replace(kept.moment, model="base"))
    assert base_of(tiny_gpt2, [kept], None) == tiny_gpt2.fingerprint()
    assert base_of(tiny_gpt2, [kept, of_base], State(base="base", tensors={})) == "base"
    with pytest.raises(EditError, match=r"belongs to the base another.*the second moments to base"):
        base_of(tiny_gpt2, [of_base], State(base="another", tensors={}))


def test_facts_of_one_key_are_named_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "factedit")
    keys = torch.eye(6)[[0, 1, 1, 2]]
    tell_near(FACTS[:4], *near_keys(keys, torch.eye(6)[[5, 2]]))
    assert same_keys(keys, torch.eye(6)[[5, 2]]) == {
        "same_key": [[1, 2]],
        "same_key_as_earlier": [[3, 1]],
        "same_keys": 2,
    }
    assert "'Subject 1 is in' and 'Subject 2 is in' have nearly the same key" in caplog.text
    assert "'Subject 3 is in' has nearly the same key as fact 1 of those before" in caplog.text


def test_of_very_many_the_first_are_named_and_all_counted(caplog: pytest.LogCaptureFixture) -> None:
    tell_near(FACTS, *near_keys(torch.ones(40, 3), torch.zeros(0, 3)))
    told = same_keys(torch.ones(40, 3), torch.zeros(0, 3))
    assert (len(told["same_key"]), told["same_keys"]) == (PAIRS_TOLD, 40 * 39 // 2)
    assert caplog.text.count("have nearly the same key: of") == PAIRS_TOLD
    assert f"{40 * 39 // 2 - PAIRS_TOLD} more pairs" in caplog.text


def test_facts_of_different_keys_say_nothing(caplog: pytest.LogCaptureFixture) -> None:
    tell_near(FACTS[:3], *near_keys(torch.eye(3), torch.zeros(0, 3)))
    assert same_keys(torch.eye(3), torch.zeros(0, 3))["same_keys"] == 0
    assert caplog.text == ""
