"""Traces as values, and averages over facts by token role (ROME, arXiv 2202.05262, sections 2.1 and 2.2, appendix B.1).

TE = P[o] − P*[o]; IE(state) = P*[o | state clean] − P*[o]; ATE and AIE are their means over facts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from factedit.errors import UsageError

ROLES = (
    "first subject",
    "middle subject",
    "last subject",
    "first subsequent",
    "further",
    "last",
)
Z95 = 1.959963984540054  # of a normal distribution


@dataclass(frozen=True, kw_only=True)
class TraceResult:
    """The causal trace of one prompt.

    Attributes:
        model, prompt, subject: what was traced.
        subject_range: token positions `[b, e)` of the subject.
        tokens: the prompt's tokens as text.
        answer: the token the clean run ranks first, as text.
        clean, corrupted: its probability in the clean and corrupted run.
        window: layers restored together for `mlp` and `attn`.
        noise: standard deviation ν of the noise.
        samples, seed: of the noise.
        scores: per kind P*[answer | restored] `[tokens][layers]`.
    """

    model: str
    prompt: str
    subject: str
    subject_range: tuple[int, int]
    tokens: tuple[str, ...]
    answer: str
    clean: float
    corrupted: float
    window: int
    noise: float
    samples: int
    seed: int
    scores: dict[str, tuple[tuple[float, ...], ...]]

    @property
    def total_effect(self) -> float:
        """TE, a difference of probabilities."""
        return self.clean - self.corrupted  # ROME section 2.1: TE = P[o] − P*[o]

    def indirect_effects(self, kind: str) -> np.ndarray:
        """IE `[tokens, layers]` of a kind of state."""
        return np.array(self.scores[kind]) - self.corrupted  # ROME section 2.1: IE = P*[o | state clean] − P*[o]

    def peak(self, kind: str) -> tuple[int, int]:
        """(token, layer) of the largest indirect effect of a kind."""
        effects = self.indirect_effects(kind)
        token, layer = np.unravel_index(int(effects.argmax()), effects.shape)
        return int(token), int(layer)

    def as_json(self) -> dict[str, Any]:
        """Return the trace for machines: one kind as `kind` and `scores`, several each under its own name."""
        found = self.as_stored()
        scores = found.pop("scores")
        if len(scores) == 1:
            kind, values = next(iter(scores.items()))
            return {**found, "kind": kind, "scores": values}
        return {**found, **scores}

    def as_stored(self) -> dict[str, Any]:
        """Return every field, as JSON can hold it."""
        return asdict(self)

    @classmethod
    def from_stored(cls, stored: dict[str, Any]) -> TraceResult:
        """Return the trace that `as_stored` gave."""
        rows = {kind: tuple(tuple(row) for row in table) for kind, table in stored["scores"].items()}
        lists = {"tokens": tuple(stored["tokens"]), "subject_range": tuple(stored["subject_range"])}
        return cls(**{**stored, **lists, "scores": rows})


def role_rows(subject_range: tuple[int, int], tokens: int) -> list[tuple[str, list[int]]]:
    """Return the tokens of each role that a prompt has.

    A one-token subject is both first and last, and a prompt with one token after the subject has it both as the
    first subsequent and as the last, as in the published averages.
    """
    begin, end = subject_range
    rows = {
        "first subject": [begin],
        "middle subject": list(range(begin + 1, end - 1)),
        "last subject": [end - 1],
        "first subsequent": [end] if end < tokens else [],
        "further": list(range(end + 1, tokens - 1)),
        "last": [tokens - 1],
    }
    return [(role, rows[role]) for role in ROLES if rows[role]]


@dataclass(frozen=True)
class Curve:
    """AIE against layers for one role.

    Attributes:
        mean: `[layers]`.
        half_width: of the 95 % band `[layers]`, with facts as the independent units.
        n: tokens averaged (middle and further tokens each count).
    """

    mean: tuple[float, ...]
    half_width: tuple[float, ...]
    n: int


@dataclass(frozen=True, kw_only=True)
class Averages:
    """Effects averaged over facts.

    Attributes:
        facts: how many facts were kept.
        asked: how many were looked at.
        total_effect: ATE and the half-width of its interval.
        clean: mean probability of the answer in the clean run.
        curves: per kind and role.
    """

    facts: int
    asked: int
    total_effect: tuple[float, float]
    clean: float
    curves: dict[str, dict[str, Curve]]

    def peak(self, kind: str, role: str) -> tuple[int, float]:
        """(layer, AIE) where a curve is highest."""
        curve = self.curves[kind][role].mean
        layer = int(np.argmax(curve))
        return layer, curve[layer]

    def as_json(self) -> dict[str, Any]:
        """Return the averages for machines."""
        return asdict(self)


def average(traces: Sequence[TraceResult], *, asked: int) -> Averages:
    """ATE and AIE over traces, by role.

    Raises:
        UsageError: no traces: an average over nothing is not zero.
    """
    if not traces:
        raise UsageError(
            f"None of the {asked} facts is answered right by the model, so there is nothing to average: try others."
        )
    effects = np.array([trace.total_effect for trace in traces])
    curves = {kind: _curves(traces, kind) for kind in traces[0].scores}
    return Averages(
        facts=len(traces),
        asked=asked,
        total_effect=(float(effects.mean()), _half_width(list(effects[:, None] - effects.mean()), len(effects))[0]),
        clean=float(np.mean([trace.clean for trace in traces])),
        curves=curves,
    )


def _curves(traces: Sequence[TraceResult], kind: str) -> dict[str, Curve]:
    rows: dict[str, list[np.ndarray]] = {}
    for trace in traces:
        effects = trace.indirect_effects(kind)
        for role, tokens in role_rows(trace.subject_range, len(trace.tokens)):
            rows.setdefault(role, []).append(effects[tokens])
    return {role: _curve(rows[role]) for role in ROLES if role in rows}


def _curve(facts: Sequence[np.ndarray]) -> Curve:
    """Return the mean over all tokens of a role, `[tokens, layers]` per fact, and a band that knows which belong
    together.
    """
    n = sum(len(rows) for rows in facts)
    mean = np.concatenate(facts).mean(0)
    return Curve(tuple(mean.tolist()), tuple(_half_width([(rows - mean).sum(0) for rows in facts], n)), n)


def _half_width(deviations: Sequence[np.ndarray], n: int) -> list[float]:
    """95 % half-width of a mean over n values, from the summed deviations of each fact.

    The tokens of one fact are not independent, so facts are the clusters (Cameron and Miller 2015, eq. 11); where
    every fact gives one value this is the usual interval.
    """
    count = len(deviations)
    if count == 1:
        return [math.nan] * len(deviations[0])
    spread = np.sqrt(np.square(np.stack(deviations)).sum(0) * count / (count - 1)) / n
    half: list[float] = (Z95 * spread).tolist()
    return half
