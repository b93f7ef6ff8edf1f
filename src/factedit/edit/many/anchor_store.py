"""NAS's anchor of a model (see `norms.py`), measured once and kept by content: weights, layer, settings, facts,
configuration and tokenizer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from factedit.cache import cache_dir, found_or_earlier, read_entry, write_entry
from factedit.data.registry import load_facts
from factedit.edit.many.norms import anchor, value_norms
from factedit.edit.many.settings import HiddenSettings
from factedit.edit.objective import MakeRule
from factedit.models.adapter import EditableModel

OF_VALUES = ("learning_rate", "relative_rate", "steps", "decay", "kl", "clamp", "stop_loss", "anchor_facts", "stop")


def anchor_of(model: EditableModel, layer: int, settings: HiddenSettings, rule: MakeRule | None) -> float:
    """Return the anchor that the settings name, or that of a sample of the embedded facts.

    The published program takes 1000 facts of CounterFact.

    Args:
        model: the unedited model.
        layer: the last edited layer.
        settings, rule: of z.

    Raises:
        ResourceError: the cache cannot be written.
    """
    if settings.anchor is not None:
        return settings.anchor
    facts = [record.request for record in load_facts("worldfacts").records[: settings.anchor_facts]]
    decides = settings.model_dump(mode="json", include=set(OF_VALUES))
    asked = [vars(fact) for fact in facts]
    about = [model.fingerprint(), layer, decides, asked, repr(rule)]
    path, earlier = (_place(entry) for entry in ([*about, model.setup_fingerprint()], about))
    kept = read_entry(found_or_earlier(path, earlier))
    if kept is None:
        kept = json.dumps({"anchor": anchor(value_norms(model, layer, facts, settings, rule))}).encode()
        write_entry(path, kept)
    return float(json.loads(kept)["anchor"])


def _place(about: Sequence[Any]) -> Path:
    key = json.dumps(about, sort_keys=True)
    return cache_dir() / "anchors" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.entry"
