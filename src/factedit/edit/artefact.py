"""An Edit: what a method changes in a model, as a thing of its own.

An edit never holds a model. `applied_to` puts it on for the length of a `with` block and restores the same
bits on leaving; `save` and `load` keep it as a folder of `edit.json` and `edit.safetensors`.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from factedit.errors import DataError, EditError, FacteditError, ResourceError
from factedit.facts import EditRequest
from factedit.models.adapter import EditableModel

FORMAT = 1


@dataclass(frozen=True)
class LowRank:
    """ΔW of one layer as a product.

    Attributes:
        layer: which layer's matrix.
        left: `[d_mlp, rank]`.
        right: `[rank, d_model]`.
    """

    layer: int
    left: Tensor = field(repr=False)
    right: Tensor = field(repr=False)

    def delta(self) -> Tensor:
        """ΔW `[d_mlp, d_model]`."""
        return self.left @ self.right


@dataclass(frozen=True, kw_only=True)
class Edit:
    """A change of a model's weights and its pedigree.

    Attributes:
        method: the name of the method, with any departure from its defaults in `settings`.
        requests: what was asked.
        changes: one low-rank change per layer touched.
        settings: all settings in force.
        diagnostics: what the method measured (see the method), JSON values only.
        model_name: how the model was called.
        model_fingerprint: hash of the weights the edit was made for; empty if not taken.
    """

    method: str
    requests: tuple[EditRequest, ...]
    changes: tuple[LowRank, ...]
    settings: dict[str, Any] = field(default_factory=dict)
    diagnostics: dict[str, Any] = field(default_factory=dict)
    model_name: str = ""
    model_fingerprint: str = ""

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
        with ExitStack() as stack:
            for change in self.changes:
                weight = model.weight(change.layer)
                if change.left.shape[0] != weight.shape[0] or change.right.shape[1] != weight.shape[1]:
                    raise EditError(
                        f"The edit changes a matrix [{change.left.shape[0]}, {change.right.shape[1]}]; "
                        f"layer {change.layer} of {model.name} has {list(weight.shape)}."
                    )
                delta = change.delta().to(weight.device)
                stack.enter_context(model.with_weight(change.layer, (weight.float() + delta).to(weight.dtype)))
            yield model

    def with_outcome(self, *, before: dict[str, Any], after: dict[str, Any], fingerprint: str) -> Edit:
        """The edit with what was measured on its prompt, bound to the weights it was made for."""
        notes = {**self.diagnostics, "before": before, "after": after}
        return replace(self, diagnostics=notes, model_fingerprint=fingerprint)

    def save(self, folder: str | Path) -> Path:
        """Write `edit.json` and `edit.safetensors` into a folder that appears whole or not at all.

        Raises:
            EditError: the folder exists and holds something other than an edit.
            ResourceError: the disk is full or not writable.
        """
        final = Path(folder)
        if final.exists() and any(final.iterdir()) and not (final / "edit.json").is_file():
            raise EditError(f"{final} exists and is not an edit; name another folder.")
        tensors = {
            f"{c.layer}.{side}": getattr(c, side).contiguous() for c in self.changes for side in ("left", "right")
        }
        try:
            final.parent.mkdir(parents=True, exist_ok=True)
            old = final.with_name(f".{final.name}-old")
            building = Path(tempfile.mkdtemp(prefix=f".{final.name}-", dir=final.parent))
            try:
                save_file(tensors, building / "edit.safetensors")
                (building / "edit.json").write_text(json.dumps(self.manifest(), indent=1) + "\n")
                shutil.rmtree(old, ignore_errors=True)
                if final.exists():
                    final.replace(old)
                try:
                    building.replace(final)
                except OSError:
                    if old.exists():
                        old.replace(final)
                    raise
            finally:
                shutil.rmtree(building, ignore_errors=True)
                shutil.rmtree(old, ignore_errors=True)
        except (OSError, SafetensorError) as error:
            raise ResourceError(
                f"The edit could not be written to {final}: {error}. Free space or name another folder."
            ) from error
        return final

    def manifest(self) -> dict[str, Any]:
        """Everything but the tensors, as `edit.json` holds it."""
        return {
            "format": FORMAT,
            "method": self.method,
            "requests": [vars(request) for request in self.requests],
            "layers": [change.layer for change in self.changes],
            "settings": self.settings,
            "diagnostics": self.diagnostics,
            "model_name": self.model_name,
            "model_fingerprint": self.model_fingerprint,
        }

    @classmethod
    def load(cls, folder: str | Path) -> Edit:
        """Read an edit back.

        Raises:
            DataError: a file is missing, damaged, or of another format.
        """
        path = Path(folder)
        try:
            manifest = json.loads((path / "edit.json").read_text())
            if manifest["format"] != FORMAT:
                raise DataError(f"{path} has format {manifest['format']}; this version reads {FORMAT}.")
            tensors = load_file(path / "edit.safetensors")
            changes = tuple(LowRank(n, tensors[f"{n}.left"], tensors[f"{n}.right"]) for n in manifest["layers"])
            return cls(
                method=manifest["method"],
                requests=tuple(EditRequest(**request) for request in manifest["requests"]),
                changes=changes,
                settings=manifest["settings"],
                diagnostics=manifest["diagnostics"],
                model_name=manifest["model_name"],
                model_fingerprint=manifest["model_fingerprint"],
            )
        except FacteditError:
            raise
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise DataError(
                f"{path} does not hold a whole edit ({type(error).__name__}: {error}). Make it again."
            ) from error


def merge_by_layer(edits: Sequence[Edit]) -> dict[int, list[LowRank | None]]:
    """Per layer touched by any of the edits, each edit's change there or None."""
    layers = sorted({change.layer for edit in edits for change in edit.changes})
    return {n: [next((c for c in edit.changes if c.layer == n), None) for edit in edits] for n in layers}


@contextmanager
def rows_edited(model: EditableModel, edits: Sequence[Edit | None]) -> Iterator[None]:
    """Every row of the batch sees its own edited model: value += (key · left) right, row by row.

    Args:
        model: the model; its weights are not touched.
        edits: one entry per row of the batches that are run inside; None leaves a row unedited.
    """
    present = [edit for edit in edits if edit is not None]
    with ExitStack() as stack:
        for layer, changes in merge_by_layer(present).items():
            of_row = iter(changes)
            per_row = [None if edit is None else next(of_row) for edit in edits]
            rank = max(c.left.shape[1] for c in per_row if c is not None)
            weight = model.weight(layer)
            left = weight.new_zeros(len(edits), weight.shape[0], rank)
            right = weight.new_zeros(len(edits), rank, weight.shape[1])
            for row, change in enumerate(per_row):
                if change is not None:
                    left[row, :, : change.left.shape[1]] = change.left
                    right[row, : change.right.shape[0]] = change.right
            hook = lambda key, value, a=left, b=right: value + (key @ a) @ b  # noqa: E731
            stack.enter_context(model.on_matrix(layer, hook))
        yield
