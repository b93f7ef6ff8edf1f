"""The file `edit.json`: its schema, its bytes, and what is refused on reading it.

The bytes are a function of the content: keys sorted, one space of indent, UTF-8, a newline at the end. So the same
edit gives the same file, and a file whose bytes are not those of its own content was changed. It names the SHA-256
of the tensors' file and of itself (of all its other fields). That finds damage and careless changes; it is no
signature: whoever rewrites all hashes can make a consistent edit of his own.
"""

from __future__ import annotations

import hashlib
import json
from functools import cache
from importlib.metadata import version
from math import isfinite
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from torch import Tensor

from factedit import __version__
from factedit.edit.change import Change, Dense, LowRank
from factedit.errors import DataError, EditError, UnsafeFile
from factedit.models.families import MatrixName

FORMAT = 2
MANIFEST, TENSORS = "edit.json", "edit.safetensors"
_LIBRARIES = ("torch", "transformers", "safetensors")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class RequestRow(_Strict):
    """A request as it is stored."""

    subject: str
    prompt: str
    target_new: str
    target_true: str | None


class ChangeRow(_Strict):
    """A change as it is stored; its tensors are named by its number in the list.

    Attributes:
        kind: `low-rank` (tensors `left` `[d_in, rank]`, `right` `[rank, d_out]`) or `dense` (`change`).
        layer, matrix: where.
        shape: `[d_in, d_out]` of the matrix it fits.
        rank: of a low-rank change; null for a dense one.
    """

    kind: Literal["low-rank", "dense"]
    layer: int = Field(ge=0)
    matrix: MatrixName
    shape: tuple[int, int]
    rank: int | None

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """The shapes of its tensors."""
        (d_in, d_out), rank = self.shape, self.rank or 0
        return {"change": self.shape} if self.kind == "dense" else {"left": (d_in, rank), "right": (rank, d_out)}


class Manifest(_Strict):
    """Everything but the tensors.

    Attributes:
        format: version of this schema.
        method, requests, settings, diagnostics: see `Edit`.
        changes: one row per changed matrix, in order.
        model_name, model_fingerprint: the model the edit was made for.
        versions: of the libraries it was made with.
        exports: what was proven of the forms it was shipped in.
        files: SHA-256 of every other file of the folder.
        sha256: of all other fields.
    """

    format: Literal[2]
    method: str
    requests: tuple[RequestRow, ...]
    changes: tuple[ChangeRow, ...]
    settings: dict[str, Any]
    diagnostics: dict[str, Any]
    model_name: str
    model_fingerprint: str
    versions: dict[str, str]
    exports: tuple[dict[str, Any], ...]
    files: dict[str, str]
    sha256: str


@cache
def _version(library: str) -> str:
    return version(library)  # reads the library's whole description, which takes longer than a rank-one update


def installed() -> dict[str, str]:
    """The versions of factedit and of the libraries that compute edits."""
    return {"factedit": __version__} | {name: _version(name) for name in _LIBRARIES}


def row_of(change: Change) -> ChangeRow:
    """The row that describes a change."""
    kind: Literal["low-rank", "dense"] = "dense" if isinstance(change, Dense) else "low-rank"
    rank = None if isinstance(change, Dense) else change.rank
    return ChangeRow(kind=kind, layer=change.layer, matrix=change.matrix, shape=change.shape, rank=rank)


def canonical(value: Any) -> bytes:
    """The one form in which a JSON value is written.

    Raises:
        EditError: it holds something that JSON cannot, such as NaN.
    """
    try:
        text = json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise EditError(
            f"The edit's settings or diagnostics cannot be written as JSON ({error}). "
            f"Not a finite number or not a plain value: {', '.join(_unwritable(value)) or 'unknown'}."
        ) from error
    return (text + "\n").encode()


def _unwritable(value: Any, path: str = "") -> list[str]:
    if isinstance(value, dict):
        return [p for key, inner in value.items() for p in _unwritable(inner, f"{path}/{key}")]
    if isinstance(value, list | tuple):
        return [p for n, inner in enumerate(value) for p in _unwritable(inner, f"{path}/{n}")]
    plain = value is None or isinstance(value, str | int) or (isinstance(value, float) and isfinite(value))
    return [] if plain else [path]


def sealed(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields with the SHA-256 of them all under `sha256`."""
    rest = {key: value for key, value in fields.items() if key != "sha256"}
    return {**rest, "sha256": hashlib.sha256(canonical(rest)).hexdigest()}


def read_manifest(folder: Path) -> Manifest:
    """The manifest of an edit's folder, checked.

    Raises:
        DataError: not there, of another format, not of this schema, or changed since it was written.
        UnsafeFile: a file of the edit is a link that leaves its folder.
    """
    raw = read_inside(folder, MANIFEST)
    try:
        found = json.loads(raw)
        said = found["format"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise _not_whole(folder, f"{MANIFEST}: {type(error).__name__}: {error}") from error
    if said != FORMAT:
        raise DataError(f"{folder} has format {said}; this version reads {FORMAT}. Make the edit again.")
    try:
        manifest = Manifest(**found)
    except ValidationError as error:
        first = error.errors()[0]
        raise _not_whole(folder, f"{MANIFEST}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    if canonical(sealed(found)) != raw:
        raise _not_whole(folder, f"{MANIFEST} was changed after it was written")
    return manifest


def read_changes(folder: Path, manifest: Manifest) -> tuple[Change, ...]:
    """The changes that a manifest describes, from the tensors beside it.

    Raises:
        DataError: the tensors are missing, were changed, or are not those described.
        UnsafeFile: their file is a link that leaves the folder.
    """
    raw = read_inside(folder, TENSORS)
    if hashlib.sha256(raw).hexdigest() != manifest.files.get(TENSORS):
        raise _not_whole(folder, f"{TENSORS} is not the file that {MANIFEST} names: it was changed or cut off")
    try:
        tensors = load_tensors(raw)
    except SafetensorError as error:
        raise _not_whole(folder, f"{TENSORS}: {error}") from error
    wanted = {f"{n}.{name}": shape for n, row in enumerate(manifest.changes) for name, shape in row.tensors().items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if found != wanted:
        raise _not_whole(folder, f"{TENSORS} holds {found}, and {MANIFEST} describes {wanted}")
    return tuple(_change(row, n, tensors) for n, row in enumerate(manifest.changes))


def _change(row: ChangeRow, number: int, tensors: dict[str, Tensor]) -> Change:
    own = {name: tensors[f"{number}.{name}"] for name in row.tensors()}
    if row.kind == "dense":
        return Dense(row.layer, own["change"], row.matrix)
    return LowRank(row.layer, own["left"], own["right"], row.matrix)


def read_inside(folder: Path, name: str) -> bytes:
    """A file of a folder, which must lie in it.

    Raises:
        DataError: it cannot be read.
        UnsafeFile: it is a link that leaves the folder.
    """
    path = folder / name
    if path.is_symlink() and not path.resolve().is_relative_to(folder.resolve()):
        raise UnsafeFile(f"{path} is a link to {path.resolve()}, outside its folder. Put the file itself there.")
    try:
        return path.read_bytes()
    except OSError as error:
        raise _not_whole(folder, f"{name}: {error.strerror or error}") from error


def _not_whole(folder: Path, found: str) -> DataError:
    return DataError(f"{folder} does not hold a whole edit ({found}). Get it or make it again.")
