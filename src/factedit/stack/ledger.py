"""The ledger of a folder of edits: one JSON object a line, each with the hash of the line before.

The first entry names the model the folder began as; every further one says what was put on or taken off, which
edits stand afterwards, and the SHA-256 of every file of weights. Nothing is ever taken out of it. The hash of its
last entry is also written into the index of the weights, so that a ledger that was cut off is found out.
"""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, model_validator

from factedit import __version__
from factedit.edit.manifest import installed
from factedit.errors import DataError, first_line, shown
from factedit.facts import fill, one_spelling
from factedit.models.families import MatrixName
from factedit.text import clipped

LEDGER = "ledger.jsonl"
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class LedgerFact(_Strict):
    """A request of an edit, in short."""

    subject: str
    prompt: str
    target: str

    @property
    def text(self) -> str:
        """The fact as a sentence."""
        return f"{fill(self.prompt, self.subject)} → {self.target}"

    @property
    def asked(self) -> tuple[str, str]:
        """Subject and relation, by which two requests are about the same fact."""
        return one_spelling(self.subject), one_spelling(self.prompt)


class TakenBack(_Strict):
    """A fact of an earlier edit that a later one takes back."""

    edit: Sha256
    fact: int = Field(ge=0)


class Standing(_Strict):
    """An edit that is on the model.

    Attributes:
        identity: of the edit.
        method: that made it.
        facts: what it does; empty for an edit without a request.
        needs: identities of the edits that were on the model it was computed for.
        takes_back: facts of earlier edits that it takes back.
    """

    identity: Sha256
    method: str
    facts: tuple[LedgerFact, ...]
    needs: tuple[Sha256, ...] = ()
    takes_back: tuple[TakenBack, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _from_older(cls, fields: Any) -> Any:
        """An entry of the first ledgers, which told one fact in fields of its own; empty for none."""
        names = ("subject", "prompt", "target")
        if not isinstance(fields, dict) or "facts" in fields or not set(names) <= fields.keys():
            return fields
        rest = {key: value for key, value in fields.items() if key not in names}
        return rest | {"facts": [{key: fields[key] for key in names}] if fields["subject"] else []}

    @property
    def text(self) -> str:
        """The edit in a few words."""
        count = len(self.takes_back)
        nothing = f"takes back {count} {'fact' if count == 1 else 'facts'}" if count else "no request"
        fact = clipped(self.facts[0].text) if self.facts else nothing
        more = f" and {len(self.facts) - 1} more" if len(self.facts) > 1 else ""
        return f"{self.identity[:12]} ({self.method}: {fact}{more})"


class LedgerMatrix(_Strict):
    """A matrix that was edited at least once.

    Attributes:
        tensor: its name in the weights.
        layer, matrix: which it is.
        stored_in_out: it is stored `[d_in, d_out]`.
        original: SHA-256 of the file that keeps it as it was before any edit.
        parts: the tensors it is quantised as; empty where it is not.
        stacked: the tensor holds this matrix of every expert, `[experts, …]`.
        form: how it is stored with edits on it: `plain`; of a quantised one `unquantised` or `requantised`.
    """

    tensor: str
    layer: int
    matrix: MatrixName
    stored_in_out: bool
    original: str = Field(pattern=r"^([0-9a-f]{64})?$")
    parts: tuple[str, ...] = ()
    stacked: bool = False
    form: Literal["plain", "unquantised", "requantised"] = "plain"


class Entry(_Strict):
    """One line.

    Attributes:
        number: from 0.
        kind: `base`, `apply` or `revert`.
        time: UTC, ISO 8601.
        edits: identities of the edits that were put on or taken off.
        standing: the edits on the model afterwards, in order.
        conflicts: what was reported.
        forced: a refusal was overruled.
        model_name, model_fingerprint, dtype: the model the folder began as.
        matrices: all that were ever edited.
        shards: SHA-256 of every file of weights afterwards.
        config: SHA-256 of the configuration that a quantised folder began with; else empty.
        versions: of the libraries that did it.
        previous: hash of the entry before; empty for the first.
        hash: of all other fields.
    """

    number: int
    kind: Literal["base", "apply", "revert"]
    time: str
    edits: tuple[Sha256, ...]
    standing: tuple[Standing, ...]
    conflicts: tuple[str, ...]
    forced: bool
    model_name: str
    model_fingerprint: str
    dtype: str
    matrices: tuple[LedgerMatrix, ...]
    shards: dict[str, str]
    config: str = ""
    versions: dict[str, str]
    previous: str
    hash: str
    _written: str = PrivateAttr("")

    def line(self) -> str:
        """Return the entry as the ledger holds it; one that was read, as it was written."""
        return (self._written or _line(self.model_dump(mode="json"))) + "\n"


def next_entry(before: Entry | None, **fields: Any) -> Entry:
    """Return the entry that follows another one; what is not given stays as it was there."""
    kept = {} if before is None else before.model_dump(mode="json")
    entry = Entry(
        **{
            **kept,
            **fields,
            "number": 0 if before is None else before.number + 1,
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "versions": installed(),
            "previous": "" if before is None else before.hash,
            "hash": "",
        }
    )
    return entry.model_copy(update={"hash": _hash(entry.model_dump(mode="json"))})


def read_ledger(path: Path, head: str) -> list[Entry]:
    """Return all entries, the chain of hashes checked.

    Args:
        path: the file.
        head: the hash its last entry must have.

    Raises:
        DataError: it is missing, damaged, changed, reordered or cut off; the message names the entry.
    """
    try:
        lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"The ledger {path} cannot be read ({first_line(error)}). Get the folder again, or make it anew."
        ) from error
    entries: list[Entry] = []
    for number, line in enumerate(lines):
        try:
            fields = json.loads(line)
            entry = Entry(**fields)
        except (ValueError, TypeError, ValidationError, RecursionError) as error:
            raise _unread(path, number, line, error) from error
        if line != _line(fields) or entry.hash != _hash(fields):
            raise _broken(path, number, "was changed after it was written")
        if entry.number != number or entry.previous != (entries[-1].hash if entries else ""):
            raise _broken(path, number, f"does not follow the one before it: it says it is entry {entry.number}")
        entry._written = line
        entries.append(entry)
    if not entries or entries[-1].hash != head:
        raise DataError(
            f"The ledger {path} was cut off or belongs to other weights: it ends with entry {len(entries) - 1}, "
            f"and the weights were written with the entry {head[:12]}…. Get the folder again, or make it anew."
        )
    return entries


def _line(fields: dict[str, Any]) -> str:
    return json.dumps(fields, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def _hash(fields: dict[str, Any]) -> str:
    return hashlib.sha256(_line({key: value for key, value in fields.items() if key != "hash"}).encode()).hexdigest()


def _unread(path: Path, number: int, line: str, error: Exception) -> DataError:
    """What is to be said of a line that is no entry: where it was not changed, another version wrote it."""
    try:
        fields = json.loads(line)
        by = fields["versions"]["factedit"]
        whole = line == _line(fields) and fields["hash"] == _hash(fields)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        whole = False
    if not whole:
        return _broken(path, number, f"is no entry ({first_line(error)})")
    return DataError(
        f"Entry {number} of the ledger {path} was written by factedit {shown(by)} and is not known to this one "
        f"({__version__}). Use that version."
    )


def _broken(path: Path, number: int, what: str) -> DataError:
    return DataError(
        f"Entry {number} of the ledger {path} {what}. "
        "Its history cannot be trusted: get the folder again, or make it anew."
    )
