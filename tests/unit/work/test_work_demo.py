"""The demo's story is true: the edit shows, and undoing it gives the same bits or is an error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from conftest import tiny
from factedit.edit.artefact import Edit
from factedit.edit.method import make_method
from factedit.errors import EditError
from factedit.models.adapter import EditableModel
from factedit.stats.second_moment import SecondMoment
from factedit.work.demo import RECORD, trace_edit_undo
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
