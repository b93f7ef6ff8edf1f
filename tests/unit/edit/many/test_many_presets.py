"""Presets of the methods for many facts: there for every model that the issue names, valid, and sourced."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import BaseModel

from factedit.edit.many import presets as many
from factedit.edit.many.settings import (
    AlphaEditSettings,
    EmmetSettings,
    EncoreSettings,
    MemitSettings,
    NseSettings,
    PmetSettings,
    TuningSettings,
    UltraEditSettings,
)
from factedit.edit.presets import FROM_HERE, Preset, presets_of
from factedit.edit.presets_baselines import FT_PRESETS, preset_values

XL, J, LLAMA3 = ("gpt2", 48, 1600, 50257), ("gptj", 28, 4096, 50400), ("llama", 32, 4096, 128256)
GEMMA, SMOL = ("gemma3_text", 18, 640, 262144), ("llama", 30, 576, 49152)
HIDDEN: dict[str, tuple[tuple[Preset, ...], type[BaseModel]]] = {
    "memit": (many.MEMIT_PRESETS, MemitSettings),
    "emmet": (many.EMMET_PRESETS, EmmetSettings),
    "alphaedit": (many.ALPHAEDIT_PRESETS, AlphaEditSettings),
    "pmet": (many.PMET_PRESETS, PmetSettings),
    "encore": (many.ENCORE_PRESETS, EncoreSettings),
    "nse": (many.NSE_PRESETS, NseSettings),
}


def shaped(shape: tuple[str, int, int, int]) -> Any:
    family, n_layer, d_model, vocab = shape
    return SimpleNamespace(family=SimpleNamespace(name=family), n_layer=n_layer, d_model=d_model, vocab=vocab)


@pytest.mark.parametrize("name", HIDDEN)
@pytest.mark.parametrize("shape", [XL, J, LLAMA3, GEMMA, SMOL], ids=["xl", "j", "llama3", "gemma", "smollm2"])
def test_every_method_of_hidden_values_has_one_for_every_model(name: str, shape: tuple[str, int, int, int]) -> None:
    presets, kind = HIDDEN[name]
    values = preset_values(presets, shaped(shape))
    layers = kind(**values).layers  # type: ignore[attr-defined]
    assert layers
    assert max(layers) < shape[1]
    assert all(preset.source for preset in presets)


@pytest.mark.parametrize(
    ("name", "shape", "published"),  # SPEC_MANY section 11
    [
        ("memit", XL, {"layers": (13, 14, 15, 16, 17), "weight": 20_000}),
        ("memit", J, {"layers": (3, 4, 5, 6, 7, 8), "weight": 15_000, "steps": 25}),
        ("memit", LLAMA3, {"layers": (4, 5, 6, 7, 8), "weight": 15_000, "steps": 25, "learning_rate": 0.1}),
        ("emmet", XL, {"layers": (17,), "weight": 1000, "softness": 0.1}),
        ("emmet", J, {"layers": (5,), "weight": 1, "softness": 0.1}),
        ("emmet", LLAMA3, {"layers": (5,), "weight": 1, "softness": 0.1, "clamp": 4.0, "decay": 1e-3}),
        ("alphaedit", LLAMA3, {"threshold": 2e-2, "l2": 10}),
        ("nse", XL, {"weight": 10_000, "near": 35, "far": 150, "strongest": 1.0}),
        ("nse", J, {"weight": 15_000, "near": 15, "far": 100, "strongest": 0.8}),
        ("nse", LLAMA3, {"weight": 15_000, "near": 2.5, "far": 50, "strongest": 1.0}),
        ("encore", XL, {"stop_after": 4, "damping": 10}),
        ("encore", LLAMA3, {"stop_after": 2, "damping": 20, "learning_rate": 0.5}),
    ],
)
def test_published_values(name: str, shape: tuple[str, int, int, int], published: dict[str, Any]) -> None:
    values = preset_values(HIDDEN[name][0], shaped(shape))
    assert {key: values.get(key) for key in published} == published


def test_pmet_and_ultraedit_as_published_on_gpt_j() -> None:
    pmet = PmetSettings(**preset_values(many.PMET_PRESETS, shaped(J)))
    assert (pmet.layers, pmet.weight, pmet.steps, pmet.learning_rate, pmet.kl) == ((3, 4, 5, 6, 7, 8), 6000, 30, 0.2, 1)
    ultra = UltraEditSettings(**preset_values(many.ULTRAEDIT_PRESETS, shaped(J)))
    assert ultra.matrices == tuple((layer, "out") for layer in range(18, 27))
    assert ultra.learning_rate == 1e-6


@pytest.mark.parametrize("name", HIDDEN)
def test_what_comes_from_here_is_no_published_setting(name: str) -> None:
    """A weight in the units of another model's keys must not stand in a preset of a model that it was not made for."""
    presets, _ = HIDDEN[name]
    here = [preset for preset in presets if preset.source in FROM_HERE]
    assert [preset.model for preset in here] == ["Gemma 3 270M", "SmolLM2 135M"]
    for preset in here:
        assert not {"weight", "l2", "threshold", "damping", "near", "far"} & set(preset.settings)
    for shape in (GEMMA, SMOL):
        with presets_of("published"):
            assert preset_values(presets, shaped(shape)) == {}


def test_memit_on_gemma_takes_rates_relative_to_each_fact() -> None:
    own = MemitSettings(**preset_values(many.MEMIT_PRESETS, shaped(GEMMA)))
    assert (own.layers, own.relative_rate, own.learning_rate) == ((1, 2, 3), True, 0.04)
    assert (own.subject_weight, own.share, own.weight) == (1.0, 0.9, None)


@pytest.mark.parametrize(
    ("shape", "layers"), [(XL, (31, 45)), (GEMMA, (11, 16)), (SMOL, (19, 28))], ids=["xl", "gemma", "smollm2"]
)
def test_ultraedit_takes_gpt_js_layers_by_depth(shape: tuple[str, int, int, int], layers: tuple[int, int]) -> None:
    """18 to 26 of 28; the rate follows from the matrix's shape, a rate of another shape would be none."""
    ultra = UltraEditSettings(**preset_values(many.ULTRAEDIT_PRESETS, shaped(shape)))
    assert ultra.learning_rate is None
    assert [place for place, _ in ultra.matrices] == list(range(layers[0], layers[1] + 1))
    assert {which for _, which in ultra.matrices} == {"out"}
    for end, of_j in zip(layers, (18, 26), strict=True):
        assert abs(end / (shape[1] - 1) - of_j / 27) < 1 / shape[1]


def test_tuning_takes_the_rate_that_was_tuned_for_ft_where_there_is_one() -> None:
    gemma, smol, llama = (
        TuningSettings(**preset_values(many.LOCFT_PRESETS, shaped(shape))) for shape in (GEMMA, SMOL, LLAMA3)
    )
    assert gemma.learning_rate == preset_values(FT_PRESETS, shaped(GEMMA))["learning_rate"] == 1e-4
    assert smol.learning_rate == llama.learning_rate == 5e-4
    assert (gemma.layer, smol.layer, llama.layer) == (12, 20, 22)
    with presets_of("published"):
        assert preset_values(many.LOCFT_PRESETS, shaped(GEMMA)) == {}
        assert preset_values(many.LOCFT_PRESETS, shaped(LLAMA3)) == {"layer": 22}
