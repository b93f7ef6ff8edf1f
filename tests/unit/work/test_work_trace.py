"""Tracing as a job: what is refused before a model is loaded, what is kept, and the same numbers as below."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest

from conftest import tiny
from factedit.engine.resume import next_token
from factedit.errors import DataError, RequestError, UnknownName, UsageError
from factedit.evaluate.store import ResultStore
from factedit.models.adapter import EditableModel
from factedit.trace.effects import TraceResult
from factedit.trace.sweep import KINDS, SEVERED, trace_fact
from factedit.work.trace import named_kinds, trace_known, trace_prompt

PROMPTS = (("Paris is the capital (", "Paris"), ("Seattle is in the (", "Seattle"), ("France has many (", "France"))


def never() -> EditableModel:
    raise AssertionError("the model was loaded before the request was checked")


@pytest.fixture
def facts(tiny_gpt2: EditableModel, tmp_path: Path) -> Path:
    """A file of three known facts, of which the model answers the second right."""
    rows = []
    for n, (prompt, subject) in enumerate(PROMPTS):
        answer = tiny_gpt2.tokenizer.decode([next_token(tiny_gpt2, tiny_gpt2.tokenizer(prompt)["input_ids"])])
        rows.append(
            {"known_id": n, "prompt": prompt, "subject": subject, "attribute": answer if n == 1 else "none of these"}
        )
    path = tmp_path / "facts.json"
    path.write_text(json.dumps(rows))
    return path


def test_kinds_as_written() -> None:
    assert named_kinds("all") == KINDS
    assert named_kinds("severed") == ("hidden", *SEVERED)
    assert named_kinds("mlp, attn,mlp") == ("mlp", "attn")
    for text in ("feelings", "", "mlp,"):
        with pytest.raises(UsageError, match="Cannot trace"):
            named_kinds(text)


def test_what_is_wrong_is_refused_before_the_model_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Cannot trace feelings"):
        trace_prompt(never, "a b", "a", kinds="feelings")
    with pytest.raises(UsageError, match="noise 'loud'"):
        trace_prompt(never, "a b", "a", noise="loud")
    with pytest.raises(RequestError, match="does not occur"):
        trace_prompt(never, "a b", "c")
    with pytest.raises(UnknownName, match="worldfacts-known"):
        trace_known(never, "worldfact-known", tmp_path)
    with pytest.raises(UsageError, match="0 facts were asked for"):
        trace_known(never, "worldfacts-known", tmp_path, records=0)
    with pytest.raises(DataError, match=r"nowhere\.json"):
        trace_known(never, str(tmp_path / "nowhere.json"), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_prompt_gives_what_trace_fact_gives(
    tiny_gpt2: EditableModel, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    told: list[tuple[str, float, float]] = []
    caplog.set_level(logging.INFO, "factedit")
    found = trace_prompt(
        lambda: tiny_gpt2, "Paris is the capital", "Paris", kinds="mlp", noise="0.5", samples=2,
        progress=lambda *all_of_it: told.append(all_of_it),
    )  # fmt: skip
    assert found == trace_fact(tiny_gpt2, "Paris is the capital", "Paris", kinds=["mlp"], noise=0.5, samples=2)
    count = len(found.tokens)
    assert told == [("tracing (tokens)", n + 1, count) for n in range(count)]
    assert "window: 1 of 4 layers" in caplog.text
    assert capsys.readouterr() == ("", ""), "nothing is printed"
    with pytest.raises(UsageError, match="Window 0"):
        trace_prompt(tiny_gpt2, "Paris is", "Paris", noise="1", window=0)


def test_what_a_prompt_hides_is_said(tiny_gpt2: EditableModel, caplog: pytest.LogCaptureFixture) -> None:
    trace_prompt(tiny_gpt2, "Catherine is ", "Cat", kinds="hidden", noise="0.5", samples=1)
    assert "ends in white space" in caplog.text
    assert "'Cat' stands in the prompt only as a part of another word" in caplog.text


def test_the_noise_of_3s_is_measured_on_the_embedded_facts(tiny_gpt2: EditableModel) -> None:
    from factedit.data.registry import load_known

    ids = [
        i for fact in load_known("worldfacts-known").records
        for i in tiny_gpt2.tokenizer(fact.subject, add_special_tokens=False)["input_ids"]
    ]  # fmt: skip
    rows = tiny_gpt2.lm.get_input_embeddings().weight.detach().numpy()[ids]
    found = trace_prompt(tiny_gpt2, "Paris is", "Paris", kinds="mlp", samples=1)
    assert found.noise == pytest.approx(3 * float(np.std(rows, ddof=1)), rel=1e-5)


def test_known_facts(tiny_gpt2: EditableModel, facts: Path, tmp_path: Path) -> None:
    told: list[tuple[str, float, float]] = []
    settings = {"kinds": "mlp", "noise": "0.5", "samples": 2, "window": 2}
    found = trace_known(
        tiny_gpt2, str(facts), tmp_path / "runs", **settings,  # type: ignore[arg-type]
        progress=lambda *all_of_it: told.append(all_of_it),
    )  # fmt: skip
    assert found.traces == (trace_fact(tiny_gpt2, *PROMPTS[1], kinds=["mlp"], noise=0.5, samples=2, window=2),)
    assert found.averages.facts == 1
    assert found.averages.asked == 3
    assert told == [("tracing known facts", n, 3) for n in (0, 0, 1, 2, 3)]
    said = found.as_json()
    assert {k: said[k] for k in ("dataset", "noise", "kinds", "window", "samples", "seed", "asked")} == {
        "dataset": "facts.json", "noise": 0.5, "kinds": ("mlp",), "window": 2, "samples": 2, "seed": 1, "asked": 3,
    }  # fmt: skip
    assert found.store.parent == tmp_path / "runs"
    again = trace_known(tiny_gpt2, str(facts), tmp_path / "runs", **settings)  # type: ignore[arg-type]
    assert again.traces == found.traces


def test_what_is_done_when_it_is_stopped(tiny_gpt2: EditableModel, facts: Path, tmp_path: Path) -> None:
    def stop(what: str, done: float, total: float) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as stopped:
        trace_known(tiny_gpt2, str(facts), tmp_path, kinds="mlp", noise="0.5", samples=1, progress=stop)
    [note] = stopped.value.__notes__
    assert note == f"2 of 3 facts are done and kept in {tmp_path / 'traces.sqlite'}; the same command goes on there"
    with ResultStore(tmp_path / "traces.sqlite") as store:
        [run] = store.runs()
        assert len(store.done(run)) == 2
        assert all(isinstance(TraceResult.from_stored(row["trace"]), TraceResult)
                   for row in store.results(run).values() if row["trace"])  # fmt: skip


def test_a_model_may_be_given_or_loaded_late() -> None:
    model, asked = tiny("gpt2"), []
    late = lambda: asked.append(1) or model  # noqa: E731
    assert trace_prompt(late, "Paris is", "Paris", noise="1", samples=1) == trace_prompt(
        model, "Paris is", "Paris", noise="1", samples=1
    )
    assert asked == [1]
