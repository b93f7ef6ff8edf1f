"""What is measured: all scores under different names, and a key that says what decides them."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest

from factedit.errors import UsageError
from factedit.evaluate.benchmarks.counterfact import COUNTERFACT
from factedit.evaluate.column import Column
from factedit.evaluate.measures import Measures
from factedit.evaluate.metric import Metric
from factedit.evaluate.metrics.free import Free
from factedit.evaluate.metrics.generation_entropy import GenerationEntropy
from factedit.evaluate.plan import Plan


class Named(Metric):
    name = "named"
    what = source = "a test"
    absent: ClassVar[dict[str, Any]] = {}

    def __init__(self, column: str, key: dict[str, Any]) -> None:
        self.columns, self._key = (Column(column, ""),), key

    def as_key(self) -> dict[str, Any]:
        return self._key

    def asks(self, record: object) -> list[Any]:
        return []

    def scored(self, answered: object) -> Any:
        raise NotImplementedError


def test_the_benchmarks_own_scores_come_first() -> None:
    metrics = Measures(metrics=(Free(), GenerationEntropy())).with_benchmark(COUNTERFACT)
    names = [column.name for metric in metrics for column in metric.columns]
    assert names[:6] == ["ES", "EM", "PS", "PM", "NS", "NM"]
    assert names[-2:] == ["free", "GE"]
    plan = Plan(COUNTERFACT, Measures(metrics=(Free(), GenerationEntropy())))
    assert [column.name for metric in plan.metrics for column in metric.columns] == names


@pytest.mark.parametrize("column", ["ES", "free"])
def test_two_scores_of_one_name_are_refused(column: str) -> None:
    with pytest.raises(UsageError, match=f"The score {column} is given by two metrics"):
        Measures(metrics=(Free(), Named(column, {}))).with_benchmark(COUNTERFACT)


def test_the_key_says_of_the_old_metrics_what_it_always_said() -> None:
    assert Measures(metrics=()).as_key() == {
        "seed": 0, "free_tokens": 0, "generation_tokens": 0, "consistency": None,
    }  # fmt: skip
    assert Measures(metrics=(GenerationEntropy(tokens=70),), seed=4).as_key() == {
        "seed": 4, "free_tokens": 0, "generation_tokens": 70, "consistency": None,
    }  # fmt: skip


def test_another_metric_adds_an_entry_and_the_chunk_none() -> None:
    few, many = (Measures(metrics=(Named("x", {"named": {"a": 1}}),), chunk=chunk) for chunk in (1, 64))
    assert few.as_key() == many.as_key()
    assert few.as_key()["named"] == {"a": 1}


def test_metrics_that_contradict_each_other_are_refused() -> None:
    both = Measures(metrics=(Named("x", {"tokens": 3}), Named("y", {"tokens": 4})))
    with pytest.raises(UsageError, match="differ in tokens: 3 and 4"):
        both.as_key()
    assert Measures(metrics=(Named("x", {"tokens": 3}), Named("y", {"tokens": 3}))).as_key()["tokens"] == 3


@pytest.mark.parametrize("chunk", [0, -3])
def test_at_least_one_record_at_a_time(chunk: int) -> None:
    with pytest.raises(UsageError, match=f"{chunk} records at a time"):
        Measures(chunk=chunk)
