"""The demo's story is true: the edit shows, and undoing it gives the same bits or is an error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from conftest import tiny
from factedit.edit.artefact import Edit
from factedit.edit.method_table import make_method
from factedit.errors import EditError, UsageError
from factedit.facts import EditRequest, FactRecord
from factedit.models.adapter import EditableModel
from factedit.stats.second_moment import SecondMoment
from factedit.work.demo import RECORD, _with_true, demonstrate, trace_edit_undo
from tiny_story import tiny_story


def test_the_story_is_true() -> None:
    story = tiny_story()
    assert story.restored
    assert story.fingerprints[1] != story.fingerprints[0]
    assert [a.part for a in story.answers] == ["rewrite", "paraphrase", "neighbour", "neighbour", "open"]
    rewrite = story.answers[0]
    assert rewrite.new is not None
    assert rewrite.new[1] > rewrite.new[0]


def test_a_method_that_leaves_something_behind_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def leaky(self: Edit, model: EditableModel) -> Iterator[EditableModel]:
        model.matrix(1).parameter.data += 1e-3
        yield model

    monkeypatch.setattr(Edit, "applied_to", leaky)
    model = tiny("gpt2", n_positions=256, max_position_embeddings=256)
    moments = lambda m, _layer: SecondMoment(torch.eye(m.d_mlp))  # noqa: E731
    method = make_method("rome", model, moments, layer=1, steps=2, context_templates=["{}"])
    with pytest.raises(EditError, match="did not restore the same bits"):
        trace_edit_undo(model, method, noise=0.5, record=RECORD)


def test_a_fact_of_ones_own_and_a_saved_edit(tmp_path: Path) -> None:
    """Without a true object what the model writes now stands for it; a saved edit is tested as it is."""
    model = tiny("gpt2", n_positions=256, max_position_embeddings=256)
    request = EditRequest(subject="Paris", prompt="{} is in", target_new="Seattle", target_true="France")
    moments = lambda m, _layer: SecondMoment(torch.eye(m.d_mlp))  # noqa: E731
    [edit] = make_method("rome", model, moments, layer=1, steps=2, context_templates=["{}"]).edit([request]).edits
    edit.save(tmp_path / "edit")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("factedit.work.demo.noise_for", lambda *_: 0.5)
        found = demonstrate(model, edit=tmp_path / "edit")
        assert found.story.edit.identity == edit.identity
        assert [answer.part for answer in found.story.answers] == ["rewrite"]
        assert found.as_json()["request"]["target_true"] == "France"
        other = FactRecord(case_id="1", request=replace(request, subject="France"))
        with pytest.raises(UsageError, match="The edit is of 'Paris is in', and the facts are of 'France is in'"):
            demonstrate(model, record=other, edit=tmp_path / "edit")
    unknown = FactRecord(case_id="1", request=replace(request, target_true=None))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("factedit.work.demo.continue_texts", lambda *_args, **_how: [" the Louvre, and"])
        assert _with_true(model, unknown).request.target_true == "the Louvre"
        patch.setattr("factedit.work.demo.continue_texts", lambda *_args, **_how: [" Seattle."])
        with pytest.raises(UsageError, match="--true-target"):
            _with_true(model, unknown)
