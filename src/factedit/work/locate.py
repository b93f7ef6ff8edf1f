"""Does tracing tell where to edit? Effects by layer against the success of edits by layer (arXiv 2301.04213).

For facts that the model answers: the share of the answer's probability that restoring a layer brings back, at the
subject's last token, max(0, (P_restored − P_corrupted) / |P_clean − P_corrupted|); and the share of the possible rise
of P[o*] that an edit at the layer brings about, (P_after − P_before) / (1 − P_before). P is the
geometric mean over the object's tokens, as everywhere here. What the one says of the other beside the layer is told by
two linear models (`evaluate/regression.py`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from factedit.cache import locked
from factedit.data.records import RecordSet
from factedit.edit.method import Method
from factedit.edit.method_table import make_method
from factedit.errors import DataError, UsageError
from factedit.evaluate.circumstances import circumstances
from factedit.evaluate.making import make_each
from factedit.evaluate.probability import Question, score
from factedit.evaluate.regression import Fit, fit, means_by_layer
from factedit.evaluate.store import ResultStore
from factedit.facts import FactRecord, KnownFact
from factedit.models.adapter import EditableModel
from factedit.stats.store import Moment
from factedit.trace.corrupt import noise_level
from factedit.trace.effects import TraceResult
from factedit.work.inputs import ModelSource, moments_from, opened
from factedit.work.locate_asked import WINDOWS, asked_to_locate
from factedit.work.progress import Progress, advancing, keeping, silent
from factedit.work.stored_traces import AGAIN, stored_traces

STORE, PROTOCOL = "locate.sqlite", 1
NOTHING = 0.03  # R² that the published study found at most, and calls nothing
Table = Mapping[str, Sequence[Sequence[float]]]


@dataclass(frozen=True)
class Located:
    """Effects and successes by layer, and what the one explains of the other.

    Attributes:
        about: model, data and settings, as JSON values.
        layers: the layers.
        facts: ids of the facts that the model answers.
        effects: per window, fact and layer the traced effect.
        success: per method, fact and layer the success of the edit; NaN where there is no edit.
        fits: per method and window.
    """

    about: dict[str, Any]
    layers: tuple[int, ...]
    facts: tuple[str, ...]
    effects: Table
    success: Table
    fits: Mapping[tuple[str, str], Fit]

    def best(self, table: Table, name: str) -> int:
        """Return the layer with the highest mean of a row of `effects` or `success`, of those that have a number."""
        return self.layers[int(np.nanargmax(means_by_layer(table[name])))]

    def words(self) -> list[str]:
        """Return what the numbers say, a sentence per method: by rule, from the window that explains most."""
        sentences = []
        for method in self.success:
            window, best = max(((w, f) for (m, w), f in self.fits.items() if m == method), key=lambda row: row[1].gain)
            told = best.gain > NOTHING and best.shuffled < 0.05
            verdict = "tracing tells something of where to edit" if told else "tracing does not tell where to edit"
            sentences.append(
                f"{method}: {verdict}. The layer alone explains {100 * best.layer:.1f} % of the success; the traced "
                f"effect adds {100 * best.gain:.1f} points at most (window {window}, F {best.f:.2f}, p {best.p:.2g}, "
                f"shuffled p {best.shuffled:.2g}; {best.facts} facts). The effect peaks at layer "
                f"{self.best(self.effects, window)}, success at layer {self.best(self.success, method)}."
            )
        return sentences

    def as_json(self) -> dict[str, Any]:
        """Return everything for machines; what has no number is NaN."""
        fits = [{"method": m, "window": w, **fitted.as_json()} for (m, w), fitted in self.fits.items()]
        values = {"effects": {k: [list(r) for r in v] for k, v in self.effects.items()}}
        values |= {"success": {k: [list(r) for r in v] for k, v in self.success.items()}}
        return {**self.about, "layers": list(self.layers), "facts": list(self.facts), "fits": fits, **values,
                "words": self.words()}  # fmt: skip


def locate_facts(
    model: ModelSource,
    facts: str,
    folder: Path,
    *,
    methods: str = "rome,ft",
    records: int = 50,
    layers: Sequence[int] | None = None,
    windows: Sequence[int] = WINDOWS,
    kind: str = "mlp",
    noise: str = "3s",
    samples: int = 10,
    seed: int = 0,
    settings: Sequence[str] = (),
    batch: int = 8,
    corpus: str | None = None,
    progress: Progress = silent,
) -> Located:
    """Trace facts and edit them at every layer, and compare; goes on where it stopped.

    Args:
        model: the model, unchanged, or what gives it.
        facts: a data set of facts to edit that have a `target_true`, or a file of them.
        folder: where traces and edits' outcomes are kept.
        methods: names with commas; each must know a `layer` (or `layers`).
        records: how many facts are drawn; those that the model answers are traced and edited.
        layers: which; None is all.
        windows: layers restored together, one trace for each.
        kind: whose states are restored: `mlp`, `attn` or `hidden` (which has no window).
        noise: ν, a number or `3s`, three standard deviations of the set's subjects.
        samples: of the noise.
        seed: of the draw, the noise and the deals of the permutation test.
        settings: of the methods, as `name=value`.
        batch: facts edited together, a matter of memory only.
        corpus: text for the second moments, if they must be computed.
        progress: told what is done.

    Raises:
        UsageError: no such methods or layers, facts without a `target_true`, or too few that the model answers.
        EditError, ResourceError: see `evaluate_methods`.
    """
    plan = asked_to_locate(
        facts, methods=methods, records=records, layers=layers, windows=windows, kind=kind, noise=noise, seed=seed,
        settings=settings,
    )  # fmt: skip
    named, chosen = plan.methods, plan.records
    model = opened(model)
    wanted = plan.layers_of(model)
    level = noise_level(model, noise, [record.request.subject for record in chosen])
    job = _Job(model, plan.data, chosen, folder, batch, progress)
    traces = {w: job.traced(w, kind=kind, noise=level, samples=samples, seed=seed) for w in plan.windows}
    kept = [record for record in chosen if all(record.case_id in traced for traced in traces.values())]
    if len(kept) < 2:
        raise UsageError(
            f"{model.name} answers {len(kept)} of {len(chosen)} facts, and two at least are needed: draw more "
            "(--records), or choose facts that it knows."
        )
    effects = {str(w): [effect_by_layer(traced[r.case_id], kind, wanted) for r in kept] for w, traced in traces.items()}
    made = job.methods_at(named, wanted, plan.settings, corpus)
    success = {name: job.successes([made[name, layer] for layer in wanted], kept) for name in named}
    about = {
        "model": model.name, "fingerprint": model.fingerprint(), "dataset": plan.data.name, "asked": len(chosen),
        "kind": kind, "noise": level, "samples": samples, "seed": seed,
        "settings": {f"{name} at layer {layer}": one.describe() for (name, layer), one in made.items()},
    }  # fmt: skip
    fits = {(name, w): _fitted(name, w, rates, x, seed) for name, rates in success.items() for w, x in effects.items()}
    return Located(about, wanted, tuple(record.case_id for record in kept), effects, success, fits)


def _fitted(method: str, window: str, success: Sequence[Sequence[float]], effect: Any, seed: int) -> Fit:
    try:
        return fit(success, effect, seed=seed)
    except UsageError as error:
        raise UsageError(f"{method}, window {window}: {error}") from error


def effect_by_layer(trace: TraceResult, kind: str, layers: Sequence[int]) -> list[float]:
    """Return max(0, (P_restored − P_corrupted) / |P_clean − P_corrupted|) at the subject's last token, per layer."""
    row = trace.scores[kind][trace.subject_range[1] - 1]
    whole = abs(trace.clean - trace.corrupted)
    return [max(0.0, (row[layer] - trace.corrupted) / whole) if whole else math.nan for layer in layers]


