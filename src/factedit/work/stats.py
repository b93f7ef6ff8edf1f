"""Second moments of the keys of some layers, computed and kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from factedit.edit.presets import settings_for
from factedit.errors import UsageError
from factedit.stats.experts_moment import ExpertsMoment
from factedit.stats.experts_store import write_experts
from factedit.stats.store import Moment, write_moment
from factedit.work.inputs import ModelSource, moments_from, opened
from factedit.work.progress import Progress, keeping, silent
from factedit.work.team import Team


@dataclass(frozen=True)
class LayerMoments:
    """C of some layers.

    Attributes:
        model, fingerprint: whose.
        moments: by layer.
    """

    model: str
    fingerprint: str
    moments: dict[int, Moment]

    def as_json(self) -> dict[str, Any]:
        """Return what each is of and how well it can be inverted, without the matrices."""
        rows = [_row(layer, moment) for layer, moment in self.moments.items()]
        return {"model": self.model, "fingerprint": self.fingerprint, "layers": rows}


def _row(layer: int, moment: Moment) -> dict[str, Any]:
    """What there is to say of a layer; of experts how many tokens each got, in place of how C can be inverted."""
    row = {"layer": layer, "tokens": moment.tokens, "corpus": moment.corpus}
    if isinstance(moment, ExpertsMoment):
        return row | {"experts": moment.reached}
    return row | {"condition": moment.condition, "ridge": moment.ridge_used}


def reached_text(tokens: Mapping[str, int], *, named: int = 5) -> str:
    """Return how many tokens experts got, in words: those that got fewest, and how many got none.

    Args:
        tokens: by expert.
        named: how many are named.
    """
    fewest = sorted(tokens.items(), key=lambda entry: entry[1])[:named]
    none = sum(count == 0 for count in tokens.values())
    told = f"; {none} got none, and no edit can be made there" if none else ""
    return f"{len(tokens)} experts, fewest tokens: {', '.join(f'{n} {c}' for n, c in fewest)}{told}"


def _save(path: Path, moment: Moment) -> None:
    if isinstance(moment, ExpertsMoment):
        write_experts(path, moment)
    else:
        write_moment(path, moment, packed=True)


def compute_moments(
    model: ModelSource,
    *,
    layers: Sequence[int] | None = None,
    corpus: str | None = None,
    tokens: int | None = None,
    save: Path | None = None,
    team: Team | None = None,
    progress: Progress = silent,
) -> LayerMoments:
    """Compute E[k kᵀ] for layers in one pass over a text, and keep it in the cache; goes on where it stopped.

    Args:
        model: the model, unchanged, or what gives it.
        layers: None is the preset's.
        corpus: see `open_corpus`; None is text that the model writes itself.
        tokens: how many to read; None is 10 per entry of a key.
        save: also write the (single) layer's moment here, packed.
        team: workers that sum parts of the text; None sums them here.
        progress: told the tokens read.

    Raises:
        UsageError: no tokens, no such layer, several layers to save.
        DataError: the text is empty, or the keys are not finite.
        ResourceError: the disk is full.
    """
    if tokens is not None and tokens < 1:
        raise UsageError(f"{tokens} tokens were asked for: give at least 1.")
    if save is not None and layers is not None and len(layers) != 1:
        raise UsageError("One layer's moment is saved at a time: name a single layer.")
    source = moments_from(corpus=corpus, tokens=tokens, progress=progress, team=team)
    model = opened(model)
    chosen = [model.check_layer(layer) for layer in layers or [settings_for(model).layer or 0]]
    with keeping(lambda: "what was read so far is kept in the cache, and the same command goes on there"):
        moments = source.compute(model, chosen)
    if save is not None:
        _save(save, moments[chosen[0]])
    return LayerMoments(model.name, model.fingerprint(), moments)
