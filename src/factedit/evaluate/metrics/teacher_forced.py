"""A benchmark's own scores: probabilities of its answers, fed in (teacher forcing)."""

from __future__ import annotations

from typing import Any

from factedit.evaluate.benchmark import Benchmark
from factedit.evaluate.metric import Answered, Metric, Outcome
from factedit.evaluate.probability import Question
from factedit.facts import FactRecord


class TeacherForced(Metric):
    """What a benchmark asks and how it scores the answers' probabilities.

    Args:
        benchmark: the benchmark.
    """

    name = "teacher-forced"
    what = "the benchmark's own scores, its answers fed in"

    def __init__(self, benchmark: Benchmark) -> None:
        self.benchmark, self.columns, self.source = benchmark, benchmark.scores, benchmark.source

    def lacks(self, record: FactRecord) -> str:
        """Return what the benchmark misses."""
        return self.benchmark.lacks(record)

    def asks(self, record: FactRecord) -> list[Question]:
        """Return the benchmark's questions."""
        return self.benchmark.questions(record)

    def scored(self, answered: Answered) -> Outcome:
        """Return the benchmark's numbers."""
        record, scores = answered.record, answered.replies
        return Outcome(self.benchmark.numbers(record, scores), tests=self.benchmark.tests(record, scores))

    def as_key(self) -> dict[str, Any]:
        """Return what tells the benchmark from others."""
        return self.benchmark.as_key()
