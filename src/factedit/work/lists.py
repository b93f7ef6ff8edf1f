"""What there is, from the registries: methods, models and presets, data sets, benchmarks, metrics."""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from factedit.data.registry import DATASETS
from factedit.edit.method_table import GROUP, METHODS
from factedit.edit.presets import PRESETS, Preset
from factedit.evaluate.benchmark import Benchmark
from factedit.evaluate.benchmarks.table import all_benchmarks
from factedit.evaluate.column import Column
from factedit.evaluate.metrics.table import WORDS, all_metrics, find_metric
from factedit.files.embedded import EMBEDDED, EmbeddedModel
from factedit.models.family_table import FAMILIES
from factedit.models.refused import REFUSED
from factedit.plugins import outside


@dataclass(frozen=True)
class Models:
    """What can be loaded and edited.

    Attributes:
        embedded: the models that come as packages.
        editable, traceable: architectures that can be edited and traced; that can be traced only.
        refused: architectures that can be neither, and why.
        presets: settings found by a model's shape.
    """

    embedded: tuple[EmbeddedModel, ...]
    editable: tuple[str, ...]
    traceable: tuple[str, ...]
    refused: dict[str, str]
    presets: tuple[Preset, ...]

    def as_json(self) -> dict[str, Any]:
        """Return the names."""
        return {
            "embedded": [model.name for model in self.embedded],
            "editable": list(self.editable),
            "traceable": list(self.traceable),
            "refused": self.refused,
        }


def list_methods() -> dict[str, dict[str, str]]:
    """Return per editing method what it does and where it is from; those of other packages last, not loaded."""
    built_in = {name: {"what": row.what, "source": row.paper} for name, row in METHODS.items()}
    others = {
        name: {"what": "a method of another package", "source": f"{point.dist.name} {point.dist.version}"}
        for name, point in outside(GROUP, METHODS).items()
        if point.dist
    }
    return built_in | others


def list_models() -> Models:
    """Return the embedded models, the architectures, and the presets."""
    editable = tuple(name for name, row in FAMILIES.items() if not row.refused)
    traceable = tuple(name for name, row in FAMILIES.items() if row.refused)
    return Models(tuple(EMBEDDED.values()), editable, traceable, dict(REFUSED), tuple(PRESETS))


def list_benchmarks() -> dict[str, dict[str, Any]]:
    """Return per benchmark what it asks, where it is from, and its scores."""
    return {
        name: {"what": row.what, "source": row.source, "scores": _scores((*_headline(row), *row.scores))}
        for name, row in all_benchmarks().items()
    }


def list_metric_words() -> dict[str, str]:
    """Return words that stand for several metrics, and for which."""
    return dict(WORDS)


def list_metrics() -> dict[str, dict[str, Any]]:
    """Return per metric what it asks, where it is from, and its scores."""
    return {
        name: {"what": row.what, "source": row.source, "protocol": _protocol(row), "scores": _scores(row.columns)}
        for name, row in all_metrics().items()
    }


def list_metric(name: str) -> dict[str, Any]:
    """Return what one metric asks, its protocol, where it is from, and its scores.

    Raises:
        UnknownName: no such metric.
    """
    row = find_metric(name)
    return {"what": row.what, "source": row.source, "protocol": _protocol(row), "scores": _scores(row.columns)}


def _protocol(metric: type[Any]) -> str:
    """What the file of a metric says of it: which prompts, how read, how scored, what is executed."""
    return inspect.cleandoc(sys.modules[metric.__module__].__doc__ or metric.__doc__ or "")


def _headline(benchmark: Benchmark) -> list[Column]:
    return [Column(benchmark.headline.name, benchmark.headline.what)] if benchmark.headline else []


def _scores(columns: Iterable[Column]) -> list[dict[str, Any]]:
    """Per score its name, what it is, which values are better, and their range (None where it has no end)."""
    return [
        {
            "name": column.name,
            "what": column.what,
            "source": column.source,
            "better": column.better,
            "range": [None if math.isinf(end) else end for end in (column.low, column.high)],
        }
        for column in columns
    ]


def list_datasets() -> dict[str, dict[str, str]]:
    """Return per data set what it holds and where it is from."""
    return {row.name: {"what": row.what, "source": row.source} for row in DATASETS.values()}
