"""The published values, found by shape; departures by name."""

from __future__ import annotations

import pytest

from conftest import tiny
from factedit.edit.method_table import make_method
from factedit.edit.presets_baselines import FT_L_PRESETS, FT_PRESETS, NeuronSettings, preset_values
from factedit.errors import UsageError
from factedit.models.adapter import EditableModel


def shaped(family: str, n_layer: int, d_model: int) -> EditableModel:
    """Stands for a model of a shape too large to build here."""
    model = tiny(family)
    model.n_layer, model.d_model = n_layer, d_model
    return model


@pytest.mark.parametrize(
    ("shape", "layer", "bounded", "epsilon"),
    [
        (("gpt2", 48, 1600), 1, 0, 5e-4),
        (("gpt2", 36, 1280), 1, 0, 1e-3),
        (("gpt2", 24, 1024), 0, 0, 2e-3),
        (("gptj", 28, 4096), 21, 0, 5e-5),
    ],
)
def test_published_values(shape: tuple[str, int, int], layer: int, bounded: int, epsilon: float) -> None:
    model = shaped(*shape)
    free, held = (make_method(name, model, lambda *_: None) for name in ("ft", "ft-l"))  # type: ignore[arg-type, return-value]
    assert free.describe() == {
        "layer": layer, "learning_rate": 5e-4, "steps": 25, "stop_loss": 0.01, "epsilon": None,
    }  # fmt: skip
    assert held.describe()["layer"] == bounded
    assert held.describe()["epsilon"] == epsilon


def test_another_shape_has_no_preset(tiny_gpt2: EditableModel) -> None:
    assert preset_values(FT_PRESETS, tiny_gpt2) == {}
    assert preset_values(FT_L_PRESETS, shaped("llama", 48, 1600)) == {}


def test_neurons_have_the_published_thresholds() -> None:
    found = NeuronSettings()
    assert (found.steps, found.threshold, found.shared, found.scale) == (20, 0.2, 0.4, 2.0)


def test_departures_are_recorded_and_wrong_ones_refused(tiny_gpt2: EditableModel) -> None:
    nothing = lambda *_: None  # noqa: E731
    assert make_method("ft", tiny_gpt2, nothing, learning_rate=0.1).describe()["learning_rate"] == 0.1  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"settings of ft do not hold: clamp 4.* It has layer, learning_rate"):
        make_method("ft", tiny_gpt2, nothing, clamp=4)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="settings of ft-l do not hold: epsilon -1"):
        make_method("ft-l", tiny_gpt2, nothing, epsilon=-1)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="settings of kn do not hold: steps 1"):
        make_method("kn", tiny_gpt2, nothing, steps=1)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="Layer 9 was asked for"):
        make_method("ft", tiny_gpt2, nothing, layer=9)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("method", "setting"),
    [("rome", "clamp"), ("rome", "ridge"), ("memit", "decay"), ("alphaedit", "ridge"), ("ft", "learning_rate"),
     ("kn", "scale"), ("grace", "epsilon"), ("lora", "learning_rate"), ("retrieval", "threshold")],
)  # fmt: skip
def test_a_setting_that_is_not_finite_is_refused(tiny_gpt2: EditableModel, method: str, setting: str) -> None:
    """Before: the edit was computed, and then could not be saved, since JSON has no such number."""
    nothing = lambda *_: None  # noqa: E731
    for value in (float("inf"), float("nan")):
        with pytest.raises(UsageError, match=f"(?i)settings of {method} do not hold: {setting}"):
            make_method(method, tiny_gpt2, nothing, **{setting: value})  # type: ignore[arg-type]
