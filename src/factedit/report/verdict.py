"""What the numbers say about each method, in words, computed from the 95 % intervals.

Efficacy and generalisation are `strong` where the whole interval lies at or above 90 (85), `weak` where all of it lies
below 60, else `middling`. Specificity is compared with the unedited model, record by record: `kept` where the whole
interval of the change lies within 5 points, `harmed` or `raised` where it lies on one side of 0, else `undecided`; and
`collapsed` where the whole interval of the score lies below half of the unedited mean. Fewer than 10 records decide
nothing: each is `undecided`, "not decided" in words. Where all records agree on a share the interval is the rule of
three's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from factedit.evaluate.benchmark import UNEDITED, Benchmark, Legs
from factedit.evaluate.compare import Comparison
from factedit.evaluate.estimates import Estimate, Summary, plus_minus

STRONG, GENERAL, WEAK, SLIGHT = 90.0, 85.0, 60.0, 5.0
FEW = 10  # records


@dataclass(frozen=True)
class Verdict:
    """A judgement of one method.

    Attributes:
        method: its name.
        efficacy, generalisation: `strong`, `middling`, `weak` or `undecided`.
        specificity: `kept`, `harmed`, `raised`, `collapsed` or `undecided`.
        words: the same in a sentence, with the numbers.
    """

    method: str
    efficacy: str
    generalisation: str
    specificity: str
    words: str

    @property
    def failures(self) -> tuple[bool, bool, bool]:
        """Whether efficacy, generalisation, specificity clearly fail."""
        return self.efficacy == "weak", self.generalisation == "weak", self.specificity == "collapsed"


def verdicts(summary: Summary, comparison: Comparison, legs: Legs) -> dict[str, Verdict]:
    """Return the verdict of every method that has the three scores.

    Args:
        summary: per method its scores; the unedited model among them.
        comparison: of the same methods.
        legs: which scores a verdict goes by.
    """
    base = summary.get(UNEDITED, {}).get(legs.stays)
    by_method = {}
    for method, row in summary.items():
        if method != UNEDITED and base is not None and row.keys() >= set(legs):
            change = comparison.change[method][legs.stays]
            edit, wordings, stays = (row[name] for name in legs)
            by_method[method] = _verdict(method, edit, wordings, stays, base, change)
    return by_method


def _verdict(
    method: str, efficacy: Estimate, wordings: Estimate, others: Estimate, before: Estimate, change: Estimate
) -> Verdict:
    first, second = _level(efficacy, STRONG), _level(wordings, GENERAL)
    third = _specificity(others, before, change)
    to_before = f"{others}, {plus_minus(change.value, change.half_width, sign=True)} to the unedited model"
    said = {
        "kept": f"other facts stay as they were, within {SLIGHT:.0f} points ({to_before})",
        "raised": f"other facts gain ({to_before})",
        "undecided": f"whether other facts stay is not decided at this n ({to_before})",
        "harmed": f"other facts suffer ({to_before})",
        "collapsed": f"other facts collapse: {others} of {before}",
    }
    levels = (
        f"{_said(first, 'efficacy')} ({efficacy}), {_said(second, 'generalisation')} to other wordings ({wordings})"
    )
    words = f"{method}: {levels}; "
    return Verdict(method, first, second, third, f"{words}{said[third]}.")


def _said(level: str, what: str) -> str:
    return f"not decided {what}" if level == "undecided" else f"{level} {what}"


def _level(estimate: Estimate, strong: float) -> str:
    if estimate.n < FEW:
        return "undecided"
    low, high = interval(estimate)
    return "strong" if low >= strong else "weak" if high < WEAK else "middling"


def _specificity(after: Estimate, before: Estimate, change: Estimate) -> str:
    if interval(after)[1] < before.value / 2:
        return "collapsed"
    low, high = interval(change)
    if low > -SLIGHT and high < SLIGHT:
        return "kept"
    return "harmed" if high < 0 else "raised" if low > 0 else "undecided"


def interval(estimate: Estimate, span: float = 100.0) -> tuple[float, float]:
    """Return the 95 % interval that a verdict goes by; everything where a mean has none.

    Where all of n records agree it is the rule of three's, 3 / n of the span on either side: of n without a failure the
    rate of failures is below 3 / n (Hanley and Lippman-Hand 1983). What has no largest value has no such rate; its
    interval is the value. An infinite mean is its own interval too.

    Args:
        estimate: a mean or a difference of means.
        span: the range of one record's value, 100 for shares in percent; infinite where there is no end to it.
    """
    half = 0.0 if math.isinf(estimate.value) else estimate.half_width
    if estimate.n < FEW or math.isnan(estimate.value) or math.isnan(half):
        return -math.inf, math.inf
    if half == 0 and math.isfinite(estimate.value) and math.isfinite(span):
        half = span * 3 / estimate.n
    return estimate.value - half, estimate.value + half


def verdicts_in_words(summary: Summary, comparison: Comparison, benchmark: Benchmark) -> str:
    """Return the verdicts as a list, and which methods lead: those whose headline is not behind the best for
    certain.
    """
    by_method = verdicts(summary, comparison, benchmark.legs)
    if not by_method:
        return "No method has the scores that a verdict needs.\n"
    lines = [f"- {verdict.words}" for verdict in by_method.values()]
    best = comparison.best
    if benchmark.headline is not None and best is not None:
        name = benchmark.headline.name
        if len(comparison.behind) == 1:
            lines.append(f"- {name}: {summary[best][name]}.")
        else:
            near = [m for m, gap in comparison.behind.items() if m != best and interval(gap)[0] <= 0]
            also = f"; not to be told apart at this n: {', '.join(near)}" if near else ", apart from all others"
            lines.append(f"- Best {name}: {best} ({summary[best][name]}){also}.")
    return "\n".join(lines) + "\n"
