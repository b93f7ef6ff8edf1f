"""ROME's published settings, typed in again from the paper's program, and by what they are found."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from conftest import random_moment
from factedit.edit.method import make_method
from factedit.edit.presets import settings_for
from factedit.facts import EditRequest
from factedit.models.adapter import EditableModel
from plain import edits_of, factors_of, notes_of

PUBLISHED = {"learning_rate": 0.5, "steps": 20, "decay": 0.5, "kl": 0.0625, "stop_loss": 0.05, "ridge": 0.0}
SAMPLED = {"contexts": ((10, 5), (10, 10)), "context_openings": ("",), "subject_weight": 0.0, "stretch": 1.0}


def shaped(family: str, n_layer: int, d_model: int, vocab: int = 50257) -> Any:
    """Stands for a model of a shape too large to build here."""
    return SimpleNamespace(family=SimpleNamespace(name=family), n_layer=n_layer, d_model=d_model, vocab=vocab)


@pytest.mark.parametrize(
    ("shape", "layer", "clamp"),
    [
        (("gpt2", 24, 1024), 8, 3.0),
        (("gpt2", 36, 1280), 12, 4.0),
        (("gpt2", 48, 1600), 17, 4.0),
        (("gptj", 28, 4096), 5, 4.0),
    ],
)
def test_the_published_settings(shape: tuple[str, int, int], layer: int, clamp: float) -> None:
    found = settings_for(shaped(*shape)).model_dump()
    expected = {**PUBLISHED, **SAMPLED, "layer": layer, "clamp": clamp, "relative_rate": False}
    assert {name: found[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("shape", "layer"),
    [
        (("gpt2", 48, 1024), 17),  # XL's depth, another width
        (("gpt2", 36, 1600), 13),  # large's depth, XL's width
        (("gpt_neo", 24, 1024), 8),  # medium's shape in another family
        (("llama", 12, 768), 4),
        (("llama", 60, 6656), 21),
    ],
)
def test_another_shape_takes_the_layer_to_scale_and_no_presets_values(shape: tuple[str, int, int], layer: int) -> None:
    """XL's layer 17 of 48 to scale; GPT-2 medium's clamp of 3 is nobody else's."""
    found = settings_for(shaped(*shape)).model_dump()
    assert {name: found[name] for name in PUBLISHED} == PUBLISHED
    assert (found["layer"], found["clamp"]) == (layer, 4.0)


@pytest.mark.parametrize("name", ["rome", "rome-original"])
def test_the_norms_that_an_edit_reports_are_those_of_its_matrices(tiny_gpt2: EditableModel, name: str) -> None:
    request = EditRequest(subject="Paris", prompt="{} is in", target_new="football")
    settings = {"layer": 1, "steps": 3, "context_templates": ("{}", "In. {}")}
    method = make_method(name, tiny_gpt2, lambda m, _layer: random_moment(m.d_mlp), **settings)
    [edit] = edits_of(method, tiny_gpt2, [request])
    left, right = factors_of(edit)
    weight = tiny_gpt2.lm.transformer.h[1].mlp.c_proj.weight.detach()
    assert notes_of(edit)["update_norm"] == pytest.approx(float((left @ right).norm()), rel=1e-4)
    assert notes_of(edit)["weight_norm"] == pytest.approx(float(weight.norm()), rel=1e-4)
    assert notes_of(edit)["residual_norm"] == pytest.approx(
        float(right.norm()) * abs(notes_of(edit)["denominator"]), rel=1e-4
    )
