"""The panel of true facts and the prediction of who is hit: against whole passes and formulas spelled out."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import random_moment, tiny
from factedit.data.panel import read_panel
from factedit.engine.resume import next_tokens
from factedit.errors import UsageError
from factedit.evaluate.entangled import largest_shares, rank_correlation
from factedit.evaluate.measuring import AS_IT_IS, Under, measure
from factedit.evaluate.metric import Answered
from factedit.evaluate.metrics import panel as panel_metric
from factedit.evaluate.metrics.panel import PanelFacts
from factedit.evaluate.panel import Hit, Panel, asks_of, share_kept, worst
from factedit.evaluate.probability import Score
from factedit.evaluate.together import Together
from factedit.facts import EditRequest, FactRecord, KnownFact
from factedit.models.adapter import EditableModel
from factedit.stats.store import write_moment
from factedit.work.evaluate import metrics_for
from factedit.work.panel import ask_panel, predict_panel
from plain import encode, logits
from stack_cases import random_edit

SUBJECTS = ("Space Needle", "Paris", "Danielle Darrieux", "LeBron James", "Seattle", "France", "Москва")
ENDS = (
    "is in",
    "is the",
    "plays",
    "of the sport",
    "is a",
    "and",
    "in downtown",
    "is",
    "the",
    "of",
    "capital",
    "French",
)
RECORD = FactRecord(case_id="1", request=EditRequest(subject="Paris", prompt="{} is the", target_new="Seattle"))


@cache
def facts(model: EditableModel) -> tuple[KnownFact, ...]:
    """A fact a subject whose answer is the likeliest token after a bracket, each with another that it is not."""
    asked = [(f"{subject} {end} (", subject) for end in ENDS for subject in SUBJECTS]
    tokens = next_tokens(model, [encode(model, prompt) for prompt, _ in asked])
    found: dict[str, KnownFact] = {}
    for n, ((prompt, subject), token) in enumerate(zip(asked, tokens, strict=True)):
        answer = model.tokenizer.decode([token])
        if (
            answer.strip() == answer
            and answer.isprintable()
            and answer
            and [*encode(model, prompt), token] == encode(model, prompt + answer)
        ):
            found[subject] = KnownFact(fact_id=str(n), prompt=prompt, subject=subject, answer=answer)
    known = sorted(found.values(), key=lambda fact: int(fact.fact_id))
    return tuple(own for fact in known for own in (fact, replace(fact, fact_id=f"{fact.fact_id} not", answer="Zürich")))


@torch.no_grad()
def by_whole_passes(model: EditableModel, known: list[KnownFact], edit: object) -> list[tuple[bool, float]]:
    found = []
    for fact in known:
        ids = encode(model, fact.prompt)
        answer = encode(model, fact.prompt + fact.answer)[len(ids) :]
        before = logits(model, ids)[-1].double().log_softmax(-1)
        with edit.applied_to(model):
            after = logits(model, ids)[-1].double().log_softmax(-1)
            whole = logits(model, [*ids, *answer])[len(ids) - 1 : -1].argmax(-1).tolist()
        found.append((whole == answer, float((after.exp() * (after - before)).sum())))
    return found


@pytest.fixture(scope="module")
def model() -> EditableModel:
    return tiny("gpt2")


@pytest.fixture(scope="module")
def panel(model: EditableModel) -> Panel:
    return Panel.of(model, facts(model))


def test_only_what_the_model_answers_is_of_the_panel(model: EditableModel, panel: Panel) -> None:
    assert list(panel.known) == list(facts(model)[::2])
    assert panel.asked == len(facts(model)) >= 8
    assert Panel.of(model, facts(model), without=[facts(model)[0].subject.upper()]).asked == panel.asked - 2
    assert len(Panel.of(model, facts(model), at_most=1).known) == 1
    long = KnownFact(fact_id="long", prompt="Paris " * 80, subject="Paris", answer="x")
    with pytest.raises(UsageError, match=r"tiny-gpt2 answers none of the 1 facts of the panel"):
        Panel.of(model, [long])


def test_hits_equal_whole_passes(model: EditableModel, panel: Panel) -> None:
    edit = random_edit(model, 3, layer=1)
    hits = panel.under(Together(model).plus([edit]))
    expected = by_whole_passes(model, list(panel.known), edit)
    assert [hit.still for hit in hits] == [still for still, _ in expected]
    assert [hit.kl for hit in hits] == pytest.approx([kl for _, kl in expected], rel=1e-3)
    assert {hit.still for hit in hits} == {True, False}, "the edit costs some and not others"
    nothing = panel.under(Together(model))
    assert all(hit.still and hit.kl == 0 for hit in nothing)


def test_share_and_list_by_hand() -> None:
    fact = KnownFact(fact_id="1", prompt="Paris is in", subject="Paris", answer="France")
    hits = [Hit(fact, True, 2.0), Hit(fact, False, 0.1), Hit(fact, True, math.nan), Hit(fact, False, 3.0)]
    assert share_kept(hits) == 50
    assert worst(hits) == [3, 1, 0, 2], "lost ones first, then by divergence"
    with pytest.raises(UsageError):
        share_kept([])


def test_shares_are_those_of_romes_update(model: EditableModel) -> None:
    """kᵀC⁻¹k* / k*ᵀC⁻¹k* from keys of whole passes and an inverse of C; at the edited key itself 1."""
    moment = random_moment(model.d_mlp)
    request = EditRequest(subject="Paris", prompt="{} is the", target_new="Seattle")
    own = KnownFact(fact_id="own", prompt="Paris is the", subject="Paris", answer="x")
    asked = [own, *facts(model)[::2]]
    keys: list[torch.Tensor] = []
    for fact in asked:
        ids = encode(model, fact.prompt)
        last = len(encode(model, fact.prompt[: fact.prompt.index(fact.subject) + len(fact.subject)])) - 1
        with model.on_matrix(2, lambda key, _value, at=last: keys.append(key[0, at].double())), torch.no_grad():
            logits(model, ids)
    inverse = torch.linalg.inv(moment.matrix.double())
    star = inverse @ keys[0]
    expected = [float(key @ star / (keys[0] @ star)) for key in keys]
    assert largest_shares(model, 2, moment, [request], asked) == pytest.approx(expected, rel=1e-3, abs=1e-4)
    assert expected[0] == 1
    two = largest_shares(
        model, 2, moment, [EditRequest(subject="LeBron James", prompt="{} is", target_new="x"), request], asked
    )
    assert all(abs(both) >= abs(one) - 1e-5 for both, one in zip(two, expected, strict=True)), "the larger of the two"


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ([1, 2, 3], [10, 20, 30], 1),
        ([1, 2, 3], [3, 2, 1], -1),
        ([1, 2, 3, 4], [1, 1, 2, 2], 2 / math.sqrt(5)),  # ranks 1.5 1.5 3.5 3.5: covariance 4, sizes √5 and 2
        ([1, 2, 3], [5, 5, 5], math.nan),
        ([1, 2, math.nan, 3], [1, 2, 0, 3], 1),
        ([1], [1], math.nan),
    ],
)
def test_rank_correlation_by_hand(one: list[float], other: list[float], expected: float) -> None:
    assert rank_correlation(one, other) == pytest.approx(expected, nan_ok=True)


def test_the_metric_under_each_edit_and_under_shared_ones(model: EditableModel, panel: Panel) -> None:
    metric = PanelFacts(tuple(facts(model)), count=3).for_model(model)
    other = replace(RECORD, case_id="2", request=replace(RECORD.request, subject="Nobody"))
    edits = [random_edit(model, 3, layer=1), random_edit(model, 4, layer=2)]
    unders = [AS_IT_IS, Under(edits), Under(shared=Together(model).plus(edits[:1]))]
    plain, own, shared = measure(model, [RECORD, other], [metric], unders, seed=0)
    for edit, found, record in zip(edits, own, (RECORD, other), strict=True):
        known = [fact for fact in panel.known[:3] if fact.subject != record.request.subject]
        expected = by_whole_passes(model, known, edit)
        assert found.scores["panel_kept"] == pytest.approx(100 * np.mean([still for still, _ in expected]))
        assert found.scores["panel_kl"] == pytest.approx(np.mean([kl for _, kl in expected]), rel=1e-3)
        assert found.tests["panel_kept"] == (len(known), 0)
    assert shared[0].scores["panel_kl"] == pytest.approx(own[0].scores["panel_kl"], rel=1e-3)
    assert plain[0].scores == {"panel_kept": 100, "panel_kl": 0}


def test_a_panel_of_which_the_model_knows_nothing_leaves_the_metric_out(
    model: EditableModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And is asked once, not again with every record and every edit."""
    nothing = tuple(fact for fact in facts(model) if "not" in fact.fact_id)
    asked: list[int] = []
    real = panel_metric.known_of
    monkeypatch.setattr(panel_metric, "known_of", lambda *a, **k: asked.append(1) or real(*a, **k))
    other = replace(RECORD, case_id="2")
    metric = PanelFacts(nothing).for_model(model)
    [plain, edited] = measure(model, [RECORD, other], [metric], [AS_IT_IS, Under([random_edit(model, 3)] * 2)], seed=0)
    for found in (*plain, *edited):
        assert (
            found.left_out["panel"]
            == f"it has no fact of the panel that the model answers, of {len(nothing)} that were asked"
        )
        assert found.tests == {"panel_kept": (0, 1), "panel_kl": (0, 1)}
    assert asked == [1]
    [[found]] = measure(model, [RECORD], [PanelFacts(facts(model))], [AS_IT_IS], seed=0)
    assert found.tests["panel_kept"] == (len(facts(model)[::2]) - 1, 0), "without a model: those known, but of Paris"


