"""What the page is told is what `work` computes, to the digit; and what it must not do is refused with a word."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from conftest import tiny
from factedit.edit.method_table import make_method
from factedit.facts import EditRequest
from factedit.web import actions
from factedit.web.session import Session
from factedit.work.ask import ask
from factedit.work.edit import describe, edit_facts
from factedit.work.proof import prove, record_of
from factedit.work.trace import trace_prompt
from page_server import FACT, QUICK, finished, page_client, post, quick_moments, tiny_session
from stack_cases import random_edit

SETTINGS = {"method": "rome", "settings": QUICK}


@pytest.fixture(scope="module")
def session() -> Session:
    return tiny_session()


@pytest.fixture
def client(session: Session, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setattr(actions, "moments_from", quick_moments)
    with page_client(session) as (found, _, _):
        yield found
    session.switch(None, False)
    for row in session.rows:
        session.forget(row.edit.identity)


def as_sent(value: Any) -> Any:
    """Tuples as JSON has them."""
    if isinstance(value, dict):
        return {str(key): as_sent(own) for key, own in value.items()}
    return [as_sent(own) for own in value] if isinstance(value, list | tuple) else value


def test_the_whole_way_gives_the_numbers_of_work(client: Any, session: Session) -> None:
    model = tiny("gpt2")
    edited = finished(client, "edit", FACT | SETTINGS)
    assert edited["state"] == "done", edited
    request = EditRequest(**FACT)
    [own] = edit_facts(model, make_method("rome", model, quick_moments(), **QUICK), [request])
    told = edited["result"]
    for name in ("update_norm", "weight_norm", "losses", "before", "after", "spill"):
        assert told[name] == as_sent(describe(own))[name], name
    assert [rows[0] for rows in edited["trail"]] == told["losses"], "live as in the end"
    assert told["edit"] == own.edit.identity

    [asked] = ask(model, ["Paris is in"], [own.edit])
    assert finished(client, "ask", {"prompt": "Paris is in"})["result"] == as_sent(asked.as_json())
    proof = prove(model, record_of(request), [own.edit], prompts=["In Paris the"]).as_json()
    assert finished(client, "prove", {"edit": told["edit"], "own": ["In Paris the"]})["result"] == as_sent(proof)

    undone = finished(client, "undo", {})["result"]
    assert undone["before"] == undone["after"] == undone["at_start"] == model.fingerprint()
    with own.edit.applied_to(model):
        assert undone["edited"] == model.fingerprint() != undone["before"]
    assert not session.on()


def test_a_trace_is_that_of_the_command(client: Any) -> None:
    asked = {"prompt": "In Paris the", "subject": "Paris", "noise": "0.5", "samples": 2}
    found = finished(client, "trace", asked)["result"]
    assert found.pop("edited_layers") == []
    own = trace_prompt(tiny("gpt2"), **asked)
    assert found.pop("notes") == own.notes()
    assert found == as_sent(own.as_stored())


def test_two_edits_are_summed_and_switched_apart(client: Any, session: Session) -> None:
    first = finished(client, "edit", FACT | SETTINGS)["result"]["edit"]
    again = finished(client, "edit", FACT | SETTINGS | {"target_new": "Café"})["result"]
    assert [row["target_new"] for row in again["already"]] == ["Seattle"]
    assert [row["on"] for row in client.get("/api/state").json()["ledger"]] == [True, True]
    assert post(client, "switch", {"edit": first, "on": False}).json() == {}
    [both] = ask(session.model, ["Paris is in"], [session.edit(again["edit"])])
    assert finished(client, "ask", {"prompt": "Paris is in"})["result"] == as_sent(both.as_json())
    assert "switch it off first" in post(client, "forget", {"edit": again["edit"]}).json()["error"]
    assert post(client, "forget", {"edit": first}).status_code == 200
    assert len(session.rows) == 1


def test_an_edit_that_comes_while_another_is_switched_is_kept(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, late = (random_edit(session.model, seed) for seed in (1, 2))
    session.put(replace(first, made_for="0" * 64))
    session.put(replace(first, made_for="1" * 64))
    monkeypatch.setattr("factedit.web.session.check_made_for", lambda *_: session.put(late))
    session.switch(session.rows[0].edit.identity, False)
    assert [row.on for row in session.rows] == [False, True, True]
    assert session.rows[2].edit == late


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("trace", {"prompt": "Paris is", "subject": "Rome"}, "does not occur in the prompt"),
        ("trace", {"prompt": "Paris is", "subject": "Paris", "kinds": "soul"}, "Cannot trace soul"),
        ("ask", {"prompt": "   "}, "has no tokens"),
        ("ask", {"prompt": "word " * 200}, "Shorten it"),
        ("edit", FACT | {"prompt": "is in"}, "exactly one"),
        ("edit", FACT | {"target_new": " "}, "target is empty"),
        ("edit", FACT | {"method": "romme"}, "Did you mean rome"),
        ("edit", FACT | {"settings": {"stepps": 3}}, "do not hold"),
        ("touched", FACT | {"method": "ft", "settings": {"layer": 1}}, "ask it of rome"),
        ("prove", {"edit": "0" * 64}, "not in the ledger"),
        ("export", {"form": "peft"}, "without a folder"),
        ("audit", {"suspect": 7}, "no folder 7"),
    ],
)
def test_bad_input_is_told_in_a_message(client: Any, path: str, value: Any, said: str) -> None:
    job = finished(client, path, value)
    assert job["state"] == "failed"
    assert said in job["error"], job["error"]


def test_while_the_model_is_loaded_the_page_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = Session(lambda: (tiny("gpt2"), ()), "tiny")
    with page_client(waiting) as (client, _, _):
        state = client.get("/api/state").json()
        assert (state["model"], state["ledger"], state["name"]) == (None, [], "tiny")
        assert client.get("/").status_code == 200
        assert client.get("/static/example.json").status_code == 200
        assert "still being loaded" in post(client, "ask", {"prompt": "Paris"}).json()["error"]


def test_a_model_that_cannot_be_loaded_says_why() -> None:
    def fail() -> Any:
        raise ValueError("no such model")

    session = Session(fail, "tiny")
    with pytest.raises(ValueError, match="no such model"):
        session.open()
    with page_client(session) as (client, _, _):
        assert client.get("/api/state").json()["failed"] == "no such model"


def test_a_model_that_is_only_traced_says_why() -> None:
    session = Session(lambda: (tiny("jetmoe"), ()), "tiny")
    session.open()
    with page_client(session) as (client, _, _):
        why = client.get("/api/state").json()["model"]["not_editable"]
        assert why == session.model.family.refused != ""
        job = finished(client, "edit", FACT | {"settings": {"layer": 1}})
        assert job["state"] == "failed"
        assert why in job["error"], job


def test_an_edit_that_is_cancelled_leaves_nothing(client: Any, session: Session) -> None:
    slow = FACT | {"method": "rome", "settings": QUICK | {"steps": 100_000, "stop_loss": 0.0, "learning_rate": 1e-6}}
    name = post(client, "edit", slow).json()["job"]
    waiting = post(client, "ask", {"prompt": "Paris is in"}).json()["job"]
    while not (job := client.get(f"/api/jobs/{name}").json())["trail"]:
        assert job["state"] in ("queued", "running"), job
    assert 0 < job["fraction"] < 1
    assert client.get(f"/api/jobs/{waiting}").json()["state"] == "queued", "one at a time"
    post(client, "cancel", {"job": name})
    answer = finished(client, "undo", {})
    assert client.get(f"/api/jobs/{name}").json()["state"] == "cancelled"
    assert client.get(f"/api/jobs/{waiting}").json()["state"] == "done"
    assert session.rows == ()
    assert answer["result"]["before"] == answer["result"]["after"] == session.fingerprint


def test_no_path_is_ever_told(tmp_path: Path, client: Any, session: Session) -> None:
    [saved] = edit_facts(
        session.model, make_method("rome", session.model, quick_moments(), **QUICK), [EditRequest(**FACT)],
        folder=tmp_path / "needle",
    )  # fmt: skip
    with page_client(tiny_session((tmp_path / "needle",), tmp_path / "exports")) as (own, _, _):
        state = own.get("/api/state")
        assert [row["came"] for row in state.json()["ledger"]] == ["needle"]
        assert not state.json()["ledger"][0]["on"]
        assert str(tmp_path) not in state.text
        post(own, "switch", {"edit": saved.edit.identity, "on": True})
        job = finished(own, "export", {"form": "peft"})
        assert job["state"] == "done", job
        assert job["result"]["folder"] == "peft-1"
        assert (tmp_path / "exports" / "peft-1" / "adapter_config.json").is_file()
        assert str(tmp_path) not in str(job)
