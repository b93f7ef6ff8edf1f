"""Metrics of other packages that lack something, fail, or give amiss: named, and the others go on."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from conftest import tiny
from factedit.errors import DataError, ResourceError
from factedit.evaluate import plugins
from factedit.evaluate.column import Column
from factedit.evaluate.measures import Measures
from factedit.evaluate.measuring import AS_IT_IS, measure
from factedit.evaluate.metric import Answered, Metric, Outcome
from factedit.evaluate.metrics import table
from factedit.evaluate.metrics.free import Free
from factedit.evaluate.promised import BrokenPromise, Faulty, check_told, checked_outcome, why_no_metric
from factedit.evaluate.texts import Greedy
from factedit.facts import EditRequest, FactRecord
from factedit.work.evaluate import metrics_for
from run_command import ok
from tiny_folder import save

RECORDS = tuple(
    FactRecord(case_id=str(n), request=EditRequest(subject=s, prompt="{} is in", target_new="Rome", target_true="the"))
    for n, s in enumerate(("Paris", "Seattle"))
)


class Data:
    name, records = "x", RECORDS


class Own(Metric):
    """A sound metric of two scores, in which tests put faults."""

    name = "own"
    what = source = "a test"
    columns = (Column("own_a", "one"), Column("own_b", "other", low=-1.0, high=1.0))
    gives: Any = Outcome({"own_a": 50.0, "own_b": math.nan}, {"own": ["text"]}, {"own_b": (0, 2)})

    def asks(self, record: FactRecord) -> list[Any]:
        return [Greedy(record.request.text, 1)]

    def scored(self, answered: Answered) -> Outcome:
        return self.gives


def giving(gives: Any) -> Own:
    made = Own()
    made.gives = gives
    return made


GOOD = {"own_a": 50.0, "own_b": 0.5}


@pytest.mark.parametrize(
    ("gives", "why"),
    [
        ({"own_a": 1.0}, "scored gives dict, and no Outcome"),
        (None, "scored gives NoneType, and no Outcome"),
        (Outcome({"own_a": 1.0}), "one score for each of its columns (own_a, own_b); 'own_b' is not given"),
        (Outcome({**GOOD, "own_c": 1.0}), "'own_c' is none of them"),
        (Outcome({**GOOD, "own_a": None}), "the score 'own_a' is None, and no number"),  # type: ignore[dict-item]
        (Outcome({**GOOD, "own_a": "50"}), "the score 'own_a' is '50', and no number"),  # type: ignore[dict-item]
        (Outcome({**GOOD, "own_a": 250.0}), "the score 'own_a' is 250, outside of 0 to 100"),
        (Outcome({**GOOD, "own_b": -math.inf}), "the score 'own_b' is -inf, outside of -1 to 1"),
        (Outcome(GOOD, {}, {"own_a": (1,)}), "'own_a' has (1,)"),  # type: ignore[dict-item]
        (Outcome(GOOD, {}, {"own_a": (1, -1)}), "'own_a' has (1, -1)"),
        (Outcome(GOOD, {}, {"own_a": (0.5, 0)}), "'own_a' has (0.5, 0)"),  # type: ignore[dict-item]
        (Outcome(GOOD, {}, {"free": (1, 0)}), "'free' has (1, 0)"),
        (Outcome(GOOD, {"scores": {"ES": 100.0}}), "texts must not hold 'scores', which is a field of every row"),
        (Outcome(GOOD, {"failed": "no"}), "texts must not hold 'failed'"),
        (Outcome(GOOD, {"own": torch.zeros(1)}), "texts holds something else than JSON values"),
    ],
)
def test_what_is_given_amiss_is_named_and_the_others_go_on(gives: Any, why: str) -> None:
    """Before: an infinite score, or a count of one, was stored; a missing number ended the run in a traceback."""
    model = tiny("gpt2")
    [found] = measure(model, RECORDS, [giving(gives), Free(2)], [AS_IT_IS], seed=0)
    for one in found:
        assert math.isnan(one.scores["own_a"])
        assert math.isnan(one.scores["own_b"])
        assert one.tests["own_a"] == one.tests["own_b"] == (0, 1)
        assert one.tests["free"] == (1, 0)
        assert one.left_out.keys() == {"own"}
        json.dumps(one.texts)
    with pytest.raises(BrokenPromise) as caught:
        checked_outcome(Own(), gives)
    assert why in str(caught.value)


def test_what_is_given_soundly_is_kept_as_numbers() -> None:
    """NaN is nothing executed; a number of another library is one of Python's own, which the store holds."""
    [[found]] = measure(tiny("gpt2"), RECORDS[:1], [Own()], [AS_IT_IS], seed=0)
    assert not found.left_out
    assert found.tests == {"own_a": (1, 0), "own_b": (0, 2)}
    kept = checked_outcome(Own(), Outcome({"own_a": True, "own_b": torch.tensor(0.25)}))  # type: ignore[dict-item]
    assert kept.scores == {"own_a": 1.0, "own_b": 0.25}
    assert [type(value) for value in kept.scores.values()] == [float, float]
    rounded = Outcome({"own_a": 100.0000001, "own_b": 1.0})
    assert checked_outcome(Own(), rounded).scores == rounded.scores, "by rounding alone"


