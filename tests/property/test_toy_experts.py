"""A small mixture of experts, trained here until it knows its facts: traced, edited, asked and undone to the bit."""

from __future__ import annotations

import pytest

from factedit.edit.artefact import Edit
from factedit.edit.methods.rome import rome
from factedit.evaluate.outcome import outcomes, with_outcomes
from factedit.evaluate.probability import Question, score
from factedit.models.adapter import EditableModel
from factedit.stats.experts_moment import ExpertsMoment
from factedit.stats.provide import Moments, Text
from factedit.trace.experts import with_experts
from factedit.trace.sweep import trace_fact
from tiny_experts import records, sentences, toy

LAYER = 0
CONTEXTS = ("{}", "Today {}", "The home of {}")


@pytest.fixture(scope="module")
def model() -> EditableModel:
    return toy()


@pytest.fixture(scope="module")
def edits(model: EditableModel, tmp_path_factory: pytest.TempPathFactory) -> tuple[Edit, ...]:
    """Every person moved to the next city, each alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FACTEDIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        source = Moments(corpus=Text("its own text", lambda: sentences() * 3), tokens=2000)
        moment = source(model, LAYER)
        assert isinstance(moment, ExpertsMoment)
        assert not moment.unreached
        method = rome(
            model, source, layer=LAYER, steps=25, decay=0.0, clamp=6.0, ridge=0.1, context_templates=CONTEXTS
        )  # fmt: skip
        return method.edit([record.request for record in records()]).edits


def scores(model: EditableModel, edits: list[Edit | None]) -> tuple[float, float, float, float]:
    """ES, PS, NS and S as CounterFact has them: shares where the object asked for is the likelier of the two."""
    found: tuple[list[bool], list[bool], list[bool]] = [], [], []
    asked = [[r.request.text, *r.paraphrases, *r.neighborhood] for r in records()]
    pairs = [(r.request.target_new, r.request.target_true or "") for r in records()]
    questions = [[Question(p, t) for p in own for t in pair] for own, pair in zip(asked, pairs, strict=True)]
    [answers] = score(model, questions, [edits])
    for record, own in zip(records(), answers, strict=True):
        new = [a.probability > b.probability for a, b in zip(own[::2], own[1::2], strict=True)]
        count = 1 + len(record.paraphrases)
        found[0].append(new[0])
        found[1].extend(new[1:count])
        found[2].extend(not own for own in new[count:])
    es, ps, ns = (sum(own) / len(own) for own in found)
    return es, ps, ns, 3 / (1 / es + 1 / ps + 1 / ns) if es and ps and ns else 0.0


def test_it_knows_its_facts(model: EditableModel) -> None:
    known = outcomes(model, [record.request for record in records()])
    assert min(own["target_true"] for own in known) > 0.8
    assert scores(model, [None] * 12)[3] == 0.0


def test_a_trace_needs_the_subject_and_tells_its_experts(model: EditableModel) -> None:
    record = records()[0]
    trace = trace_fact(model, record.request.text, record.request.subject, noise=0.2, samples=4)
    assert trace.clean - trace.corrupted > 0.2
    assert trace.indirect_effects("hidden").max() > 0.8 * trace.total_effect
    told = with_experts(model, trace, (), record.paraphrases).experts
    assert set(told["tokens"]) == {"0", "1", "2"}
    assert all(len(own) == 2 for wording in told["paraphrases"].values() for own in wording.values())


def test_its_facts_are_edited_and_undone_to_the_bit(model: EditableModel, edits: tuple[Edit, ...]) -> None:
    before = model.fingerprint()
    es, ps, ns, s = scores(model, list(edits))
    assert s > 0.5, (es, ps, ns)
    for edit in edits:
        with edit.applied_to(model):
            assert model.fingerprint() != before
        assert model.fingerprint() == before


def test_what_an_edit_did_is_told_expert_by_expert(model: EditableModel, edits: tuple[Edit, ...]) -> None:
    for edit in with_outcomes(model, edits[:3]):
        [note] = edit.notes
        shares = note.diagnostics["experts"][str(LAYER)]
        assert sum(shares.values()) == pytest.approx(1)
        sent = {f"out.{expert}" for expert in note.before["experts"][str(LAYER)]}
        assert sent <= set(shares)
        assert sum(shares[name] for name in sent) > 0.5
        assert note.before["experts"][str(LAYER)] == pytest.approx(note.after["experts"][str(LAYER)])
