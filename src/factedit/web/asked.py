"""What the browser may send, each field with its limit; everything else is refused."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

LONGEST, SHORT, MANY = 4000, 300, 20  # characters of a prompt, of a name; prompts at once
PromptText = Annotated[str, Field(min_length=1, max_length=LONGEST)]
Name = Annotated[str, Field(min_length=1, max_length=SHORT)]
Identity = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class AskBody(_Strict):
    """A prompt for the unedited and the edited model."""

    prompt: PromptText
    top: int = Field(10, ge=1, le=50)
    tokens: int = Field(24, ge=1, le=100)


class _Traced(_Strict):
    kinds: str = Field("all", max_length=100)
    window: int | None = Field(None, ge=1, le=200)
    noise: str = Field("3s", max_length=20)
    samples: int = Field(10, ge=1, le=50)
    seed: int = Field(1, ge=0, lt=1 << 32)


class TraceBody(_Traced):
    """A prompt and its subject."""

    prompt: PromptText
    subject: Name


class FallBody(_Strict):
    """A prompt and its subject, which is blurred more and more."""

    prompt: PromptText
    subject: Name
    samples: int = Field(10, ge=1, le=50)
    seed: int = Field(1, ge=0, lt=1 << 32)


class KnownBody(_Strict):
    """How many known facts are wanted."""

    count: int = Field(5, ge=1, le=20)


class AveragesBody(_Traced):
    """How many known facts to trace."""

    records: int = Field(40, ge=1, le=500)


class StateBody(_Strict):
    """A state of a traced prompt's clean run."""

    prompt: PromptText
    token: int = Field(ge=0, le=LONGEST)
    layer: int = Field(ge=0, le=10_000)
    kind: str = Field("hidden", max_length=20)


class FactBody(_Strict):
    """A fact to change, and how."""

    subject: Name
    prompt: PromptText
    target_new: Name
    target_true: str | None = Field(None, max_length=SHORT)
    method: str = Field("rome", max_length=60)
    preset: Literal["tuned", "published", "none"] = "tuned"
    settings: dict[Annotated[str, Field(max_length=60)], Any] = Field(default_factory=dict, max_length=30)


class ProveBody(_Strict):
    """An edit of the ledger, and prompts of one's own."""

    edit: Identity
    fact: int = Field(0, ge=0)
    own: list[PromptText] = Field(default_factory=list, max_length=MANY)


class SwitchBody(_Strict):
    """An edit to switch, or all."""

    edit: Identity | None = None
    on: bool


class MoveBody(_Strict):
    """An edit of the ledger, and which way it goes."""

    edit: Identity
    by: Literal[-1, 1]
    past: Identity | None = None


class RecordsBody(_Strict):
    """A row of results, by the folder's number and its name."""

    results: int = Field(ge=0)
    row: str = Field(min_length=1, max_length=SHORT)


class EditBody(_Strict):
    """An edit of the ledger."""

    edit: Identity


class JobBody(_Strict):
    """A job."""

    job: str = Field(pattern=r"^[0-9a-f]{16}$")


class ExportBody(_Strict):
    """A form to ship the edits in that are on."""

    form: str = Field(max_length=20)


class AuditBody(_Strict):
    """Two models: the server's own (None) or a folder by number."""

    base: int | None = None
    suspect: int = Field(ge=0)


class DamageBody(_Strict):
    """How many true facts to ask."""

    facts: int = Field(24, ge=1, le=200)


class PuzzleBody(_Strict):
    """Which puzzle."""

    seed: int = Field(ge=0, lt=1 << 32)


class PuzzleAuditBody(PuzzleBody):
    """Which of the five models of a puzzle."""

    which: int = Field(ge=0, lt=5)


class PuzzleAskBody(PuzzleAuditBody):
    """A prompt for one of them."""

    prompt: PromptText


class EmptyBody(_Strict):
    """Nothing."""
