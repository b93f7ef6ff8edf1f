"""What the numbers say about each method, in words, computed from the 95 % intervals.

Efficacy and generalisation are `strong` where the whole interval lies at or above 90 (85), `weak` where all of it lies
below 60, else `middling`. Specificity is compared with the unedited model: `kept` where the intervals overlap,
`collapsed` where the whole interval lies below half of the unedited mean, else `harmed`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from factedit.evaluate.chunk import UNEDITED
from factedit.evaluate.metrics import Estimate

STRONG, GENERAL, WEAK = 90.0, 85.0, 60.0
# score of the edit itself, of other wordings, of what must stay
NAMES = {"counterfact": ("ES", "PS", "NS"), "zsre": ("efficacy", "paraphrase", "specificity")}
Summary = Mapping[str, Mapping[str, Estimate]]


@dataclass(frozen=True)
class Verdict:
    """A judgement of one method.

    Attributes:
        method: its name.
        efficacy, generalisation: `strong`, `middling` or `weak`.
        specificity: `kept`, `harmed` or `collapsed`.
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


def verdicts(summary: Summary) -> dict[str, Verdict]:
    """The verdict of every method that has the three scores."""
    base = summary.get(UNEDITED, {})
    found = {}
    for method, row in summary.items():
        names = next((names for names in NAMES.values() if set(names) <= row.keys()), None)
        if method != UNEDITED and names is not None and names[2] in base:
            efficacy, wordings, others = (row[name] for name in names)
            found[method] = _verdict(method, efficacy, wordings, others, base[names[2]])
    return found


def _verdict(method: str, efficacy: Estimate, wordings: Estimate, others: Estimate, before: Estimate) -> Verdict:
    first, second = _level(efficacy, STRONG), _level(wordings, GENERAL)
    third = _specificity(others, before)
    change = others.value - before.value
    said = {
        "kept": f"other facts stay as they were ({others}, unedited {before})",
        "harmed": f"other facts suffer: {others}, {change:+.1f} to the unedited model",
        "collapsed": f"other facts collapse: {others} of {before}",
    }
    words = f"{method}: {first} efficacy ({efficacy}), {second} generalisation to other wordings ({wordings}); "
    return Verdict(method, first, second, third, f"{words}{said[third]}.")


def _level(estimate: Estimate, strong: float) -> str:
    low, high = interval(estimate)
    return "strong" if low >= strong else "weak" if high < WEAK else "middling"


def _specificity(after: Estimate, before: Estimate) -> str:
    if interval(after)[1] < before.value / 2:
        return "collapsed"
    return "harmed" if interval(after)[1] < interval(before)[0] else "kept"


def interval(estimate: Estimate) -> tuple[float, float]:
    """The 95 % interval; of a single record, everything: one record decides nothing."""
    if estimate.n < 2:
        return -float("inf"), float("inf")
    return estimate.value - estimate.half_width, estimate.value + estimate.half_width


def in_words(summary: Summary) -> str:
    """The verdicts as a list, and which methods lead: those whose interval reaches the best summary score's."""
    found = verdicts(summary)
    if not found:
        return "No method has the scores that a verdict needs.\n"
    lines = [f"- {verdict.words}" for verdict in found.values()]
    scored = {method: summary[method]["S"] for method in found if "S" in summary[method]}
    if scored:
        best = max(scored, key=lambda method: scored[method].value)
        near = [m for m, e in scored.items() if m != best and interval(e)[1] >= interval(scored[best])[0]]
        also = f"; not to be told apart at this n: {', '.join(near)}" if near else ", apart from all others"
        lines.append(f"- Best S: {best} ({scored[best]}){also}.")
    return "\n".join(lines) + "\n"
