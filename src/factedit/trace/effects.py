"""Traces as values, and averages over facts by token role (ROME, arXiv 2202.05262, sections 2.1 and 2.2, appendix B.1).

TE = P[o] − P*[o]; IE(state) = P*[o | state clean] − P*[o]; ATE and AIE are their means over facts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from importlib import import_module
from typing import Any

import numpy as np

from factedit.errors import UsageError

ROLES = ("first subject", "middle subject", "last subject", "first subsequent", "further", "last")
Z95 = 1.959963984540054  # of a normal distribution


@dataclass(frozen=True, kw_only=True)
class TraceResult:
    """The causal trace of one prompt.

    Attributes:
        model, prompt, subject: what was traced.
        subject_range: token positions `[b, e)` of the subject.
        tokens: the prompt's tokens as text.
        answer: what is asked for, as text: the token the clean run ranks first, or the chosen answer.
        clean, corrupted: what is measured of it in the clean and the corrupted run: its probability, or of
            `logit-difference` the answer's logit less that of `against`.
        window: layers restored together for `mlp` and `attn`.
        noise: standard deviation ν of the noise.
        samples, seed: of the noise.
        scores: per kind what is measured of the restored run, P*[answer | restored], `[tokens][layers]`.
        measure: `probability` or `logit-difference`.
        against: the other answer of a difference, as text.
        other_subject: that took the subject's place in the corrupted run; empty: noise.
        experts: `tokens`: by layer and token the experts with the router's weights; `paraphrases`: see `with_experts`.
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
    measure: str = "probability"
    against: str = ""
    other_subject: str = ""
    experts: dict[str, Any] = field(default_factory=dict)

    @property
    def measured(self) -> str:
        """What is measured, in a few words."""
        answer = self.answer.strip()
        return f"p({answer})" if not self.against else f"logit({answer}) − logit({self.against.strip()})"

    @property
    def total_effect(self) -> float:
        """TE, a difference of what is measured: of probabilities, or in logits."""
        return self.clean - self.corrupted  # ROME section 2.1: TE = P[o] − P*[o]

    def indirect_effects(self, kind: str) -> np.ndarray:
        """Return IE `[tokens, layers]` of a kind of state."""
        return np.array(self.scores[kind]) - self.corrupted  # ROME section 2.1: IE = P*[o | state clean] − P*[o]

    def peak(self, kind: str) -> tuple[int, int]:
        """Return (token, layer) of the largest indirect effect of a kind."""
        effects = self.indirect_effects(kind)
        token, layer = np.unravel_index(int(effects.argmax()), effects.shape)
        return int(token), int(layer)

    def at_subject_last(self, kind: str) -> tuple[int, float]:
        """Return (layer, IE) of the largest indirect effect of a kind at the subject's last token, where facts are
        recalled.

        The last token of the prompt is no place to look: the answer is read there, so its last states restore all.
        """
        effects = self.indirect_effects(kind)[self.subject_range[1] - 1]
        layer = int(effects.argmax())
        return layer, float(effects[layer])

    def notes(self) -> list[str]:
        """Return sentences on what one might stumble over: effects that exceed the total one."""
        largest = {kind: float(self.indirect_effects(kind).max()) for kind in self.scores}
        beyond = {kind: value for kind, value in largest.items() if value > self.total_effect}
        if not beyond or self.total_effect <= 0:
            return []
        told = ", ".join(f"{kind} {value:.3f}" for kind, value in beyond.items())
        return [
            f"Some states give more than was lost (IE: {told}; TE {self.total_effect:.3f}): in a restored run the rest "
            "stays corrupted, and with it what speaks for other answers in the clean run."
        ]

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield one row per kind, token and layer: what was measured there and its indirect effect."""
        begin, end = self.subject_range
        for kind, grid in self.scores.items():
            effects = self.indirect_effects(kind)
            for position, (token, values) in enumerate(zip(self.tokens, grid, strict=True)):
                for layer, value in enumerate(values):
                    yield {
                        "kind": kind, "position": position, "token": token, "subject": begin <= position < end,
                        "layer": layer, "value": value, "effect": float(effects[position, layer]),
                    }  # fmt: skip

    def to_frame(self) -> Any:
        """Return the rows as a table of pandas.

        Raises:
            UsageError: pandas is not installed.
        """
        try:
            pandas = import_module("pandas")
        except ImportError as error:
            raise UsageError("A table of pandas needs pandas: pip install pandas. `rows()` gives the same.") from error
        return pandas.DataFrame(list(self.rows()))

    def plot(self) -> Any:
        """Return the figure (of matplotlib): a heat map per kind, as `factedit trace --plot` writes it."""
        return import_module("factedit.report.figures").trace_figure(self)  # a room above: for people at a prompt

    def _repr_png_(self) -> bytes:
        """The figure, for notebooks."""
        return bytes(import_module("factedit.report.figures").as_bytes(self.plot(), ".png"))

    def as_json(self) -> dict[str, Any]:
        """Return the trace for machines: `kinds`, and the scores of each kind under its name.

        Where one kind was asked for, `kind` and `scores` hold it too.
        """
        stored = self.as_stored()
        scores = stored.pop("scores")
        stored |= {"kinds": list(scores), **scores}
        if len(scores) > 1:
            return stored
        [(kind, only)] = scores.items()
        return {**stored, "kind": kind, "scores": only}

    def as_stored(self) -> dict[str, Any]:
        """Return every field, as JSON can hold it; `experts` where there are any."""
        stored = asdict(self)
        return stored if self.experts else {name: value for name, value in stored.items() if name != "experts"}

    def _repr_html_(self) -> str:
        """Return the maps for a notebook, as the page draws them; the numbers as tables where nothing is drawn."""
        from factedit.trace.show import trace_html

        return trace_html(self)

    @classmethod
    def from_stored(cls, stored: dict[str, Any]) -> TraceResult:
        """Return the trace that `as_stored` gave; what is none raises a LookupError, TypeError or ValueError."""
        rows = {kind: tuple(tuple(map(float, row)) for row in table) for kind, table in stored["scores"].items()}
        if {len(table) for table in rows.values()} != {len(stored["tokens"])}:
            raise ValueError(f"{len(stored['tokens'])} tokens and scores of others")
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
        """Return (layer, AIE) where a curve is highest."""
        curve = self.curves[kind][role].mean
        layer = int(np.argmax(curve))
        return layer, curve[layer]

    def as_json(self) -> dict[str, Any]:
        """Return the averages for machines."""
        return asdict(self)


def average(traces: Sequence[TraceResult], *, asked: int) -> Averages:
    """Return ATE and AIE over traces, by role.

    Raises:
        UsageError: no traces: an average over nothing is not zero.
    """
    if not traces:
        raise UsageError(
            f"None of the {asked} facts is answered right by the model, so there is nothing to average: try others."
        )
    effects = np.array([trace.total_effect for trace in traces])  # ROME section 2.1: ATE and AIE are means over facts
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
