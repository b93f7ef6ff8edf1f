"""Ask a panel of true facts before and after edits, and say beforehand which of them are likely to be touched."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from factedit.data.panel import read_panel
from factedit.data.registry import load_facts, load_known, select_of
from factedit.edit.artefact import Edit
from factedit.edit.effects.effect import WeightEffect
from factedit.edit.presets import settings_for
from factedit.errors import UsageError
from factedit.evaluate.entangled import largest_shares, rank_correlation
from factedit.evaluate.panel import Hit, Panel, as_row, share_kept, worst
from factedit.evaluate.together import Together
from factedit.facts import EditRequest, KnownFact
from factedit.models.adapter import EditableModel
from factedit.models.families import split_name
from factedit.stack.stand import check_made_for
from factedit.work.inputs import ModelSource, Opener, moments_from, opened
from factedit.work.progress import Progress, advancing, silent

EMBEDDED = "worldfacts-known"
NO_EDIT = (
    "No edit was given, so nothing can be lost: name folders that 'factedit edit' wrote, or say with --facts what you "
    "mean to edit."
)


@dataclass(frozen=True)
class PanelReport:
    """What edits did to a panel, or are likely to do.

    Attributes:
        asked: facts of the panel that were asked.
        hits: those that the unedited model answers, the worst hit first; before an edit, the likeliest first.
        predicted: per hit the share of the edit's residual that is written at its key; NaN where none is told.
        layer: whose keys the prediction is of; None where there is none.
        edited: the facts were asked with edits on.
        notes: what is to be said of the edits.
    """

    asked: int
    hits: tuple[Hit, ...]
    predicted: tuple[float, ...]
    layer: int | None
    edited: bool
    notes: tuple[str, ...] = ()

    @property
    def correlation(self) -> float:
        """Spearman's rank correlation of the predicted shares, in size, with the divergences; NaN before an edit."""
        return rank_correlation([abs(share) for share in self.predicted], [hit.kl for hit in self.hits])

    def as_json(self) -> dict[str, Any]:
        """Return `{asked, known, kept, kl, layer, rank_correlation, facts: [{prompt, answer, still, …}]}`."""
        kls = [hit.kl for hit in self.hits if math.isfinite(hit.kl)]
        told = {"kept": share_kept(self.hits), "kl": statistics.fmean(kls) if kls else math.nan} if self.edited else {}
        return {
            "asked": self.asked, "known": len(self.hits), **told, "layer": self.layer,
            "rank_correlation": self.correlation if self.edited else None,
            "facts": [as_row(hit, share) for hit, share in zip(self.hits, self.predicted, strict=True)],
        }  # fmt: skip


def ask_panel(
    source: Opener,
    edits: Sequence[Path],
    *,
    panel: Path | None = None,
    limit: int | None = None,
    second_moment: Path | None = None,
    corpus: str | None = None,
    progress: Progress = silent,
) -> PanelReport:
    """Ask a panel of the unedited model and with edits on it.

    Args:
        source: gives the unedited model and the edits that are on it.
        edits: folders of further ones.
        panel: the file; None is the embedded facts.
        limit: so many of its facts; None is all.
        second_moment, corpus: see `moments_from`; of the prediction.
        progress: told the facts asked.

    Raises:
        UsageError: no edits, or a panel of which the model knows nothing.
        DataError: an edit or the panel cannot be read.
        EditError: an edit that was made for other weights.
    """
    further = [Edit.load(folder) for folder in edits]
    facts = panel_facts(panel, limit)
    model, on = source()
    every = [*on, *further]
    if not every:
        raise UsageError(NO_EDIT)
    notes = check_made_for(model, every)
    requests = [request for edit in every for request in edit.requests]
    made = _panel(model, facts, requests, progress)
    step = advancing(progress, "asking with the edits on (facts)", len(made.known))
    hits = made.under(Together(model).plus(every), step=step)
    weights = [effect for edit in every for effect in edit.effects if isinstance(effect, WeightEffect)]
    layer = next((effect.place[0] for effect in weights if split_name(effect.place[1])[0] == "out"), None)
    predicted = [math.nan] * len(hits)
    if layer is not None:
        moment = moments_from(second_moment, corpus, progress=progress)(model, layer).checked()
        predicted = largest_shares(model, layer, moment, requests, made.known)
    order = worst(hits)
    return PanelReport(
        made.asked, tuple(hits[n] for n in order), tuple(predicted[n] for n in order), layer, edited=True, notes=notes
    )


def predict_panel(
    model: ModelSource,
    facts: str,
    *,
    panel: Path | None = None,
    limit: int | None = None,
    records: int | None = None,
    layer: int | None = None,
    second_moment: Path | None = None,
    corpus: str | None = None,
    progress: Progress = silent,
) -> PanelReport:
    """Say which facts of a panel are likely to be touched by edits that are yet to be made.

    Args:
        model: the unedited model, or what gives it.
        facts: what is to be edited: a data set, or a file.
        panel, limit, second_moment, corpus, progress: see `ask_panel`.
        records: so many of the facts to edit, drawn with seed 0; None is all.
        layer: that is to be edited; None is the preset's.

    Raises:
        UsageError, DataError: as `ask_panel`.
    """
    data = load_facts(facts)
    requests = [record.request for record in select_of(data, limit=records)]
    known = panel_facts(panel, limit)
    model = opened(model)
    at = model.check_layer(settings_for(model).layer or 0 if layer is None else layer)
    made = _panel(model, known, requests, progress)
    moment = moments_from(second_moment, corpus, progress=progress)(model, at).checked()
    predicted = largest_shares(model, at, moment, requests, made.known)
    order = sorted(range(len(predicted)), key=lambda n: -abs(predicted[n]))
    hits = tuple(Hit(made.known[n], True, math.nan) for n in order)
    return PanelReport(made.asked, hits, tuple(predicted[n] for n in order), at, edited=False)


def _panel(
    model: EditableModel, facts: Sequence[KnownFact], requests: Sequence[EditRequest], progress: Progress
) -> Panel:
    step = advancing(progress, "asking the unedited model (facts)", len(facts))
    return Panel.of(model, facts, without={request.subject for request in requests}, step=step)


def panel_facts(panel: Path | None, limit: int | None) -> tuple[KnownFact, ...]:
    """Return the facts of a panel; see `ask_panel`."""
    data = load_known(EMBEDDED) if panel is None else read_panel(panel, panel.name)
    data.say_skipped()
    return select_of(data, limit=limit) if limit is not None else data.records