def test_a_metric_that_always_passes_is_caught(model: EditableModel) -> None:
    metric = PanelFacts(tuple(facts(model)), count=2).for_model(model)
    first, second = metric.known
    assert len(asks_of(first)) == 2
    lost, kept = Score((-1.0,), (False,)), Score((-1.0,), (True,))
    patch = pytest.MonkeyPatch()
    with patch.context() as own:
        own.setattr("factedit.evaluate.metrics.panel.divergences", lambda _now, _before: [0.5, 1.5])
        found = metric.scored(Answered(replace(RECORD, request=replace(RECORD.request, subject="x")),
                                       [lost, None, kept, None], [kept, None, kept, None]))  # fmt: skip
    assert found.scores == {"panel_kept": 50, "panel_kl": 1}
    assert found.texts["panel"][0] == [first.prompt, first.answer, 0.5], "the lost one before the other"
    assert second.prompt in found.texts["panel"][1]


def test_a_users_file_is_read_and_given_to_the_metric(tmp_path: Path, model: EditableModel) -> None:
    rows = [
        {"prompt": "{} is in", "subject": "Paris", "target": "France"},
        {"prompt": "Rome is in", "subject": "Rome", "attribute": "Italy"},
        {"prompt": "Rome is in", "subject": "Oslo", "target": "Italy"},
    ]
    file = tmp_path / "p.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    data = read_panel(file)
    assert [(fact.fact_id, fact.prompt, fact.answer) for fact in data.records] == [
        ("0", "Paris is in", "France"), ("1", "Rome is in", "Italy"),
    ]  # fmt: skip
    assert data.skipped == 1

    class Data:
        name, records = "x", (RECORD,)

    [metric], missing = metrics_for(["panel"], Data, None, panel=file)  # type: ignore[arg-type]
    assert not missing
    assert {fact.subject for fact in metric.facts} == {"Paris", "Rome"}  # type: ignore[attr-defined]


