"""The embedded model, for real: skipped, saying so, where its package is not installed."""

from __future__ import annotations

import pytest

from factedit.edit.method import make_method
from factedit.edit.presets import settings_for
from factedit.errors import ModelError
from factedit.models.adapter import EditableModel
from factedit.models.load import load
from factedit.stats.provide import Moments, shipped_moment
from factedit.trace.sweep import trace_fact
from factedit.work.demo import RECORD, trace_edit_undo

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def gemma() -> EditableModel:
    """Gemma 3 270M."""
    try:
        return load("gemma3-270m")
    except ModelError as error:
        pytest.skip(str(error))


def test_a_second_moment_ships_for_these_weights(gemma: EditableModel) -> None:
    moment = shipped_moment(gemma.fingerprint(), settings_for(gemma).layer or 0)
    assert moment is not None
    assert moment.tokens >= 100_000
    assert moment.matrix.shape == (gemma.d_mlp, gemma.d_mlp)
    assert moment.ridge_used == 0.0


def test_the_fact_is_where_the_paper_says(gemma: EditableModel) -> None:
    """Early site: MLP outputs at the last subject token; late site: attention at the last token."""
    found = trace_fact(
        gemma, "The Space Needle is in downtown", "The Space Needle", noise=2.0, samples=4, kinds=("mlp", "attn")
    )
    assert found.answer.strip() == "Seattle"
    assert found.total_effect > 0.3
    token, layer = found.peak("mlp")
    assert token == found.subject_range[1] - 1
    assert 2 <= layer <= 7
    assert found.peak("attn")[0] == len(found.tokens) - 1


def test_the_whole_story(gemma: EditableModel) -> None:
    method = make_method("rome", gemma, Moments())
    story = trace_edit_undo(gemma, method, noise=2.0, trace_prompt="The Space Needle is in")
    before, after = story.scores
    assert before["ES"] == 0
    assert after["ES"] == 100
    assert after["PS"] == 100
    assert after["NS"] >= before["NS"] - 20
    assert story.restored
    assert story.answers[0].text[1].strip().startswith(RECORD.request.target_new)
