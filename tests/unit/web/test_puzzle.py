"""The puzzle: five models, one of them edited; what is told of it, and what gives it away."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from conftest import tiny
from factedit.data.records import RecordSet
from factedit.edit.artefact import Edit, Notes
from factedit.edit.effects.low_rank import LowRank
from factedit.errors import EditError, UnsupportedModel, UsageError
from factedit.facts import EditRequest, FactRecord
from factedit.models.adapter import EditableModel
from factedit.stats.subjects import subject_keys
from factedit.web import actions, puzzle
from factedit.web.puzzle import KEPT, NAMES, Puzzle, Puzzles, audit_suspect, make_puzzle
from factedit.web.session import Session
from factedit.work.ask import ask
from page_server import finished, page_client, post, quick_moments, tiny_session

WORDS = ("Paris", "Seattle", "France", "Rome")


def record(subject: str, target: str) -> FactRecord:
    request = EditRequest(subject=subject, prompt="{} is in", target_new=target)
    return FactRecord(case_id=subject, request=request)


def few(records: list[FactRecord]) -> RecordSet[FactRecord]:
    return RecordSet("few", tuple(records), 0, "", "0" * 64)


def written(model: EditableModel, method: Any, requests: Any) -> list[Any]:
    """An edit as ROME's: it reads the subject's own key. A random model cannot be taught a word: it is only said."""
    [request] = requests
    [key] = subject_keys(model, 1, [(request.prompt, request.subject)])
    value = torch.randn(1, model.d_model, generator=torch.Generator().manual_seed(len(request.text)))
    change = LowRank(1, key[:, None] / key.norm(), value)
    note = Notes(after={"answers_target_new": method != "a weak one"})
    edit = Edit(method="rome", requests=(request,), effects=(change,), notes=(note,), made_for=model.fingerprint())
    return [SimpleNamespace(edit=edit)]


@pytest.fixture(scope="module", autouse=True)
def few_facts() -> Iterator[None]:
    """Facts of a tiny world, the audit's candidates, too."""
    known = few([record(one, two) for one in WORDS for two in ("Seattle", "France")])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(puzzle, "load_facts", lambda _name: known)
        patch.setattr("factedit.work.account.load_facts", lambda _name: known)
        patch.setattr(puzzle, "edit_facts", written)
        yield


@pytest.fixture(scope="module")
def model() -> EditableModel:
    return tiny("gpt2")


@pytest.fixture(scope="module")
def made(model: EditableModel, few_facts: None) -> Puzzle:
    return made_with(model, 3)


def made_with(model: EditableModel, seed: int, method: Any = None) -> Puzzle:
    return make_puzzle(model, lambda: method, seed=seed)


def test_all_five_are_changed_by_as_much_in_one_matrix(made: Puzzle, model: EditableModel) -> None:
    deltas = [own.effects[0].delta() for own in made.suspects]  # type: ignore[attr-defined]
    norms = [float(delta.norm()) for delta in deltas]
    assert norms == pytest.approx([norms[0]] * len(NAMES), rel=1e-4)
    assert {int(torch.linalg.matrix_rank(delta)) for delta in deltas} == {1}
    assert len({own.effects[0].place for own in made.suspects}) == 1  # type: ignore[attr-defined]
    assert len({own.identity for own in made.suspects}) == len(NAMES)
    assert model.fingerprint() == made.suspects[0].made_for, "the model itself is as it was"


def test_only_the_edited_one_says_what_it_is_about(made: Puzzle) -> None:
    about = [bool(own.requests) for own in made.suspects]
    assert about == [n == made.edited for n in range(len(NAMES))]
    assert made.suspects[made.edited].notes[0].after["answers_target_new"]
    for own in (own for n, own in enumerate(made.suspects) if n != made.edited):
        assert (own.method, own.diagnostics, own.settings.get("subject")) == ("random", {}, None)


def test_the_same_number_is_the_same_puzzle_and_another_another(made: Puzzle, model: EditableModel) -> None:
    again = made_with(model, 3)
    other = made_with(model, 4)
    assert again.edited == made.edited
    assert [own.identity for own in again.suspects if not own.requests] == [
        own.identity for own in made.suspects if not own.requests
    ]
    random = {own.identity for own in other.suspects if not own.requests}
    assert random.isdisjoint(own.identity for own in made.suspects)


def test_a_guess_is_answered_with_the_solution(made: Puzzle) -> None:
    wrong = (made.edited + 1) % len(NAMES)
    assert made.answer(made.edited)["right"] is True
    told = made.answer(wrong)
    assert (told["right"], told["which"], told["fact"]) == (False, NAMES[made.edited], vars(made.fact))
    assert set(made.as_told()) == {"seed", "names"}, "nothing of the solution before"


