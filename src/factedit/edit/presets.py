"""Settings of ROME and where each preset comes from.

A preset is found by the shape of the model (architecture, layers, width), never by its name.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from factedit.edit.endings import Stop
from factedit.edit.experts import EditedExperts, usual
from factedit.errors import UnknownName, UsageError
from factedit.models.adapter import EditableModel

PUBLISHED = "ROME's published hyper-parameter file"
PRESET_KINDS = ("tuned", "published", "none")  # of presets: all; without those from here; no preset
TUNED_HERE = "tuned here on CounterFact records with case_id divisible by 4 (docs/log.md)"
CARRIED_HERE = "carried over from what was tuned here for rome (docs/log.md); not tuned for this method"
RATE_OF_FT = "rate carried over from what was tuned here for ft, layer scaled from Llama 3's; not tuned for this method"
FROM_HERE = (TUNED_HERE, CARRIED_HERE, RATE_OF_FT)
SENTENCES = {"contexts": ((1, 16),), "context_openings": ("The", "It was", "He", "In", "They")}  # fewer web fragments


def off(value: Any) -> bool:
    """Return whether an option is off; such are left out of what is kept, so that older results keep their keys."""
    return value in ("none", 0, False)


class RomeSettings(BaseModel):
    """Settings of ROME; the defaults are those of the published program on GPT-2 XL.

    Args:
        layer: the edited layer; None takes the preset's.
        learning_rate: Adam's.
        relative_rate: take the learning rate times ‖v0‖. Where a norm follows the matrix only the value's direction
            counts, and facts with long values are found in as many steps as those with short ones.
        steps: evaluations of the loss at most (one more than updates).
        decay: weight of ‖δ‖/‖v0‖².
        kl: weight of the essence's KL divergence.
        clamp: ‖δ‖ at most this times ‖v0‖.
        stop_loss: stop when the total loss is below.
        contexts: (count, length in tokens with the start token) of the sampled contexts, beside the bare prompt.
        context_openings: what sampled contexts begin with; each opening gets all of `contexts`.
        context_seed: seed of their sampling.
        ridge: added to the second moment's diagonal, as a share of its mean eigenvalue.
        subject_weight: times the second moment over subjects' names, added to C (`rome` only): other subjects feel
            less of the edit. The published method is 0.
        stretch: δ times this is inserted (`rome` only). A direction found within a tight clamp carries over to
            paraphrases better when stretched than one found within a wide clamp. The published method is 1.
        stop: how the target ends: `none`, in the `end`-of-text token, or as a `sentence` (published: none).
        experts: of a layer with experts, those that are edited: `each` that the subject's last token is sent to in any
            context, those of the `bare` prompt, or these, and `refuse` a fact whose contexts go elsewhere.
        statement_context: the fact after its own statement is one more context; see `further_rows.py` (published: no).
        negation_kl: weight of the next token's divergence after the prompt with " not" behind (published: 0).
        neighbours: how many other facts, those that the edit reaches most, are looked at (published: 0).
        neighbour_kl: weight of the next token's mean divergence at them (published: 0).
        statement_kl: the same after the edit's own statement (published: 0).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    layer: int | None = None
    learning_rate: float = Field(0.5, gt=0)
    relative_rate: bool = False
    steps: int = Field(20, ge=1)
    decay: float = Field(0.5, ge=0)
    kl: float = Field(0.0625, ge=0)
    clamp: float = Field(4.0, gt=0)
    stop_loss: float = Field(0.05, ge=0)
    contexts: tuple[tuple[int, int], ...] = ((10, 5), (10, 10))
    context_openings: tuple[str, ...] = ("",)
    context_seed: int = 0
    ridge: float = Field(0.0, ge=0)
    subject_weight: float = Field(0.0, ge=0)
    stretch: float = Field(1.0, gt=0)
    stop: Stop = Field("none", exclude_if=off)
    experts: EditedExperts = Field("each", exclude_if=usual)
    statement_context: bool = Field(False, exclude_if=off)
    negation_kl: float = Field(0.0, ge=0, exclude_if=off)
    neighbours: int = Field(0, ge=0, le=64, exclude_if=off)
    neighbour_kl: float = Field(0.0, ge=0, exclude_if=off)
    statement_kl: float = Field(0.0, ge=0, exclude_if=off)

    @model_validator(mode="after")
    def _neighbours_have_weights(self) -> Self:
        if bool(self.neighbours) != bool(self.neighbour_kl or self.statement_kl):
            raise ValueError("neighbours, and a weight of theirs (neighbour_kl, statement_kl), come together")
        return self


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Settings for one model.

    Args:
        model: its name, for people.
        family, n_layer, d_model: its shape, by which it is found.
        vocab: its vocabulary, where the shape alone is another model's too.
        settings: what differs from the defaults.
        source: where the values come from.
    """

    model: str
    family: str
    n_layer: int
    d_model: int
    vocab: int | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    source: str = PUBLISHED


PRESETS = (
    Preset(model="GPT-2 medium", family="gpt2", n_layer=24, d_model=1024, settings={"layer": 8, "clamp": 3.0}),
    Preset(model="GPT-2 large", family="gpt2", n_layer=36, d_model=1280, settings={"layer": 12}),
    Preset(model="GPT-2 XL", family="gpt2", n_layer=48, d_model=1600, settings={"layer": 17}),
    Preset(model="GPT-J 6B", family="gptj", n_layer=28, d_model=4096, settings={"layer": 5}),
    Preset(
        model="Llama 3 8B",
        family="llama",
        n_layer=32,
        d_model=4096,
        vocab=128256,
        settings={"layer": 5},
        source="layer of the settings that later editing work uses; not verified here",
    ),
    Preset(
        model="Gemma 3 270M",
        family="gemma3_text",
        n_layer=18,
        d_model=640,
        settings={
            "layer": 3,
            "learning_rate": 0.04,
            "relative_rate": True,
            "clamp": 0.75,
            "subject_weight": 1.0,
            "stretch": 1.6,
            **SENTENCES,
        },
        source=TUNED_HERE,
    ),
    Preset(
        model="SmolLM2 135M",
        family="llama",
        n_layer=30,
        d_model=576,
        vocab=49152,
        settings={
            "layer": 3,
            "learning_rate": 0.1,
            "relative_rate": True,
            "clamp": 3.0,
            **SENTENCES,
        },
        source=TUNED_HERE,
    ),
)


_kind: ContextVar[str] = ContextVar("kind of preset", default=PRESET_KINDS[0])


@contextmanager
def presets_of(kind: str) -> Iterator[None]:
    """Inside, only presets of a kind are found.

    Args:
        kind: `tuned`, all there are; `published`, without those that come from here; `none`.

    Raises:
        UnknownName: no such kind.
    """
    if kind not in PRESET_KINDS:
        raise UnknownName("preset", kind, PRESET_KINDS)
    token = _kind.set(kind)
    try:
        yield
    finally:
        _kind.reset(token)


def preset_for(model: EditableModel, presets: Sequence[Preset] = PRESETS) -> Preset | None:
    """Return the preset for a model of this shape, if there is one among these; see `presets_of`."""
    kind = _kind.get()
    if kind != "tuned":
        presets = [preset for preset in presets if kind == "published" and preset.source not in FROM_HERE]
    shape = (model.family.name, model.n_layer, model.d_model)
    fits = (p for p in presets if (p.family, p.n_layer, p.d_model) == shape and p.vocab in (None, model.vocab))
    return next(fits, None)


def settings_for(model: EditableModel, **changes: Any) -> RomeSettings:
    """Return the preset's settings with changes; without a preset the defaults, at the layer GPT-2 XL's 17 of 48
    scales to.

    Raises:
        UsageError: a change that is not a setting, or out of range.
    """
    try:
        return RomeSettings(**{**rome_values(model), **{k: v for k, v in changes.items() if v is not None}})
    except ValidationError as error:
        raise UsageError(f"The settings of ROME do not hold: {what_is_wrong(error)}.") from error


def rome_values(model: EditableModel) -> dict[str, Any]:
    """Return the preset's settings; without a preset, the layer that GPT-2 XL's 17 of 48 scales to."""
    preset = preset_for(model)
    return {"layer": scaled_layer(model, 17, 48), **(preset.settings if preset else {})}


def scaled_layer(model: EditableModel, layer: int, of: int) -> int:
    """Return the layer that one of a model with so many layers scales to; the last at most."""
    return min(round(layer / of * model.n_layer), model.n_layer - 1)


def what_is_wrong(error: ValidationError) -> str:
    """Return the settings that do not hold, each with its value and why."""
    return "; ".join(f"{'.'.join(map(str, e['loc']))} {e['input']!r}: {e['msg']}" for e in error.errors())
