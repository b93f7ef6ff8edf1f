"""Presets are found by shape, and by vocabulary where a shape is shared."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from factedit.edit.presets import PRESETS, RomeSettings, preset_for, presets_of, rome_values
from factedit.errors import UnknownName


def shaped(family: str, n_layer: int, d_model: int, vocab: int) -> Any:
    return SimpleNamespace(family=SimpleNamespace(name=family), n_layer=n_layer, d_model=d_model, vocab=vocab)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        (("gpt2", 48, 1600, 50257), "GPT-2 XL"),
        (("llama", 32, 4096, 128256), "Llama 3 8B"),
        (("llama", 32, 4096, 32000), None),  # Llama 2 7B has the same shape
        (("gpt2", 12, 768, 50257), None),
    ],
)
def test_found_by_shape(shape: tuple[str, int, int, int], expected: str | None) -> None:
    found = preset_for(shaped(*shape))
    assert (found and found.model) == expected


def test_every_preset_holds_and_names_its_source() -> None:
    for preset in PRESETS:
        assert RomeSettings(**preset.settings).layer is not None
        assert preset.source


def test_a_tuned_preset_can_be_taken_away() -> None:
    """What the published settings compute is to be had on every model."""
    gemma, xl = shaped("gemma3_text", 18, 640, 262144), shaped("gpt2", 48, 1600, 50257)
    assert rome_values(gemma)["stretch"] == 1.6
    with presets_of("published"):
        assert rome_values(gemma) == {"layer": 6}  # 17 of 48 layers, of 18
        assert rome_values(xl)["layer"] == 17
    with presets_of("none"):
        assert preset_for(xl) is None
    assert rome_values(gemma)["stretch"] == 1.6
    with pytest.raises(UnknownName, match="Unknown preset"), presets_of("nonsense"):
        pass
