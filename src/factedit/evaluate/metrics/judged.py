"""Written answers as a judge from outside sees them (WILD, arXiv 2502.11177, section 3): off unless one is named.

Exact match misses an answer in other words. The judge is asked one question with two answers; what it does not decide
counts as not executed. Its replies are kept with the record, and its name stands under the table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from factedit.evaluate.column import Column
from factedit.evaluate.judge import PROMPT, TRIES, Judge
from factedit.evaluate.metric import Answered, Metric, Outcome, mean_of
from factedit.evaluate.metrics.written import QUESTION
from factedit.evaluate.writing import TOKENS, Written, first_sentence
from factedit.facts import FactRecord

FORMS = {"judged_bare": "the prompt itself", "judged_qa": "the prompt as a question (Q: … A:)"}
_WILD = "arXiv 2502.11177"


@dataclass(frozen=True)
class Judged(Metric):
    """Answers in two forms, judged.

    Attributes:
        judge: who judges.
        tokens: that are written at most.
    """

    judge: Judge = field(repr=False)
    tokens: int = TOKENS

    name = "judge"
    what = "is the written answer right in the eyes of a judge from outside (--judge URL)"
    source = f"{_WILD}, section 3"
    takes: ClassVar[tuple[str, ...]] = ("judge",)
    why_none: ClassVar[str] = "no judge was given (--judge URL)"
    columns = tuple(
        Column(name, f"share of written answers that the judge calls correct; {form}", source=_WILD)
        for name, form in FORMS.items()
    )

    @classmethod
    def for_records(
        cls,
        records: Sequence[FactRecord],
        *,
        references: Path | None = None,
        judge: str | Judge | None = None,
        **settings: Any,
    ) -> Judged | None:
        """Return the metric, or None where no judge is given.

        Args:
            records: all of the set.
            references: not used.
            judge: the endpoint's base, or a judge.
            settings: departures from the defaults.

        Raises:
            UsageError: no address of a web server.
        """
        del records, references
        if judge is None:
            return None
        return cls(Judge(judge) if isinstance(judge, str) else judge, **settings)

    def asks(self, record: FactRecord) -> list[Written]:
        """Return the prompt and the prompt as a question."""
        prompt = record.request.text
        return [Written(prompt, tokens=self.tokens), Written(QUESTION.format(prompt), tokens=self.tokens)]

    def scored(self, answered: Answered) -> Outcome:
        """Return what the judge says of both."""
        request = answered.record.request
        by_form: dict[str, list[float | None]] = {}
        replies = {}
        for name, written in zip(FORMS, answered.replies, strict=True):
            said = self.judge.judge(request.text, request.target_new, first_sentence(written.text))
            by_form[name] = [None if said.right is None else 100.0 * said.right]
            replies[name] = [first_sentence(written.text), said.reply]
        means = {name: mean_of(values) for name, values in by_form.items()}
        scores = {name: mean for name, (mean, _) in means.items()}
        return Outcome(scores, {"judge": replies}, {name: tests for name, (_, tests) in means.items()})

    def describe(self) -> dict[str, Any]:
        """Return who judges, and what is asked."""
        return {"judge": self.judge.name(), "prompt": PROMPT, "tokens": self.tokens}

    def notes(self) -> dict[str, str]:
        """Return who judged."""
        return {
            "judge": f"{self.judge.name()}, temperature 0, correct or incorrect; what is neither is asked again, "
            f"{TRIES} times in all, and then counts as undecided"
        }
