"""Trace a prompt, or many known facts whose traces are kept (ROME, arXiv 2202.05262, section 2)."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from factedit.cache import locked
from factedit.data.registry import load_known, select
from factedit.errors import UsageError
from factedit.evaluate.store import ResultStore
from factedit.facts import notes_on_prompt, template_of
from factedit.models.adapter import EditableModel
from factedit.trace.corrupt import noise_level, parse_noise
from factedit.trace.effects import Averages, TraceResult, average
from factedit.trace.sweep import KINDS, SEVERED, check_kinds, default_window, trace_fact
from factedit.work.inputs import ModelSource, noise_for, opened
from factedit.work.progress import Progress, advancing, silent
from factedit.work.stored_traces import stored_traces

GROUPS: dict[str, tuple[str, ...]] = {"all": KINDS, "severed": ("hidden", *SEVERED)}
STORE = "traces.sqlite"
log = logging.getLogger("factedit")


@dataclass(frozen=True)
class KnownTraces:
    """Traces of many known facts.

    Attributes:
        about: model, fingerprint, data set, ν and the settings, as JSON values.
        traces: of every fact that the model answers right.
        averages: of the traces, by role.
        store: the file they are kept in.
    """

    about: dict[str, Any]
    traces: tuple[TraceResult, ...]
    averages: Averages
    store: Path

    def as_json(self) -> dict[str, Any]:
        """What was asked and the averages, for machines; half-widths of one fact are NaN."""
        return {**self.about, **self.averages.as_json()}


def named_kinds(text: str) -> tuple[str, ...]:
    """Kinds of states as written: `all`, `severed`, or names with commas.

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
    progress: Progress = silent,
) -> TraceResult:
    """Causal trace of one prompt.

    Args:
        model: the model, unchanged, or what gives it.
        prompt: a complete text; the answer is the token the model ranks next.
        subject: a part of it.
        kinds: see `named_kinds`.
        window: layers restored together for `mlp` and `attn`; None scales the paper's 10 of 48.
        noise: ν, a number or `3s`, three standard deviations of the embedded facts' subjects.
        samples, seed: of the noise.
        progress: told the tokens done.

    Raises:
        UsageError: see `factedit.trace_fact`; what can be refused without the model is refused before it is loaded.
    """
    wanted = named_kinds(kinds)
    parse_noise(noise)
    template_of(prompt, subject)
    for note in notes_on_prompt(prompt, subject):
        log.warning("%s", note)
    model = opened(model)
    width = _window(model, window)
    return trace_fact(
        model, prompt, subject, kinds=wanted, window=width, noise=noise_for(model, noise), samples=samples, seed=seed,
        progress=lambda done, total: progress("tracing (tokens)", done, total),
    )  # fmt: skip


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
    with locked(folder / STORE), ResultStore(folder / STORE) as store:
        traces = stored_traces(
            model, chosen, store, dataset=f"{known.name} {known.sha256}", noise=level, kinds=wanted, window=width,
            samples=samples, seed=seed, progress=advancing(progress, "tracing known facts", len(chosen)),
        )  # fmt: skip
    about = {
        "model": model.name, "fingerprint": model.fingerprint(), "dataset": known.name, "noise": level,
        "kinds": wanted, "window": width, "samples": samples, "seed": seed,
    }  # fmt: skip
    return KnownTraces(about, tuple(traces), average(traces, asked=len(chosen)), folder / STORE)


def _window(model: EditableModel, asked: int | None) -> int:
    window = default_window(model.n_layer) if asked is None else asked
    log.info("window: %d of %d layers", window, model.n_layer)
    return window
