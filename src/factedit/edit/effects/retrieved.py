"""Facts kept as text, of which the nearest to a prompt is put before it (retrieval, arXiv 2606.00570).

Nearest is what has the largest cosine between the model's own mean hidden states of prompt and fact, or the highest
BM25 score over their words. Facts do not know of each other: one is put in or taken out without the others.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from factedit.edit.effects.of_prompts import OfPrompts
from factedit.engine.mean_states import mean_states
from factedit.errors import EditError
from factedit.models.adapter import EditableModel
from factedit.text import words

Encoder = Literal["states", "bm25"]
K1, B = 1.5, 0.75  # BM25's usual constants (Robertson and Zaragoza 2009)


class RetrievedFields(BaseModel):
    """What `edit.json` tells of it.

    Attributes:
        facts: the texts.
        cue: what stands between a fact and the prompt.
        encoder: how the nearest is found.
        threshold: a fact that is not more alike is not put there.
        count: how many facts are put there at most.
        width: of a state; 0 where there are none.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    facts: list[str] = Field(min_length=1)
    cue: str
    encoder: Encoder
    threshold: float
    count: int = Field(ge=1)
    width: int = Field(ge=0)


@dataclass(frozen=True, eq=False)
class Retrieved(OfPrompts):
    """Facts as text, looked up for every prompt.

    Attributes:
        facts: each a text of its own, with all that stands between it and the next.
        cue: what leads over to the prompt.
        encoder: `states` (the model's own) or `bm25`.
        threshold: a fact is put before a prompt only if it is more alike than this.
        count: so many at most, the nearest last.
        states: `[facts, d_model]`, of length one; `[0, 0]` with `bm25`.
        instead: what to do with it where weights are wanted.
    """

    kind: ClassVar[str] = "retrieved"
    instead: ClassVar[str] = "Use it in memory, from Python (factedit.load_edited)"
    facts: tuple[str, ...] = field(repr=False)
    cue: str
    encoder: Encoder = "states"
    threshold: float = 0.0
    count: int = 1
    states: Tensor = field(default_factory=lambda: torch.zeros(0, 0), repr=False)

    def on_prompt(self, text: str) -> str:
        """Return the text after the facts that are like it.

        Raises:
            EditError: the model itself says which are.
        """
        if self.encoder == "states":
            raise EditError(
                "Which facts stand before a prompt is found by the model's own states: ask with the model, "
                "edit.on_prompts(model, [prompt])."
            )
        return self._before(text, self._near(bm25(self.facts, text)))

    def on_prompts(self, model: EditableModel, texts: Sequence[str]) -> list[str]:
        """Return each text after the facts that are like it.

        Args:
            model: that the edit was made for.
            texts: prompts.

        Raises:
            EditError: a model of another width.
        """
        return [self._before(text, near) for text, near in zip(texts, self.nearest(model, texts), strict=True)]

    def nearest(self, model: EditableModel, texts: Sequence[str]) -> list[list[str]]:
        """Return per text the facts that are like it, the nearest last; arguments and errors as for `on_prompts`."""
        if self.encoder == "bm25" or not texts:
            return [self._near(bm25(self.facts, text)) for text in texts]
        asked = directions(model, texts)
        if self.states.shape[1] != asked.shape[1]:
            raise EditError(
                f"The facts' states have {self.states.shape[1]} entries and those of {model.name} {asked.shape[1]}: "
                "they are of another model. Make the edit again for this one."
            )
        cosines = asked @ self.states.T
        return [self._near(row) for row in cosines.tolist()]

    def _near(self, likeness: Sequence[float]) -> list[str]:
        ranked = sorted(range(len(self.facts)), key=lambda n: (-likeness[n], n))
        return [self.facts[n] for n in reversed(ranked[: self.count]) if likeness[n] > self.threshold]

    def _before(self, text: str, near: Sequence[str]) -> str:
        return "".join(near) + self.cue + text if near else text

    def followed_by(self, other: Retrieved) -> Retrieved | None:
        """Return the facts of both; None where they are looked up in another way."""
        if self._how() != other._how():
            return None
        states = torch.cat([self.states, other.states])
        return Retrieved(self.facts + other.facts, self.cue, self.encoder, self.threshold, self.count, states)

    def without(self, fact: int) -> Retrieved:
        """Return the facts without one of them.

        Raises:
            EditError: there is no such fact, or no other.
        """
        rest = [n for n in range(len(self.facts)) if n != fact]
        if not rest or len(rest) == len(self.facts):
            raise EditError(f"Fact {fact} was to be taken out of {len(self.facts)}: give one, leave one.")
        facts, states = tuple(self.facts[n] for n in rest), self.states[rest] if len(self.states) else self.states
        return Retrieved(facts, self.cue, self.encoder, self.threshold, self.count, states)

    def _how(self) -> tuple[Any, ...]:
        return self.cue, self.encoder, self.threshold, self.count, self.states.shape[1]

    def fields(self) -> dict[str, Any]:
        """Return the facts and how they are looked up."""
        how = {"encoder": self.encoder, "threshold": self.threshold, "count": self.count}
        return {"facts": list(self.facts), "cue": self.cue, "width": self.states.shape[1], **how}

    def tensors(self) -> dict[str, Tensor]:
        """Return the facts' states, float32."""
        return {"states": self.states.float().contiguous()} if self.encoder == "states" else {}

    @classmethod
    def shapes(cls, fields: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        """Return that of the states."""
        stored = RetrievedFields(**fields)
        return {"states": (len(stored.facts), stored.width)} if stored.encoder == "states" else {}

    @classmethod
    def read(cls, fields: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        """Return the facts back from what is stored."""
        stored = RetrievedFields(**fields)
        states = tensors.get("states", torch.zeros(0, 0))
        return cls(tuple(stored.facts), stored.cue, stored.encoder, stored.threshold, stored.count, states)


def directions(model: EditableModel, texts: Sequence[str]) -> Tensor:
    """Return per text its mean hidden state, scaled to length one `[texts, d_model]`."""
    return torch.nn.functional.normalize(mean_states(model, texts), dim=-1)


def bm25(facts: Sequence[str], text: str) -> list[float]:
    """Return the BM25 score of each fact for a text, letter case aside (Robertson and Zaragoza 2009, eq. 3.15).

    The weight of a word is log(1 + (N − n + 1/2) / (n + 1/2)), which is never negative.
    """
    counts = [Counter(words(fact.casefold())) for fact in facts]
    lengths = [sum(count.values()) for count in counts]
    mean = sum(lengths) / len(lengths) or 1.0
    scores = [0.0] * len(facts)
    for word in dict.fromkeys(words(text.casefold())):
        holding = sum(word in count for count in counts)
        weight = math.log(1 + (len(facts) - holding + 0.5) / (holding + 0.5))
        for n, (count, length) in enumerate(zip(counts, lengths, strict=True)):
            often = count[word]
            scores[n] += weight * often * (K1 + 1) / (often + K1 * (1 - B + B * length / mean))
    return scores
