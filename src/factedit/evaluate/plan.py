"""What an evaluation is to do, apart from records, model and methods."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from factedit.evaluate.benchmark import Benchmark
from factedit.evaluate.measures import Measures
from factedit.evaluate.metric import Metric
from factedit.evaluate.regime import Each, Regime


@dataclass(frozen=True)
class Plan:
    """A benchmark, what else is measured, and under which regime.

    Attributes:
        benchmark: whose questions are asked.
        measures: what else is measured, and how.
        regime: under which edits records are scored.
    """

    benchmark: Benchmark
    measures: Measures = field(default_factory=Measures)
    regime: Regime = field(default_factory=Each)

    @cached_property
    def metrics(self) -> tuple[Metric, ...]:
        """All metrics, the benchmark's own scores first.

        Raises:
            UsageError: two of them give a score of the same name.
        """
        return self.measures.with_benchmark(self.benchmark)

    def as_key(self) -> dict[str, Any]:
        """Return what decides numbers whatever the row, as JSON values.

        Raises:
            UsageError: metrics that contradict each other.
        """
        return self.benchmark.as_key() | self.measures.as_key()
