"""A chosen answer, a difference of logits, another subject instead of noise; the oracle is transformers' own pass."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from factedit.data.registry import load_known
from factedit.errors import DataError, RequestError, UsageError
from factedit.evaluate.store import ResultStore
from factedit.facts import KnownFact
from factedit.models.adapter import EditableModel
from factedit.report.arrays import write_arrays
from factedit.trace.sweep import trace_fact, traced
from factedit.work.stored_traces import stored_traces

PROMPT, SUBJECT = "So France is in", "France"
OTHER = "French"  # of as many tokens here


def logits(model: EditableModel, text: str) -> torch.Tensor:
    """`[tokens, vocab]` of a whole pass."""
    ids = model.tokenizer(text, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        return model.lm(input_ids=ids).logits[0].double()


def tokens(model: EditableModel, text: str) -> list[int]:
    return model.tokenizer(text)["input_ids"]


def test_the_probability_of_an_answer_of_several_tokens_is_their_product(tiny_gpt2: EditableModel) -> None:
    answer = "Seattle again"
    whole = tokens(tiny_gpt2, f"{PROMPT} {answer}")
    first = len(tokens(tiny_gpt2, PROMPT))
    told = logits(tiny_gpt2, f"{PROMPT} {answer}").log_softmax(-1)
    expected = math.exp(sum(float(told[n - 1, whole[n]]) for n in range(first, len(whole))))
    assert len(whole) - first > 1
    found = trace_fact(tiny_gpt2, PROMPT, SUBJECT, answer=answer, noise=0.5, samples=2)
    assert found.clean == pytest.approx(expected, rel=1e-4)
    assert (found.answer, len(found.tokens)) == (answer, first)
    assert found.corrupted < 1
    last = found.indirect_effects("hidden")[-1]
    assert np.ptp(last) > 0, "a state of the last prompt token is read, and reaches the answer's further tokens"


def test_another_subject_in_place_of_noise(tiny_gpt2: EditableModel) -> None:
    other = OTHER
    found = trace_fact(tiny_gpt2, PROMPT, SUBJECT, other_subject=other)
    own, others = logits(tiny_gpt2, PROMPT)[-1], logits(tiny_gpt2, PROMPT.replace(SUBJECT, other))[-1]
    assert found.clean == pytest.approx(float(own.softmax(-1).max()), rel=1e-4)
    assert found.corrupted == pytest.approx(float(others.softmax(-1)[own.argmax()]), rel=1e-4)
    assert found.scores["hidden"][-1][-1] == pytest.approx(found.clean, rel=1e-4), "the last state is all there is"
    assert (found.other_subject, found.noise, found.samples) == (other, 0.0, 1)


def test_a_difference_of_logits(tiny_gpt2: EditableModel) -> None:
    one, two = "basketball", "Seattle"
    found = trace_fact(
        tiny_gpt2,
        PROMPT,
        SUBJECT,
        answer=one,
        against=two,
        measure="logit-difference",
        other_subject=OTHER,
    )
    first = len(tokens(tiny_gpt2, PROMPT))
    a, b = tokens(tiny_gpt2, f"{PROMPT} {one}"), tokens(tiny_gpt2, f"{PROMPT} {two}")
    at = next(n for n in range(first, min(len(a), len(b))) if a[n] != b[n])
    row = logits(tiny_gpt2, f"{PROMPT} {one}")[at - 1]
    assert found.clean == pytest.approx(float(row[a[at]] - row[b[at]]), abs=1e-4)
    assert found.measured == f"logit({one}) − logit({two})"
    with pytest.raises(UsageError, match="name the answer, too"):
        trace_fact(tiny_gpt2, PROMPT, SUBJECT, against=two, noise=1.0)
    with pytest.raises(UsageError, match="needs two answers"):
        trace_fact(tiny_gpt2, PROMPT, SUBJECT, measure="logit-difference", noise=1.0)
    with pytest.raises(UsageError, match="is not one of probability, logit-difference"):
        trace_fact(tiny_gpt2, PROMPT, SUBJECT, measure="loss", noise=1.0)
    with pytest.raises(RequestError, match="one is the beginning of the other"):
        trace_fact(tiny_gpt2, PROMPT, SUBJECT, answer=one, against=one, noise=1.0)


def test_a_subject_of_another_length_is_refused(tiny_gpt2: EditableModel) -> None:
    with pytest.raises(RequestError, match="cannot stand for 'France' here: it has"):
        trace_fact(tiny_gpt2, PROMPT, SUBJECT, other_subject="Danielle Darrieux of Paris")
    with pytest.raises(UsageError, match="noise, or another subject"):
        trace_fact(tiny_gpt2, PROMPT, SUBJECT)


def test_the_same_subject_in_its_own_place_is_refused(tiny_gpt2: EditableModel) -> None:
    """Before: a trace of a run that is not corrupted, with TE 0 everywhere, and no word of it."""
    with pytest.raises(RequestError, match=r"'France' in the place of 'France' changes nothing"):
        trace_fact(tiny_gpt2, PROMPT, SUBJECT, other_subject=SUBJECT)


def test_facts_of_ones_own_and_why_some_are_left_out(tiny_gpt2: EditableModel, tmp_path: Path) -> None:
    rows = [
        {"prompt": "Paris is in", "subject": "Paris"},
        {"prompt": "France is in", "subject": "France", "answer": "nothing like it"},
    ]
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    facts = load_known(path).records
    assert facts[0] == KnownFact(fact_id="0", prompt="Paris is in", subject="Paris")
    with ResultStore(tmp_path / "t.sqlite") as store:
        for _ in range(2):  # the second time from the store
            found = stored_traces(
                tiny_gpt2, facts, store, dataset="d", noise=0.5, kinds=["mlp"], window=1, samples=1, seed=1
            )
            assert list(found.traces) == ["0"]
            assert found.left_out == {"1": "the model does not answer 'nothing like it'"}
    longer = [KnownFact(fact_id="x", prompt="Paris is in", subject="Paris", other_subject="The Space Needle")]
    [left] = traced(tiny_gpt2, longer, noise=0.5)
    assert "cannot stand for 'Paris'" in left.why
    rows[1]["other_subject"] = "Rome"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError, match="cannot be averaged together"):
        load_known(path)
    path.write_text(json.dumps(rows[0]) + "\n" + json.dumps({**rows[1], "answr": "x"}) + "\n")
    with pytest.raises(DataError, match=r"line 2: unknown field 'answr' .*did you mean 'answer'"):
        load_known(path)


def test_rows_and_arrays_hold_what_was_measured(tiny_gpt2: EditableModel, tmp_path: Path) -> None:
    found = trace_fact(tiny_gpt2, PROMPT, SUBJECT, noise=0.5, samples=1, kinds=["hidden", "mlp"])
    rows = list(found.rows())
    assert len(rows) == 2 * len(found.tokens) * tiny_gpt2.n_layer
    for row in rows:
        assert row["value"] == found.scores[row["kind"]][row["position"]][row["layer"]]
        assert row["effect"] == pytest.approx(row["value"] - found.corrupted)
    write_arrays({"a": found}, tmp_path / "t.npz")
    with np.load(tmp_path / "t.npz", allow_pickle=False) as arrays:
        np.testing.assert_array_equal(arrays["a/mlp"], np.array(found.scores["mlp"]))
        assert list(arrays["a/tokens"]) == list(found.tokens)
    write_arrays({"a": found}, tmp_path / "t.csv")
    read = list(csv.DictReader(io.StringIO((tmp_path / "t.csv").read_text())))
    assert float(read[-1]["value"]) == rows[-1]["value"]
    with pytest.raises(UsageError, match=r"written as \.npz, \.csv, \.parquet"):
        write_arrays({"a": found}, tmp_path / "t.mat")
    assert found.plot().get_suptitle().startswith(tiny_gpt2.name)


@pytest.mark.parametrize(("method", "module"), [("to_frame", "pandas"), ("parquet", "pyarrow")])
def test_what_is_not_installed_is_named(
    method: str, module: str, tiny_gpt2: EditableModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, module, None)
    found = trace_fact(tiny_gpt2, PROMPT, SUBJECT, noise=0.5, samples=1, kinds=["mlp"])
    with pytest.raises(UsageError, match=f"pip install {module}"):
        found.to_frame() if method == "to_frame" else write_arrays({"a": found}, tmp_path / "t.parquet")


def test_effects_beyond_the_total_one_are_explained(tiny_gpt2: EditableModel) -> None:
    from dataclasses import replace

    found = trace_fact(tiny_gpt2, PROMPT, SUBJECT, noise=0.5, samples=1, kinds=["mlp"])
    assert replace(found, clean=2.0, corrupted=0.0).notes() == []
    [said] = replace(found, clean=0.5, corrupted=0.1, scores={"mlp": ((0.9,),)}).notes()
    assert "IE: mlp 0.800; TE 0.400" in said
