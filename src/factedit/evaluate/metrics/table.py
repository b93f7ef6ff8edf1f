"""The table of metrics."""

from __future__ import annotations

from factedit.errors import UnknownName
from factedit.evaluate.metric import Metric
from factedit.evaluate.metrics.consistency import Consistency
from factedit.evaluate.metrics.free import Free
from factedit.evaluate.metrics.generation_entropy import GenerationEntropy
from factedit.evaluate.plugins import loaded_plugins

GROUP = "factedit.metrics"
METRICS: dict[str, type[Metric]] = {metric.name: metric for metric in (Free, GenerationEntropy, Consistency)}

DEFAULT = (Free.name,)  # measured where nothing else is said
FLUENCY = (GenerationEntropy.name, Consistency.name)  # of sampled texts, which take long


def all_metrics() -> dict[str, type[Metric]]:
    """Return the metrics of the table and those from outside, by name; the table's names are not taken by others."""
    return {**METRICS, **{name: found for name, found in loaded_plugins(GROUP).items() if name not in METRICS}}


def find_metric(name: str) -> type[Metric]:
    """Return the metric of this name.

    Raises:
        UnknownName: no such metric.
    """
    known = all_metrics()
    if name not in known:
        raise UnknownName("metric", name, known)
    return known[name]