def test_an_audit_finds_the_change_of_each_and_the_key_of_one(made: Puzzle, model: EditableModel) -> None:
    found = [audit_suspect(model, made, n) for n in range(len(NAMES))]
    assert {own.verdict for own in found} == {"a low-rank edit"}
    assert all(own.suspect == f"model {NAMES[n]}" for n, own in enumerate(found))
    best = [max(suspicion.score for suspicion in own.suspicions) for own in found]
    assert best.index(max(best)) == made.edited
    assert model.fingerprint() == made.suspects[0].made_for


def test_a_puzzle_whose_facts_do_not_take_is_told(model: EditableModel) -> None:
    with pytest.raises(EditError, match="could be written into the model; take another"):
        made_with(model, 1, "a weak one")


def test_a_model_that_is_only_traced_has_none() -> None:
    with pytest.raises(UnsupportedModel):
        make_puzzle(tiny("jetmoe"), lambda: pytest.fail("made a method"), seed=1)


# -- on the page -----------------------------------------------------------------------------------


@pytest.fixture
def session() -> Session:
    return tiny_session()


@pytest.fixture
def client(session: Session, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setattr(actions, "make_method", lambda _name, _model, _moments: None)
    monkeypatch.setattr(actions, "moments_from", quick_moments)
    with page_client(session) as (found, _, _):
        yield found


def test_the_class_makes_asks_audits_and_guesses(client: Any, session: Session) -> None:
    assert finished(client, "puzzle", {"seed": 3})["result"] == {"seed": 3, "names": list(NAMES)}
    own = session.puzzles.of(3)
    prompt = own.fact.text
    says = [
        finished(client, "puzzle-ask", {"seed": 3, "which": n, "prompt": prompt})["result"] for n in range(len(NAMES))
    ]
    for n, told in enumerate(says):
        [asked] = ask(session.model, [prompt], [own.suspects[n]], tokens=12)
        assert told["after"]["text"] == asked.as_json()["after"]["text"]
    audited = finished(client, "puzzle-audit", {"seed": 3, "which": own.edited})["result"]
    assert audited["suspect"] == f"model {NAMES[own.edited]}"
    assert post(client, "puzzle-guess", {"seed": 3, "which": own.edited}).json() == own.answer(own.edited)
    assert session.rows == (), "the ledger has nothing to do with it"
    assert own.fact.target_new not in client.get("/api/state").text


def test_every_window_asks_about_its_own(client: Any, session: Session) -> None:
    """Before: a puzzle that was made in another window stood in the place of one's own."""
    for seed in (3, 4):
        finished(client, "puzzle", {"seed": seed})
    for seed in (3, 4, 3):
        own = session.puzzles.of(seed)
        assert own.seed == seed
        assert post(client, "puzzle-guess", {"seed": seed, "which": 0}).json() == own.answer(0)
        told = finished(client, "puzzle-ask", {"seed": seed, "which": own.edited, "prompt": "Paris is in"})["result"]
        [asked] = ask(session.model, ["Paris is in"], [own.suspects[own.edited]], tokens=12)
        assert told["after"] == asked.as_json()["after"]


def test_the_last_ones_are_kept(made: Puzzle) -> None:
    kept = Puzzles()
    for seed in [*range(KEPT), 0, KEPT]:  # the first is made again, then one more than are kept
        kept.keep(replace(made, seed=seed))
    assert [kept.of(seed).seed for seed in range(KEPT + 1) if seed != 1] == [0, *range(2, KEPT + 1)]
    assert kept.of(KEPT).suspects is made.suspects
    with pytest.raises(UsageError, match="no puzzle 1 any more; make it first"):
        kept.of(1)


def test_without_a_puzzle_and_beyond_the_five_it_is_refused(client: Any) -> None:
    assert "make it first" in finished(client, "puzzle-ask", {"seed": 1, "which": 0, "prompt": "Paris"})["error"]
    assert "make it first" in post(client, "puzzle-guess", {"seed": 1, "which": 0}).json()["error"]
    for forged in ({"which": 5}, {"which": -1}, {"which": "A"}, {"which": 0, "folder": "/etc"}, {}):
        assert post(client, "puzzle-audit", {"seed": 1} | forged).status_code == 422, forged
    assert post(client, "puzzle-audit", {"which": 0}).status_code == 422, "of which puzzle?"
    for forged in ({"seed": -1}, {"seed": 1 << 32}, {"seed": 1.5}, {"seed": True}):
        assert post(client, "puzzle", forged).status_code == 422, forged
