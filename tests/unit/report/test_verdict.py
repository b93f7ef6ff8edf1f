"""Where a verdict turns: intervals at their bounds, few records, and records that all agree."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest

from factedit.evaluate.benchmark import Legs
from factedit.evaluate.compare import Comparison
from factedit.evaluate.estimates import Estimate, Headline
from factedit.report.verdict import FEW, GENERAL, SLIGHT, STRONG, WEAK, Verdict, interval, verdicts, verdicts_in_words

LEGS = Legs("E", "P", "N")


def judged(
    edit: Estimate, wordings: Estimate, stays: Estimate, change: Estimate, before: float = 80.0, n: int = 100
) -> Verdict:
    summary = {
        "unedited": {"E": Estimate(10, 2, n), "P": Estimate(10, 2, n), "N": Estimate(before, 2, n)},
        "m": {"E": edit, "P": wordings, "N": stays},
    }
    return verdicts(summary, Comparison({"m": {"N": change}}, {}), LEGS)["m"]


def of(value: float, half: float = 2.0, n: int = 100) -> Estimate:
    return Estimate(value, half, n)


GOOD = (of(95), of(90), of(79))


@pytest.mark.parametrize(
    ("value", "expected"),
    [(STRONG + 2, "strong"), (STRONG + 1.9, "middling"), (WEAK - 2.1, "weak"), (WEAK - 2, "middling")],
)
def test_efficacy_goes_by_the_whole_interval(value: float, expected: str) -> None:
    assert judged(of(value), of(90), of(79), of(-1)).efficacy == expected


@pytest.mark.parametrize(
    ("value", "expected"), [(GENERAL + 2, "strong"), (GENERAL + 1.9, "middling"), (WEAK - 2.1, "weak")]
)
def test_generalisation_has_a_bound_of_its_own(value: float, expected: str) -> None:
    assert judged(of(95), of(value), of(79), of(-1)).generalisation == expected


@pytest.mark.parametrize(
    ("change", "half", "expected"),
    [
        (SLIGHT - 2.1, 2.0, "kept"), (-(SLIGHT - 2.1), 2.0, "kept"), (-(SLIGHT - 2), 2.0, "harmed"),
        (-10.0, 9.9, "harmed"), (-10.0, 10.1, "undecided"), (10.0, 9.9, "raised"), (0.0, 20.0, "undecided"),
    ],
)  # fmt: skip
def test_specificity_goes_by_the_change(change: float, half: float, expected: str) -> None:
    assert judged(*GOOD, of(change, half)).specificity == expected


@pytest.mark.parametrize(("stays", "expected"), [(37.9, "collapsed"), (38.1, "harmed")])
def test_a_collapse_is_below_half_of_what_it_was(stays: float, expected: str) -> None:
    found = judged(of(95), of(90), of(stays), of(stays - 80))
    assert found.specificity == expected
    assert found.failures == (False, False, expected == "collapsed")


def test_few_records_decide_nothing() -> None:
    few = FEW - 1
    found = judged(of(100, 1, few), of(100, 1, few), of(80, 1, few), of(0, 1, few))
    assert (found.efficacy, found.generalisation, found.specificity) == ("undecided",) * 3
    assert "not decided efficacy" in found.words
    assert interval(of(50, 1, few)) == (-math.inf, math.inf)


@pytest.mark.parametrize(("n", "expected"), [(30, "strong"), (29, "middling")])
def test_where_all_agree_the_interval_is_that_of_the_rule_of_three(n: int, expected: str) -> None:
    """Of n records without a failure the rate of failures is below 3 / n."""
    assert interval(Estimate(100.0, 0.0, n)) == (100 - 300 / n, 100 + 300 / n)
    assert judged(Estimate(100.0, 0.0, n), of(90), of(79), of(-1)).efficacy == expected


@pytest.mark.parametrize(
    ("estimate", "span", "expected"),
    [
        (Estimate(0.0, 0.0, 30), math.inf, (0.0, 0.0)),  # nats: no share of them is known
        (Estimate(0.0, 0.0, 30), 1.0, (-0.1, 0.1)),  # 3 / 30 of a share between 0 and 1
        (Estimate(50.0, 0.5, 30), math.inf, (49.5, 50.5)),
        (Estimate(math.inf, math.nan, 30), 100.0, (math.inf, math.inf)),
        (Estimate(math.nan, 1.0, 30), 100.0, (-math.inf, math.inf)),
        (Estimate(50.0, math.nan, 30), 100.0, (-math.inf, math.inf)),  # seconds, of which no interval is known
        (Estimate(math.inf, math.nan, FEW - 1), 100.0, (-math.inf, math.inf)),
    ],
)
def test_an_interval_by_the_range_of_what_it_is_of(
    estimate: Estimate, span: float, expected: tuple[float, float]
) -> None:
    assert interval(estimate, span) == pytest.approx(expected)


def test_a_mean_without_an_interval_decides_nothing() -> None:
    found = judged(of(99, math.nan), of(99, math.nan), of(10), of(-70, math.nan), before=15.0)
    assert found.efficacy == found.generalisation == "middling", "neither strong nor weak for certain"
    assert found.specificity == "undecided"
    assert "nan" not in found.words
    assert "-70.0 to the unedited model" in found.words


def compared(behind: dict[str, Estimate], best: str | None, headline: Headline | None = None) -> str:
    summary = {"unedited": {"N": of(80)}} | {
        name: dict(zip("EPNH", (*GOOD, of(88)), strict=True)) for name in (behind or {"a": None})
    }
    change = {name: {"N": of(-1)} for name in summary if name != "unedited"}
    asked = SimpleNamespace(legs=LEGS, headline=headline or Headline("H", "of all", ("E",)))
    return verdicts_in_words(summary, Comparison(change, behind, best), asked)  # type: ignore[arg-type]


def test_who_leads_and_who_cannot_be_told_from_it() -> None:
    """Of gaps 3 ±2 and 1 ±2 only the second reaches 0; 0 ±0 of 100 records does by the rule of three."""
    text = compared({"a": of(0, 0), "b": of(3), "c": of(1), "d": of(0, 0)}, "a")
    assert text.splitlines()[-1] == "- Best H: a (88.0 ±2.0); not to be told apart at this n: c, d."
    assert compared({"a": of(0, 0), "b": of(3)}, "a").splitlines()[-1] == (
        "- Best H: a (88.0 ±2.0), apart from all others."
    )
    assert compared({"a": of(0, 0)}, "a").splitlines()[-1] == "- H: 88.0 ±2.0."
    assert len(compared({"a": of(0, 0), "b": of(3)}, None).splitlines()) == 2, "a verdict each, and no best"


def test_without_what_a_verdict_needs_it_says_so() -> None:
    asked = SimpleNamespace(legs=LEGS, headline=None)
    assert verdicts_in_words({"unedited": {"N": of(80)}, "m": {"E": of(1)}}, Comparison({}, {}), asked) == (  # type: ignore[arg-type]
        "No method has the scores that a verdict needs.\n"
    )


def test_the_words_have_the_numbers() -> None:
    words = judged(of(95), of(70), of(60), of(-20, 3)).words
    assert words == (
        "m: strong efficacy (95.0 ±2.0), middling generalisation to other wordings (70.0 ±2.0); "
        "other facts suffer (60.0 ±2.0, -20.0 ±3.0 to the unedited model)."
    )


def test_methods_without_the_three_scores_have_no_verdict() -> None:
    summary = {"unedited": {"N": of(80)}, "m": {"E": of(95), "P": of(90)}}
    assert verdicts(summary, Comparison({"m": {}}, {}), LEGS) == {}
    assert verdicts({"m": dict(zip("EPN", GOOD, strict=True))}, Comparison({}, {}), LEGS) == {}