def test_a_fact_that_stands_twice_counts_once_and_it_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The same prompt and answer, however it is written; another answer to a prompt is another fact."""
    rows = [("{} is in", "Paris", "France"), ("Paris is in", "Paris", "France"), ("{} is in", "Paris", "Europe"),
            ("{} is in", "Rome", "Italy"), ("{} is in", "Rome", "Italy")]  # fmt: skip
    file = tmp_path / "p.jsonl"
    file.write_text("\n".join(json.dumps(dict(zip(("prompt", "subject", "target"), row, strict=True))) for row in rows))
    facts = read_panel(file).records
    assert [(fact.fact_id, fact.answer) for fact in facts] == [("0", "France"), ("2", "Europe"), ("3", "Italy")]
    assert [record.message for record in caplog.records] == [
        f"Facts of {file} that stand there already, and count once: 2."
    ]


def test_the_command_lists_who_is_hit_and_who_is_likely_to_be(
    tmp_path: Path, model: EditableModel, panel: Panel
) -> None:
    rows = [{"prompt": fact.prompt, "subject": fact.subject, "target": fact.answer} for fact in facts(model)]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, rows)))
    moment = tmp_path / "c.safetensors"
    write_moment(moment, replace(random_moment(model.d_mlp), layer=1, model=model.fingerprint()))
    edit = random_edit(model, 3, layer=1)
    edit.save(tmp_path / "edit")
    found = ask_panel(lambda: (model, ()), [tmp_path / "edit"], panel=tmp_path / "p.jsonl", second_moment=moment)
    row = found.as_json()
    assert (row["asked"], row["known"], row["layer"]) == (len(rows), len(panel.known), 1)
    assert row["kept"] == share_kept(found.hits)
    assert [fact["still"] for fact in row["facts"]] == sorted(fact["still"] for fact in row["facts"])
    assert row["rank_correlation"] == pytest.approx(
        rank_correlation([abs(f["predicted"]) for f in row["facts"]], [f["kl"] for f in row["facts"]])
    )
    (tmp_path / "e.jsonl").write_text(json.dumps({"subject": "Paris", "prompt": "{} is the", "target_new": "x"}))
    likely = predict_panel(model, str(tmp_path / "e.jsonl"), panel=tmp_path / "p.jsonl", layer=1, second_moment=moment)
    sizes = [abs(share) for share in likely.predicted]
    assert sizes == sorted(sizes, reverse=True)
    assert likely.as_json()["rank_correlation"] is None
    with pytest.raises(UsageError, match="No edit was given"):
        ask_panel(lambda: (model, ()), [])
