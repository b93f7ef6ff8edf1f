"""What a crew can do: evaluate records, trace known facts, sum second moments. Each is made from an order's values."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save as save_tensors

from factedit.data.registry import load_facts, load_known
from factedit.edit.method import Method
from factedit.edit.methods.rome import rome
from factedit.evaluate.benchmarks.table import find_benchmark
from factedit.evaluate.circumstances import circumstances
from factedit.evaluate.keys import prepared
from factedit.evaluate.layer_sweep import RomeAt
from factedit.evaluate.measures import Measures
from factedit.evaluate.plan import Plan
from factedit.evaluate.regime import Each
from factedit.evaluate.runner import Local, Todo
from factedit.evaluate.whole import Wholes
from factedit.models.adapter import EditableModel
from factedit.stats.collect import part_sums
from factedit.work.crew import Order
from factedit.work.evaluate import metrics_for
from factedit.work.inputs import load_model, moments_from
from factedit.work.methods import make_methods
from factedit.work.recipe import regime_of
from factedit.work.settings import read_settings
from factedit.work.stored_traces import traced_rows


class CrewJob(NamedTuple):
    """A job that is made.

    Attributes:
        key: what decides its numbers, as JSON values.
        compute: an item's content to its result.
    """

    key: Any
    compute: Callable[[Any], bytes]


def begin(order: Order) -> CrewJob:
    """Return the job of an order, its model loaded and its fingerprint taken once."""
    place = order.model
    model = load_model(place.source, threads=place.threads, dtype=place.dtype, device=place.device)
    model.unchanged().__enter__()  # for good: this process does nothing else
    return JOBS[order.job](model, order.asked)


def _moments(model: EditableModel, asked: Mapping[str, Any]) -> CrewJob:
    layers = list(asked["layers"])

    def compute(rows: Any) -> bytes:
        sums = part_sums(model, layers, rows)
        blocks = {f"{n}.{k}": b for n, part in sums.items() for k, b in enumerate(part.blocks)}  # type: ignore[union-attr]
        return save_tensors(blocks | {"tokens": torch.tensor(sum(map(len, rows)))})

    return CrewJob(circumstances(model), compute)


def _traces(model: EditableModel, asked: Mapping[str, Any]) -> CrewJob:
    known = {fact.fact_id: fact for fact in load_known(asked["facts"]).records}
    settings = {name: asked[name] for name in ("noise", "kinds", "window", "samples", "seed")}

    def compute(ids: Any) -> bytes:
        return json.dumps(list(traced_rows(model, [known[one] for one in ids], settings))).encode()

    return CrewJob(circumstances(model), compute)


def _evaluation(model: EditableModel, asked: Mapping[str, Any]) -> CrewJob:
    data = load_facts(asked["dataset"])
    by_id = {record.case_id: record for record in data.records}
    references = None if asked["references"] is None else Path(asked["references"])
    inputs = {name: Path(file) for name, file in asked["inputs"].items()}
    metrics, _ = metrics_for(asked["metrics"], data, references, **inputs, **asked["words"])
    measures = Measures(metrics=metrics, seed=asked["seed"], chunk=asked["chunk"]).for_model(model)
    plan = Plan(find_benchmark(asked["benchmark"]), measures, regime_of(asked["regime"]) or Each())
    methods = _methods(model, asked)
    records = [by_id[one] for one in asked["ids"]]
    ready = prepared(model, records, methods, f"{data.name} {data.sha256}", plan)
    by_id = {record.case_id: record for record in ready.records}
    local = Local(model, methods, plan, Wholes(model, [record.request.subject for record in ready.records]))

    def compute(item: Any) -> bytes:
        todo = Todo([by_id[one] for one in item["ids"]], {n: frozenset(cases) for n, cases in item["missing"].items()})
        return json.dumps(list(local.map([todo], {}))).encode()

    return CrewJob({name: key.settings for name, key in ready.keys.items()}, compute)


def _methods(model: EditableModel, asked: Mapping[str, Any]) -> list[Method]:
    file = None if asked["second_moment"] is None else Path(asked["second_moment"])
    moments = moments_from(file, asked["corpus"])
    if asked["places"] is not None:  # of a sweep
        computed = moments.compute(model, sorted({layer for _, layer in asked["places"]}))
        swept: list[Any] = [RomeAt(rome(model, lambda _m, n: computed[n], layer=n), t) for t, n in asked["places"]]
        return swept
    trained = None if asked["trained"] is None else Path(asked["trained"])
    given = read_settings(asked["settings"], asked["methods"])
    made, _ = make_methods(model, asked["methods"], trained, moments, settings=given, preset=asked["preset"])
    return made


JOBS: dict[str, Callable[[EditableModel, Mapping[str, Any]], CrewJob]] = {
    "evaluation": _evaluation,
    "traces": _traces,
    "moments": _moments,
}
