"""Saved edits put on a model of transformers, as they are: also those that are text or a memory, which no weights hold.

Nothing of a folder is run: an edit is JSON and tensors, read by factedit and checked against their hashes.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch

from factedit.edit.artefact import Edit
from factedit.edit.effects.asked import asked_under, join_effects
from factedit.edit.effects.effect import Effect, WeightEffect
from factedit.edit.effects.weights import weights_changed
from factedit.edit.standing import refuse_repeated
from factedit.errors import EditError, UsageError
from factedit.models.adapter import EditableModel
from factedit.models.positions import check_fits


class EditedModel:
    """A model with edits on it, until they are taken off.

    What is no text acts on every run of the model, also by other code; texts are put before prompts by `prompts`.

    Args:
        model: the model; its weights are changed by edits of weights only.
        edits: in order, each made for the model or for it with those before.
        force: also edits that were made for other weights.

    Attributes:
        model: the model with the edits on it.
        edits: the edits.

    Raises:
        EditError: an edit made for other weights, of other shapes, or named twice.
    """

    def __init__(self, model: EditableModel, edits: Sequence[Edit], *, force: bool = False) -> None:
        self.model, self.edits, self._on = model, tuple(edits), True
        refuse_repeated(self.edits)
        self._before = model.fingerprint()
        self._effects: list[Effect] = join_effects(effect for edit in edits for effect in edit.effects)
        with ExitStack() as stack:
            allowed = {self._before}
            for edit in self.edits:
                if not force and edit.made_for not in allowed:
                    raise EditError(
                        f"The edit {edit.identity[:12]} was made for weights {edit.made_for[:12]}…, and {model.name} "
                        f"has {self._before[:12]}… before its edits. Give the model it was made for; force it only if "
                        "you know why."
                    )
                changes = [effect for effect in edit.effects if isinstance(effect, WeightEffect)]
                stack.enter_context(weights_changed(model, changes))
                allowed |= {model.fingerprint()} if changes else set()
            for effect in self._effects:
                if not isinstance(effect, WeightEffect):
                    stack.enter_context(effect.on_batch(model))
            self._with = model.fingerprint()
            self._stack = stack.pop_all()

    def prompts(self, texts: Sequence[str]) -> list[str]:
        """Return what the model is to be asked in place of texts."""
        return asked_under(self.model, self._effects, texts)

    @torch.no_grad()
    def answer(self, text: str, *, tokens: int = 50, **how: Any) -> str:
        """Return what the edited model writes behind a text, with the generation of transformers.

        Args:
            text: a prompt.
            tokens: how many to write at most; the context's end stops it, too.
            how: further arguments of `generate`; greedy where they do not say.

        Raises:
            EditError: the edits were taken off.
            RequestError: the text, with what stands before it, fills the context.
        """
        if not self._on:
            raise EditError("The edits were taken off this model. Load them again.")
        tokenizer = self.model.tokenizer
        given = tokenizer(self.prompts([text])[0], return_tensors="pt").to(self.model.device)
        count = given["input_ids"].shape[1]
        check_fits(self.model, count + 1, "The text, with what stands before it and one token of an answer,")
        room = self.model.context_length - count
        written = self.model.lm.generate(**given, **{"max_new_tokens": min(tokens, room), "do_sample": False} | how)
        return str(tokenizer.decode(written[0, given["input_ids"].shape[1] :], skip_special_tokens=True))

    def undo(self) -> None:
        """Take the edits off; the model has the bits that it had, which is checked.

        Edits that were put on later are to be taken off first: they restore what they found.

        Raises:
            EditError: it has others, or had others with the edits on it, since something else changed it.
        """
        if self._on:
            as_left = self.model.fingerprint() == self._with
            self._stack.close()
            self._on, self._effects = False, []
            if not as_left or self.model.fingerprint() != self._before:
                raise EditError(
                    "The model is not what it was before its edits: something else changed its weights, or edits that "
                    "were put on later are still on it. Take the last ones off first; if in doubt load the model again."
                )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.undo()


def load_edited(
    folders: str | Path | Sequence[str | Path], model: Any, tokenizer: Any = None, *, force: bool = False
) -> EditedModel:
    """Put saved edits on a model of transformers, in order.

    Args:
        folders: of one edit, or of several; each is checked against its hashes.
        model: a causal language model of transformers with its `tokenizer`, or an `EditableModel`.
        tokenizer: of the model.
        force: also edits that were made for other weights.

    Returns:
        The model with the edits on it; `undo`, or the end of a `with` block, takes them off.

    Raises:
        UsageError: no edits, or a model of transformers without its tokenizer.
        DataError, UnsafeFile: a folder does not hold a sound edit.
        EditError: an edit that was made for other weights.
    """
    several = [folders] if isinstance(folders, str | Path) else list(folders)
    if not several:
        raise UsageError("There is nothing to load: name the folder of at least one edit.")
    edits = [Edit.load(folder) for folder in several]
    if not isinstance(model, EditableModel):
        if tokenizer is None:
            raise UsageError("Give the model's tokenizer, too: load_edited(folders, model, tokenizer).")
        model = EditableModel(model, tokenizer, name=str(getattr(model, "name_or_path", "") or edits[0].model_name))
    return EditedModel(model, edits, force=force)
