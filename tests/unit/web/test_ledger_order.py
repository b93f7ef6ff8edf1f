"""Edits change places in the ledger where the model stays the same to the bit, and nowhere else."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from conftest import tiny
from factedit.edit.artefact import Edit
from factedit.edit.effects.prompt import Prompt
from factedit.errors import EditError, UsageError
from factedit.evaluate.together import Together
from factedit.models.adapter import EditableModel
from factedit.web.session import Session
from page_server import page_client, post, tiny_session
from stack_cases import random_edit


@pytest.fixture
def session() -> Session:
    return tiny_session()


@pytest.fixture
def client(session: Session) -> Iterator[Any]:
    with page_client(session) as (found, _, _):
        yield found


def bits_with(model: EditableModel, edits: list[Edit]) -> str:
    with Together(model).plus(edits).on(model):
        return model.fingerprint()


def test_at_different_matrices_the_order_is_free(session: Session, client: Any) -> None:
    edits = [random_edit(session.model, seed, layer=seed) for seed in (0, 1, 2)]
    for edit in edits:
        session.put(edit)
    assert session.exchange() == ["", ""]
    before = bits_with(session.model, session.on())
    assert post(client, "move", {"edit": edits[2].identity, "by": -1}).json() == {}
    assert session.on() == [edits[0], edits[2], edits[1]]
    assert post(client, "move", {"edit": edits[0].identity, "by": 1}).json() == {}
    assert session.on() == [edits[2], edits[0], edits[1]]
    assert bits_with(session.model, session.on()) == before
    assert client.get("/api/state").json()["exchange"] == ["", ""]


def test_at_one_matrix_it_is_not() -> None:
    model = tiny("gpt2")
    edits = [random_edit(model, seed, layer=1) for seed in (1, 2, 3)]
    assert bits_with(model, edits) != bits_with(model, edits[::-1]), "sums are rounded otherwise in another order"
    session = tiny_session()
    for edit in edits:
        session.put(edit)
    assert all("same matrix" in why for why in session.exchange())
    with pytest.raises(EditError, match="same matrix"):
        session.move(edits[0].identity, 1)
    assert session.on() == edits


def test_an_edit_that_was_made_with_another_on_stays_behind_it(session: Session) -> None:
    first = random_edit(session.model, 0, layer=0)
    with first.applied_to(session.model):
        later = random_edit(session.model, 1, layer=1)
    session.put(first)
    session.put(later)
    assert "made with other edits" in session.exchange()[0]
    with pytest.raises(EditError, match="made with other edits"):
        session.move(later.identity, -1)


def test_one_that_takes_a_fact_back_stays_behind_it(session: Session) -> None:
    first = random_edit(session.model, 0, layer=0)
    back = replace(random_edit(session.model, 1, layer=1), takes_back=((first.identity, 0),))
    session.put(first)
    session.put(back)
    assert "come before it" in session.exchange()[0]


def test_texts_before_a_prompt_keep_their_order(session: Session) -> None:
    one = random_edit(session.model, 0, layer=0)
    text = replace(random_edit(session.model, 1), effects=(Prompt("Paris is in Seattle. {}"),))
    session.put(one)
    session.put(text)
    assert "changes no weights" in session.exchange()[0]


def test_the_ends_and_what_is_not_there(session: Session, client: Any) -> None:
    edits = [random_edit(session.model, seed, layer=seed) for seed in (0, 1)]
    for edit in edits:
        session.put(edit)
    for edit, by, said in ((edits[0], -1, "the first"), (edits[1], 1, "the last")):
        answer = post(client, "move", {"edit": edit.identity, "by": by})
        assert (answer.status_code, said in answer.json()["error"]) == (400, True), answer.text
    with pytest.raises(UsageError, match="not in the ledger"):
        session.move("0" * 64, 1)
    for forged in ({"edit": edits[0].identity, "by": 2}, {"edit": "../x", "by": 1}, {"edit": edits[0].identity}):
        assert post(client, "move", forged).status_code == 422
    assert session.on() == edits
