"""What is asked of a fact, how it is judged, and that asking leaves the model as it was."""

from __future__ import annotations

import math

import pytest
import torch

from conftest import tiny
from factedit.edit.method_table import make_method
from factedit.edit.methods.rome import Rome
from factedit.errors import RequestError, UsageError
from factedit.facts import EditRequest, FactRecord, KnownFact
from factedit.work.ask import ask
from factedit.work.damage import damage
from factedit.work.edit import edit_facts
from factedit.work.proof import NEW, FactProof, Proven, _state, checks_of, prove, record_of
from factedit.work.touched import likely_touched, on_already
from factedit.work.undo import undo
from page_server import FACT, QUICK, quick_moments

REQUEST = EditRequest(**FACT)


@pytest.fixture(scope="module")
def model():
    return tiny("gpt2", n_positions=256, max_position_embeddings=256)


@pytest.fixture(scope="module")
def edit(model):
    [found] = edit_facts(model, make_method("rome", model, quick_moments(), **QUICK), [REQUEST])
    return found.edit


def by_hand(model, prompt: str) -> torch.Tensor:
    """The distribution after a prompt, by transformers alone."""
    ids = torch.tensor([model.tokenizer(prompt)["input_ids"]])
    with torch.no_grad():
        return model.lm(input_ids=ids).logits[0, -1].softmax(-1)


def test_the_likeliest_tokens_are_those_of_transformers_before_and_after(model, edit) -> None:
    [asked] = ask(model, ["In Paris the"], [edit], top=5, tokens=3)
    for reply, inside in ((asked.before, False), (asked.after, True)):
        if inside:
            with edit.applied_to(model):
                best = by_hand(model, "In Paris the").topk(5)
        else:
            best = by_hand(model, "In Paris the").topk(5)
        assert [t.probability for t in reply.top] == pytest.approx(best.values.tolist(), rel=1e-4)
        assert [t.text for t in reply.top] == [model.tokenizer.decode([i]) for i in best.indices.tolist()]
        assert reply.text.startswith(reply.top[0].text)
    assert asked.before != asked.after


def test_without_edits_there_is_no_after_and_nothing_asked_is_refused(model) -> None:
    assert ask(model, ["Paris"])[0].after is None
    for wrong in ({"prompts": []}, {"prompts": ["Paris"], "top": 0}, {"prompts": ["Paris"], "tokens": 0}):
        with pytest.raises(UsageError, match="Nothing is asked"):
            ask(model, **wrong)


def row(text: tuple[str, str], wanted: str, new=(0.1, 0.9), old=(0.5, 0.05), part="neighbour") -> Proven:
    return Proven(part, "p", wanted, new, old, text, "")


@pytest.mark.parametrize(
    ("found", "state"),
    [
        (row((" France", " Seattle, of course"), "the new object"), "held"),
        (row((" France", " a city"), "the new object"), "half"),
        (row((" France", " a city"), "the new object", new=(0.1, 0.01)), "broken"),
        (row((" France", " a city"), "the new object", old=None), "broken"),
        (row((" France", " Seattle and France"), "the new object", part="break"), "half"),
        (row((" France", " France."), "as before", new=(0.1, 0.1), old=(0.5, 0.5)), "held"),
        (row((" France", " Spain"), "as before", new=(0.1, 0.1), old=(0.5, 0.5)), "half"),
        (row((" France", " Seattle"), "as before", new=(0.1, 0.1), old=(0.5, 0.5)), "broken"),
        (row((" France", " France"), "as before", new=(0.1, 0.6), old=(0.5, 0.5)), "broken"),
        (row((" France", " France"), "as before", new=(0.6, 0.6), old=(0.5, 0.5)), "not measurable"),
        (row((" Seattle", " France"), "as before"), "not measurable"),
        (row((" France", " only Seattle"), "not the new object"), "held"),
        (row((" France", " Seattle"), "not the new object"), "broken"),
        (row((" Seattle", " Seattle"), "not the new object"), "not measurable"),
        (row((" France", " only"), "not the new object", new=(0.1, math.nan)), "broken"),
        (row((" France", " France"), "as before", new=(0.1, 0.1), old=(0.5, math.nan)), "broken"),
        (row((" France", " France"), "as before", new=(math.nan, 0.1), old=(0.5, 0.5)), "not measurable"),
    ],
)
def test_a_test_is_judged_by_what_is_written_and_what_is_likelier(found: Proven, state: str) -> None:
    assert _state(found, REQUEST) == state


def test_the_verdict_counts_what_could_be_measured() -> None:
    rows = [
        Proven("rewrite", "p", "", (0, 1), None, ("", ""), "held"),
        *(Proven("neighbour", "p", "", (0, 1), None, ("", ""), s) for s in ("broken", "held", "not measurable")),
    ]
    assert (
        FactProof(REQUEST, tuple(rows)).verdict == "It took: the edited model writes Seattle. Neighbours: 1 of 2 held."
    )
    given = [Proven(part, "p", NEW, (1, 1), None, (text, "Seattle"), "held")
             for part, text in (("rewrite", "Seattle."), ("wording", "Seattle"), ("wording", "Rome"))]  # fmt: skip
    told = FactProof(REQUEST, tuple(given)).verdict
    assert told.startswith("It held before: the unedited model writes Seattle, too. Other wordings: 2 of 2 held (1 bef")
    half = (Proven("rewrite", "p", "", (0, 1), None, ("", ""), "half"),)
    assert FactProof(REQUEST, half).verdict.startswith("Half taken: Seattle is the likelier object")
    assert FactProof(REQUEST, ()).verdict.startswith("It did not take")


