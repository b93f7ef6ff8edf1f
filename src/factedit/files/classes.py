"""Which class of transformers a configuration is loaded with: a causal language model, or the wrapper around one.

A multimodal model (images or sounds and text) holds a causal language model as one of its parts. It is loaded whole,
so that it is written back whole; what is traced and edited is its text model.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from factedit.errors import UnsupportedModel


def known_kinds() -> Collection[str]:
    """Return every `model_type` that is, or may hold, a causal language model."""
    from transformers.models.auto import modeling_auto as auto

    return {*auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, *auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES}


def class_of(config: Any) -> Any:
    """Return the class of a configuration: of a wrapper the whole one.

    Raises:
        UnsupportedModel: it is, and holds, no causal language model.
    """
    import transformers

    causal, whole = transformers.MODEL_FOR_CAUSAL_LM_MAPPING, transformers.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    wrapped = config.get_text_config() is not config
    for mapping in (whole, causal) if wrapped else (causal,):
        if type(config) in mapping:
            mapped: Any = mapping[type(config)]
            return mapped[0] if isinstance(mapped, tuple) else mapped
    raise UnsupportedModel(
        f"A model of the kind {config.model_type!r} holds no text model, so there is nothing to trace or edit in it. "
        "Give a causal language model, or a multimodal model around one."
    )
