"""The table of benchmarks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from factedit.data.records import RecordSet
from factedit.errors import RequestError, UnknownName
from factedit.evaluate.benchmark import Benchmark
from factedit.evaluate.benchmarks.conflicts import CONFLICTS
from factedit.evaluate.benchmarks.counterfact import COUNTERFACT
from factedit.evaluate.benchmarks.knowedit import KNOWEDIT
from factedit.evaluate.benchmarks.mquake import MQUAKE
from factedit.evaluate.benchmarks.zsre import ZSRE
from factedit.evaluate.estimates import Headline
from factedit.evaluate.plugins import with_plugins
from factedit.facts import FactRecord

GROUP = "factedit.benchmarks"
TOLD = ("name", "title", "what", "source", "dataset", "scores", "columns", "legs")
BENCHMARKS: dict[str, Benchmark] = {
    benchmark.name: benchmark for benchmark in (COUNTERFACT, ZSRE, KNOWEDIT, MQUAKE, CONFLICTS)
}


def all_benchmarks() -> dict[str, Benchmark]:
    """Return the benchmarks of the table and those from outside, by name; see `with_plugins`."""
    return with_plugins(GROUP, BENCHMARKS, _why_no_benchmark, "benchmark")


def _why_no_benchmark(name: str, loaded: Any) -> str:
    """Return why what another package gives is no benchmark; nothing where it is one."""
    if not isinstance(loaded, Benchmark):
        return "it is no object of a class that is made from factedit.evaluate.benchmark.Benchmark"
    absent = [part for part in TOLD if not hasattr(loaded, part)]
    if absent:
        return f"it has no {', '.join(absent)}"
    return "" if loaded.name == name else f"it calls itself {loaded.name!r}"


def find_benchmark(name: str) -> Benchmark:
    """Return the benchmark of this name.

    Raises:
        UnknownName: no such benchmark.
    """
    known = all_benchmarks()
    if name not in known:
        raise UnknownName("benchmark", name, known)
    return known[name]


def benchmark_of(records: Sequence[FactRecord]) -> Benchmark:
    """Return the benchmark of the table that all the records can be asked by; zsRE's come with an answer that others
    lack.

    Raises:
        RequestError: records that no one benchmark can ask.
    """
    lacking = []
    for benchmark in (ZSRE, COUNTERFACT):
        missing = next(((r.case_id, lacks) for r in records if (lacks := benchmark.lacks(r))), None)
        if missing is None:
            return benchmark
        lacking.append(f"{benchmark.name}: record {missing[0]} has no {missing[1]}")
    raise RequestError(f"The records cannot be asked by any one benchmark ({'; '.join(lacking)}).")


def benchmark_for(
    named: str | None, data: RecordSet[FactRecord], records: Sequence[FactRecord]
) -> tuple[Benchmark, str]:
    """Return the benchmark that records are asked by, and what is to be said of it: nothing, as a rule.

    Where a user's own file lacks what its benchmark asks for (facts without an old object), all its records are asked
    by the one that needs nothing beyond the facts.

    Args:
        named: by the user; None is the set's own.
        data: the set.
        records: those of it that are asked.

    Raises:
        UnknownName: no such benchmark.
        RequestError: records that it cannot ask.
    """
    asked = find_benchmark(named or data.benchmark)
    lacking = [lacks for record in records if (lacks := asked.lacks(record))]
    if lacking and named is None and data.own:
        return KNOWEDIT, (
            f"{len(lacking)} of {len(records)} records of {data.name} have no {lacking[0]}, which {asked.name} asks "
            f"for; all are asked by what is left: {KNOWEDIT.what}."
        )
    asked.check(records)
    return asked, ""


def headlines_of(names: Iterable[str]) -> list[Headline]:
    """Return the headlines of known benchmarks that are made of scores of these names."""
    known = set(names)
    headlines = [benchmark.headline for benchmark in all_benchmarks().values() if benchmark.headline is not None]
    return [headline for headline in headlines if known.issuperset(headline.parts)]
