"""What a command would take, before anything of it runs: multiply-adds, bytes, memory, disk and time.

Configuration, tokenizer and facts are read, weights are not. The formulas are in `engine/cost.py`, what methods take in
`dry_methods.py`, how fast machines are in `machines.py`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from factedit.data.registry import load_known, select
from factedit.edit.presets import settings_for
from factedit.engine import budget
from factedit.engine.cost import ModelShape, Work, held, moments_work
from factedit.facts import EditRequest
from factedit.files.tensors_on_disk import OnDisk
from factedit.models.adapter import EditableModel
from factedit.stats.collect import PIECE
from factedit.stats.provide import TOKENS_PER_KEY_ENTRY
from factedit.trace.sweep import default_window
from factedit.train.examples import CONTINUATION
from factedit.train.examples import PIECE as TRAINED_PIECE
from factedit.train.loop import TrainSettings
from factedit.work.dry_methods import edits_take
from factedit.work.dry_traces import traces_take
from factedit.work.machines import NAMED, Machine, this_machine
from factedit.work.trace import named_kinds

LAYERS_HELD = 3  # of a streamed model while a value is optimised; else two
ROOM = 1.1  # times what is counted: buffers, the interpreter's own objects, fragments


class Part(NamedTuple):
    """A part of a job.

    Attributes:
        what: in words.
        work: its products and bytes.
    """

    what: str
    work: Work


class FromDisk(NamedTuple):
    """What a model that is streamed is read.

    Attributes:
        passes: through all its layers.
        bytes: of its files.
        seconds: that reading takes, at the rate of a matrix that was read; computing goes on meanwhile.
    """

    passes: float
    bytes: float
    seconds: float


class Time(NamedTuple):
    """How long a job takes on a machine.

    Attributes:
        machine: its name.
        seconds: at least.
        fits: whether the job's memory does; None where the machine's is not known.
    """

    machine: str
    seconds: float
    fits: bool | None


@dataclass(frozen=True)
class DryRun:
    """What a command would take.

    Attributes:
        command: its name.
        model: the model's name.
        weights: bytes of the model.
        parts: of the job, in order.
        memory: bytes at its peak, weights included.
        disk: bytes that are written.
        notes: what was assumed, in sentences.
        times: on this machine, then on named ones.
        streamed: what is read from disk, of a model whose layers come from there.
    """

    command: str
    model: str
    weights: int
    parts: tuple[Part, ...]
    memory: float
    disk: float = 0.0
    notes: tuple[str, ...] = ()
    times: tuple[Time, ...] = field(default=())
    streamed: FromDisk | None = None

    @property
    def work(self) -> Work:
        """Of all parts."""
        total = Work()
        for part in self.parts:
            total += part.work
        return total

    def as_json(self) -> dict[str, Any]:
        """Return everything, for machines; bytes and seconds."""
        return {
            "command": self.command, "model": self.model, "weights": self.weights,
            "parts": [{"what": part.what, "flops": part.work.flops, "read": part.work.read} for part in self.parts],
            "flops": self.work.flops, "read": self.work.read, "memory": self.memory, "disk": self.disk,
            "notes": list(self.notes),
            "times": [time._asdict() for time in self.times],
            **({} if self.streamed is None else {"streamed": self.streamed._asdict()}),
        }  # fmt: skip


def told_costs(
    command: str,
    model: EditableModel,
    parts: Sequence[Part],
    memory: float,
    *,
    disk: float = 0.0,
    notes: Sequence[str] = (),
    here: Machine | None = None,
) -> DryRun:
    """Return what was counted, with how long it takes on this machine (`here`: already measured) and on named ones."""
    shape = ModelShape.of(model)
    machines = (here or this_machine(shape, model.device, model.dtype), *NAMED)
    said = tuple(dict.fromkeys(note for note in notes if note))
    untimed = DryRun(command, model.name, shape.weights, tuple(parts), 0.0, disk, said)
    files: OnDisk | None = getattr(model, "files", None)
    streamed = None if files is None else _from_disk(model, files, untimed.work.passes)
    layers = shape.n_layer * shape.stored * shape.bytes_each
    there = shape.weights if streamed is None else shape.weights - layers + LAYERS_HELD * layers / shape.n_layer
    peak = ROOM * (there + memory)
    half = Work(untimed.work.flops, untimed.work.read * 2 / shape.bytes_each)  # named ones compute in bfloat16
    seconds = max(machines[0].seconds(untimed.work), 0.0 if streamed is None else streamed.seconds)
    times = [Time(machines[0].name, seconds, _fits(peak, machines[0]))]
    for machine in machines[1:]:
        times.append(Time(machine.name, machine.seconds(half), _fits(peak * 2 / shape.bytes_each, machine)))
    return replace(untimed, memory=peak, times=tuple(times), streamed=streamed)


def _from_disk(model: EditableModel, files: OnDisk, passes: float) -> FromDisk:
    """What so many passes read beside all tensors once, for what stays and the fingerprint; one matrix is tried."""
    layers = sum(files.size(name) for name in files if name.startswith(f"{model.family.layers}."))
    name, before, began = model.matrix(0).name, files.bytes_read, time.perf_counter()
    files.read(name, model.dtype)
    rate = (files.bytes_read - before) / max(time.perf_counter() - began, 1e-9)
    size = passes * layers + sum(files.size(name) for name in files)
    return FromDisk(passes, size, size / rate)


def _fits(memory: float, machine: Machine) -> bool | None:
    return memory <= machine.memory if machine.memory else None


# -- commands --------------------------------------------------------------------------------------


def dry_trace(
    model: EditableModel,
    prompt: str | None,
    subject: str | None,
    *,
    facts: str | None = None,
    records: int = 200,
    kinds: str = "all",
    window: int | None = None,
    samples: int = 10,
    seed: int = 1,
    here: Machine | None = None,
) -> DryRun:
    """Return what a trace of a prompt, or of known facts, would take; see `trace_prompt` and `trace_known`."""
    wanted = named_kinds(kinds)
    if facts is None:
        asked = [(str(prompt), str(subject))]
    else:
        known = load_known(facts).records
        asked = [(fact.prompt, fact.subject) for fact in select(known, limit=min(records, len(known)), seed=seed)]
    width = window or default_window(model.n_layer)
    work, memory, starts = traces_take(model, asked, wanted, width, samples)
    what = f"{len(asked)} traces, {starts} restorations at every token, {samples} samples"
    notes = () if facts is None else ("facts that the model does not answer right are counted too, and take nothing",)
    return told_costs("trace", model, [Part(what, work)], memory, notes=notes, here=here)


def dry_stats(
    model: EditableModel,
    *,
    layers: Sequence[int] | None = None,
    corpus: str | None = None,
    tokens: int | None = None,
    here: Machine | None = None,
) -> DryRun:
    """Return what second moments would take; see `compute_moments`."""
    chosen = [model.check_layer(layer) for layer in layers or [settings_for(model).layer or 0]]
    memory, parts = _moments(model, chosen, tokens, own_text=corpus is None)
    disk = len(chosen) * 4.0 * model.d_mlp**2
    return told_costs("stats", model, parts, memory, disk=disk, here=here)


def _moments(
    model: EditableModel, layers: Sequence[int], tokens: int | None = None, *, own_text: bool
) -> tuple[float, list[Part]]:
    """Memory and parts of computing C of some layers."""
    shape, count = ModelShape.of(model), tokens or TOKENS_PER_KEY_ENTRY * model.d_mlp
    columns = budget.columns_read(model)
    piece, batches = min(PIECE, model.context_length), max(1.0, count / columns)
    work = moments_work(shape, layers, count, piece=piece, batches=batches, summed=budget.tokens_summed())
    parts = [Part(f"second moments of {len(layers)} layers from {count} tokens", work)]
    if own_text:
        written = shape.forward(count, 64, shape.n_layer, reads=count, batches=count / budget.TEXTS_WRITTEN)
        parts.insert(0, Part(f"{count} tokens of text that the model writes itself", written))
    return held(shape, columns, 0) + len(layers) * 5.0 * model.d_mlp**2 + 8.0 * model.d_mlp**2, parts


def dry_edit(
    model: EditableModel,
    method: str,
    requests: Sequence[EditRequest],
    settings: dict[str, Any],
    *,
    preset: str = "tuned",
    ready: bool = False,
    own_text: bool = True,
    here: Machine | None = None,
) -> DryRun:
    """Return what an edit of facts would take.

    Args:
        model: its outline.
        method: by name.
        requests: the facts.
        settings: departures from the preset.
        preset: see `make_method`.
        ready: the second moments are in a file.
        own_text: else they are computed from text that the model writes.
    """
    taken = edits_take(method, model, requests, settings, preset=preset)
    memory, parts = with_moments(model, taken.layers, ready, own_text)
    shape = ModelShape.of(model)
    parts += [Part(f"{method}: {len(requests)} facts", taken.work), *_asked(shape, len(requests))]
    tokens = budget.tokens_optimised(model, 0)
    peak = max(memory, taken.memory + held(shape, tokens, budget.READS_OPTIMISED))
    disk = 8.0 * len(requests) * (shape.d_mlp + shape.d_model)
    return told_costs("edit", model, parts, peak, disk=disk, notes=(taken.note,), here=here)


def with_moments(model: EditableModel, layers: Sequence[int], ready: bool, own_text: bool) -> tuple[float, list[Part]]:
    """Return memory and parts of the second moments that edits need, where no file has them."""
    return (0.0, []) if ready or not layers else _moments(model, sorted(set(layers)), own_text=own_text)


def _asked(shape: ModelShape, facts: int) -> list[Part]:
    """What the edit came to, asked before and after."""
    work = shape.forward(facts * 16, 16, shape.n_layer, reads=4 * facts).times(2)
    return [Part("the facts asked before and after", work)]


def dry_train(
    model: EditableModel, kind: str, *, steps: int | None = None, batch: int | None = None, here: Machine | None = None
) -> DryRun:
    """Return what the training of a network would take, were no step saved by stopping early; see `train_network`."""
    given = {"steps": steps, "batch": batch}
    settings = TrainSettings(**{name: value for name, value in given.items() if value is not None})
    shape = ModelShape.of(model)
    rows, length = settings.batch, TRAINED_PIECE + CONTINUATION
    below, above = shape.n_layer - settings.blocks, settings.blocks
    step = shape.forward(3 * rows * length, length, below)
    step += shape.forward(4 * rows * length, length, above, reads=4 * rows * CONTINUATION)
    step += shape.backward(3 * rows * length, length, above, reads=3 * rows * CONTINUATION)
    checks = settings.steps / settings.validate_every * settings.validation / settings.batch
    parts = [Part(f"{settings.steps} steps of {rows} examples", step.times(settings.steps))]
    parts.append(Part("validations", step.times(checks / 2)))
    memory = held(shape, 4 * rows * length, budget.READS_TUNED) + 4.0 * rows * shape.d_mlp * shape.d_model
    return told_costs("train", model, parts, memory, notes=(f"the network of {kind} itself is not counted",), here=here)
