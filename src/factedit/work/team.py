"""A crew and the model that its workers load: how evaluations, traces and second moments are given to it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from safetensors.torch import load as load_tensors

from factedit.errors import UsageError
from factedit.evaluate.chunk import ChunkResult
from factedit.evaluate.circumstances import circumstances
from factedit.evaluate.runner import Todo
from factedit.facts import KnownFact
from factedit.memory import require_memory
from factedit.models.adapter import EditableModel
from factedit.models.load import PLACEMENTS
from factedit.paths import user_path
from factedit.stats.collect import RunningMoments, Shards
from factedit.stats.second_moment import RunningSecondMoment
from factedit.work.crew import Crew, ModelPlace, Order, WorkItem, in_order, mapped
from factedit.work.on_ray import Rays
from factedit.work.processes import Processes

FEWER = "Ask for fewer (--workers), or take a smaller type (--dtype bfloat16)."
NAMED = 8  # records of a part that a message names


@dataclass(frozen=True)
class Team:
    """Workers for one model.

    Attributes:
        crew: who they are.
        model: which model they load.
    """

    crew: Crew
    model: ModelPlace

    def require_room(self, model: EditableModel) -> None:
        """Refuse workers whose models do not fit into this machine's memory beside the one that is there.

        Raises:
            ResourceError: before one of them is started.
        """
        if isinstance(self.crew, Processes) and self.model.device == "cpu":
            each, count = sum(p.numel() * p.element_size() for p in model.lm.parameters()), self.crew.count
            require_memory(f"{model.name}, once more for each of {count} workers,", float(count * each), FEWER)

    def evaluating(self, asked: Mapping[str, Any]) -> EvaluatedElsewhere:
        """Return what runs an evaluation's parts; see `jobs.py` for what is asked."""
        return EvaluatedElsewhere(self.crew, Order("evaluation", self.model, asked))

    def shards(self, model: EditableModel, layers: Sequence[int]) -> Shards | None:
        """Return what sums parts of a text for layers (see `collect`); None for experts, whose sums are too large to
        send.
        """
        if any(model.mixture(layer) is not None for layer in layers):
            return None
        self.require_room(model)
        order = Order("moments", self.model, {"layers": list(layers)})

        def sums(parts: Iterable[list[Sequence[int]]]) -> Iterator[RunningMoments]:
            items = (WorkItem(f"part {n} of the text", rows) for n, rows in enumerate(parts))
            for content in in_order(mapped(self.crew, order, items, circumstances(model))):
                tensors = load_tensors(content)
                tokens = int(tensors.pop("tokens"))
                names = sorted(tensors, key=lambda name: int(name.partition(".")[2]))
                yield {
                    n: RunningSecondMoment(
                        model.mlp(n).width, [tensors[one] for one in names if one.startswith(f"{n}.")], tokens
                    )
                    for n in layers
                }

        return sums

    def traces(
        self, model: EditableModel, parts: Iterable[Sequence[KnownFact]], asked: Mapping[str, Any]
    ) -> Iterator[list[tuple[str, Any]]]:
        """Yield parts' facts by id, each with what is stored of it, as they come."""
        self.require_room(model)
        named = ([fact.fact_id for fact in part] for part in parts)
        items = (WorkItem(_named("facts", ids), ids) for ids in named)
        for _, content in mapped(self.crew, Order("traces", self.model, asked), items, circumstances(model)):
            yield [(fact, row) for fact, row in json.loads(content)]


@dataclass(frozen=True)
class EvaluatedElsewhere:
    """Computes the parts of an evaluation in other processes; a `Runner`."""

    crew: Crew
    order: Order

    def map(self, todo: Sequence[Todo], keys: Mapping[str, Mapping[str, Any]]) -> Iterator[ChunkResult]:
        """Yield results as they come."""
        items = (_item(part) for part in todo)
        for _, content in mapped(self.crew, self.order, items, keys):
            for rows, finished in json.loads(content):
                yield ChunkResult(rows, finished)


def _item(todo: Todo) -> WorkItem:
    ids = [record.case_id for record in todo.part]
    missing = {name: sorted(cases) for name, cases in todo.missing.items()}
    return WorkItem(_named("records", ids), {"ids": ids, "missing": missing})


def _named(what: str, ids: Sequence[str]) -> str:
    return f"{what} {', '.join(ids[:NAMED])}{' …' if len(ids) > NAMED else ''}"


def team_of(
    workers: int | None,
    source: str,
    *,
    cluster: str | None = None,
    threads: int | None = None,
    dtype: str = "float32",
    device: str = "cpu",
) -> Team | None:
    """Return the team that a user asked for, if one was.

    Args:
        workers: processes of this machine, or at most so many of a cluster; None works in this one.
        cluster: `auto` or the address of a Ray cluster.
        source, dtype, device: of the model.
        threads: of the processor per worker; None is 1, so that numbers do not depend on the number of workers.

    Raises:
        UsageError: fewer than one worker, or a model that is to be spread over devices; Ray is not installed.
        ResourceError: there is no cluster there.
    """
    if workers is not None and workers < 1:
        raise UsageError(f"{workers} workers were asked for: give at least 1.")
    if device in PLACEMENTS and (workers, cluster) != (None, None):
        raise UsageError(
            f"A worker computes on one device; --device-map {device} spreads one process over all. Give one of them."
        )
    path = user_path(source)
    location = str(path.absolute()) if path.exists() else source  # a worker has another working folder
    place = ModelPlace(location, dtype, device, threads or 1)
    if cluster is not None:
        return Team(Rays(cluster, place.threads, workers), place)
    return None if workers is None else Team(Processes(workers), place)
