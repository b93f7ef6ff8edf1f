"""Settings of the methods that ROME is compared with, and where each preset comes from.

Like ROME's, a preset is found by the shape of the model (architecture, layers, width), never by its name.
"""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from factedit.edit.endings import Stop
from factedit.edit.presets import PUBLISHED, TUNED_HERE, Preset, off, preset_for, what_is_wrong
from factedit.errors import UsageError
from factedit.models.adapter import EditableModel

_Settings = TypeVar("_Settings", bound=BaseModel)


class FineTuningSettings(BaseModel):
    """Settings of fine-tuning one matrix; the defaults are those of the published program on GPT-2 XL.

    Args:
        layer: the layer whose matrix is tuned; None takes the preset's.
        learning_rate: Adam's.
        steps: evaluations of the loss at most, an update after each.
        stop_loss: stop when the loss is below.
        epsilon: every entry of the change is kept within ± this (`ft-l`); None does not (`ft`).
        stop: how the target ends: `none`, in the `end`-of-text token, or as a `sentence` (published: none).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    layer: int | None = None
    learning_rate: float = Field(5e-4, gt=0)
    steps: int = Field(25, ge=1)
    stop_loss: float = Field(0.01, ge=0)
    epsilon: float | None = Field(None, gt=0)
    stop: Stop = Field("none", exclude_if=off)


class NeuronSettings(BaseModel):
    """Settings of knowledge neurons; the defaults are those of the published program on GPT-2 XL.

    Args:
        steps: points of the integral from zero to the key.
        threshold: a neuron counts in a prompt if its attribution is above this share of the largest.
        shared: a neuron is edited if it counts in at least this share of the prompts.
        scale: how many times the embeddings are taken off and added.
        signed: a row's change takes the sign of its key entry (published: it does not).
        contexts: (count, length in tokens) of sampled texts put before the prompt, beside the bare one.
        context_seed: seed of their sampling.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    steps: int = Field(20, ge=2)
    threshold: float = Field(0.2, ge=0, lt=1)
    shared: float = Field(0.4, gt=0, le=1)
    scale: float = Field(2.0, gt=0)
    signed: bool = False
    contexts: tuple[tuple[int, int], ...] = ()
    context_seed: int = 0


class NoSettings(BaseModel):
    """A method that has no settings when it edits: all of them are those of its training."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def _preset(model: str, family: str, n_layer: int, d_model: int, source: str = PUBLISHED, **settings: Any) -> Preset:
    return Preset(model=model, family=family, n_layer=n_layer, d_model=d_model, settings=settings, source=source)


SCALED = "no published value: GPT-2 XL's layer 1 scaled to the depth"
FT_PRESETS = (
    _preset("GPT-2 medium", "gpt2", 24, 1024, SCALED, layer=0),
    _preset("GPT-2 large", "gpt2", 36, 1280, SCALED, layer=1),
    _preset("GPT-2 XL", "gpt2", 48, 1600, layer=1),
    _preset("GPT-J 6B", "gptj", 28, 4096, layer=21),
    _preset("Gemma 3 270M", "gemma3_text", 18, 640, TUNED_HERE, layer=0, learning_rate=1e-4),
)
FT_L_PRESETS = (
    _preset("GPT-2 medium", "gpt2", 24, 1024, layer=0, epsilon=2e-3),
    _preset("GPT-2 large", "gpt2", 36, 1280, layer=0, epsilon=1e-3),
    _preset("GPT-2 XL", "gpt2", 48, 1600, layer=0, epsilon=5e-4),
    _preset("GPT-J 6B", "gptj", 28, 4096, layer=0, epsilon=5e-5),
    _preset("Gemma 3 270M", "gemma3_text", 18, 640, TUNED_HERE, layer=0, epsilon=5e-4),
)


def preset_values(presets: tuple[Preset, ...], model: EditableModel) -> dict[str, Any]:
    """Return the settings of the preset for a model of this shape, or none."""
    preset = preset_for(model, presets)
    return {} if preset is None else dict(preset.settings)


def checked(kind: type[_Settings], method: str, values: dict[str, Any], changes: dict[str, Any]) -> _Settings:
    """Return the settings with changes; a change of None leaves the value.

    Raises:
        UsageError: a change that is not a setting of the method, or out of range.
    """
    try:
        return kind(**{**values, **{k: v for k, v in changes.items() if v is not None}})
    except ValidationError as error:
        said = what_is_wrong(error)
        has = ", ".join(kind.model_fields) or "none"
        raise UsageError(f"The settings of {method} do not hold: {said}. It has {has}.") from error
