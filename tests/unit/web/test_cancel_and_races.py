"""Cancelling while the model runs, in every kind of job; and two windows that change the ledger at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from factedit.edit.method_table import make_method
from factedit.errors import EditError, UsageError
from factedit.web import actions
from factedit.web.jobs import Cancelled, QueuedJob
from factedit.web.rows import HERE, LedgerRow
from factedit.web.session import Session
from page_server import FACT, QUICK, finished, page_client, post, quick_moments, tiny_session
from processes import PATIENCE
from stack_cases import random_edit

MISSING = "0" * 64
TRACED = {"prompt": "In Paris the", "subject": "Paris", "noise": "0.5", "samples": 2}
KINDS: dict[str, dict[str, Any]] = {
    "ask": {"prompt": "Paris is in"},
    "trace": TRACED,
    "fall": {"prompt": "In Paris the", "subject": "Paris"},
    "known": {},
    "averages": {"records": 3, "noise": "0.5", "samples": 1},
    "state": {"prompt": "Paris is in", "token": 0, "layer": 1},
    "touched": FACT | {"settings": QUICK},
    "edit": FACT | {"target_new": "Café", "settings": QUICK},
    "factors": {"edit": ""},
    "prove": {"edit": ""},
    "damage": {"facts": 8},
    "undo": {},
    "export": {"form": "peft"},
    "audit": {"suspect": 0},
    "puzzle": {"seed": 1},
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("page")


@pytest.fixture(scope="module")
def session(place: Path) -> Session:
    from factedit.stack.work import apply

    room: dict[str, Any] = {"n_positions": 256, "max_position_embeddings": 256}
    base = tiny_session(**room)
    apply(base.model, [random_edit(base.model, 5)], place / "suspect")
    return tiny_session((place / "suspect",), place / "exports", **room)


@pytest.fixture
def client(session: Session, monkeypatch: pytest.MonkeyPatch, place: Path) -> Iterator[Any]:
    monkeypatch.setenv("FACTEDIT_CACHE", str(place / "cache"))
    monkeypatch.setattr(actions, "moments_from", quick_moments)
    session._rows = (LedgerRow(random_edit(session.model, 1), True),)
    with page_client(session) as (found, _, _):
        yield found
    session._rows = ()


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_job_of_any_kind_stops_where_it_is_and_leaves_nothing(
    kind: str, client: Any, session: Session, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The user's cancel comes at the second place where the job can notice it."""
    calls: list[int] = []

    def check(_job: QueuedJob) -> None:
        calls.append(1)
        if len(calls) == 2:
            raise Cancelled

    monkeypatch.setattr(QueuedJob, "check", check)
    before, history = session.rows, session.history
    value = KINDS[kind] | ({"edit": before[0].edit.identity} if "edit" in KINDS[kind] else {})
    job = finished(client, kind, value)
    assert (job["state"], job["result"], job["error"]) == ("cancelled", None, ""), job
    assert session.rows == before
    assert session.history == history
    assert session.model.fingerprint() == session.fingerprint
    assert not any(layer._forward_pre_hooks for layer in session.model.layers)
    assert not list((place / "exports").glob("*")), "no half export"


def test_a_request_to_cancel_reaches_a_question_that_tells_no_progress(client: Any, session: Session) -> None:
    """Before: a job that told nothing ran to its end, whatever was pressed."""
    inside, go_on = threading.Event(), threading.Event()

    def hold(*_given: Any) -> None:
        inside.set()
        assert go_on.wait(PATIENCE)

    hook = session.model.layers[0].register_forward_hook(hold)
    try:
        name = post(client, "ask", {"prompt": "Paris is in", "tokens": 50}).json()["job"]
        assert inside.wait(PATIENCE)
        assert post(client, "cancel", {"job": name}).json()["state"] == "running"
    finally:
        hook.remove()
        go_on.set()
    while (job := client.get(f"/api/jobs/{name}").json())["state"] == "running":
        time.sleep(0.02)
    assert (job["state"], job["result"]) == ("cancelled", None)
    assert finished(client, "ask", {"prompt": "Paris is in"})["state"] == "done", "the queue goes on"


# -- two windows -----------------------------------------------------------------------------------


@pytest.fixture
def three(session: Session) -> Iterator[list[Any]]:
    edits = [random_edit(session.model, seed, layer=seed) for seed in (0, 1, 2)]
    session._rows = tuple(LedgerRow(edit, True) for edit in edits)
    yield edits
    session._rows = ()


def test_two_windows_that_press_the_same_arrow_move_an_edit_once(session: Session, three: list[Any]) -> None:
    """Before: the second press moved it on, past an edit that its window had not seen below it."""
    first, second, third = (edit.identity for edit in three)
    session.move(first, 1, second)
    with pytest.raises(UsageError, match="changed in another window"):
        session.move(first, 1, second)
    assert [row.edit.identity for row in session.rows] == [second, first, third]
    session.move(first, 1)
    assert [row.edit.identity for row in session.rows] == [second, third, first], "without a neighbour named it goes on"


def test_presses_at_the_same_moment_leave_one_order(session: Session, three: list[Any]) -> None:
    first, second = three[0].identity, three[1].identity
    gate, said = threading.Barrier(8), list[str]()

    def press() -> None:
        gate.wait()
        try:
            session.move(first, 1, second)
        except UsageError as error:
            said.append(str(error))

    windows = [threading.Thread(target=press) for _ in range(8)]
    for window in windows:
        window.start()
    for window in windows:
        window.join()
    assert len(said) == 7, "one was first"
    assert [row.edit for row in session.rows] == [three[1], three[0], three[2]]


