"""The embedded model, for real: skipped, saying so, where its package is not installed."""

from __future__ import annotations

from functools import partial

import pytest

from factedit.edit.method_table import make_method
from factedit.edit.presets import settings_for
from factedit.models.adapter import EditableModel
from factedit.report.story import Story
from factedit.stats.provide import Moments, shipped_moment
from factedit.trace.sweep import trace_fact
from factedit.work import demo
from factedit.work.demo import RECORD, trace_edit_undo

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def story(gemma: EditableModel) -> Story:
    """The demo's story, its trace of 4 samples."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "trace_fact", partial(trace_fact, samples=4))
        return trace_edit_undo(gemma, make_method("rome", gemma, Moments()), noise=2.0)


def test_a_second_moment_ships_for_these_weights(gemma: EditableModel) -> None:
    moment = shipped_moment(gemma.fingerprint(), settings_for(gemma).layer or 0)
    assert moment is not None
    assert moment.tokens >= 100_000
    assert moment.matrix.shape == (gemma.d_mlp, gemma.d_mlp)
    assert moment.ridge_used == 0.0


def test_the_fact_is_where_the_paper_says(story: Story) -> None:
    """Early site: MLP outputs at the last subject token; late site: attention at the last token."""
    traced = story.trace
    assert (traced.prompt, traced.subject) == ("The Space Needle is in downtown", "The Space Needle")
    assert traced.answer.strip() == "Seattle"
    assert traced.total_effect > 0.3
    token, layer = traced.peak("mlp")
    assert token == traced.subject_range[1] - 1
    assert 2 <= layer <= 7
    assert traced.peak("attn")[0] == len(traced.tokens) - 1


def test_the_whole_story(story: Story, gemma: EditableModel) -> None:
    before, after = story.scores
    assert before["ES"] == 0
    assert after["ES"] == 100
    assert after["PS"] == 100
    assert after["NS"] >= before["NS"] - 20
    assert story.restored
    assert story.fingerprints[0] == gemma.fingerprint()
    assert story.answers[0].text[1].strip().startswith(RECORD.request.target_new)
