"""Settings of the methods for many facts.

Published weights of what must stay (λ, L2, thresholds) are in the units of one model's keys and hold for it alone;
elsewhere they follow from the share of its residual that a fact is to reach (`share`).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from factedit.edit.endings import Stop
from factedit.edit.experts import EditedExperts, usual
from factedit.edit.presets import Preset, RomeSettings, off, scaled_layer
from factedit.edit.presets_baselines import checked, preset_values
from factedit.models.adapter import EditableModel
from factedit.models.families import MatrixName
from factedit.text import numbers_in_ranges

OPENINGS = ("The", "Therefore", "Because", "I", "You")
_Settings = TypeVar("_Settings", bound=BaseModel)


def _as_layers(value: Any) -> Any:
    """Return layers as a list: of one number, or of text such as `3,5,7-9`."""
    if isinstance(value, str):
        return numbers_in_ranges(value)
    return [value] if type(value) is int else value


Layers = Annotated[tuple[int, ...] | None, BeforeValidator(_as_layers)]


ShareOf = Literal["fact", "batch"]


def of_fact(value: Any) -> bool:
    """Return whether a share is of a fact alone, the default, which is left out of what is kept."""
    return bool(value == "fact")


class JointSettings(BaseModel):
    """What all methods of hidden values share; the defaults are MEMIT's published ones on GPT-2 XL.

    Args:
        layers: the edited layers; None takes the preset's.
        learning_rate, steps, decay, kl, clamp, stop_loss: of z, as in `RomeSettings`, relative to the hidden state.
        relative_rate: take the learning rate times ‖h0‖.
        context_openings: what the sampled contexts begin with.
        context_length: their length in tokens, opening counted.
        context_seed: seed of their sampling.
        ridge: added to C's diagonal, as a share of its mean eigenvalue.
        subject_weight: times the second moment over subjects' names, added to C. The published methods have 0.
        share: of its residual that a fact of mean strength reaches alone in one layer, by which the weight of what
            must stay is set where it is not given; 1 writes every value exactly.
        share_of: what the share is of: a `fact` alone, or the first `batch`, its facts beside each other, by which
            methods that keep different things are compared at equal reached share.
        history: keep the keys of earlier batches beside C.
        keep: share of an update's entries that are kept, those that change most against what they were (RECT).
        stop: how the target ends: `none`, in the `end`-of-text token, or as a `sentence` (published: none).
        experts: of a layer with experts, those that are edited: `each` that the subject's last token is sent to in any
            context, those of the `bare` prompt, or these, and `refuse` a fact whose contexts go elsewhere.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    layers: Layers = None
    learning_rate: float = Field(0.5, gt=0)
    relative_rate: bool = False
    steps: int = Field(20, ge=1)
    decay: float = Field(0.5, ge=0)
    kl: float = Field(0.0625, ge=0)
    clamp: float = Field(0.75, gt=0)
    stop_loss: float = Field(0.05, ge=0)
    context_openings: tuple[str, ...] = OPENINGS
    context_length: int = Field(10, ge=1)
    context_seed: int = 0
    ridge: float = Field(0.0, ge=0)
    subject_weight: float = Field(0.0, ge=0)
    share: float = Field(0.5, gt=0, le=1)
    share_of: ShareOf = Field("fact", exclude_if=of_fact)
    history: bool = True
    keep: float = Field(1.0, gt=0, le=1)
    stop: Stop = Field("none", exclude_if=off)
    experts: EditedExperts = Field("each", exclude_if=usual)


class HiddenSettings(JointSettings):
    """What methods share whose values are hidden states.

    Args:
        anchored: give values the norm that they have on average (NAS).
        anchor: that norm; None measures it on embedded facts.
        anchor_facts: on how many.
    """

    anchored: bool = False
    anchor: float | None = Field(None, gt=0)
    anchor_facts: int = Field(200, ge=1)


class MemitSettings(HiddenSettings):
    """MEMIT's settings.

    Args:
        weight: λ, how many keys C is worth; None sets it by `share`.
    """

    weight: float | None = Field(None, gt=0)


class PmetSettings(JointSettings):
    """PMET's settings; the defaults are its published ones on GPT-J, but for the layers and λ.

    Args:
        weight: λ, how many keys C is worth; None sets it by `share`.
    """

    weight: float | None = Field(None, gt=0)
    learning_rate: float = Field(0.2, gt=0)
    steps: int = Field(30, ge=1)
    kl: float = Field(1.0, ge=0)


class EmmetSettings(HiddenSettings):
    """EMMET's settings.

    Args:
        weight: w of C_w = w·C.
        softness: e, added to the constraints' system; 0 is the equality. With e > 0 the method is MEMIT with λ = w·e.
    """

    weight: float = Field(1.0, gt=0)
    softness: float = Field(0.0, ge=0)