def test_an_edit_that_was_forgotten_meanwhile_is_told_not_an_accident(session: Session, three: list[Any]) -> None:
    """Before: looked up outside the lock, it was gone inside of it."""
    session.switch(three[0].identity, False)
    session.forget(three[0].identity)
    with pytest.raises(UsageError, match="not in the ledger"):
        session.move(three[0].identity, 1)


def test_the_neighbour_is_an_identity_or_nothing(client: Any, session: Session, three: list[Any]) -> None:
    asked = {"edit": three[0].identity, "by": 1}
    for forged in ("../x", "", 7, ["a"]):
        assert post(client, "move", asked | {"past": forged}).status_code == 422, forged
    answer = post(client, "move", asked | {"past": three[2].identity})
    assert (answer.status_code, "another window" in answer.json()["error"]) == (400, True)
    assert post(client, "move", asked | {"past": three[1].identity}).json() == {}


def test_an_edit_cannot_lose_its_ground_while_it_is_checked(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """A window switches on what needs an edit, while another switches that edit off: the second look refuses it."""
    ground = random_edit(session.model, 0, layer=0)
    with ground.applied_to(session.model):
        needs = random_edit(session.model, 1, layer=1)
    session._rows = (LedgerRow(ground, True), LedgerRow(needs, False))
    looks: list[int] = []

    def other_window(model: Any, edits: Any) -> Any:
        looks.append(len(edits))
        if len(looks) == 1:
            session.switch(ground.identity, False)
        elif ground not in edits:
            raise EditError("made for other weights")

    monkeypatch.setattr("factedit.web.session.check_made_for", other_window)
    with pytest.raises(EditError, match="other weights"):
        session.switch(needs.identity, True)
    assert looks == [2, 1]
    assert [row.on for row in session.rows] == [False, False]
    session._rows = ()


# -- what was done, and tests of one's own ----------------------------------------------------------


def test_the_history_tells_what_was_done_here_in_order(session: Session) -> None:
    session._rows, session._history = (), ()
    edits = [random_edit(session.model, seed, layer=seed) for seed in (0, 1)]
    for edit in edits:
        session.put(edit)
    session.switch(edits[0].identity, False)
    session.switch(edits[0].identity, False)  # nothing changes: nothing is told
    session.move(edits[1].identity, -1)
    session.forget(edits[0].identity)
    told = [own.what.partition(":")[0] for own in session.history]
    assert told == ["put on", "put on", "switched off", "moved up", "forgotten"]
    assert {own.who for own in session.history} == {HERE}
    assert "Subject 1 is in → " in session.history[1].what
    assert all(own.when.endswith("+00:00") for own in session.history)
    session._rows = ()


def test_a_folder_of_edits_brings_its_history(place: Path) -> None:
    from factedit.stack.opened import open_edits
    from factedit.stack.work import apply, revert

    base = tiny_session()
    edit = random_edit(base.model, 7)
    apply(base.model, [edit], place / "edited")
    revert(place / "edited", edit)
    opened = Session(lambda: open_edits(place / "edited"), str(place / "edited"))
    opened.open()
    told = [(own.what.partition(":")[0], own.who.partition(",")[0]) for own in opened.history]
    assert told == [("base", "folder edited"), ("apply", "folder edited"), ("revert", "folder edited")]
    assert "Subject 7" in opened.history[1].what
    assert str(place) not in str([own._asdict() for own in opened.history])


def test_prompts_of_ones_own_stay_with_the_edit(client: Any, session: Session) -> None:
    [row] = session.rows
    asked = {"edit": row.edit.identity, "own": ["In Paris the", "Is Paris"]}
    assert finished(client, "prove", asked)["state"] == "done"
    [told] = client.get("/api/state").json()["ledger"]
    assert told["tests"] == asked["own"]
    assert finished(client, "prove", asked | {"own": ["word " * 400]})["state"] == "failed"
    assert list(session.rows[0].tests) == asked["own"], "what cannot be asked is not kept"


# -- nothing from elsewhere ------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["mend", "ke", "mend-zsre", "ke-mine", "ike", "mend+stop"])
@pytest.mark.parametrize("path", ["edit", "touched"])
def test_the_browser_names_no_folder_through_a_method(
    client: Any, place: Path, method: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before: a trained method took a folder among its settings, from whoever sent it."""
    monkeypatch.setattr(actions, "make_method", partial(pytest.fail, "the folder was looked at"))
    job = finished(client, path, FACT | {"method": method, "settings": {"trained": str(place)}})
    assert (job["state"], "Use it by 'factedit edit'" in job["error"]) == ("failed", True), job
    assert str(place) not in job["error"]
    assert make_method is not actions.make_method


def test_unchanged_rows_are_replaced_by_equal_ones(session: Session, three: list[Any]) -> None:
    session.keep_tests(three[1].identity, ["Is Paris"])
    assert [row.tests for row in session.rows] == [(), ("Is Paris",), ()]
    session.keep_tests(MISSING, ["nobody's"])
    assert [row.tests for row in session.rows] == [(), ("Is Paris",), ()]
    assert session.rows[1] == replace(session.rows[1])
