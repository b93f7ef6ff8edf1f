"""The table of metrics."""

from __future__ import annotations

from collections.abc import Iterable

from factedit.errors import UnknownName
from factedit.evaluate.metric import Metric
from factedit.evaluate.metrics.ability import Ability
from factedit.evaluate.metrics.consistency import Consistency
from factedit.evaluate.metrics.free import Free
from factedit.evaluate.metrics.generation_entropy import GenerationEntropy
from factedit.evaluate.metrics.judged import Judged
from factedit.evaluate.metrics.multihop import MultiHop
from factedit.evaluate.metrics.negation import Negation
from factedit.evaluate.metrics.new_object import NewObject
from factedit.evaluate.metrics.panel import PanelFacts
from factedit.evaluate.metrics.portability import Portability
from factedit.evaluate.metrics.pressure import Pressure
from factedit.evaluate.metrics.ripple import Ripple
from factedit.evaluate.metrics.same_subject import SameSubject
from factedit.evaluate.metrics.written import WrittenAnswers
from factedit.evaluate.plugins import with_plugins
from factedit.evaluate.promised import why_no_metric
from factedit.plugins import outside

GROUP = "factedit.metrics"
METRICS: dict[str, type[Metric]] = {
    metric.name: metric
    for metric in (
        Free, GenerationEntropy, Consistency, WrittenAnswers, Pressure, Negation, SameSubject, Ripple, Portability,
        MultiHop, PanelFacts, Ability, Judged, NewObject,
    )
}  # fmt: skip

DEFAULT = (Free.name,)  # measured where nothing else is said
FLUENCY = (GenerationEntropy.name, Consistency.name)  # of sampled texts, which take long
SEVERAL = {  # what a word stands for
    "paper": (*DEFAULT, *FLUENCY),
    "consequences": (Ripple.name, Portability.name, MultiHop.name, Negation.name),
}
WORDS = {  # for several at once
    "paper": "what stands beside the paper's scores: " + ", ".join(SEVERAL["paper"]),
    "consequences": "what an edit entails: " + ", ".join(SEVERAL["consequences"]),
    "all": "every metric, those of other packages too",
}


def all_metrics() -> dict[str, type[Metric]]:
    """Return the metrics of the table and those from outside, by name; see `with_plugins`."""
    return with_plugins(GROUP, METRICS, why_no_metric, "metric")


def find_metric(name: str) -> type[Metric]:
    """Return the metric of this name.

    Raises:
        UnknownName: no such metric.
    """
    if name in METRICS:
        outside(GROUP, METRICS)  # tells of strangers by these names
        return METRICS[name]
    known = all_metrics()
    if name not in known:
        raise UnknownName("metric", name, [*known, *WORDS])
    return known[name]


def named_metrics(names: Iterable[str]) -> list[str]:
    """Return names of metrics, each once, with those that a word stands for in its place (see `WORDS`)."""
    chosen: dict[str, None] = {}
    for name in names:
        chosen.update(dict.fromkeys(all_metrics() if name == "all" else SEVERAL.get(name, (name,))))
    return list(chosen)