class Short(NamedTuple):
    """An ask of another package; what its class reads is of another shape than what was asked."""

    prompt: str
    gives: tuple[Any, ...]

    @classmethod
    def read(cls, _model: Any, asked: Any, _variants: Any, *, seed: int) -> Any:
        return next(list(asks[0].gives) for asks in asked if asks)


@pytest.mark.parametrize("gives", [(), ((),), (((),),), ((("a", "b"),),), ((("a",),), (("a",),)), ("no list",)])
def test_replies_of_another_length_than_what_was_asked_are_named(gives: tuple[Any, ...]) -> None:
    short = type("Asking", (Own,), {"asks": lambda _self, record: [Short(record.request.text, gives)]})()
    [[found]] = measure(tiny("gpt2"), RECORDS[:1], [short, Free(2)], [AS_IT_IS], seed=0)
    assert found.left_out == {"own": "ValueError: Short.read does not give one reply for every variant, record and ask"}
    assert found.tests["free"] == (1, 0)


def raising(error: Exception) -> Any:
    def fails(*_: Any, **__: Any) -> Any:
        raise error

    return fails


def install(monkeypatch: pytest.MonkeyPatch, **loaded: Any) -> None:
    monkeypatch.setattr(plugins, "loaded_plugins", lambda _group, _own: loaded)


