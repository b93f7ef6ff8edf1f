"""The ledger of the page, the folders it was given, and what a browser may ask for: at its limits and beyond them."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from conftest import tiny
from factedit.edit.artefact import Edit
from factedit.errors import DataError, EditError, UsageError
from factedit.web import actions, asked
from factedit.web.jobs import KEPT, Jobs, QueuedJob
from factedit.web.rows import LedgerRow
from factedit.web.session import EDIT, MODEL, RESULTS, GivenFolder, Session, given_folder
from page_server import HOST, finished, page_client, post, tiny_session
from stack_cases import random_edit

ZEROS = "0" * 64


@pytest.fixture(scope="module")
def loaded() -> Session:
    return tiny_session()


@pytest.fixture
def session(loaded: Session) -> Session:
    loaded._rows = ()
    return loaded


@pytest.fixture(scope="module")
def edits(loaded: Session) -> list[Edit]:
    return [random_edit(loaded.model, seed) for seed in (1, 2, 3)]


def on(session: Session) -> list[bool]:
    return [row.on for row in session.rows]


# -- the ledger ------------------------------------------------------------------------------------


def test_edits_stand_in_the_order_they_came_and_are_switched_apart(session: Session, edits: list[Edit]) -> None:
    for edit in edits:
        session.put(edit)
    assert session.on() == edits
    session.switch(edits[1].identity, False)
    assert session.on() == [edits[0], edits[2]]
    session.switch(edits[1].identity, True)
    assert session.on() == edits, "in its old place"
    session.switch(None, False)
    assert (session.on(), on(session)) == ([], [False] * 3)
    session.put(edits[2])
    assert on(session) == [False, False, True], "one that is there is only switched on"
    session.switch(None, True)
    assert session.on() == edits


def test_switched_tells_what_would_be_and_changes_nothing(session: Session, edits: list[Edit]) -> None:
    session.put(edits[0])
    assert [row.on for row in session.switched(edits[0].identity, False)] == [False]
    assert on(session) == [True]
    for ask in (session.switched, session.switch):
        with pytest.raises(UsageError, match="This edit is not in the ledger; reload the page"):
            ask(ZEROS, True)


def test_an_edit_is_forgotten_only_while_it_is_off(session: Session, edits: list[Edit]) -> None:
    session.put(edits[0])
    session.put(edits[1])
    with pytest.raises(EditError, match="on the model; switch it off first"):
        session.forget(edits[0].identity)
    session.switch(edits[0].identity, False)
    session.forget(edits[0].identity)
    assert [row.edit for row in session.rows] == [edits[1]]
    with pytest.raises(UsageError, match="not in the ledger"):
        session.forget(edits[0].identity)


def test_an_edit_of_other_weights_is_not_switched_on_but_off(session: Session, edits: list[Edit]) -> None:
    other = replace(edits[0], made_for=ZEROS)
    session._rows = (LedgerRow(other, False), LedgerRow(edits[1], True))
    assert session.stands_alone(session.rows)
    with pytest.raises(EditError, match="was made for weights 000000000000…"):
        session.switch(other.identity, True)
    assert on(session) == [False, True], "the ledger is as it was"
    session._rows = (LedgerRow(other, True), LedgerRow(edits[1], True))
    assert not session.stands_alone(session.rows)
    session.switch(other.identity, False)
    assert on(session) == [False, True]


def test_a_row_says_what_the_page_draws(session: Session, edits: list[Edit]) -> None:
    row = LedgerRow(edits[0], True, came="needle").as_json()
    assert (row["edit"], row["on"], row["came"], row["layers"]) == (edits[0].identity, True, "needle", [1])
    assert row["facts"][0]["subject"] == "Subject 1"
    assert row["in_weights"] is True
    assert set(row["size"]) == {"update_norm", "weight_norm"}
    assert json.loads(json.dumps(row, allow_nan=False)) == row
    assert row["since"].endswith("+00:00"), "UTC"


def test_a_session_that_is_not_open_says_so_and_one_that_failed_says_why() -> None:
    waiting = Session(lambda: (tiny("gpt2"), ()), "tiny")
    with pytest.raises(UsageError, match="tiny is still being loaded; try again in a moment"):
        _ = waiting.model

    def fail() -> Any:
        raise DataError("There is nothing.")

    broken = Session(fail, "tiny")
    with pytest.raises(DataError):
        broken.open()
    with pytest.raises(UsageError, match="There is nothing"):
        _ = broken.model
    assert broken.rows == ()


# -- folders ---------------------------------------------------------------------------------------


def test_what_a_folder_holds_is_told_by_its_files(tmp_path: Path) -> None:
    files = {"e": "edit.json", "r": "results.sqlite", "m": "config.json", "a": "adapter_config.json"}
    for name, file in files.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_text("{}")
    kinds = {name: given_folder(tmp_path / name).kind for name in files}
    assert kinds == {"e": EDIT, "r": RESULTS, "m": MODEL, "a": MODEL}
    (tmp_path / "m" / "edit.json").mkdir()
    assert given_folder(tmp_path / "m").kind == MODEL, "a folder is no file"
    for nothing in (tmp_path, tmp_path / "gone", tmp_path / "e" / "edit.json"):
        with pytest.raises(DataError, match="holds nothing that the page shows"):
            given_folder(nothing)


def test_a_folder_is_called_by_its_own_name_however_it_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path / "runs")
    assert GivenFolder(Path(), RESULTS).name == "runs"
    assert GivenFolder(Path("../runs/"), RESULTS).name == "runs"


def test_folders_are_named_by_number_and_kind(tmp_path: Path) -> None:
    folders = (GivenFolder(tmp_path / "e", EDIT), GivenFolder(tmp_path / "r", RESULTS))
    session = Session(lambda: (tiny("gpt2"), ()), "tiny", folders)
    assert session.folder(1, RESULTS) is folders[1]
    for number, kind in ((0, RESULTS), (1, EDIT), (2, RESULTS), (-1, RESULTS)):
        with pytest.raises(UsageError, match=f"There is no folder {number} of the kind '{kind}'; start the server"):
            session.folder(number, kind)


def test_names_stand_in_place_of_where_folders_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret" / "runs").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "secret")
    folders = (GivenFolder(Path("link/runs"), RESULTS), GivenFolder(Path(), MODEL))
    session = Session(lambda: (tiny("gpt2"), ()), "tiny", folders, tmp_path / "secret" / "out")
    for said in ("link/runs", str(tmp_path / "link" / "runs"), str(tmp_path / "secret" / "runs")):
        assert session.without_paths(f"{said}/results.sqlite is damaged.") == "runs/results.sqlite is damaged."
    assert session.without_paths(f"No room in {tmp_path}/secret/out/peft-1.") == "No room in out/peft-1."
    assert session.without_paths("A sentence. Another.") == "A sentence. Another.", "a full stop is no folder"


def test_a_damaged_folder_is_told_by_its_name_alone(tmp_path: Path) -> None:
    """Before: the message of what was damaged told the whole path to the browser."""
    for folder, file in (("runs", "results.sqlite"), ("model", "config.json")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / file).write_bytes(b"{ no such thing")
    with page_client(tiny_session((tmp_path / "runs", tmp_path / "model"))) as (client, _, _):
        answer = client.get("/api/results/0")
        job = finished(client, "audit", {"suspect": 1})
    assert (answer.status_code, job["state"]) == (400, "failed")
    assert "runs" in answer.json()["error"]
    assert "model" in job["error"]
    assert str(tmp_path) not in answer.text + str(job)


@pytest.mark.parametrize(("number", "status"), [("1", 400), ("-1", 400), ("x", 422), ("0.5", 422), ("9" * 30, 400)])
def test_results_are_asked_by_a_number(session: Session, number: str, status: int) -> None:
    with page_client(session) as (client, _, _):
        answer = client.get(f"/api/results/{number}")
    assert answer.status_code == status, answer.text
    assert set(answer.json()) == {"error"}


def test_an_empty_store_is_told_in_words(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    sqlite3.connect(tmp_path / "runs" / "results.sqlite").close()
    with page_client(tiny_session((tmp_path / "runs",))) as (client, _, _):
        answer = client.get("/api/results/0")
    assert answer.status_code == 400, answer.text
    assert str(tmp_path) not in answer.text


# -- what may be asked -----------------------------------------------------------------------------

PROMPT, TRACE = {"prompt": "x"}, {"prompt": "x", "subject": "s"}
FACT = {"subject": "s", "prompt": "{}", "target_new": "t"}
OF = {"edit": ZEROS}
LIMITS: list[tuple[type[BaseModel], dict[str, Any], dict[str, Any]]] = [
    (asked.AskBody, {"prompt": "x" * 4000, "top": 50, "tokens": 100}, {"prompt": "x" * 4001}),
    (asked.AskBody, {"prompt": "x", "top": 1, "tokens": 1}, {"top": 0}),
    (asked.AskBody, PROMPT, {"top": 51}), (asked.AskBody, PROMPT, {"tokens": 101}),
    (asked.AskBody, PROMPT, {"tokens": True}), (asked.AskBody, PROMPT, {"tokens": 3.0}),
    (asked.AskBody, PROMPT, {"tokens": "3"}), (asked.AskBody, PROMPT, {"prompt": None}),
    (asked.AskBody, PROMPT, {"prompt": "\ud800"}), (asked.AskBody, PROMPT, {"further": 1}),
    (asked.TraceBody, {**TRACE, "subject": "s" * 300, "window": 200, "samples": 50, "seed": 2**32 - 1}, {"window": 0}),
    (asked.TraceBody, TRACE, {"subject": "s" * 301}), (asked.TraceBody, TRACE, {"seed": 2**32}),
    (asked.TraceBody, TRACE, {"seed": -1}), (asked.TraceBody, TRACE, {"samples": 51}),
    (asked.TraceBody, TRACE, {"noise": "3" * 21}), (asked.FactBody, {**FACT, "target_true": None}, {"subject": ""}),
    (asked.FactBody, FACT, {"preset": "mine"}), (asked.FactBody, FACT, {"settings": {"x" * 61: 1}}),
    (asked.FactBody, FACT, {"settings": {str(n): n for n in range(31)}}), (asked.FactBody, FACT, {"settings": [1]}),
    (asked.ProveBody, {**OF, "own": ["x"] * 20}, {"own": ["x"] * 21}), (asked.ProveBody, OF, {"own": [""]}),
    (asked.ProveBody, OF, {"fact": -1}), (asked.ProveBody, OF, {"edit": "0" * 63}),
    (asked.ProveBody, OF, {"edit": "0" * 63 + "G"}), (asked.ProveBody, OF, {"edit": ZEROS + "\n"}),
    (asked.SwitchBody, {"edit": None, "on": True}, {"on": 1}), (asked.SwitchBody, {**OF, "on": False}, {"edit": ""}),
    (asked.JobBody, {"job": "0" * 16}, {"job": "0" * 17}), (asked.JobBody, {"job": "0" * 16}, {"job": "0" * 16 + "\n"}),
    (asked.ExportBody, {"form": "f" * 20}, {"form": "f" * 21}), (asked.AuditBody, {"suspect": 0}, {"suspect": -1}),
    (asked.AuditBody, {"suspect": 0, "base": None}, {"base": "0"}), (asked.DamageBody, {"facts": 200}, {"facts": 201}),
    (asked.DamageBody, {}, {"facts": 0}), (asked.EmptyBody, {}, {"x": 1}),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "good", "bad"), LIMITS)
def test_every_field_has_a_limit(kind: type[BaseModel], good: dict[str, Any], bad: dict[str, Any]) -> None:
    found = kind(**good)
    assert {name: getattr(found, name) for name in good} == good
    with pytest.raises(ValidationError):
        kind(**{**good, **bad})


BODIES = [
    b"", b"null", b"3", b'"x"', b"[" * 20_000, b'{"prompt": ' + b"9" * 5000 + b"}", b'{"prompt": "\\ud800"}', b"\xff",
    b'{"prompt": "x", "tokens": NaN}', b'{"prompt": "x", "tokens": 1e400}', b'{"a": ' * 5000,
]  # fmt: skip


@pytest.mark.parametrize("content", BODIES, ids=range(len(BODIES)))
def test_a_body_that_is_no_request_is_refused_in_one_word(session: Session, content: bytes) -> None:
    with page_client(session) as (client, _, jobs):
        headers = {"origin": f"http://{HOST}", "content-type": "application/json"}
        answer = client.post("/api/ask", content=content, headers=headers)
        assert answer.status_code in (400, 422), answer.text
        assert set(answer.json()) == {"error"}
        assert not jobs.live()


def test_switching_and_forgetting_what_is_not_there(session: Session) -> None:
    said = "This edit is not in the ledger; reload the page."
    with page_client(session) as (client, _, _):
        for path, value in (("switch", {"edit": ZEROS, "on": True}), ("forget", {"edit": ZEROS})):
            answer = post(client, path, value)
            assert (answer.status_code, answer.json()["error"]) == (400, said)
        assert post(client, "switch", {"on": False}).json() == {}, "all of none"


def test_a_proof_is_of_a_fact_that_the_edit_has_and_of_an_edit_that_is_on(session: Session, edits: list[Edit]) -> None:
    session.put(edits[0])
    with page_client(session) as (client, _, _):
        job = finished(client, "prove", {"edit": edits[0].identity, "fact": 1})
        assert (job["state"], job["error"]) == ("failed", "The edit has 1 facts.")
        session.switch(None, False)
        job = finished(client, "prove", {"edit": edits[0].identity})
        assert job["error"].startswith("The edit is not on the model. Switch it on in the ledger")


def test_an_export_has_a_form_and_a_name_of_its_own(session: Session, tmp_path: Path) -> None:
    session.out = tmp_path / "out"
    try:
        with page_client(session) as (client, _, _):
            job = finished(client, "export", {"form": "onnx"})
    finally:
        session.out = None
    assert job["state"] == "failed"
    assert "The form 'onnx' is not one of" in job["error"]
    assert not (tmp_path / "out").exists()
    for number in (1, 2):
        assert actions._free(tmp_path, "peft").name == f"peft-{number}"
        (tmp_path / f"peft-{number}").write_text("a file in its place counts too")


# -- jobs ------------------------------------------------------------------------------------------


def test_jobs_that_nobody_knows_are_neither_told_nor_cancelled(session: Session) -> None:
    with page_client(session) as (client, _, _):
        told = client.get(f"/api/jobs/{'0' * 16}")
        cancelled = post(client, "cancel", {"job": "0" * 16})
    assert (told.status_code, told.json()["error"]) == (404, "This job is not remembered any more; ask again.")
    assert (cancelled.status_code, cancelled.json()["error"]) == (404, "This job is not remembered any more.")


def test_a_job_that_is_done_stays_done_when_it_is_cancelled(session: Session) -> None:
    with page_client(session) as (client, _, jobs):
        job = finished(client, "ask", {"prompt": "Paris is in", "tokens": 1})
        again = post(client, "cancel", {"job": job["job"]}).json()
        assert (again["state"], again["result"]) == ("done", job["result"])
        assert again["seconds"] == job["seconds"] > 0, "time stands still once it has ended"
        assert not jobs.live()


def run(jobs: Jobs, job: QueuedJob) -> QueuedJob:
    for _ in range(2000):
        if job.state not in ("queued", "running"):
            return job
        job.stop.wait(0.002)
    raise AssertionError(job)


def test_the_last_jobs_are_remembered() -> None:
    jobs = Jobs()
    try:
        made = [run(jobs, jobs.add("n", lambda _job, n=n: n)) for n in range(KEPT + 5)]
        last = run(jobs, jobs.add("last", lambda _job: None))
        there = [jobs.get(job.name) is not None for job in made]
        assert there == [False] * 5 + [True] * KEPT
        assert jobs.get(last.name) is last
    finally:
        jobs.close()


def test_progress_has_no_end_where_nobody_knows_it() -> None:
    job = QueuedJob("count", lambda _job: None)
    assert (job.seconds, job.seconds_left) == (0.0, None)
    job.tell("reading", 3, 0)
    assert (job.part, job.fraction, job.seconds_left) == ("reading", None, None)
    job.tell("reading", 7, 4)
    assert job.fraction == 1.0, "more than all is all"
    job.note({"loss": 1.0})
    assert job.as_json()["trail"] == [{"loss": 1.0}]


def test_numbers_that_json_has_no_word_for_are_null(session: Session) -> None:
    with page_client(session) as (client, _, jobs):
        job = run(jobs, jobs.add("divide", lambda _job: {"rows": [float("nan"), float("inf"), 1.0]}))
        answer = client.get(f"/api/jobs/{job.name}")
    assert json.loads(answer.text, parse_constant=pytest.fail)["result"] == {"rows": [None, None, 1.0]}
