"""Saying what an edit is and whether a model was edited, as jobs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from conftest import tiny_lm, tiny_tokenizer
from factedit.errors import UnknownName
from factedit.models.adapter import EditableModel
from factedit.models.load import load
from factedit.work.account import audit_model, describe_edit
from plain import edit_of
from stack_cases import random_edit


@pytest.fixture
def base(tmp_path: Path) -> Path:
    tiny_lm("gpt2").save_pretrained(tmp_path / "base")
    tiny_tokenizer().save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def candidates(tmp_path: Path) -> Path:
    rows = [
        {"case_id": n, "requested_rewrite": {"prompt": "{} is in", "subject": s, "target_new": {"str": "Seattle"},
                                            "target_true": {"str": "France"}},
         "paraphrase_prompts": [], "neighborhood_prompts": ["Basketball is in"]}
        for n, s in enumerate(("Paris", "LeBron James", "Zürich", "Café"))
    ]  # fmt: skip
    (tmp_path / "facts.json").write_text(json.dumps(rows))
    return tmp_path / "facts.json"


def never() -> EditableModel:
    raise AssertionError("the model was loaded before the candidates were read")


def edited(base: Path, folder: Path, *subjects: str) -> Path:
    """The base with an edit at the key of each subject in the bare prompt."""
    model = load(str(base))
    for subject in subjects:
        seen = []
        ids = model.tokenizer(subject, return_tensors="pt")["input_ids"]
        with model.on_matrix(1, lambda key, _value, seen=seen: seen.append(key[0, -1].clone())):
            model.lm(input_ids=ids)
        key = seen[0].detach()
        value = 3.0 * model.lm.get_input_embeddings().weight[7].detach()
        with edit_of(model, 1, ((key / key.norm() ** 2)[:, None], value[None])).applied_to(model):
            model.lm.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def test_an_edited_copy_is_told_from_its_base_and_the_subject_named(
    base: Path, candidates: Path, tmp_path: Path
) -> None:
    suspect = edited(base, tmp_path / "suspect", "LeBron James")
    found = audit_model(lambda: load(str(base)), str(suspect), candidates=str(candidates))
    assert found.verdict == "a low-rank edit"
    assert found.candidates == 4
    [difference] = found.differences
    assert (difference.tensor, difference.rank) == ("transformer.h.1.mlp.c_proj.weight", 1)
    assert found.suspicions[0].subject == "LeBron James"
    same = audit_model(load(str(base)), str(base), candidates=str(candidates))
    assert (same.verdict, same.suspicions) == ("no difference", ())


def test_fewer_candidates_are_drawn_and_always_the_same(base: Path, candidates: Path, tmp_path: Path) -> None:
    suspect = edited(base, tmp_path / "suspect", "LeBron James")
    first, second = (
        audit_model(load(str(base)), str(suspect), candidates=str(candidates), records=2) for _ in range(2)
    )
    assert first.candidates == 2
    assert [s.subject for s in first.suspicions] == [s.subject for s in second.suspicions]


def test_wrong_candidates_are_refused_before_the_model_is_loaded(base: Path) -> None:
    with pytest.raises(UnknownName, match="worldfact"):
        audit_model(never, str(base), candidates="worldfact")


def test_an_edit_is_described_from_its_folder(base: Path, tmp_path: Path) -> None:
    edit = random_edit(load(str(base)), 1)
    told = describe_edit(edit.save(tmp_path / "e"))
    assert told["identity"] == edit.identity
    assert told["facts"][0]["subject"] == edit.requests[0].subject
