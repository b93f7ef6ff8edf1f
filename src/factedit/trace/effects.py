"""Traces as values, and averages over facts by token role (ROME section 2.2, figure 2 and appendix B.1).

TE = P[o] − P*[o]; IE(state) = P*[o | state clean] − P*[o]; ATE and AIE are their means over facts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
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
Z95 = 1.959963984540054


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
        return self.clean - self.corrupted

    def indirect_effects(self, kind: str) -> np.ndarray:
        """IE `[tokens, layers]` of a kind of state."""
        return np.array(self.scores[kind]) - self.corrupted

    def peak(self, kind: str) -> tuple[int, int]:
        """(token, layer) of the largest indirect effect of a kind."""
        effects = self.indirect_effects(kind)
        token, layer = np.unravel_index(int(effects.argmax()), effects.shape)
        return int(token), int(layer)

    def as_json(self) -> dict[str, Any]:
        """The trace for machines: one kind as `kind` and `scores`, several each under its own name."""
        found = asdict(self)
        scores = found.pop("scores")
        if len(scores) == 1:
            kind, values = next(iter(scores.items()))
            return {**found, "kind": kind, "scores": values}
        return {**found, **scores}


def role_rows(subject_range: tuple[int, int], tokens: int) -> list[tuple[str, list[int]]]:
    """The tokens of each role that a prompt has; a one-token subject is both first and last."""
    begin, end = subject_range
    rows = {
        "first subject": [begin],
        "middle subject": list(range(begin + 1, end - 1)),
        "last subject": [end - 1],
        "first subsequent": [end] if end < tokens - 1 else [],
        "further": list(range(end + 1, tokens - 1)),
        "last": [tokens - 1],
    }
    return [(role, rows[role]) for role in ROLES if rows[role]]


@dataclass(frozen=True)
class Curve:
    """AIE against layers for one role.

    Attributes:
        mean: `[layers]`.
        half_width: of the 95 % band `[layers]`.
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
        """The averages for machines."""
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
    effects = [trace.total_effect for trace in traces]
    curves = {kind: _curves(traces, kind) for kind in traces[0].scores}
    return Averages(
        facts=len(traces),
        asked=asked,
        total_effect=(float(np.mean(effects)), _half_width(np.array(effects)[:, None])[0]),
        clean=float(np.mean([trace.clean for trace in traces])),
        curves=curves,
    )


def _curves(traces: Sequence[TraceResult], kind: str) -> dict[str, Curve]:
    rows: dict[str, list[np.ndarray]] = {}
    for trace in traces:
        effects = trace.indirect_effects(kind)
        for role, tokens in role_rows(trace.subject_range, len(trace.tokens)):
            rows.setdefault(role, []).extend(effects[token] for token in tokens)
    found: Mapping[str, np.ndarray] = {role: np.stack(rows[role]) for role in ROLES if role in rows}
    return {role: Curve(tuple(v.mean(0).tolist()), tuple(_half_width(v)), len(v)) for role, v in found.items()}


def _half_width(values: np.ndarray) -> list[float]:
    n = len(values)
    if n == 1:
        return [math.nan] * values.shape[1]
    spread: list[float] = (Z95 * values.std(0, ddof=1) / math.sqrt(n)).tolist()
    return spread
