"""Facts edited, measured, kept and told, by methods of either scope."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from conftest import tiny
from factedit.edit.artefact import Edit
from factedit.edit.method_table import make_method
from factedit.facts import EditRequest
from factedit.models.adapter import EditableModel
from factedit.stats.second_moment import SecondMoment
from factedit.work.edit import AT_ONCE, describe, edit_facts
from throwaway.two_layers import TwoLayers

FACTS = [
    EditRequest(subject="Paris", prompt="{} is in", target_new="Seattle", target_true="France"),
    EditRequest(subject="Seattle", prompt="So {} plays", target_new="basketball"),
]


def rome(model: EditableModel) -> object:
    moments = lambda m, _layer: SecondMoment(torch.eye(m.d_mlp))  # noqa: E731
    return make_method("rome", model, moments, layer=1, steps=2, context_templates=["{}"])


def test_single_edits_are_kept_under_numbers_and_bound_to_the_weights(tiny_gpt2: EditableModel, tmp_path: Path) -> None:
    before, steps = tiny_gpt2.fingerprint(), []
    found = edit_facts(tiny_gpt2, rome(tiny_gpt2), FACTS, folder=tmp_path / "e", progress=steps.append)
    assert [row.folder for row in found] == [tmp_path / "e" / "0000", tmp_path / "e" / "0001"]
    assert [row.edit.requests for row in found] == [(fact,) for fact in FACTS]
    assert [Edit.load(row.folder) for row in found] == [row.edit for row in found]
    assert {row.edit.made_for for row in found} == {before} == {tiny_gpt2.fingerprint()}
    assert steps == [2]


def test_one_fact_is_kept_in_the_folder_itself(tiny_gpt2: EditableModel, tmp_path: Path) -> None:
    [(edit, folder)] = edit_facts(tiny_gpt2, rome(tiny_gpt2), FACTS[:1], folder=tmp_path / "e")
    assert folder == tmp_path / "e"
    [(again, nowhere)] = edit_facts(tiny_gpt2, rome(tiny_gpt2), FACTS[:1])
    assert nowhere is None
    assert again.identity == edit.identity


def test_facts_of_single_edits_are_computed_in_parts_and_joint_ones_at_once(tiny_gpt2: EditableModel) -> None:
    asked: list[int] = []

    class Counted(TwoLayers):
        def edit(self, requests, state=None):
            asked.append(len(requests))
            return super().edit(requests, state)

    many = [EditRequest(subject=f"Paris {n}", prompt="{} is", target_new="in") for n in range(AT_ONCE + 1)]
    steps: list[int] = []
    [joint] = edit_facts(tiny_gpt2, Counted(tiny_gpt2), many, progress=steps.append)
    assert asked == steps == [AT_ONCE + 1]
    assert len(joint.edit.notes) == AT_ONCE + 1
    assert describe(joint)["requests"] == AT_ONCE + 1


def test_what_a_fact_hides_is_said(tiny_gpt2: EditableModel, caplog: pytest.LogCaptureFixture) -> None:
    fact = EditRequest(subject="Paris", prompt="{} is in ", target_new="cafe\u0301")
    edit_facts(tiny_gpt2, TwoLayers(tiny_gpt2), [fact])
    assert "ends in white space" in caplog.text
    assert "not in Unicode's NFC" in caplog.text


def test_an_edit_told_for_machines_is_json_and_an_insertion_gives_its_product() -> None:
    model = tiny("llama")
    [edited] = edit_facts(model, rome(model), FACTS[:1])
    row = json.loads(json.dumps(describe(edited, full=True)))
    assert row["request"] == {
        "subject": "Paris",
        "prompt": "{} is in",
        "target_new": "Seattle",
        "target_true": "France",
    }
    assert (row["method"], row["layer"], row["edit_dir"]) == ("rome", 1, None)
    product = torch.outer(torch.tensor(row["direction"]), torch.tensor(row["residual"])) / row["denominator"]
    [effect] = edited.edit.effects
    torch.testing.assert_close(product, effect.delta(), rtol=1e-5, atol=1e-9)
    assert "direction" not in describe(edited)
    [joint] = edit_facts(model, TwoLayers(model), FACTS)
    assert "direction" not in describe(joint, full=True)