@dataclass(frozen=True)
class _Job:
    """What traces and edits have in common."""

    model: EditableModel
    data: RecordSet[FactRecord]
    chosen: Sequence[FactRecord]
    folder: Path
    batch: int
    progress: Progress

    def traced(self, window: int, *, kind: str, noise: float, samples: int, seed: int) -> dict[str, TraceResult]:
        """Return the traces of the facts that the model answers, by id."""
        known = [
            KnownFact(fact_id=r.case_id, prompt=r.request.text, subject=r.request.subject, answer=r.request.target_true)
            for r in self.chosen
            if r.request.target_true is not None
        ]
        told = advancing(self.progress, f"tracing (window {window})", len(known))
        with locked(self.folder / STORE), ResultStore(self.folder / STORE) as store:
            stored = stored_traces(
                self.model, known, store, dataset=f"{self.data.name} {self.data.sha256}", noise=noise, kinds=(kind,),
                window=window, samples=samples, seed=seed, progress=told,
            )  # fmt: skip
        return stored.traces

    def methods_at(
        self, names: Sequence[str], layers: Sequence[int], given: Mapping[str, Any], corpus: str | None
    ) -> dict[tuple[str, int], Method]:
        """Return every method at every layer; one pass over the text for all moments, where one is asked for."""
        computed: dict[int, Moment] = {}

        def moments(model: EditableModel, layer: int) -> Moment:
            if not computed:
                computed.update(moments_from(corpus=corpus, progress=self.progress).compute(model, list(layers)))
            return computed[layer]

        return {
            (name, layer): _at(name, self.model, moments, layer, given.get(name, {}))
            for name in names
            for layer in layers
        }

    def successes(self, methods: Sequence[Method], records: Sequence[FactRecord]) -> list[list[float]]:
        """Return per fact and method (one for every layer) the share of the possible rise of P[o*]."""
        told = advancing(self.progress, f"editing at every layer ({methods[0].name})", len(methods) * len(records))
        columns = [self._outcomes(method, records, told) for method in methods]
        return [[_share(column[record.case_id]) for column in columns] for record in records]

    def _outcomes(self, method: Method, records: Sequence[FactRecord], told: Any) -> dict[str, dict[str, Any]]:
        key = {
            "locate_protocol": PROTOCOL, **circumstances(self.model), "dataset": f"{self.data.name} {self.data.sha256}",
            "method": method.name, "settings": method.describe(),
        }  # fmt: skip
        with locked(self.folder / STORE), ResultStore(self.folder / STORE) as store:
            run = store.begin(f"{method.name} by layer", key)
            missing = [record for record in records if record.case_id not in store.done(run)]
            told(len(records) - len(missing))
            with keeping(lambda: f"what is done is kept in {store.path}{AGAIN}"):
                for begin in range(0, len(missing), self.batch):
                    part = missing[begin : begin + self.batch]
                    store.add((run, case, row) for case, row in self._measured(method, part).items())
                    told(len(part))
            outcomes = store.results(run)
        odd = next((case for case, row in outcomes.items() if not ("failed" in row or _is_measured(row))), None)
        if odd is not None:
            raise DataError(f"{store.path} holds an outcome of case {odd} without numbers: it is damaged.")
        return outcomes

    def _measured(self, method: Method, records: Sequence[FactRecord]) -> dict[str, dict[str, Any]]:
        """Return per fact P[o*] before and after its own edit, or why there is none."""
        requests = [record.request for record in records]
        places = make_each(self.model, requests, [method])[method.name].places
        edits = [None if isinstance(place, str) else place[0] for place in places]
        asked = [[Question(request.text, request.target_new)] for request in requests]
        before, after = score(self.model, asked, [None, edits])
        return {
            record.case_id: {"failed": place} if isinstance(place, str)
            else {"before": before[n][0].probability, "after": after[n][0].probability}
            for n, (record, place) in enumerate(zip(records, places, strict=True))
        }  # fmt: skip


def _at(name: str, model: EditableModel, moments: Any, layer: int, given: Mapping[str, Any]) -> Method:
    """Return a method at one layer: most have a `layer`, those of hidden values `layers`."""
    try:
        return make_method(name, model, moments, **{**given, "layer": layer})
    except UsageError as error:
        if "layer" not in str(error):
            raise
    try:
        return make_method(name, model, moments, **{**given, "layers": [layer]})
    except UsageError as error:
        raise UsageError(f"{name} cannot be put at one layer, which is compared here: {error}") from error


def _is_measured(outcome: Mapping[str, Any]) -> bool:
    return all(type(outcome.get(name)) in (int, float) for name in ("before", "after"))


def _share(outcome: Mapping[str, Any]) -> float:
    """Return (P_after − P_before) / (1 − P_before); NaN where there is no edit or no room."""
    if "failed" in outcome or outcome["before"] >= 1:
        return math.nan
    return float((outcome["after"] - outcome["before"]) / (1 - outcome["before"]))
