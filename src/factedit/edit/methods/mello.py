"""MeLLo: a question is taken apart, and each part is checked against the edited facts (arXiv 2305.14795, section 5).

For questions over several hops only: a prompt that does not end in a question ("Q: … A:") is asked as it is. The model
writes the parts itself, so that one that cannot follow the examples shows nothing. The published program retrieves by a
trained encoder; here the model's own mean hidden state or BM25 does, as in `retrieval`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from factedit.edit.effects.decomposed import Decomposed
from factedit.edit.method import Made, MomentSource, Scope, edits_of_effects
from factedit.edit.methods.ice import stated
from factedit.edit.methods.retrieval import RetrievalSettings, looked_up
from factedit.edit.presets_baselines import checked
from factedit.edit.state import State
from factedit.facts import EditRequest
from factedit.models.adapter import EditableModel


class MelloSettings(RetrievalSettings):
    """Settings of MeLLo.

    Args:
        rounds: parts of a question at most.
    """

    rounds: int = Field(4, ge=1)


@dataclass(frozen=True)
class Mello:
    """The method, set up for one model.

    Attributes:
        model: the model.
        settings: how facts are found, and how many parts a question has at most.
    """

    model: EditableModel
    settings: MelloSettings
    name: str = "mello"
    paper: str = "arXiv 2305.14795"
    scope: Scope = "each"

    def edit(self, requests: Sequence[EditRequest], state: State | None = None) -> Made:
        """Return one edit per request: its fact as a text that parts of questions are checked against.

        Raises:
            RequestError: a request that the model cannot read.
        """
        how = RetrievalSettings(**self.settings.model_dump(exclude={"rounds"}))
        facts_of = looked_up(self.model, requests, how, lambda r: stated(r.text, r.target_new), cue="")
        effects = [Decomposed(facts, self.settings.rounds) for facts in facts_of]
        return edits_of_effects(self.name, self.model, requests, effects, self.describe())

    def describe(self) -> dict[str, Any]:
        """Return how facts are found, and how many parts a question has at most."""
        return self.settings.model_dump(mode="json")


def mello(model: EditableModel, _moments: MomentSource, **changes: Any) -> Mello:
    """Return `mello` for a model; settings as in `MelloSettings`.

    Raises:
        UsageError: settings that do not hold.
    """
    return Mello(model, checked(MelloSettings, "mello", {}, changes))
