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

from pydantic import BaseModel, ConfigDict
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from torch import Tensor

from factedit import __version__
from factedit.edit.effects.effect import Effect
from factedit.edit.effects.table import kind_named
from factedit.edit.place import MANIFEST as MANIFEST
from factedit.edit.place import STATE as STATE
from factedit.edit.place import TENSORS as TENSORS
from factedit.errors import DataError, EditError, UnknownName, first_line, shown
from factedit.paths import inside

FORMAT, OLDER = 3, 2
UNKNOWN = "unknown"  # the weights that an edit of format 2 was made for, where it did not say
_LIBRARIES = ("torch", "transformers", "safetensors")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class RequestRow(_Strict):
    """A request as it is stored."""

    subject: str
    prompt: str
    target_new: str
    target_true: str | None


class NotesRow(_Strict):
    """What is known of a request, as it is stored."""

    diagnostics: dict[str, Any]
    before: dict[str, Any]
    after: dict[str, Any]


class Manifest(_Strict):
    """Everything but the tensors.

    Attributes:
        format: version of this schema.
        method, requests, notes, settings, diagnostics: see `Edit`.
        effects: one row per effect, in order: its kind and fields. Its tensors are named by its number in the list.
        model_name, made_for: the model the edit was made for, by name and by the fingerprint of its weights.
        versions: of the libraries it was made with.
        exports: what was proven of the forms it was shipped in.
        files: SHA-256 of every other file of the folder.
        takes_back: see `Edit`; not written where it is empty.
        sha256: of all other fields.
    """

    format: Literal[3]
    method: str
    requests: tuple[RequestRow, ...]
    effects: tuple[dict[str, Any], ...]
    notes: tuple[NotesRow, ...]
    settings: dict[str, Any]
    diagnostics: dict[str, Any]
    model_name: str
    made_for: str
    versions: dict[str, str]
    exports: tuple[dict[str, Any], ...]
    files: dict[str, str]
    takes_back: tuple[tuple[str, int], ...] = ()
    sha256: str


@cache
def _version(library: str) -> str:
    return version(library)  # reads the library's whole description, which takes longer than a rank-one update


def installed() -> dict[str, str]:
    """Return the versions of factedit and of the libraries that compute edits."""
    return {"factedit": __version__} | {name: _version(name) for name in _LIBRARIES}


def row_of(effect: Effect) -> dict[str, Any]:
    """Return the row that describes an effect."""
    return {"kind": effect.kind, **effect.fields()}


def identity_of(manifest: dict[str, Any]) -> str:
    """Return the SHA-256 of what an edit is, from its manifest; the same for a manifest of format 2."""
    kept = {key: manifest[key] for key in ("method", "requests", "settings", "files")}
    # under the names and the number of format 2, in which the first ledgers named their edits
    made_for = "" if manifest["made_for"] == UNKNOWN else manifest["made_for"]
    kept |= {"format": 2, "changes": manifest["effects"], "model_fingerprint": made_for}
    kept |= {"takes_back": manifest["takes_back"]} if manifest.get("takes_back") else {}
    return hashlib.sha256(canonical(kept)).hexdigest()


def canonical(value: Any) -> bytes:
    """Return the one form in which a JSON value is written.

    Raises:
        EditError: it holds something that JSON cannot, such as NaN.
    """
    try:
        text = json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
        return (text + "\n").encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise EditError(
            f"The edit's settings or diagnostics cannot be written as JSON ({first_line(error)}). "
            f"Not a finite number or not a plain value: {', '.join(_unwritable(value)) or 'unknown'}."
        ) from error


def _unwritable(value: Any, path: str = "") -> list[str]:
    if isinstance(value, dict):
        return [p for key, inner in value.items() for p in _unwritable(inner, f"{path}/{key}")]
    if isinstance(value, list | tuple):
        return [p for n, inner in enumerate(value) for p in _unwritable(inner, f"{path}/{n}")]
    if isinstance(value, str):
        return [] if value.encode("utf-8", "ignore").decode() == value else [path]
    plain = value is None or isinstance(value, int) or (isinstance(value, float) and isfinite(value))
    return [] if plain else [path]