class AlphaEditSettings(HiddenSettings):
    """AlphaEdit's settings.

    Args:
        threshold: eigenvalues of C below it count as zero; None sets it by `energy`.
        energy: share of C's trace that the null space may hold.
        l2: L2; None sets it by `share`.
    """

    threshold: float | None = Field(None, gt=0)
    energy: float = Field(0.02, gt=0, lt=1)
    l2: float | None = Field(None, gt=0)


class EncoreSettings(MemitSettings):
    """ENCORE's settings.

    Args:
        stop_after: stop a fact after so many evaluations in which its target is ranked first after every text.
        stop_probability: in its place, stop at this probability of the target.
        damping: added to λC's diagonal (`update_norm_lambda`), in C's own units.
    """

    stop_after: int = Field(2, ge=1)
    stop_probability: float | None = Field(None, gt=0, lt=1)
    damping: float = Field(0.0, ge=0)


class NseSettings(JointSettings):
    """NSE's settings.

    Args:
        weight: λ, how many keys C is worth; None sets it by `share`.
        strongest: share of the neurons' scores, the sums of |k|, whose neurons are written.
        near: a fact nearer to its value than this is not written further, in units of hidden states; None takes
            `near_share` of the facts' mean distance before the first round.
        near_share: see `near`.
        far: a fact further from its value than this is given up; None gives none up.
        rounds: of writing, at most.
    """

    weight: float | None = Field(None, gt=0)
    strongest: float = Field(0.8, gt=0, le=1)
    near: float | None = Field(None, gt=0)
    near_share: float = Field(0.25, gt=0)
    far: float | None = Field(None, gt=0)
    rounds: int = Field(2, ge=1)


class RomeJointSettings(RomeSettings):
    """ROME's settings and those of its joint solve.

    Args:
        layers: several layers in place of `layer`, each with an offset and a clamp of its own, found together.
        share, share_of, history: as in `JointSettings`.
    """

    layers: Layers = None
    share: float = Field(0.9, gt=0, le=1)
    share_of: ShareOf = Field("fact", exclude_if=of_fact)
    history: bool = True


class UltraEditSettings(BaseModel):
    """UltraEdit's settings.

    Args:
        matrices: layer and name (`out`, `in`, `gate`) of each edited matrix, in the order of their turns.
        learning_rate: η; None carries the published size of a row's change over to the matrix's shape.
        batch: facts of a gradient batch.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    matrices: tuple[tuple[int, MatrixName], ...] = ()
    learning_rate: float | None = Field(None, gt=0)
    batch: int = Field(10, ge=1)


class TuningSettings(BaseModel):
    """Settings of fine-tuning one matrix on many facts; the defaults are LocFT-BF's published ones.

    Args:
        layer: whose last MLP matrix is tuned; None takes the preset's.
        learning_rate: Adam's.
        batch: facts per step.
        epochs: passes over all facts at most (`locft-bf`), steps per batch at most (`ft-m`).
        stop_loss: a batch below it makes no step; stop when an epoch's mean is below (`ft-m`: go on to the next batch).
        end_of_text: let the target end in the end-of-text token.
        shuffle_seed: seed of the order of the facts, shuffled anew every epoch (`locft-bf`).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    layer: int | None = None
    learning_rate: float = Field(5e-4, gt=0)
    batch: int = Field(100, ge=1)
    epochs: int = Field(25, ge=1)
    stop_loss: float = Field(0.01, ge=0)
    end_of_text: bool = True
    shuffle_seed: int = 0


def joint_settings(
    kind: type[_Settings],
    method: str,
    presets: tuple[Preset, ...],
    model: EditableModel,
    changes: dict[str, Any],
    *,
    one_layer: bool = False,
) -> _Settings:
    """Return the preset's settings with changes; without a preset, layers that GPT-2 XL's 13 to 17 of 48 scale to.

    Args:
        kind: of the settings.
        method: its name, for messages.
        presets: of the method.
        model: whose shape decides.
        changes: departures from the preset; None leaves the value.
        one_layer: without a preset take the last of these layers alone.

    Raises:
        UsageError: a change that is not a setting of the method, or out of range.
    """
    layers = default_layers(model)
    values = {"layers": layers[-1:] if one_layer else layers, **preset_values(presets, model)}
    return checked(kind, method, values, changes)


def default_layers(model: EditableModel) -> tuple[int, ...]:
    """Return GPT-2 XL's layers 13 to 17 of 48, scaled to the depth; at least one."""
    first, last = (scaled_layer(model, layer, 48) for layer in (13, 17))
    return tuple(range(first, last + 1))
