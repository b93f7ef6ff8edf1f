"""What the factors of an edit read and write: subjects on whose keys they act, and tokens that they make likelier."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from factedit.edit.artefact import Edit
from factedit.edit.effects.effect import WeightEffect
from factedit.engine.likeliest import Token, likeliest
from factedit.errors import UsageError
from factedit.facts import EditRequest
from factedit.models.adapter import EditableModel
from factedit.models.families import Place
from factedit.stats.subjects import subject_keys
from factedit.work.touched import other_facts

NAMED = 8  # subjects and tokens that are told


class SubjectRead(NamedTuple):
    """A subject whose key a change reads.

    Attributes:
        subject, prompt: of it.
        share: w(k)·w(k*) / ‖w(k*)‖², w(k) = k ΔW being what is written at its key k: 1 for the edited fact's own key
            k*, 0 where nothing is written.
    """

    subject: str
    prompt: str
    share: float


class ReadAndWritten(NamedTuple):
    """What one change of a matrix reads and writes.

    Attributes:
        layer, matrix: which.
        subjects: whose keys it reads most, the edited one among them.
        tokens: what it writes at the edited fact's key, through the model's norm and head (as the logit lens reads a
            state); nothing of a matrix that does not write to the hidden state.
    """

    layer: int
    matrix: str
    subjects: tuple[SubjectRead, ...]
    tokens: tuple[Token, ...]

    def as_json(self) -> dict[str, Any]:
        """Return the same as JSON values."""
        told = {name: [entry._asdict() for entry in getattr(self, name)] for name in ("subjects", "tokens")}
        return {"layer": self.layer, "matrix": self.matrix, **told}


@torch.no_grad()
def read_and_written(
    model: EditableModel, edit: Edit, *, fact: int = 0, count: int = NAMED, others: Sequence[EditRequest] | None = None
) -> list[ReadAndWritten]:
    """Return per changed matrix whose keys the change reads and what it writes at the fact's own (ROME,
    arXiv 2202.05262, eq. 2: a change maps a key k to k ΔW).

    Args:
        model: unedited; not changed.
        edit: a change of weights.
        fact: which of its facts.
        count: how many subjects and tokens.
        others: facts whose keys are looked at; default: of the embedded set, one per subject.

    Raises:
        UsageError: the edit has no such fact, or changes no weights.
    """
    changes = _changes(edit)
    if not changes or not 0 <= fact < len(edit.requests):
        raise UsageError("What is read and written is told of a fact whose edit changes weights.")
    request = edit.requests[fact]
    asked = [request, *(other_facts(request) if others is None else others)]
    return [_of_place(model, place, delta, asked, count) for place, delta in changes.items()]


def _changes(edit: Edit) -> dict[Place, Tensor]:
    """Per matrix the whole change, `[d_in, d_out]`."""
    changes: dict[Place, Tensor] = {}
    for effect in edit.effects:
        if isinstance(effect, WeightEffect):
            delta = effect.delta()
            changes[effect.place] = changes[effect.place] + delta if effect.place in changes else delta
    return changes


def _of_place(
    model: EditableModel, place: Place, delta: Tensor, asked: Sequence[EditRequest], count: int
) -> ReadAndWritten:
    layer, matrix = place
    keys = subject_keys(model, layer, [(one.prompt, one.subject) for one in asked], matrix=matrix).float().cpu()
    written = keys @ delta.float().cpu()
    shares = written @ written[0] / written[0].square().sum().clamp(min=1e-30)
    best = shares.abs().argsort(descending=True)[:count].tolist()
    subjects = tuple(SubjectRead(asked[n].subject, asked[n].text, float(shares[n])) for n in best)
    writes = delta.shape[1] == model.d_model and matrix.startswith("out")
    tokens = likeliest(model, written[0].to(model.device, model.dtype), count) if writes else ()
    return ReadAndWritten(layer, matrix, subjects, tokens)