@pytest.mark.parametrize("where", ["for_records", "as_key", "describe", "notes"])
@pytest.mark.parametrize("error", [KeyError("oh"), DataError("Its file is gone.")])
def test_one_that_fails_before_anything_is_asked_is_left_out(
    where: str, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = type("Broken", (Own,), {where: classmethod(raising(error)) if where == "for_records" else raising(error)})
    install(monkeypatch, own=broken)
    made, missing = metrics_for(["own", "free"], Data)  # type: ignore[arg-type]
    assert [metric.name for metric in made] == ["free"]
    said = "Its file is gone" if isinstance(error, DataError) else "KeyError: 'oh'"
    assert missing == {"own": f"own is left out, since it fails: {said}."}


@pytest.mark.parametrize(
    ("told", "why"),
    [
        ({"describe": lambda _self: {"x": {1, 2}}}, "describe gives something else than JSON values"),
        ({"describe": lambda _self: {"x": math.nan}}, "describe gives something else than JSON values"),
        ({"notes": lambda _self: {"x": 1}}, "notes gives something else than texts by name"),
        ({"for_records": classmethod(lambda _cls, _records, **_more: "sound")}, "for_records gives str, and no metric"),
    ],
)
def test_one_that_tells_no_key_or_notes_is_left_out(
    told: dict[str, Any], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, own=type("Odd", (Own,), told))
    made, missing = metrics_for(["own"], Data)  # type: ignore[arg-type]
    assert not made
    assert why in missing["own"]
    check_told(Own())


def test_what_a_set_lacks_for_a_metric_is_named() -> None:
    """Before: the set "holds nothing to measure it with", whatever it was that was missing."""
    _, missing = metrics_for(["ripple", "consistency", "multi-hop", "portability-legacy"], Data)  # type: ignore[arg-type]
    needs = "is left out: no record of x has what it needs:"
    assert missing == {
        "ripple": f"ripple {needs} probes of what follows from it (portability, locality).",
        "consistency": "consistency is left out: no record has attribute or neighborhood prompts to make reference "
        "texts of (--references gives some).",
        "multi-hop": f"multi-hop {needs} multi-hop questions.",
        "portability-legacy": f"portability-legacy {needs} probes of what follows from it (portability).",
    }


def test_one_that_needs_more_than_the_set_has_and_cannot_say_what(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = classmethod(lambda _cls, _records, **_more: None)
    for told in ({"lacks": raising(KeyError("oh"))}, {"lacks": lambda _self, _record: ""}):
        install(monkeypatch, own=type("Picky", (Own,), {"for_records": nothing, **told}))
        _, missing = metrics_for(["own"], Data)  # type: ignore[arg-type]
        assert missing == {"own": "own is left out: x holds nothing to measure it with."}


def test_what_is_not_the_metrics_fault_is_raised(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install(monkeypatch, own=type("Full", (Own,), {"describe": raising(ResourceError("disk"))}))
    with pytest.raises(ResourceError, match="disk"):
        metrics_for(["own"], Data)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="no such file"):
        metrics_for(["panel"], Data, panel=tmp_path / "none.jsonl")  # type: ignore[arg-type]


def test_one_that_fails_at_the_model_is_named_with_every_record() -> None:
    """It keeps its place in the key, so that the rows of one that works are others."""
    broken = type("Broken", (Own,), {"for_model": raising(OSError("gone"))})()
    odd = type("Odd", (Own,), {"for_model": lambda _self, _model: None})()
    for metric, why in ((broken, "OSError: gone"), (odd, "for_model gives NoneType, and no metric")):
        measures = Measures(metrics=(metric, Free(2))).for_model(tiny("gpt2"))
        assert measures.as_key()["metric own"] == {}
        [found] = measure(tiny("gpt2"), RECORDS, measures.metrics, [AS_IT_IS], seed=0)
        assert [one.left_out for one in found] == [{"own": why}] * 2
        assert all(one.tests["free"] == (1, 0) for one in found)
        with pytest.raises(BrokenPromise):
            measures.metrics[0].scored(Answered(RECORDS[0], []))
        assert isinstance(measures.metrics[0], Faulty)


@pytest.mark.parametrize(
    ("loaded", "why"),
    [
        (Own(), "it is no class that is made from factedit.evaluate.metric.Metric"),
        (dict, "it is no class that is made from"),
        (type("Half", (Metric,), {"name": "own", "columns": Own.columns}), "it lacks what, source, asks, scored"),
        (type("None", (Own,), {"columns": ()}), "it lacks columns"),
        (type("Names", (Own,), {"columns": ("own_a",)}), "its columns are no tuple of Column"),
        (type("Other", (Own,), {"name": "free"}), "it calls itself 'free'"),
    ],
)
def test_what_is_no_metric_is_told_and_the_lists_stay_whole(
    loaded: Any, why: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert why in why_no_metric("own", loaded)
    assert why_no_metric("own", Own) == ""
    install(monkeypatch, own=loaded, sound=type("Sound", (Own,), {"name": "sound"}))
    assert table.all_metrics().keys() == {*table.METRICS, "sound"}
    [told] = [record.message for record in caplog.records]
    assert told.startswith("The metric own is left out: ")
    assert told.endswith("docs/extend/metric.md says what one is.")


def test_a_built_in_metric_is_found_without_strangers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "loaded_plugins", raising(AssertionError("asked")))
    assert table.find_metric("free") is Free


def test_a_dry_run_counts_what_the_others_ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, own=type("Broken", (Own,), {"asks": raising(KeyError("oh"))}))
    rows = [{"subject": r.request.subject, "prompt": "{} is in", "target_new": "Rome", "target_true": "the"}
            for r in RECORDS]  # fmt: skip
    (tmp_path / "f.jsonl").write_text("\n".join(map(json.dumps, rows)))
    ok("evaluate", save(tmp_path / "tiny"), "--dataset", tmp_path / "f.jsonl", "--method", "ft", "--metrics", "own",
       "--dry-run")  # fmt: skip
