"""A model without its weights: the sizes, the places and the tokenizer, to plan with before anything is loaded."""

from __future__ import annotations

from typing import Any

import torch

from factedit.errors import UnsupportedModel
from factedit.files.tensors_on_disk import OnDisk
from factedit.models.adapter import EditableModel
from factedit.models.load import PLACEMENTS
from factedit.paths import user_path


class Outline(EditableModel):
    """A model whose weights are on `meta`: it can be measured and asked about tokens, and not be run.

    Args:
        model: a causal language model of transformers on `meta`.
        tokenizer: its own.
        name: how to call it.
        device: where it would compute.
        files: its tensors, of a model that would be streamed.
    """

    def __init__(
        self, model: Any, tokenizer: Any, *, name: str = "model", device: str = "cpu", files: OnDisk | None = None
    ) -> None:
        self._device, self.files, self.streamed = torch.device(device), files, files is not None
        model.tie_weights()  # else an output matrix that is the embeddings' counts twice
        super().__init__(model, tokenizer, name=name)

    def _refuse(self, model: Any, tokenizer: Any) -> None:
        """Refuse nothing: there is nothing to look at."""

    def _check(self) -> None:
        """Check nothing: there is nothing to run."""

    @property
    def device(self) -> torch.device:
        """Where it would compute."""
        return self._device

    def fingerprint(self) -> str:
        """Refuse: there are no weights.

        Raises:
            UnsupportedModel: always.
        """
        raise UnsupportedModel(f"{self.name} is an outline without weights, which has no fingerprint. Load the model.")


def outline(
    source: str, *, dtype: str = "float32", device: str = "cpu", revision: str | None = None, stream: bool = False
) -> Outline:
    """Return the outline of a model, of which configuration and tokenizer alone are read.

    Args:
        source: see `load`.
        dtype, device: as it would be loaded; a placement counts as one card, or the processor.
        revision: of a hub id.
        stream: its layers would be read from disk; its files are looked at, too.

    Raises:
        UsageError: no name that a file or a folder can have.
        ModelError: nothing usable there; the message says what was found and what to do.
        NotStreamed: it can only be loaded whole.
    """
    path = user_path(source)
    name = path.name if path.exists() else source
    if stream:
        from factedit.files.checkpoint_stream import open_streamed

        lm, tokenizer, files = open_streamed(source, dtype=dtype, revision=revision)
        return Outline(lm, tokenizer, name=name, device=device, files=files)
    config, tokenizer = _read(source, revision)
    from factedit.files.checkpoint_weights import on_meta

    if device in PLACEMENTS:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    lm = on_meta(config).to(getattr(torch, dtype))
    return Outline(lm, tokenizer, name=name, device=device)


def _read(source: str, revision: str | None) -> tuple[Any, Any]:
    """The configuration and the tokenizer of a model."""
    from factedit.files.embedded import EMBEDDED, outline_embedded

    if source in EMBEDDED:
        return outline_embedded(source)
    if source.lower().endswith(".gguf"):
        from factedit.files.gguf_file import outline_gguf

        return outline_gguf(user_path(source))
    from factedit.files.checkpoint import outline_checkpoint

    return outline_checkpoint(source, revision=revision)
