"""ROME at other tokens (arXiv 2202.05262, figure 5): where the key, the offset and the essence are, counted by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from factedit.evaluate.layer_sweep import rows_at
from factedit.facts import EditRequest
from factedit.models.adapter import EditableModel
from factedit.models.load import load
from plain import encode, prompt_after, token_at

CONTEXTS = ("{}", "In the year 1999 the company. {}")
REQUEST = EditRequest(subject="Danielle Darrieux", prompt="The mother tongue of {} is", target_new="Africa")


@pytest.fixture(scope="module")
def model(golden_dir: Path) -> EditableModel:
    """Its tokenizer puts the space and the target's beginning into one token, as those of real models do."""
    return load(str(golden_dir))


@pytest.mark.parametrize("token", ["subject_first", "subject_last", "last"])
def test_the_offset_is_added_at_the_token_the_sweep_is_named_after(model: EditableModel, token: str) -> None:
    *rows, _ = rows_at(model, 0, REQUEST, CONTEXTS, token)
    assert [row.context for row in rows] == [0, 1]
    for row, context in zip(rows, CONTEXTS, strict=True):
        text, subject_last = prompt_after(context, REQUEST)
        ids, whole = encode(model, text), encode(model, f"{text} {REQUEST.target_new}")
        assert whole[: len(ids)] == ids
        place = {
            "subject_first": token_at(model, text, subject_last + 1 - len(REQUEST.subject)),
            "subject_last": token_at(model, text, subject_last),
            "last": len(ids) - 1,
        }[token]
        assert row.subject_last == place
        assert list(row.ids) == whole[:-1]
        assert list(row.reads) == list(range(len(ids) - 1, len(whole) - 1)), "the target is read where it is due"
        assert list(row.targets) == whole[len(ids) :]


@pytest.mark.parametrize("token", ["subject_first", "subject_last", "last"])
def test_the_essence_is_read_at_the_same_place_of_its_own_text(model: EditableModel, token: str) -> None:
    """At the subject's first or last token of "{} is a"; for the prompt's last token, at the end of that text."""
    essence = rows_at(model, 0, REQUEST, CONTEXTS, token)[-1]
    text = f"{REQUEST.subject} is a"
    ids = encode(model, text)
    place = {
        "subject_first": 0,
        "subject_last": token_at(model, text, len(REQUEST.subject) - 1),
        "last": len(ids) - 1,
    }[token]
    assert len({0, token_at(model, text, len(REQUEST.subject) - 1), len(ids) - 1}) == 3
    assert (essence.subject_last, essence.reads, essence.targets) == (place, (place,), ())
    assert list(essence.ids) == ids[: place + 1]
