"""An Edit: what a method changes in a model, as a thing of its own.

An edit never holds a model. `applied_to` puts it on for the length of a `with` block and restores the same
bits on leaving; `save` and `load` keep it as a folder of `edit.json`, `edit.safetensors` and, where it is one of a
sequence, `state.safetensors`. Reading one never changes it, so an Edit may be shared between threads; the model it is
put on serves one thread at a time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors.torch import save as save_tensors
from torch import Tensor

from factedit.cache import locked, replace_files, settled
from factedit.edit.effects.asked import asked_under, join_effects
from factedit.edit.effects.effect import Effect, WeightEffect
from factedit.edit.effects.table import on_rows
from factedit.edit.effects.weights import weight_effects, weights_changed
from factedit.edit.manifest import (
    FORMAT,
    MANIFEST,
    STATE,
    TENSORS,
    canonical,
    identity_of,
    installed,
    read_edit_state,
    read_effects,
    read_manifest,
    row_of,
    sealed,
)
from factedit.edit.place import check_place, own_files
from factedit.edit.state import State, change_between
from factedit.errors import EditError
from factedit.facts import EditRequest
from factedit.models.adapter import EditableModel


@dataclass(frozen=True, kw_only=True)
class Notes:
    """What is known of one request of an edit.

    Attributes:
        diagnostics: what the method measured of this fact (see the method), JSON values only.
        before, after: what was measured on its prompt, unedited and edited (see `work/edit.py`); empty if it was not.
    """

    diagnostics: dict[str, Any] = field(default_factory=dict)
    before: dict[str, Any] = field(default_factory=dict)
    after: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, eq=False)
class Edit:
    """A change of a model and its pedigree; two edits are equal if they have one `identity`.

    Attributes:
        method: the name of the method, with any departure from its defaults in `settings`.
        requests: what was asked: one fact, or all facts of a joint edit.
        effects: what acts on the model, in order.
        made_for: fingerprint of the weights that the edit was computed on.
        notes: one entry per request; given none, empty ones.
        settings: all settings in force.
        diagnostics: what the method measured of the edit as a whole, JSON values only.
        model_name: how the model was called.
        versions: of the libraries it was made with.
        exports: what was proven of the forms it was shipped in.
        state_change: what it changed in the state of its sequence (`state.py`); empty where there is none.
        takes_back: facts of earlier edits that it takes back, each the edit's identity and the fact's number in it.

    Raises:
        EditError: notes of another number than requests, or no fingerprint.
    """

    method: str
    requests: tuple[EditRequest, ...]
    effects: tuple[Effect, ...]
    made_for: str
    notes: tuple[Notes, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    diagnostics: dict[str, Any] = field(default_factory=dict)
    model_name: str = ""
    versions: dict[str, str] = field(default_factory=installed)
    exports: tuple[dict[str, Any], ...] = ()
    state_change: Mapping[str, Tensor] = field(default_factory=dict, repr=False)
    takes_back: tuple[tuple[str, int], ...] = ()

    def __post_init__(self) -> None:
        if not self.notes:
            object.__setattr__(self, "notes", tuple(Notes() for _ in self.requests))
        if len(self.notes) != len(self.requests):
            raise EditError(f"The edit has {len(self.requests)} requests and notes on {len(self.notes)}.")
        if not self.made_for:
            raise EditError("The edit does not say which weights it was made for: give `made_for` their fingerprint.")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Edit) and self.identity == other.identity

    def __hash__(self) -> int:
        return hash(self.identity)

    @contextmanager
    def applied_to(self, model: EditableModel, *, force: bool = False) -> Iterator[EditableModel]:
        """Yield the model with this edit; the same bits as before on leaving, also after an exception.

        Changes of weights are written into the weights; what else there is acts while the model runs.

        Args:
            model: changed inside the block only.
            force: apply to a model other than the one the edit was made for.

        Raises:
            EditError: another model's weights, other shapes, or a change that is not finite.
        """
        if not force:
            fingerprint = model.fingerprint()
            if fingerprint != self.made_for:
                other = model.type_with(self.made_for)
                why = f"These are the same weights, which it was made for as {other}: load them so (--dtype {other})."
                raise EditError(
                    f"The edit was made for weights {self.made_for[:12]}… ({self.model_name or 'no name'}); "
                    f"{model.name} has {fingerprint[:12]}…. "
                    + (why if other else "Edits do not carry over; force it only if you know why.")
                )
        with ExitStack() as stack:
            for effect in join_effects(self.effects):
                if isinstance(effect, WeightEffect):
                    stack.enter_context(weights_changed(model, [effect]))
                else:
                    stack.enter_context(effect.on_batch(model))
            yield model

    def on_prompt(self, text: str) -> str:
        """Return what the model is asked in place of this text; the text itself unless the edit is one of prompts.

        Raises EditError where the model itself decides what stands before it; see `on_prompts`.
        """
        for effect in join_effects(self.effects):
            text = effect.on_prompt(text)
        return text

    def on_prompts(self, model: EditableModel, texts: Sequence[str]) -> list[str]:
        """Return what a model is asked in place of texts; see `asked_under`."""
        return asked_under(model, self.effects, texts)

    @property
    def first_layer(self) -> int | None:
        """The first layer that computes something else than in the unedited model; None for an edit without effects."""
        return min((effect.first_layer() for effect in self.effects), default=None)

    @property
    def layers(self) -> list[int]:
        """The layers whose matrices it changes."""
        return sorted({effect.place[0] for effect in self.effects if isinstance(effect, WeightEffect)})

    def told_of(self, number: int) -> dict[str, Any]:
        """Return the diagnostics of one request with those of the whole edit."""
        return {**self.diagnostics, **self.notes[number].diagnostics}

    def with_outcomes(self, outcomes: Sequence[tuple[dict[str, Any], dict[str, Any]]]) -> Edit:
        """Return the edit with what was measured on each request's prompt, before and after."""
        measured = zip(self.notes, outcomes, strict=True)
        return replace(self, notes=tuple(replace(note, before=b, after=a) for note, (b, a) in measured))

    def with_state(self, before: State | None, after: State | None) -> Edit:
        """Return the edit with what it changed in the state of its sequence."""
        return replace(self, state_change=change_between(before, after))

    def with_export(self, proof: dict[str, Any]) -> Edit:
        """Return the edit with what was proven of a form it was shipped in; an older proof of that form goes."""
        others = tuple(export for export in self.exports if export.get("form") != proof.get("form"))
        return replace(self, exports=(*others, proof))

    @cached_property
    def identity(self) -> str:
        """SHA-256 of what the edit is: method, requests, settings, effects and the weights it was made for.

        Outcomes, exports and library versions are left out: measuring an edit does not make it another one.
        """
        return identity_of(self.manifest())

    def save(self, folder: str | Path, *, force: bool = False) -> Path:
        """Write the edit's files; what else lies in the folder is kept.

        The same edit gives the same bytes, and may be saved again where it was (with what was measured of it since).

        Args:
            folder: where to: a new or empty folder, or this edit's own.
            force: also in place of another edit.

        Raises:
            EditError: the folder holds another edit or something else, lies inside an edit, or a value JSON cannot
                hold.
            ResourceError: the disk is full or not writable.
        """
        final = Path(folder)
        check_place(final, self.identity, force=force)
        files = {**self._files(), MANIFEST: canonical(self.manifest())}

        def build(place: Path) -> None:
            for name, content in files.items():
                (place / name).write_bytes(content)

        with locked(final):
            check_place(final, self.identity, force=force)
            replace_files(build, final, old=own_files(final), last=MANIFEST, needed=sum(map(len, files.values())))
        return final

    def _files(self) -> dict[str, bytes]:
        """Return every file but the manifest."""
        named = {f"{n}.{name}": t.cpu() for n, e in enumerate(self.effects) for name, t in e.tensors().items()}
        files = {TENSORS: save_tensors(named)}
        if self.state_change:
            tensors = {name: tensor.cpu().contiguous().clone() for name, tensor in self.state_change.items()}
            files[STATE] = save_tensors(tensors)
        return files

    @cached_property
    def _hashes(self) -> dict[str, str]:
        return {name: hashlib.sha256(content).hexdigest() for name, content in self._files().items()}

    def manifest(self) -> dict[str, Any]:
        """Return everything but the tensors, as `edit.json` holds it."""
        return sealed(
            {
                "format": FORMAT,
                "method": self.method,
                "requests": [vars(request) for request in self.requests],
                "effects": [row_of(effect) for effect in self.effects],
                "notes": [vars(note) for note in self.notes],
                "settings": self.settings,
                "diagnostics": self.diagnostics,
                "model_name": self.model_name,
                "made_for": self.made_for,
                "versions": self.versions,
                "exports": list(self.exports),
                "files": self._hashes,
                **({"takes_back": [list(fact) for fact in self.takes_back]} if self.takes_back else {}),
            }
        )

    def _repr_html_(self) -> str:
        from factedit.edit.show import as_html

        return as_html(self)

    @classmethod
    def load(cls, folder: str | Path) -> Edit:
        """Read an edit back; every file is checked against its hash, every tensor against its shape.

        Raises:
            DataError: a file is missing, damaged, changed, or of another format.
            UnsafeFile: a file is a link that leaves the folder.
        """
        path = settled(Path(folder))
        manifest = read_manifest(path)
        return cls(
            method=manifest.method,
            requests=tuple(EditRequest(**request.model_dump()) for request in manifest.requests),
            effects=read_effects(path, manifest),
            notes=tuple(Notes(**note.model_dump()) for note in manifest.notes),
            settings=manifest.settings,
            diagnostics=manifest.diagnostics,
            model_name=manifest.model_name,
            made_for=manifest.made_for,
            versions=manifest.versions,
            exports=manifest.exports,
            state_change=read_edit_state(path, manifest),
            takes_back=manifest.takes_back,
        )


def weights_of(edits: Sequence[Edit]) -> list[WeightEffect]:
    """Return the changes of weights that edits are, one edit after the other.

    Raises:
        EditError: an edit that is something else, e.g. one of prompts.
    """
    return weight_effects(effect for edit in edits for effect in edit.effects)


@contextmanager
def rows_edited(model: EditableModel, edits: Sequence[Edit | None]) -> Iterator[None]:
    """Let every row of the batch see its own edited model; where all have the same edit, it is held once.

    Args:
        model: the model; its weights are not touched.
        edits: one entry per row of the batches that are run inside; None leaves a row unedited.
    """
    with on_rows(model, [() if edit is None else edit.effects for edit in edits]):
        yield
