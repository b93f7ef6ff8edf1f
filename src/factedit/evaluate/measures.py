"""What is measured and how."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

from factedit.errors import UsageError
from factedit.evaluate.benchmark import Benchmark
from factedit.evaluate.metric import Metric
from factedit.evaluate.metrics.free import Free
from factedit.evaluate.metrics.table import METRICS
from factedit.evaluate.metrics.teacher_forced import TeacherForced
from factedit.evaluate.promised import Faulty, fault, is_of_the_metric
from factedit.models.adapter import EditableModel


@dataclass(frozen=True, kw_only=True)
class Measures:
    """What is measured beside a benchmark's own scores, and how.

    Attributes:
        metrics: what else is measured.
        seed: of everything that is drawn: sampled texts, the bootstrap.
        chunk: records edited and scored together; a matter of memory only, which changes no more than rounding.
    """

    metrics: tuple[Metric, ...] = (Free(),)
    seed: int = 0
    chunk: int = 32

    def __post_init__(self) -> None:
        if self.chunk < 1:
            raise UsageError(f"{self.chunk} records at a time were asked for; give at least 1.")

    def for_model(self, model: EditableModel) -> Measures:
        """Return the same for an unedited model; metrics that ask what it answers are told it, one that fails at that
        is named with every record.
        """
        return replace(self, metrics=tuple(_for_model(metric, model) for metric in self.metrics))

    def with_benchmark(self, benchmark: Benchmark) -> tuple[Metric, ...]:
        """Return all metrics, the benchmark's own scores first.

        Raises:
            UsageError: two of them give a score of the same name.
        """
        metrics = (TeacherForced(benchmark), *self.metrics)
        names = Counter(column.name for metric in metrics for column in metric.columns)
        twice = [name for name, count in names.items() if count > 1]
        if twice:
            raise UsageError(f"The score {twice[0]} is given by two metrics; measure one of them.")
        return metrics

    def as_key(self) -> dict[str, Any]:
        """Return what decides numbers, as JSON values.

        Raises:
            UsageError: two metrics that stand under one name in the key have different settings.
        """
        key: dict[str, Any] = {"seed": self.seed}
        for metric in self.metrics:
            for name, value in metric.as_key().items():
                if key.setdefault(name, value) != value:
                    raise UsageError(f"Two metrics differ in {name}: {key[name]} and {value}; give both the same.")
        absent: dict[str, Any] = {}
        for known in METRICS.values():
            absent |= known.absent
        return absent | key


def _for_model(metric: Metric, model: EditableModel) -> Metric:
    try:
        made: Any = metric.for_model(model)
    except Exception as error:  # of a stranger's metric anything may come
        if not is_of_the_metric(error):
            raise
        return Faulty(metric, fault(error))
    return made if isinstance(made, Metric) else Faulty(metric, f"for_model gives {type(made).__name__}, and no metric")
