"""IKE: in-context editing with demonstrations of what an edit shall do and what it shall leave (arXiv 2305.12740).

Before the new fact stand other facts, each with a prompt and its answer: the fact itself (copy), another wording of it
(update), or a prompt about something else whose answer stays (retain), 4, 12 and 16 of 32. They are the facts most like
the edited one, the nearest last, and the edited fact as a copy stands behind them all. Alike is what has the largest
cosine between the model's own mean hidden states; the published program takes a sentence encoder.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from factedit.data.registry import load_facts, select_of
from factedit.edit.artefact import Edit, Notes
from factedit.edit.effects.prompt import Prompt
from factedit.edit.effects.retrieved import directions
from factedit.edit.method import Made, MomentSource, Scope
from factedit.edit.methods.ice import CUE, check_length, new_fact, stated
from factedit.edit.presets_baselines import checked
from factedit.edit.state import State
from factedit.errors import EditError, UsageError
from factedit.facts import EditRequest, FactRecord, one_spelling
from factedit.models.adapter import EditableModel

DemonstrationKind = Literal["copy", "update", "retain"]
ENCODER = "mean hidden state after the model's last layer"


class IkeSettings(BaseModel):
    """Settings of IKE.

    Args:
        demonstrations: how many facts are shown; an eighth of them as copies, three eighths as updates.
        source: the data set that they are from, or a file of facts. Of a published set only records for tuning are
            shown, which no reported number is of; of a user's file all.
        seed: of the order of the kinds.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    demonstrations: int = Field(32, ge=1)
    source: str = Field("worldfacts", min_length=1)
    seed: int = 0


@dataclass(frozen=True)
class Ike:
    """The method, set up for one model.

    Attributes:
        model: the model.
        settings: what is shown.
        pool: the facts that demonstrations are chosen from.
        data: their set's name and hash.
    """

    model: EditableModel
    settings: IkeSettings
    pool: tuple[FactRecord, ...] = field(repr=False)
    data: str
    name: str = "ike"
    paper: str = "arXiv 2305.12740"
    scope: Scope = "each"

    def edit(self, requests: Sequence[EditRequest], state: State | None = None) -> Made:
        """Return one edit per request: demonstrations and its fact as a text before every prompt.

        Raises:
            EditError: fewer facts than are to be shown, or a text longer than the context.
            RequestError: a request that the model cannot read.
        """
        if not requests:
            return Made(())
        made_for = self.model.fingerprint()
        states = _directions(self.model, requests)
        return Made(tuple(self._edit(*fact, made_for) for fact in zip(requests, states, strict=True)))

    def _edit(self, request: EditRequest, state: Tensor, made_for: str) -> Edit:
        shown = self._nearest(request, state)
        kinds = demonstration_kinds(len(shown), self.settings.seed)
        blocks = [block(record, kind) for record, kind in zip(shown, kinds, strict=True)]
        fact = new_fact(request)
        copy = f"{fact}{CUE}{stated(request.text, request.target_new)}\n\n"
        effect = Prompt("".join(reversed(blocks)) + copy + fact, CUE)
        check_length(
            self.model, effect.on_prompt(""), request, f"Show fewer than {len(shown)} facts (--set demonstrations=N)"
        )
        return Edit(
            method=self.name, requests=(request,), effects=(effect,), made_for=made_for, settings=self.describe(),
            notes=(Notes(diagnostics={"shown": [record.case_id for record in shown]}),), model_name=self.model.name,
        )  # fmt: skip

    def _nearest(self, request: EditRequest, state: Tensor) -> list[FactRecord]:
        """Return the facts most like the request, the nearest first; none about its subject."""
        cosines = (self._states @ state).tolist()
        others = [n for n, record in enumerate(self.pool) if not _one_subject(record.request, request)]
        if len(others) < self.settings.demonstrations:
            raise EditError(
                f"{self.settings.demonstrations} facts are to be shown, and {self.settings.source} has {len(others)} "
                f"about other subjects than {request.subject!r}. Show fewer (--set demonstrations=N) or name "
                "another source."
            )
        ranked = sorted(others, key=lambda n: (-cosines[n], n))
        return [self.pool[n] for n in ranked[: self.settings.demonstrations]]

    @cached_property
    def _states(self) -> Tensor:
        return _directions(self.model, [record.request for record in self.pool])

    def describe(self) -> dict[str, Any]:
        """Return what decides the text beside the model and the request."""
        return {**self.settings.model_dump(mode="json"), "data": self.data, "encoder": ENCODER}


def demonstration_kinds(count: int, seed: int) -> list[DemonstrationKind]:
    """Return what each of so many demonstrations shows, the nearest first: 4 : 12 : 16, in a drawn order."""
    copies, updates = count // 8, 3 * count // 8
    retained = count - copies - updates
    kinds: list[DemonstrationKind] = [*["copy"] * copies, *["update"] * updates, *["retain"] * retained]  # type: ignore[list-item]
    random.Random(seed).shuffle(kinds)
    return kinds


def block(record: FactRecord, kind: DemonstrationKind) -> str:
    """Return a fact with a prompt and its answer, as the kind of demonstration has it."""
    request = record.request
    prompt, answer = {
        "copy": (request.text, request.target_new),
        "update": (record.paraphrases[0], request.target_new),
        "retain": (record.neighborhood[0], request.target_true or ""),
    }[kind]
    return f"{new_fact(request)}{CUE}{stated(prompt, answer)}\n\n"


def _directions(model: EditableModel, requests: Sequence[EditRequest]) -> Tensor:
    """Return per fact its mean hidden state, scaled to length one `[facts, d_model]`."""
    return directions(model, [stated(request.text, request.target_new) for request in requests])


def _one_subject(one: EditRequest, other: EditRequest) -> bool:
    return one_spelling(one.subject) == one_spelling(other.subject)


def ike(model: EditableModel, _moments: MomentSource, **changes: Any) -> Ike:
    """Return `ike` for a model; settings as in `IkeSettings`.

    Raises:
        UsageError: settings that do not hold, or a source without facts that can be shown.
        DataError, UnknownName: a source that cannot be read.
    """
    settings = checked(IkeSettings, "ike", {}, changes)
    data = load_facts(settings.source)
    records = select_of(data, split="all" if data.own else "tune")
    whole = tuple(r for r in records if r.paraphrases and r.neighborhood and r.request.target_true is not None)
    if not whole:
        raise UsageError(
            f"No record of {settings.source} has a target_true, another wording and a prompt about something else, "
            "as demonstrations need. Name another source (source=…)."
        )
    return Ike(model, settings, whole, f"{data.name} {data.sha256}")
