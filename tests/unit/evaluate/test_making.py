"""Edits made for an evaluation: whose they are, what they took, and why some are missing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from conftest import tiny
from factedit.edit.artefact import Edit
from factedit.edit.method import Made
from factedit.edit.state import State
from factedit.errors import EditError, NoSolution, RequestError
from factedit.evaluate.making import Cost, make, make_each
from factedit.facts import EditRequest
from factedit.models.adapter import EditableModel
from plain import edit_of

FACTS = [EditRequest(subject=s, prompt="{} is in", target_new="x") for s in ("Paris", "Seattle", "France", "Café")]


@dataclass
class Counting:
    """Edits that do nothing; a fact whose subject is refused cannot be edited, alone or among others."""

    model: EditableModel
    refused: str = ""
    scope: str = "each"
    together: bool = True
    error: type[Exception] = EditError
    name: str = "counting"
    paper: str = "none"
    calls: list[tuple[list[str], int | None]] = field(default_factory=list)

    def edit(self, requests: Sequence[EditRequest], state: State | None = None) -> Made:
        subjects = [request.subject for request in requests]
        number = None if state is None else int(state.tensors["n"])
        self.calls.append((subjects, number))
        if self.refused in subjects or (len(subjects) > 1 and not self.together):
            raise self.error(f"No {self.refused}.")
        nothing = edit_of(self.model, 1, (torch.zeros(self.model.d_mlp, 1), torch.zeros(1, self.model.d_model)))
        groups = [tuple(requests)] if self.scope == "joint" else [(request,) for request in requests]
        edits = [Edit(method=self.name, requests=own, effects=nothing.effects, made_for=nothing.made_for)
                 for own in groups]  # fmt: skip
        return Made(tuple(edits), State(base=nothing.made_for, tensors={"n": torch.tensor((number or 0) + 1)}))

    def describe(self) -> dict[str, Any]:
        return {}


@pytest.fixture(scope="module")
def model() -> EditableModel:
    return tiny("gpt2")


def subjects_of(places: Sequence[Any]) -> list[str]:
    return [p if isinstance(p, str) else p[0].requests[p[1]].subject for p in places]


def test_all_facts_in_one_call_where_none_fails(model: EditableModel) -> None:
    method = Counting(model)
    made = make_each(model, FACTS, [method])["counting"]
    assert [subjects for subjects, _ in method.calls] == [[fact.subject for fact in FACTS]]
    assert subjects_of(made.places) == [fact.subject for fact in FACTS]
    assert made.cost.facts == 4
    assert len(made.edits) == 4


@pytest.mark.parametrize("error", [EditError, RequestError])
def test_one_that_fails_costs_the_others_nothing_but_time(model: EditableModel, error: type[Exception]) -> None:
    method = Counting(model, refused="Seattle", error=error)
    made = make_each(model, FACTS, [method])["counting"]
    assert subjects_of(made.places) == ["Paris", "No Seattle.", "France", "Café"]
    assert made.cost.facts == 3
    assert len(method.calls) == 5, "together, then each alone"


def test_another_error_is_not_taken_for_a_fact_that_cannot_be_edited(model: EditableModel) -> None:
    with pytest.raises(ZeroDivisionError):
        make_each(model, FACTS, [Counting(model, refused="Paris", error=ZeroDivisionError)])


def test_single_edits_are_made_a_chunk_at_a_time_and_hand_their_state_on(model: EditableModel) -> None:
    method = Counting(model)
    made = make(model, method, FACTS, chunk=3)
    assert method.calls == [(["Paris", "Seattle", "France"], None), (["Café"], 1)]
    assert made.state is not None
    assert int(made.state.tensors["n"]) == 2
    assert made.cost.facts == 4


def test_a_joint_edit_holds_the_facts_that_can_be_edited(model: EditableModel) -> None:
    method = Counting(model, refused="France", scope="joint")
    made = make(model, method, FACTS, chunk=1)
    [edit] = made.edits
    assert [request.subject for request in edit.requests] == ["Paris", "Seattle", "Café"]
    assert subjects_of(made.places) == ["Paris", "Seattle", "No France.", "Café"]
    assert made.cost.facts == 3


def test_facts_that_can_be_edited_alone_but_not_together_say_so(model: EditableModel) -> None:
    made = make(model, Counting(model, scope="joint", together=False), FACTS[:2], chunk=1)
    assert set(made.places) == {"It can be edited alone, but not together with the others: No ."}
    assert made.edits == []
    assert made.cost == Cost()


def test_a_solve_without_solution_is_no_facts_fault(model: EditableModel) -> None:
    """Each alone would take as long again and find nothing; the reason is told for all."""
    method = Counting(model, refused="France", error=NoSolution, scope="joint")
    made = make(model, method, FACTS, chunk=1)
    assert made.places == ("No France.",) * 4
    assert len(method.calls) == 1
    assert made.cost == Cost()


def test_costs_add_up_and_the_peak_is_the_most() -> None:
    assert Cost(2, 3.0, 50.0) + Cost(1, 0.5, 70.0) == Cost(3, 3.5, 70.0)
