"""What decides a number beside the question."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from factedit import __version__
from factedit.engine.half import HALF, at_least_float32
from factedit.models.adapter import EditableModel


def circumstances(model: EditableModel) -> dict[str, Any]:
    """Return what decides a number beside the question: the versions, the model with its setup, and where it runs."""
    return {
        "version": __version__,
        "torch": version("torch"),
        "transformers": version("transformers"),
        "weights": model.fingerprint(),
        "setup": model.setup_fingerprint(),
        "dtype": str(model.dtype),
        **({"sums": str(at_least_float32(model.dtype))} if model.dtype in HALF else {}),
        "device": model.device.type,
        "attention": str(getattr(model.lm.config, "_attn_implementation", "")),
    }
