"""A fact traced, edited, asked and undone on a tiny model, with text that would be markup."""

from __future__ import annotations

import torch

from conftest import tiny
from factedit.edit.method import make_method
from factedit.facts import EditRequest, FactRecord
from factedit.report.story import Story
from factedit.stats.second_moment import SecondMoment
from factedit.work.demo import trace_edit_undo


def tiny_story() -> Story:
    """What the page of the demo would show of it."""
    model = tiny("gpt2")
    record = FactRecord(
        case_id="1",
        request=EditRequest(subject="Paris", prompt="{} is in", target_new="<b>Seattle</b>", target_true="France"),
        paraphrases=("Where is Paris? In",),
        neighborhood=("Café is in", "LeBron James plays"),
        generation=("The capital is",),
    )
    moments = lambda m, _layer: SecondMoment(torch.eye(m.d_mlp))  # noqa: E731
    method = make_method(
        "rome",
        model,
        moments,
        layer=1,
        steps=12,
        learning_rate=0.1,
        kl=0.0,
        decay=0.0,
        context_templates=["{}", "In. {}"],
    )
    return trace_edit_undo(model, method, noise=0.5, record=record, trace_prompt="In Paris the")
