"""KnowEdit's scores by hand, what a benchmark says of records and of papers, and the rows of many facts."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from factedit.data.probes import ALIASING, LOGIC, REASONING, SPECIFICITY, Probe, ProbedRecord
from factedit.errors import RequestError, UnknownName
from factedit.evaluate.benchmark import MANY, Benchmark, Legs, Numbers, PublishedMany
from factedit.evaluate.benchmarks.conflicts import CONFLICTS
from factedit.evaluate.benchmarks.counterfact import COUNTERFACT
from factedit.evaluate.benchmarks.knowedit import KNOWEDIT
from factedit.evaluate.benchmarks.published_many import COUNTERFACT_MANY, ZSRE_MANY
from factedit.evaluate.benchmarks.table import BENCHMARKS, benchmark_of, find_benchmark, headlines_of
from factedit.evaluate.benchmarks.zsre import ZSRE
from factedit.evaluate.column import Column
from factedit.evaluate.metric import Answered
from factedit.evaluate.metrics.portability import Portability
from factedit.evaluate.probability import Question, Score, mean_accuracy
from factedit.facts import EditRequest, FactRecord

ALL, HALF, NONE, BROKEN = (
    Score((-1.0, -1.0), (True, True)),
    Score((-1.0, -1.0), (True, False)),
    Score((-1.0,), (False,)),
    Score((-1.0, math.nan), (True, True)),
)
REQUEST = EditRequest(subject="Paris", prompt="{} is in", target_new="Rome", target_true="France")


def probed(*kinds: str, paraphrases: Sequence[str] = ("Where is Paris? In",)) -> ProbedRecord:
    probes = tuple(Probe(kind=kind, prompt=f"p{n}", answers=(f"a{n}", "b")) for n, kind in enumerate(kinds))
    return ProbedRecord(case_id="1", request=REQUEST, paraphrases=tuple(paraphrases), probes=probes)


def test_knowedit_asks_the_new_object_and_what_must_stay() -> None:
    record = probed(SPECIFICITY, LOGIC, SPECIFICITY)
    assert KNOWEDIT.questions(record) == [
        Question("Paris is in", "Rome"), Question("Where is Paris? In", "Rome"), Question("p0", "a0"),
        Question("p2", "a2"),
    ]  # fmt: skip
    assert KNOWEDIT.lacks(record) == ""


def test_knowedit_scores_are_shares_of_tokens() -> None:
    """All of 2 tokens, half of 2, and (0 of 1 and 2 of 2): 100, 50, 50."""
    record = probed(SPECIFICITY, SPECIFICITY)
    scores = [ALL, HALF, NONE, ALL]
    assert KNOWEDIT.numbers(record, scores) == {
        "edit_tokens": 100, "rephrased_tokens": 50, "locality_tokens": 50,
    }  # fmt: skip
    assert KNOWEDIT.tests(record, scores) == {
        "edit_tokens": (1, 0), "rephrased_tokens": (1, 0), "locality_tokens": (2, 0),
    }  # fmt: skip


def test_knowedit_counts_what_was_not_executed_and_what_was_not_asked() -> None:
    record = probed(SPECIFICITY, paraphrases=())
    found = KNOWEDIT.numbers(record, [BROKEN, ALL])
    assert math.isnan(found["edit_tokens"])
    assert math.isnan(found["rephrased_tokens"])
    assert found["locality_tokens"] == 100
    assert KNOWEDIT.tests(record, [BROKEN, ALL]) == {
        "edit_tokens": (0, 1), "rephrased_tokens": (0, 0), "locality_tokens": (1, 0),
    }  # fmt: skip
    assert mean_accuracy([BROKEN, HALF]) == 50, "what is not executed does not count"


def test_portability_by_kind_and_over_all() -> None:
    """Two of reasoning (100, 50), one alias (0), one of logic that is not executed: 75, 0, none; all: 150 / 3."""
    record = probed(REASONING[0], REASONING[-1], ALIASING, LOGIC, SPECIFICITY)
    metric = Portability()
    assert [ask.prompt for ask in metric.asks(record)] == ["p0", "p1", "p2", "p3"], "not what must stay"
    assert metric.asks(record)[0] == Question("p0", "a0"), "the usual name of the answer"
    found = metric.scored(Answered(record, [ALL, HALF, NONE, BROKEN]))
    assert {name: value for name, value in found.scores.items() if value == value} == {
        "portability_reasoning": 75, "portability_alias": 0, "portability_legacy": 50,
    }  # fmt: skip
    assert math.isnan(found.scores["portability_logic"])
    assert found.tests == {
        "portability_reasoning": (2, 0), "portability_alias": (1, 0), "portability_logic": (0, 1),
        "portability_legacy": (3, 1),
    }  # fmt: skip


def test_portability_is_made_only_where_a_record_has_probes() -> None:
    plain = FactRecord(case_id="1", request=REQUEST)
    assert Portability.for_records([plain, probed(SPECIFICITY)]) is None
    assert isinstance(Portability.for_records([plain, probed(ALIASING)]), Portability)
    assert Portability().lacks(plain) == "probes of what follows from it (portability)"
    assert Portability().lacks(probed(LOGIC)) == ""


IN_SEQUENCE = """
unedited | 7.9/10.6/89.5 | 16.2/18.6/83.1 | 22.2/24.3/78.5 | 37.0/36.3/31.9 | 26.3/25.8/27.4 | 22.2/31.3/24.2
ft | 83.3/67.8/46.6 | 92.2/72.4/43.4 | 63.6/42.2/57.1 | 30.5/30.2/15.5 | 72.4/68.9/19.7 | 37.1/33.3/10.4
rome | 64.4/61.4/49.4 | 57.5/54.2/52.1 | 54.6/51.2/52.7 | 2.0/1.8/.7 | 56.4/54.7/9.9 | 47.5/43.6/14.3
memit-no-history | 65.7/64.7/51.6 | 98.6/95.5/63.6 | 94.7/85.8/60.5 | 34.6/31.3/18.5 | 94.9/90.2/30.4 | 79.2/71.4/26.4
prune | 68.3/64.8/49.8 | 86.2/86.9/53.9 | 82.1/78.6/53.0 | 24.8/23.9/20.7 | .2/.2/0 | 21.6/19.3/13.2
memit-rect | 66.1/63.6/61.4 | 98.8/86.6/72.2 | 92.2/81.2/65.1 | 86.1/80.5/31.7 | 96.4/91.2/27.8 | 81.0/73.1/24.9
alphaedit | 98.9/94.2/67.9 | 99.8/96.4/75.5 | 99.5/94.0/66.4 | 94.5/91.1/32.6 | 99.8/96.0/28.3 | 94.8/86.1/25.9
"""  # AlphaEdit's table 1 as the survey copied it: Llama 3, GPT-J, GPT-2 XL on CounterFact, then on zsRE


def test_rows_of_many_facts_are_those_of_the_papers() -> None:
    models = ("Llama 3 8B Instruct", "GPT-J", "GPT-2 XL")
    wanted: list[dict[tuple[str, str], tuple[float, ...]]] = [{}, {}]
    for line in IN_SEQUENCE.strip().splitlines():
        method, *cells = (cell.strip() for cell in line.split("|"))
        for n, cell in enumerate(cells):
            wanted[n // 3][models[n % 3], method] = tuple(map(float, cell.split("/")))
    for rows, expected in zip((COUNTERFACT_MANY, ZSRE_MANY), wanted, strict=True):
        found = {(row.model, row.method): row.values for row in rows if row.protocol == "sequence"}
        assert found == expected
        assert {row.facts for row in rows if row.protocol == "sequence"} == {2000}
    at_once = [(row.model, row.method, row.facts, row.values) for row in (*COUNTERFACT_MANY, *ZSRE_MANY)
               if row.protocol == "at once"]  # fmt: skip
    assert at_once == [
        ("GPT-J", "memit-no-history", 10_000, (98.9, 88.6, 73.7)),
        ("GPT-NeoX 20B", "memit-no-history", 10_000, (97.2, 82.2, 70.8)),
        ("GPT-J", "memit-no-history", 10_000, (96.7, 89.7, 26.6)),
    ]


def test_published_rows_by_protocol() -> None:
    single = {(row.source, row.method): row for row in COUNTERFACT.published_rows()}
    rome = single["GPT-2 XL, published", "rome"]
    expected = {"S": 89.2, "ES": 100.0, "EM": 97.9, "PS": 96.4, "PM": 62.7, "NS": 75.4, "NM": 4.2}  # SPEC section 5
    assert {name: rome.values[name] for name in expected} == expected
    many = COUNTERFACT.published_rows("sequence")
    assert {row.values.keys() == {"ES", "PS", "NS"} for row in many} == {True}
    assert many[0].source == "GPT-2 XL, 2000 in batches of 100, published"
    assert COUNTERFACT.published_rows("at once")[0].source == "GPT-J, 10000 at once, published"
    assert CONFLICTS.published_rows("sequence") == [], "nothing was published of it"
    assert PublishedMany("m", "x", "at once", 3, (1.0, 2.0, 3.0)).source == "m, 3 at once, published"


class Own(Benchmark):
    """A benchmark that asks nothing of records without a neighbour."""

    name, title, what, source, dataset = "own", "t", "w", "s", "d"
    scores = (Column("a", "one"), Column("b", "another"), Column("c", "a third"))
    columns = ("a", "b", "c")
    legs = Legs("a", "b", "c")

    def lacks(self, record: FactRecord) -> str:
        return "" if record.neighborhood else "neighbours"

    def questions(self, record: FactRecord) -> list[Question]:
        return []

    def numbers(self, record: FactRecord, scores: Sequence[Score]) -> Numbers:
        return {}


def test_records_that_lack_something_are_refused_by_name() -> None:
    good, bad = (FactRecord(case_id=c, request=REQUEST, neighborhood=n) for c, n in (("7", ("x",)), ("8", ())))
    Own().check([good])
    Own().check([])
    with pytest.raises(RequestError, match=r"^Record 8 has no neighbours, which own asks for\.$"):
        Own().check([good, bad])
    assert (Own().tests(good, []), Own().as_key(), Own().published_rows()) == ({}, {"benchmark": "own"}, [])
    assert Own().methods_of_many == MANY


def test_which_benchmark_records_can_be_asked_by() -> None:
    fact = FactRecord(case_id="1", request=REQUEST, paraphrases=("p",), neighborhood=("n",))
    assert benchmark_of([fact]) is COUNTERFACT
    bare = FactRecord(case_id="2", request=EditRequest(subject="Paris", prompt="{} is in", target_new="Rome"))
    with pytest.raises(RequestError, match=r"cannot be asked by any one benchmark \(zsre: record .*; counterfact: "):
        benchmark_of([fact, bare])
    assert find_benchmark("zsre") is ZSRE
    with pytest.raises(UnknownName, match="Did you mean counterfact"):
        find_benchmark("counterfac")
    assert set(BENCHMARKS) == {"counterfact", "zsre", "knowedit", "mquake", "conflicts"}


def test_a_headline_needs_all_its_parts() -> None:
    assert [headline.name for headline in headlines_of(["ES", "PS", "NS", "x"])] == ["S"]
    assert headlines_of(["ES", "PS"]) == []
    assert headlines_of([]) == []


@pytest.mark.parametrize("benchmark", BENCHMARKS.values(), ids=BENCHMARKS)
def test_a_benchmark_keeps_its_own_rules(benchmark: Benchmark) -> None:
    """Legs are scores of its own; a published row has a value for every column, inside the column's range."""
    names = {column.name: column for column in benchmark.scores}
    assert set(benchmark.legs) <= names.keys()
    for row in benchmark.published_rows():
        for name, value in row.values.items():
            if name in names:
                assert names[name].low <= value <= names[name].high, (row.source, row.method, name)
    for protocol in ("at once", "sequence"):
        assert all(0 <= value <= 100 for row in benchmark.published_rows(protocol) for value in row.values.values())