def sealed(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the fields with the SHA-256 of them all under `sha256`."""
    rest = {key: value for key, value in fields.items() if key != "sha256"}
    return {**rest, "sha256": hashlib.sha256(canonical(rest)).hexdigest()}


def is_sealed(fields: Any, raw: bytes) -> bool:
    """Return whether these are the bytes that `canonical` and `sealed` give of the fields."""
    try:
        return canonical(sealed(fields)) == raw
    except (EditError, AttributeError):
        return False


def read_manifest(folder: Path) -> Manifest:
    """Return the manifest of an edit's folder, checked.

    Raises:
        DataError: not there, of another format, not of this schema, or changed since it was written.
        UnsafeFile: a file of the edit is a link that leaves its folder.
    """
    raw = read_file_of(folder, MANIFEST)
    try:
        stored = json.loads(raw)
        said = stored["format"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise _not_whole(folder, f"{MANIFEST}: {type(error).__name__}: {first_line(error)}") from error
    if said not in (FORMAT, OLDER):
        newer = isinstance(said, int) and said > FORMAT
        advice = "A later version of factedit wrote it: get that one" if newer else "Make the edit again"
        raise DataError(f"{folder} has format {shown(said)}; this version reads {OLDER} and {FORMAT}. {advice}.")
    if not is_sealed(stored, raw):
        raise _not_whole(folder, f"{MANIFEST} was changed after it was written")
    try:
        manifest = Manifest(**(stored if said == FORMAT else _from_older(stored)))
        if len(manifest.notes) != len(manifest.requests):
            raise ValueError(f"{len(manifest.requests)} requests and notes on {len(manifest.notes)}")
        return manifest
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _not_whole(folder, f"{MANIFEST}: {first_line(error)}") from error


def _from_older(older: dict[str, Any]) -> dict[str, Any]:
    """A manifest of format 2, which knew one request, in today's terms."""
    fields = dict(older) | {"format": FORMAT}
    fields["effects"], fields["made_for"] = fields.pop("changes"), fields.pop("model_fingerprint")
    notes = dict(fields["diagnostics"])
    before, after = notes.pop("before", {}), notes.pop("after", {})
    if fields["requests"]:
        whole = {key: notes.pop(key) for key in ("update_norm", "weight_norm") if key in notes}
        first = {"diagnostics": notes, "before": before, "after": after}
        empty: dict[str, Any] = {"diagnostics": {}, "before": {}, "after": {}}
        fields["notes"], fields["diagnostics"] = [first, *(empty for _ in fields["requests"][1:])], whole
    else:
        fields["notes"] = []
    fields["made_for"] = fields["made_for"] or UNKNOWN
    return fields


def read_effects(folder: Path, manifest: Manifest) -> tuple[Effect, ...]:
    """Return the effects that a manifest describes, from the tensors beside it.

    Raises:
        DataError: the tensors are missing, were changed, or are not those described; an unknown kind of effect.
        UnsafeFile: their file is a link that leaves the folder.
    """
    tensors = _tensors_in(folder, manifest, TENSORS)
    try:
        fields = [({k: v for k, v in r.items() if k != "kind"}, kind_named(str(r["kind"]))) for r in manifest.effects]
        shapes = [kind.shapes(described) for described, kind in fields]
    except (UnknownName, ValueError, TypeError, KeyError) as error:
        raise _not_whole(folder, f"{MANIFEST}, {TENSORS}: {first_line(error)}") from error
    wanted = {f"{n}.{name}": shape for n, of_effect in enumerate(shapes) for name, shape in of_effect.items()}
    actual = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if actual != wanted:
        raise _not_whole(folder, f"{TENSORS} holds {actual}, and {MANIFEST} describes {wanted}")
    return tuple(
        kind.read(described, {name: tensors[f"{n}.{name}"] for name in shapes[n]})
        for n, (described, kind) in enumerate(fields)
    )


def read_edit_state(folder: Path, manifest: Manifest) -> dict[str, Tensor]:
    """Return what an edit changed in the state of its sequence; nothing where it has none.

    Raises:
        DataError, UnsafeFile: as `read_effects`.
    """
    return _tensors_in(folder, manifest, STATE) if STATE in manifest.files else {}


def _tensors_in(folder: Path, manifest: Manifest, name: str) -> dict[str, Tensor]:
    raw = read_file_of(folder, name)
    if hashlib.sha256(raw).hexdigest() != manifest.files.get(name):
        raise _not_whole(folder, f"{name} is not the file that {MANIFEST} names: it was changed or cut off")
    try:
        return load_tensors(raw)
    except SafetensorError as error:
        raise _not_whole(folder, f"{name}: {first_line(error)}") from error


def read_file_of(folder: Path, name: str) -> bytes:
    """Return a file of a folder, which must lie in it.

    Raises:
        DataError: it cannot be read.
        UnsafeFile: it is a link that leaves the folder, or a pipe or a folder.
    """
    try:
        return inside(folder, name).read_bytes()
    except (OSError, DataError) as error:
        cause = error.__cause__ or error
        raise _not_whole(folder, f"{name}: {getattr(cause, 'strerror', None) or first_line(error)}") from error


def _not_whole(folder: Path, why: str) -> DataError:
    return DataError(
        f"{folder} does not hold a whole edit ({why}). {edits_inside(folder) or 'Get it or make it again.'}"
    )


def edits_inside(folder: Path) -> str:
    """Return what to do where a folder holds none itself and those of several edits, as `edit --requests` writes them;
    nothing where it does not.
    """
    inside = sorted(path.parent for path in folder.glob(f"*/{MANIFEST}"))
    return f"It holds the folders of {len(inside)} edits: name one of them, e.g. {inside[0]}." if inside else ""
