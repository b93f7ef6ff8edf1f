"""An Edit: what a method changes in a model, as a thing of its own.

An edit never holds a model. `applied_to` puts it on for the length of a `with` block and restores the same
bits on leaving; `save` and `load` keep it as a folder of `edit.json` and `edit.safetensors`. Reading one never
changes it, so an Edit may be shared between threads; the model it is put on serves one thread at a time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from safetensors.torch import save as save_tensors

from factedit.cache import replace_folder, settled
from factedit.edit.change import Change, Dense, LowRank, changes_applied, rows_changed
from factedit.edit.manifest import (
    FORMAT,
    MANIFEST,
    TENSORS,
    canonical,
    installed,
    read_changes,
    read_manifest,
    row_of,
    sealed,
)
from factedit.errors import EditError
from factedit.facts import EditRequest
from factedit.models.adapter import EditableModel

__all__ = ["FORMAT", "Change", "Dense", "Edit", "LowRank", "changes_of", "rows_edited"]


@dataclass(frozen=True, kw_only=True)
class Edit:
    """A change of a model's weights and its pedigree.

    Attributes:
        method: the name of the method, with any departure from its defaults in `settings`.
        requests: what was asked.
        changes: what is added to which matrix, in order.
        settings: all settings in force.
        diagnostics: what the method measured (see the method), JSON values only.
        model_name: how the model was called.
        model_fingerprint: hash of the weights the edit was made for; empty if not taken.
        versions: of the libraries it was made with.
        exports: what was proven of the forms it was shipped in.
    """

    method: str
    requests: tuple[EditRequest, ...]
    changes: tuple[Change, ...]
    settings: dict[str, Any] = field(default_factory=dict)
    diagnostics: dict[str, Any] = field(default_factory=dict)
    model_name: str = ""
    model_fingerprint: str = ""
    versions: dict[str, str] = field(default_factory=installed)
    exports: tuple[dict[str, Any], ...] = ()

    @contextmanager
    def applied_to(self, model: EditableModel, *, force: bool = False) -> Iterator[EditableModel]:
        """The model with this edit; the same bits as before on leaving, also after an exception.

        Args:
            model: changed inside the block only.
            force: apply to a model other than the one the edit was made for.

        Raises:
            EditError: another model's weights, other shapes, or a change that is not finite.
        """
        if self.model_fingerprint and not force:
            found = model.fingerprint()
            if found != self.model_fingerprint:
                raise EditError(
                    f"The edit was made for weights {self.model_fingerprint[:12]}… ({self.model_name}); "
                    f"{model.name} has {found[:12]}…. Edits do not carry over; force it only if you know why."
                )
        with changes_applied(model, self.changes):
            yield model

    def with_outcome(self, *, before: dict[str, Any], after: dict[str, Any], fingerprint: str) -> Edit:
        """The edit with what was measured on its prompt, bound to the weights it was made for."""
        notes = {**self.diagnostics, "before": before, "after": after}
        return replace(self, diagnostics=notes, model_fingerprint=fingerprint)

    def with_export(self, proof: dict[str, Any]) -> Edit:
        """The edit with what was proven of a form it was shipped in; an older proof of that form goes."""
        others = tuple(export for export in self.exports if export.get("form") != proof.get("form"))
        return replace(self, exports=(*others, proof))

    @property
    def identity(self) -> str:
        """SHA-256 of what the edit is: method, requests, settings, changes and the weights it was made for.

        Outcome, exports and library versions are left out: measuring an edit does not make it another one.
        """
        kept = ("format", "method", "requests", "settings", "changes", "model_fingerprint", "files")
        manifest = self.manifest()
        return hashlib.sha256(canonical({key: manifest[key] for key in kept})).hexdigest()

    def save(self, folder: str | Path) -> Path:
        """Write `edit.json` and `edit.safetensors`; the folder is the old or the new one at every moment.

        The same edit gives the same bytes.

        Raises:
            EditError: the folder exists and holds something other than an edit, or a value JSON cannot hold.
            ResourceError: the disk is full or not writable.
        """
        final = settled(Path(folder))
        if final.exists() and not (final.is_dir() and (not any(final.iterdir()) or (final / MANIFEST).is_file())):
            raise EditError(f"{final} exists and is not an edit; name another folder.")
        manifest, tensors = canonical(self.manifest()), self._tensors()

        def build(place: Path) -> None:
            (place / TENSORS).write_bytes(tensors)
            (place / MANIFEST).write_bytes(manifest)

        replace_folder(build, final, needed=len(manifest) + len(tensors))
        return Path(folder)

    def _tensors(self) -> bytes:
        named = {f"{n}.{name}": t.cpu() for n, c in enumerate(self.changes) for name, t in c.tensors().items()}
        return save_tensors(named)

    def manifest(self) -> dict[str, Any]:
        """Everything but the tensors, as `edit.json` holds it."""
        return sealed(
            {
                "format": FORMAT,
                "method": self.method,
                "requests": [vars(request) for request in self.requests],
                "changes": [row_of(change).model_dump(mode="json") for change in self.changes],
                "settings": self.settings,
                "diagnostics": self.diagnostics,
                "model_name": self.model_name,
                "model_fingerprint": self.model_fingerprint,
                "versions": self.versions,
                "exports": list(self.exports),
                "files": {TENSORS: hashlib.sha256(self._tensors()).hexdigest()},
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
            changes=read_changes(path, manifest),
            settings=manifest.settings,
            diagnostics=manifest.diagnostics,
            model_name=manifest.model_name,
            model_fingerprint=manifest.model_fingerprint,
            versions=manifest.versions,
            exports=manifest.exports,
        )


def changes_of(edits: Sequence[Edit]) -> list[Change]:
    """The changes of edits, one edit after the other."""
    return [change for edit in edits for change in edit.changes]


@contextmanager
def rows_edited(model: EditableModel, edits: Sequence[Edit | None]) -> Iterator[None]:
    """Every row of the batch sees its own edited model: value += key ΔW, row by row.

    Args:
        model: the model; its weights are not touched.
        edits: one entry per row of the batches that are run inside; None leaves a row unedited.
    """
    with rows_changed(model, [() if edit is None else edit.changes for edit in edits]):
        yield
