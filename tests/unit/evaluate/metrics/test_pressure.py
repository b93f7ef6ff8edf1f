"""NS+, NKL, NKL+ and sentences in front: by hand, and against whole models spelled out."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from conftest import tiny
from factedit.evaluate.distribution import NextToken, divergences
from factedit.evaluate.measuring import AS_IT_IS, Under, measure
from factedit.evaluate.metric import Answered
from factedit.evaluate.metrics import pressure
from factedit.evaluate.metrics.pressure import DISTRACTIONS, Pressure, resists
from factedit.evaluate.probability import Question, Score, score
from factedit.evaluate.stemmed import After, Told
from factedit.evaluate.together import Together
from factedit.evaluate.writing import Writing, Written
from factedit.facts import EditRequest, FactRecord
from factedit.models.adapter import EditableModel
from plain import encode, logits
from stack_cases import random_edit

RECORD = FactRecord(
    case_id="1",
    request=EditRequest(subject="Paris", prompt="{} is in", target_new="Seattle", target_true="France"),
    neighborhood=("The Needle is in", "Danielle is in"),
)


def test_what_is_asked() -> None:
    asks = Pressure().asks(RECORD)
    plus = ["Paris is in Seattle. The Needle is in", "Paris is in Seattle. Danielle is in"]
    assert asks[:4] == [
        *(After(prompt, ("France", "Seattle")) for prompt in plus),
        *(NextToken(prompt) for prompt in RECORD.neighborhood),
    ]
    assert asks[4] == Written("France is famous. Paris is in")
    assert len(asks) == 4 + len(DISTRACTIONS) == 11
    assert len({text.format("x") for text in DISTRACTIONS}) == 7


def test_scores_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neighbour one: its own object likelier. Two: a tie, which is not likelier. Two of seven sentences withstood."""
    monkeypatch.setattr(pressure, "divergences", lambda found, _before: [{"a": 0.5, "b": 1.5, "c": 2.0,
                                                                       "d": math.inf}[f] for f in found])  # fmt: skip
    scores = [Score((-1.0,), (True,)), Score((-2.0,), (False,)), Score((-3.0,), (False,)), Score((-3.0,), (False,))]
    texts = [" Seattle. France", " Seattle, not France.", " France", " Seattle", " Seattleite", "", " in"]
    written = [Writing(text, (), 0) for text in texts]
    told = [Told("c", tuple(scores[:2])), Told("d", tuple(scores[2:])), "a", "b"]
    found = Pressure().scored(Answered(RECORD, [*told, *written], ["x"] * 11))
    assert found.scores == pytest.approx({"NS+": 50.0, "NKL": 1.0, "NKL+": 2.0, "distracted_holds": 100 * 2 / 7})
    assert found.tests == {"NS+": (2, 0), "NKL": (2, 0), "NKL+": (1, 1), "distracted_holds": (7, 0)}
    told[0] = Told("c", (Score((math.nan,), (False,)), scores[1]))
    found = Pressure().scored(Answered(RECORD, [*told, *written], ["x"] * 11))
    assert (found.scores["NS+"], found.tests["NS+"]) == (0.0, (1, 1))


@pytest.mark.parametrize(
    ("text", "new", "old", "holds"),
    [
        (" the city of Seattle", "Seattle", "France", True),
        (" seattle", "Seattle", "France", True),
        (" New York", "New York", "York", True),  # the old object is part of the new one
        (" New York, York", "New York", "York", False),
        (" New York", "York", "New York", False),
        (" Seattle in Frances", "Seattle", "France", True),
    ],
)
def test_the_new_object_without_the_old(text: str, new: str, old: str, holds: bool) -> None:
    request = EditRequest(subject="a", prompt="{} is", target_new=new, target_true=old)
    assert resists(text, request) is holds


def test_what_a_record_lacks_is_not_asked() -> None:
    bare = replace(RECORD, neighborhood=(), request=replace(RECORD.request, target_true=None))
    assert Pressure().lacks(bare) == "neighborhood prompts and no target_true"
    alone = replace(bare, neighborhood=RECORD.neighborhood)
    assert [type(ask) for ask in Pressure().asks(alone)] == [NextToken] * 4, "its neighbours have no known answer"
    answered = replace(alone, loc_answer="France")
    assert Pressure().asks(answered)[0] == After("Paris is in Seattle. The Needle is in", ("France", "Seattle"))
    model = tiny("gpt2")
    [[found]] = measure(model, [alone], [Pressure()], [AS_IT_IS], seed=0)
    assert found.scores["NKL"] == 0.0
    assert math.isnan(found.scores["NS+"])
    assert found.tests["NS+"] == found.tests["distracted_holds"] == (0, 0)


