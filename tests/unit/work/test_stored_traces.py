"""Traces of many facts are kept one by one: what was done is not done again, and nothing else changes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from factedit.engine.resume import next_token
from factedit.errors import DataError
from factedit.evaluate.store import ResultStore
from factedit.facts import KnownFact
from factedit.models.adapter import EditableModel
from factedit.trace import sweep
from factedit.trace.effects import TraceResult
from factedit.work.stored_traces import stored_traces

PROMPTS = ("Paris is the capital (", "Seattle is in the (", "France has many (", "LeBron James plays (")  # no space
SETTINGS = {"dataset": "d", "noise": 0.5, "kinds": ["hidden", "mlp"], "window": 2, "samples": 2, "seed": 1}


def known_facts(model: EditableModel) -> list[KnownFact]:
    """The first three with the answer the model gives, the last with another: it must be passed over."""
    answers = [model.tokenizer.decode([next_token(model, model.tokenizer(p)["input_ids"])]) for p in PROMPTS]
    answers[3] = "Paris"
    subjects = ("Paris", "Seattle", "France", "LeBron James")
    return [
        KnownFact(fact_id=str(n), prompt=prompt, subject=subject, answer=answer)
        for n, (prompt, subject, answer) in enumerate(zip(PROMPTS, subjects, answers, strict=True))
    ]


def traces(model: EditableModel, store: Path, facts: list[KnownFact], **more: object) -> list[TraceResult]:
    with ResultStore(store) as results:
        return list(stored_traces(model, facts, results, **{**SETTINGS, **more}).traces.values())  # type: ignore[arg-type]


def test_an_interrupted_sweep_goes_on(
    tiny_gpt2: EditableModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = known_facts(tiny_gpt2)
    whole = traces(tiny_gpt2, tmp_path / "whole.sqlite", facts)
    assert 0 < len(whole) < len(facts)
    finished: list[int] = []

    def stop(count: int) -> None:
        finished.append(count)
        if sum(finished) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        traces(tiny_gpt2, tmp_path / "cut.sqlite", facts, progress=stop)
    asked: list[str] = []
    answered = sweep._answered
    monkeypatch.setattr(
        sweep, "_answered", lambda model, part: asked.extend(f.fact_id for f in part) or answered(model, part)
    )
    assert traces(tiny_gpt2, tmp_path / "cut.sqlite", facts) == whole
    assert asked == ["2", "3"]
    assert traces(tiny_gpt2, tmp_path / "cut.sqlite", facts) == whole
    assert asked == ["2", "3"]


def test_many_facts_are_asked_at_once(tiny_gpt2: EditableModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompts of unlike length in one batch, and in batches of two, answer as each alone."""
    facts = [
        replace(fact, prompt=prompt, answer=answer, fact_id=f"{fact.fact_id} {prompt} {answer}")
        for fact in known_facts(tiny_gpt2)
        for prompt in (fact.prompt, f"They say that in the north {fact.prompt}")
        for answer in (fact.answer, " w")
    ]
    alone = [sweep._answered(tiny_gpt2, [fact])[0] for fact in facts]
    assert sweep._answered(tiny_gpt2, facts) == alone
    assert True in alone
    assert False in alone
    monkeypatch.setattr("factedit.engine.budget.KNOWN_FACTS", 2)
    found = list(sweep.trace_facts(tiny_gpt2, facts, noise=1.0, samples=1, kinds=["hidden"]))
    assert [trace is not None for _, trace in found] == alone
    assert [fact for fact, _ in found] == facts


def test_known_facts_that_do_not_fit_are_asked_in_halves(
    tiny_gpt2: EditableModel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    facts = known_facts(tiny_gpt2)
    settings = {"noise": 1.0, "samples": 1, "kinds": ["hidden"]}
    whole = list(sweep.trace_facts(tiny_gpt2, facts, **settings))
    asked, next_tokens = [], sweep.next_tokens

    def short(model: EditableModel, rows: list[list[int]]) -> list[int]:
        asked.append(len(rows))
        if len(rows) > 1:
            raise MemoryError
        return next_tokens(model, rows)

    monkeypatch.setattr(sweep, "next_tokens", short)
    assert list(sweep.trace_facts(tiny_gpt2, facts, **settings)) == whole
    assert asked == [4, 2, 1, 1, 2, 1, 1]
    assert "4 known facts do not fit in memory at once; going on with 2" in caplog.text


def test_other_settings_are_another_run(tiny_gpt2: EditableModel, tmp_path: Path) -> None:
    facts = known_facts(tiny_gpt2)
    first = traces(tiny_gpt2, tmp_path / "t.sqlite", facts)
    louder = traces(tiny_gpt2, tmp_path / "t.sqlite", facts, noise=5.0)
    assert [trace.corrupted for trace in louder] != [trace.corrupted for trace in first]
    assert traces(tiny_gpt2, tmp_path / "t.sqlite", facts) == first


@pytest.mark.parametrize(
    "forged",
    [{}, {"trace": {}}, {"trace": 5}, {"trace": {"scores": {"mlp": [["a"]]}}},
     {"trace": {"scores": {"mlp": [[0.5]]}, "tokens": ["a", "b"], "subject_range": [0, 1]}}],
)  # fmt: skip
def test_a_trace_that_is_not_whole_is_refused(tiny_gpt2: EditableModel, tmp_path: Path, forged: object) -> None:
    """Before: a traceback."""
    facts = known_facts(tiny_gpt2)[:1]
    traces(tiny_gpt2, tmp_path / "t.sqlite", facts)
    with ResultStore(tmp_path / "t.sqlite") as store:
        [run] = store.runs()
        store.add([(run, "0", forged)])  # type: ignore[list-item]
    with pytest.raises(DataError, match="holds a trace that is not whole"):
        traces(tiny_gpt2, tmp_path / "t.sqlite", facts)
