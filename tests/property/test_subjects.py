"""The second moment over subjects' names: what it is, and that an edit leaves other names alone for it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from conftest import random_moment, tiny
from factedit.data.worldfacts import names_for_moments
from factedit.edit.method_table import make_method
from factedit.edit.methods.rome import Rome
from factedit.errors import UsageError
from factedit.facts import EditRequest
from factedit.models.adapter import EditableModel
from factedit.stats import subjects
from factedit.stats.subjects import subject_keys, subject_moment, subject_names

NAMES = {"rome": "Rome", "louvre": "The Louvre", "danielle darrieux": "Danielle Darrieux", "東京": "東京"}
STRANGER = EditRequest(subject="LeBron James", prompt="{} plays the sport of", target_new="football")
ONE_OF_THEM = EditRequest(subject="the Louvre", prompt="{} stands in", target_new="Москва")


@pytest.fixture(autouse=True)
def _few_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FACTEDIT_CACHE", str(tmp_path))
    for module in ("factedit.stats.subjects", "factedit.stats.preserved"):
        monkeypatch.setattr(f"{module}.subject_names", lambda: NAMES)


def last_keys(model: EditableModel, layer: int) -> torch.Tensor:
    """The definition: the whole model over each name alone."""
    seen: list[torch.Tensor] = []
    with model.on_matrix(layer, lambda k, _v: seen.append(k[0, -1].clone())), torch.no_grad():
        for name in NAMES.values():
            model.lm(input_ids=torch.tensor([model.tokenizer(name)["input_ids"]]))
    return torch.stack(seen)


def rome(model: EditableModel, weight: float | None, name: str = "rome", **changes: float) -> Rome:
    given = changes if weight is None else {"subject_weight": weight, **changes}
    found = make_method(
        name, model, lambda m, _layer: random_moment(m.d_mlp), layer=1, steps=3,
        context_templates=("{}", "In Paris. {}"), **given,
    )  # fmt: skip
    assert isinstance(found, Rome)
    return found


def test_the_names_are_those_of_the_embedded_facts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    names = subject_names()
    assert len(names) > 1000
    assert set(names.values()) == set(names_for_moments())
    assert all(subjects.plain_name(name) == plain for plain, name in names.items())


def test_the_definition(editable_family: EditableModel) -> None:
    model = editable_family
    keys = last_keys(model, 1)
    torch.testing.assert_close(
        subject_keys(model, 1, [("{}", name) for name in NAMES.values()]), keys, rtol=1e-4, atol=1e-5
    )
    found = subject_moment(model, 1)
    torch.testing.assert_close(found.matrix.double(), (keys.T @ keys / 4).double(), rtol=1e-4, atol=1e-5)
    assert "4 subjects" in found.corpus


def test_it_is_computed_once(tiny_gpt2: EditableModel, monkeypatch: pytest.MonkeyPatch) -> None:
    first = subject_moment(tiny_gpt2, 1)
    monkeypatch.setattr(subjects, "subject_keys", lambda *_a: pytest.fail("computed again"))
    assert torch.equal(subject_moment(tiny_gpt2, 1).matrix, first.matrix)
    with pytest.raises(pytest.fail.Exception):
        subject_moment(tiny("gpt2", seed=1), 1)


def test_other_names_feel_less_of_an_edit(editable_family: EditableModel) -> None:
    """And the mean key still moves the value by δ: the constraint holds under any C."""
    model, felt = editable_family, []
    keys = last_keys(model, 1).double()
    for weight in (0.0, 100.0):
        [edit] = rome(model, weight).edit([STRANGER]).edits
        change, residual = edit.effects[0].delta().double(), edit.effects[0].right[0] * edit.told_of(0)["denominator"]
        felt.append(float((keys @ change).norm() / residual.norm()))
        mean = rome(model, weight).prepare([STRANGER])[0].key
        torch.testing.assert_close((mean.double() @ change).float(), residual, rtol=1e-3, atol=1e-5)
    assert felt[1] < 0.5 * felt[0]


def test_the_edited_subject_is_left_out_of_the_names(tiny_gpt2: EditableModel) -> None:
    method = rome(tiny_gpt2, 100.0)
    [edit] = method.edit([ONE_OF_THEM]).edits
    others = last_keys(tiny_gpt2, 1)[[0, 2, 3]].double()
    without = random_moment(tiny_gpt2.d_mlp).matrix + 100.0 * others.T @ others / 4
    expected = torch.linalg.solve(without, method.prepare([ONE_OF_THEM])[0].key.double())
    torch.testing.assert_close(edit.effects[0].left[:, 0], (expected / expected.norm()).float(), rtol=1e-3, atol=1e-5)
    whole = method.preserved.moment.solve(method.prepare([ONE_OF_THEM])[0].key)
    assert (whole / whole.norm() - expected / expected.norm()).norm() > 5e-3, "leaving it out matters"


def test_only_rome_takes_the_presets_weight(tiny_gpt2: EditableModel, monkeypatch: pytest.MonkeyPatch) -> None:
    from factedit.edit.presets import RomeSettings

    preset = RomeSettings(layer=1, subject_weight=2.0, stretch=1.5)
    monkeypatch.setattr(
        "factedit.edit.methods.rome.settings_for", lambda _model, **changes: preset.model_copy(update=changes)
    )
    assert rome(tiny_gpt2, None).settings.subject_weight == 2.0
    assert "random; and 2 times the names of 4 subjects" in rome(tiny_gpt2, None).preserved.moment.corpus
    assert rome(tiny_gpt2, None, "rome-original").settings.subject_weight == 0.0
    assert rome(tiny_gpt2, None, "rome-original").preserved.moment.corpus == "random"
    assert rome(tiny_gpt2, None, "rome-original").settings.stretch == 1.0
    assert rome(tiny_gpt2, None).preparation == rome(tiny_gpt2, None, "rome-original").preparation, "one v* for both"


def test_a_stretched_value(tiny_gpt2: EditableModel) -> None:
    made = [rome(tiny_gpt2, 2.0), rome(tiny_gpt2, 2.0, stretch=1.6)]
    [plain], [stretched] = (method.edit([STRANGER]).edits for method in made)
    torch.testing.assert_close(stretched.effects[0].delta(), 1.6 * plain.effects[0].delta())
    assert stretched.told_of(0)["residual_norm"] == pytest.approx(1.6 * plain.told_of(0)["residual_norm"])
    assert stretched.told_of(0)["losses"] == plain.told_of(0)["losses"]


def test_the_fingerprint_of_a_sum_is_that_of_its_parts(tiny_gpt2: EditableModel) -> None:
    """Another processor computes the names' moment with other last bits; a run's results must be found again there."""
    base, names = random_moment(tiny_gpt2.d_mlp), subject_moment(tiny_gpt2, 1)
    found = base.plus(names, 2.0).fingerprint
    rounded = replace(names, matrix=names.matrix * (1 + 1e-6))
    assert base.plus(rounded, 2.0).fingerprint == found
    assert base.plus(rounded, 2.0).with_ridge(0.1).fingerprint == found
    assert base.fingerprint != found
    others = [
        replace(base, matrix=base.matrix * (1 + 1e-6)).plus(names, 2.0),
        base.plus(names, 2.0 + 1e-9),
        base.plus(replace(names, corpus="other names"), 2.0),
        base.plus(replace(names, layer=0), 2.0),
        base.plus(replace(names, model="another"), 2.0),
        base.plus(replace(names, model=""), 2.0),
        base.plus(replace(rounded, model=""), 2.0),
    ]
    assert len({found, *(moment.fingerprint for moment in others)}) == len(others) + 1


def test_a_negative_weight_is_refused(tiny_gpt2: EditableModel) -> None:
    with pytest.raises(UsageError, match="subject_weight"):
        rome(tiny_gpt2, -1.0)
    with pytest.raises(UsageError, match="must not be negative"):
        random_moment(4).plus(random_moment(4), -1.0)