@torch.no_grad()
def kl(model: EditableModel, edit: object, prompt: str) -> float:
    """Σ p' (log p' − log p) over the vocabulary, from two whole passes."""
    before = logits(model, encode(model, prompt))[-1].double().log_softmax(-1)
    with edit.applied_to(model):
        after = logits(model, encode(model, prompt))[-1].double().log_softmax(-1)
    return float(sum(a.exp() * (a - b) for a, b in zip(after, before, strict=True)))


def test_divergence_equals_whole_models_also_where_edits_are_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("factedit.engine.budget.READS_SCORED", 4)  # one pair at a time
    model = tiny("gpt2")
    edits = [random_edit(model, 3, layer=1), random_edit(model, 4, layer=2)]
    records = [RECORD, replace(RECORD, case_id="2", neighborhood=("The sport of",))]
    shared = Together(model).plus(edits[:1])
    unders = [AS_IT_IS, Under(edits), Under(shared=shared)]
    plain, own, together = measure(model, records, [Pressure()], unders, seed=0)
    for record, edit, found in zip(records, edits, own, strict=True):
        alone = [kl(model, edit, prompt) for prompt in record.neighborhood]
        plus = [kl(model, edit, f"Paris is in Seattle. {prompt}") for prompt in record.neighborhood]
        assert found.scores["NKL"] == pytest.approx(sum(alone) / len(alone), rel=1e-3)
        assert found.scores["NKL+"] == pytest.approx(sum(plus) / len(plus), rel=1e-3)
        assert found.scores["NKL"] > 0.01
    for record, found in zip(records, together, strict=True):
        alone = [kl(model, edits[0], prompt) for prompt in record.neighborhood]
        assert found.scores["NKL"] == pytest.approx(sum(alone) / len(alone), rel=1e-3)
    assert [found.scores["NKL"] for found in plain] == [0.0, 0.0]


def test_divergence_has_its_direction_and_what_is_not_finite_is_named() -> None:
    """Of two tokens: p = (.5, .5), q = (.9, .1). KL(p‖q) = .5 ln(.5/.9) + .5 ln(.5/.1) ≠ KL(q‖p)."""
    model = tiny("gpt2")
    [[reply]] = NextToken.read(model, [[NextToken("Paris is")]], [None], seed=0)[0:1][0]
    assert reply.hidden.shape == (model.d_model,), "no vocabulary is kept"
    broken = replace(reply, hidden=torch.full((model.d_model,), math.nan))
    assert math.isnan(divergences([broken], [reply])[0])
    assert math.isnan(divergences([reply], [broken])[0])
    [p], [q] = (torch.tensor([own]).double().log() for own in ([0.5, 0.5], [0.9, 0.1]))
    patch = pytest.MonkeyPatch()
    with patch.context() as own:
        own.setattr("factedit.evaluate.distribution.read_out", lambda _model, hidden: torch.stack(
            [p if row[0] == 0 else q for row in hidden]))  # fmt: skip
        first, second = (replace(reply, hidden=torch.tensor([n])) for n in (0, 1))
        [found] = divergences([first], [second])
    assert found == pytest.approx(0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1))


def test_prompts_after_one_sentence_are_those_of_whole_prompts_and_the_sentence_is_run_once() -> None:
    """Scores and divergences of every prompt asked whole; the first layer sees the sentence once per record."""
    model = tiny("gemma3_text", n_positions=128, max_position_embeddings=128)
    long = replace(RECORD, case_id="2", neighborhood=("The Space Needle is in downtown", "LeBron James plays", "Café"))
    records, edits = [RECORD, long], [random_edit(model, 3, layer=1), random_edit(model, 4, layer=2)]
    asks = [[ask for ask in Pressure().asks(record) if isinstance(ask, After)] for record in records]
    variants = [None, edits, [None, edits[0]]]
    seen: list[int] = []
    with model.on_output("mlp", 0, lambda out: seen.append(out.shape[0] * out.shape[1])):
        found = After.read(model, asks, variants, seed=0)
    questions = [[Question(ask.prompt, answer) for ask in own for answer in ask.answers] for own in asks]
    whole = score(model, questions, variants)
    states = NextToken.read(model, [[NextToken(ask.prompt) for ask in own] for own in asks], variants, seed=0)
    for told, scores, after in zip(found, whole, states, strict=True):
        for own, expected, hidden in zip(told, scores, after, strict=True):
            given = [value for reply in own for value in reply.scores]
            assert [value.first for value in given] == [value.first for value in expected]
            for value, other in zip(given, expected, strict=True):
                assert value.log_p == pytest.approx(other.log_p, abs=1e-4)
            for reply, other in zip(own, hidden, strict=True):
                assert torch.allclose(reply.next.hidden, other.hidden, atol=1e-4)
    rows = 2 * (2 + 3)  # an object of several tokens has a row of its own
    assert len(seen) == 2, "the layer before the first edited one is run once, sentences and prompts, for all variants"
    assert seen[0] % 2 == 0
    assert seen[1] % rows == 0
    assert seen[1] // rows < len(encode(model, asks[1][0].prompt)), "no row holds the sentence"
