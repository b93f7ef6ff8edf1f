"""Trace a prompt, or many known facts whose traces are kept (ROME, arXiv 2202.05262, section 2)."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from factedit.cache import locked
from factedit.data.registry import load_known, select
from factedit.errors import UsageError
from factedit.evaluate.store import ResultStore
from factedit.facts import notes_on_prompt, template_of
from factedit.models.adapter import EditableModel
from factedit.trace.asked import MEASURES
from factedit.trace.corrupt import noise_level, parse_noise
from factedit.trace.effects import Averages, TraceResult, average
from factedit.trace.experts import with_experts
from factedit.trace.sweep import KINDS, SEVERED, check_kinds, default_window, trace_fact
from factedit.work.inputs import ModelSource, noise_for, opened
from factedit.work.progress import Progress, advancing, silent
from factedit.work.stored_traces import stored_traces
from factedit.work.team import Team

GROUPS: dict[str, tuple[str, ...]] = {"all": KINDS, "severed": ("hidden", *SEVERED)}
STORE = "traces.sqlite"
SHOWN = 3  # facts that were left out
logger = logging.getLogger("factedit")


@dataclass(frozen=True)
class KnownTraces:
    """Traces of many known facts.

    Attributes:
        about: model, fingerprint, data set, ν and the settings, as JSON values.
        traces: of every fact that the model answers right.
        averages: of the traces, by role.
        store: the file they are kept in.
        names: of the facts that were traced, in the order of the traces.
        left_out: by fact why it was not.
    """

    about: dict[str, Any]
    traces: tuple[TraceResult, ...]
    averages: Averages
    store: Path
    names: tuple[str, ...] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return what was asked and the averages, for machines; half-widths of one fact are NaN."""
        return {**self.about, **self.averages.as_json(), "left_out": dict(self.left_out)}


def named_kinds(text: str) -> tuple[str, ...]:
    """Return kinds of states as written: `all`, `severed`, or names with commas.

    Raises:
        UsageError: naming those there are.
    """
    kinds = GROUPS.get(text) or tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    check_kinds(kinds)
    return kinds


def trace_prompt(
    model: ModelSource,
    prompt: str,
    subject: str,
    *,
    kinds: str = "all",
    window: int | None = None,
    noise: str = "3s",
    samples: int = 10,
    seed: int = 1,
    answer: str = "",
    measure: str = MEASURES[0],
    against: str = "",
    other_subject: str = "",
    paraphrases: Sequence[str] = (),
    progress: Progress = silent,
) -> TraceResult:
    """Trace one prompt.

    Args:
        model: the model, unchanged, or what gives it.
        prompt: a complete text.
        subject: a part of it.
        kinds: see `named_kinds`.
        window: layers restored together for `mlp` and `attn`; None scales the paper's 10 of 48.
        noise: ν, a number or `3s`, three standard deviations of the embedded facts' subjects.
        samples, seed: of the noise.
        answer, measure, against, other_subject: see `factedit.trace_fact`.
        paraphrases: other complete texts with the subject; of a model with experts, which its last token is sent to
            there is told beside.
        progress: told the tokens done.

    Raises:
        UsageError: see `factedit.trace_fact`; what can be refused without the model is refused before it is loaded.
    """
    wanted = named_kinds(kinds)
    parse_noise(noise)
    for text in (prompt, *paraphrases):
        template_of(text, subject)
    for note in notes_on_prompt(prompt, subject):
        logger.warning("%s", note)
    model = opened(model)
    width = _window(model, window)
    trace = trace_fact(
        model, prompt, subject, kinds=wanted, window=width, samples=samples, seed=seed, answer=answer, measure=measure,
        noise=None if other_subject else noise_for(model, noise), against=against, other_subject=other_subject,
        progress=lambda done, total: progress("tracing (tokens)", done, total),
    )  # fmt: skip
    return with_experts(model, trace, (), paraphrases)


def trace_known(
    model: ModelSource,
    facts: str,
    folder: Path,
    *,
    records: int = 200,
    kinds: str = "all",
    window: int | None = None,
    noise: str = "3s",
    samples: int = 10,
    seed: int = 1,
    team: Team | None = None,
    progress: Progress = silent,
) -> KnownTraces:
    """Trace known facts, keep every trace in a folder, and average them; goes on where it stopped.

    Args:
        model: the model, unchanged, or what gives it.
        facts: a data set of known facts, or a file of them.
        folder: where the traces are kept.
        records: how many facts at most, drawn with `seed`.
        kinds, window, samples: see `trace_prompt`.
        noise: ν, a number or `3s`, three standard deviations of the data set's subjects.
        seed: of the draw and of the noise.
        team: workers that trace parts of the facts; None traces them here.
        progress: told the facts done.

    Raises:
        UsageError: see `factedit.trace_fact`; or the model answers none of the facts right.
        DataError: the facts cannot be read.
        ResourceError: the disk is full; what was stored is safe.
    """
    wanted = named_kinds(kinds)
    parse_noise(noise)
    if records < 1:
        raise UsageError(f"{records} facts were asked for: give at least 1.")
    known = load_known(facts)
    known.say_skipped()
    chosen = select(known.records, limit=min(records, len(known.records)), seed=seed)
    model = opened(model)
    width = _window(model, window)
    level = noise_level(model, noise, [fact.subject for fact in known.records])
    elsewhere = None if team is None else lambda parts, asked: team.traces(model, parts, {**asked, "facts": facts})
    with locked(folder / STORE), ResultStore(folder / STORE) as store:
        stored = stored_traces(
            model, chosen, store, dataset=f"{known.name} {known.sha256}", noise=level, kinds=wanted, window=width,
            samples=samples, seed=seed, progress=advancing(progress, "tracing known facts", len(chosen)),
            elsewhere=elsewhere,
        )  # fmt: skip
    about = {
        "model": model.name, "fingerprint": model.fingerprint(), "dataset": known.name, "noise": level,
        "kinds": wanted, "window": width, "samples": samples, "seed": seed,
    }  # fmt: skip
    traces = tuple(stored.traces.values())
    if not traces:
        raise UsageError(f"None of the {len(chosen)} facts was traced: {_told(stored.left_out)}")
    averages = average(traces, asked=len(chosen))
    if stored.left_out:
        logger.info("left out: %d of %d facts: %s", len(stored.left_out), len(chosen), _told(stored.left_out))
    return KnownTraces(about, traces, averages, folder / STORE, tuple(stored.traces), stored.left_out)


def _told(left_out: Mapping[str, str]) -> str:
    """The first few of the facts that were left out, with their reasons."""
    shown = [f"{name} ({why})" for name, why in list(left_out.items())[:SHOWN]]
    return "; ".join([*shown, *(["…"] if len(left_out) > SHOWN else [])])


def _window(model: EditableModel, asked: int | None) -> int:
    window = default_window(model.n_layer) if asked is None else asked
    logger.info("window: %d of %d layers", window, model.n_layer)
    return window