def test_prompts_are_found_for_a_fact_that_the_embedded_ones_know() -> None:
    record = record_of(EditRequest(subject="Big Ben", prompt="{} is a famous sight in the city of", target_new="Rome",
                                   target_true="London"))  # fmt: skip
    assert "Big Ben is one of the famous attractions of the city of" in record.paraphrases
    assert "Tower Bridge is a famous sight in the city of" in record.neighborhood
    assert not any("Big Ben" in text or "Colosseum" in text for text in record.neighborhood)
    unknown = record_of(EditRequest(subject="X", prompt="{} squeaks like", target_new="a"))
    assert (unknown.paraphrases, unknown.neighborhood) == ((), ())


def test_the_tests_of_a_fact() -> None:
    record = FactRecord(case_id="1", request=REQUEST, paraphrases=("Where is Paris? In",), neighborhood=("Café is in",))
    asked = [(own.part, own.prompt, own.wanted) for own in checks_of(record)]
    assert asked == [
        ("rewrite", "Paris is in", "the new object"),
        ("wording", "Where is Paris? In", "the new object"),
        ("neighbour", "Café is in", "as before"),
        ("sentence", "Paris is in Seattle. Café is in", "as before"),
        ("break", "Paris is in not", "not the new object"),
        ("break", "Statement: Paris is in Seattle.\nTrue or False? Answer:", "judged true"),
        ("break", "France is famous. Paris is in", "the new object"),
        ("break", "Many people talk about France. Paris is in", "the new object"),
        ("break", "Question: Paris is in what?\nAnswer:", "the new object"),
    ]


def test_probabilities_before_and_after_are_the_models_own(model, edit) -> None:
    hash_before = model.fingerprint()
    proof = prove(model, FactRecord(case_id="1", request=REQUEST), [edit], prompts=["In Paris the"])
    assert model.fingerprint() == hash_before
    [first] = [own for own in proof.rows if own.part == "rewrite"]
    note = edit.notes[0]
    assert first.new == pytest.approx((note.before["target_new"], note.after["target_new"]), rel=1e-4)
    assert first.old == pytest.approx((note.before["target_true"], note.after["target_true"]), rel=1e-4)
    assert [own.prompt for own in proof.rows if own.part == "own"] == ["In Paris the"]
    states = [own.state for own in proof.rows if own.part == "break"]
    assert states == sorted(states, key=("broken", "half", "not measurable", "held").index)


def test_prompts_that_are_too_long_are_left_out_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    """What is put around a fact's prompt makes it longer than a short context; the fact's own prompt fits."""
    small = tiny("gpt2")
    request = EditRequest(subject="Paris", prompt="{} is" + " in" * 22, target_new="Seattle")
    near = ("LeBron James plays the sport of", "word " * 70)
    record = FactRecord(case_id="1", request=request, neighborhood=near)
    rows = prove(small, record, []).rows
    asked = {(row.part, row.prompt) for row in rows}
    assert ("rewrite", request.text) in asked
    assert ("neighbour", near[0]) in asked
    assert len(asked) < len(checks_of(record))
    assert all(len(small.tokenizer(prompt + " Seattle")["input_ids"]) <= 64 for _, prompt in asked)
    left = len(checks_of(record)) - len(asked)
    assert f"{left} of {len(checks_of(record))} prompts cannot be asked and are left out; the first: '" in caplog.text
    with pytest.raises(RequestError, match="Shorten it"):
        prove(small, record, [], prompts=["word " * 70])


def test_damage_is_what_the_answer_lost_and_the_worst_comes_first(model, edit) -> None:
    asked = [("Paris is in", "Paris", "France"), ("Café is in", "Café", "France"), ("LeBron plays", "LeBron", "the")]
    facts = [KnownFact(fact_id=str(n), prompt=p, subject=s, answer=a) for n, (p, s, a) in enumerate(asked)]
    found = damage(model, facts, [edit])
    assert [own.moved for own in found] == sorted(own.moved for own in found)
    [own] = [own for own in found if own.subject == "Paris"]
    note = edit.notes[0]
    assert own.moved == pytest.approx(note.after["target_true"] - note.before["target_true"], rel=1e-3)


def test_the_share_that_is_likely_to_be_touched_is_the_one_that_is(model, edit) -> None:
    method = make_method("rome", model, quick_moments(), **QUICK)
    assert isinstance(method, Rome)
    found = likely_touched(model, method, REQUEST, count=3)
    assert [abs(own.share) for own in found] == sorted((abs(own.share) for own in found), reverse=True)
    # what the edit adds at a key is share · residual; read off the edited model itself
    [effect] = edit.effects
    seen: list[torch.Tensor] = []
    ids = torch.tensor([model.tokenizer(found[0].prompt)["input_ids"]])
    with model.on_matrix(1, lambda key, _value: seen.append(key[0])), torch.no_grad():
        model.lm(input_ids=ids)
    added = seen[0] @ effect.delta()
    residual = edit.notes[0].diagnostics["residual_norm"]
    shares = (added.norm(dim=1) / residual).tolist()
    assert any(share == pytest.approx(abs(found[0].share), rel=1e-3) for share in shares)


def test_facts_that_are_on_already_are_named(edit) -> None:
    again = EditRequest(subject="paris", prompt="{}  is in", target_new="Rome")
    assert on_already([edit], again) == [REQUEST]
    assert on_already([edit], EditRequest(subject="Rome", prompt="{} is in", target_new="x")) == []


def test_undo_shows_the_same_bits(model, edit) -> None:
    found = undo(model, [edit])
    assert found.before == found.after == model.fingerprint() != found.edited
    assert found.restored
    assert undo(model, []).edited is None
