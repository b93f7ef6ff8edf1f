"""The least that each job must compute, and what this machine can do: measured time over the floor.

A job's floor is the larger of its multiply-adds at the machine's matrix-product rate and its bytes at the machine's
memory bandwidth, both measured in the same run. Counted are the matrices of the layers that a change can reach, at
the tokens it can reach, and the output matrix where the vocabulary must be read; a backward step counts as much as
the forward one, since no parameter needs a gradient. Norms, attention scores and activations are not counted. The
rates are the best of several shapes and of both ways to take a product; a better kernel would have a lower floor.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from factedit.edit.methods.rome import Rome
from factedit.edit.value_rows import request_rows
from factedit.facts import EditRequest, FactRecord
from factedit.models.adapter import EditableModel
from factedit.models.positions import continuation, locate
from factedit.trace.restore import contribution, hidden_state

REPEATS = 7
SIZES = ((2048, 640, 2048), (2048, 2048, 640), (512, 640, 2048), (64, 640, 65_536))  # rows, d_in, d_out
LARGE = ((8192, 1600, 6400), (8192, 6400, 1600), (8192, 8192, 8192))  # of an accelerator


@dataclass(frozen=True)
class Machine:
    """What this machine does, with the threads in force.

    Attributes:
        flops: multiply-adds of a matrix product per second, times two.
        bandwidth: bytes read and written by a copy per second.
    """

    flops: float
    bandwidth: float

    @staticmethod
    def measure(device: str = "cpu", dtype: torch.dtype = torch.float32) -> Machine:
        """The best rate over several sizes of product and both orders, and of several copies larger than any cache."""
        rates, like = [], {"device": device, "dtype": dtype}
        for rows, d_in, d_out in SIZES if device == "cpu" else LARGE:
            x, w = torch.randn(rows, d_in, **like), torch.randn(d_out, d_in, **like)
            for product in (lambda x=x, w=w: nn.functional.linear(x, w), lambda x=x, w=w: w @ x.T):
                rates.append(2 * rows * d_in * d_out / best(product))
        big = torch.ones(64_000_000 if device == "cpu" else 1_000_000_000, device=device)
        target = torch.empty_like(big)
        copy = best(lambda: target.copy_(big))
        return Machine(max(rates), 8 * len(big) / copy)


def best(work: Callable[[], object], repeats: int = REPEATS) -> float:
    """The shortest of several times, in seconds."""
    times = []
    for _ in range(repeats):
        times.append(seconds(work))
    return min(times)


def seconds(work: Callable[[], object]) -> float:
    """How long a call takes, with what an accelerator has still to do before and after."""
    wait = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    wait()
    began = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - began


@dataclass(frozen=True)
class Work:
    """What a job needs at least.

    Attributes:
        flops: multiply-adds, times two.
        bytes: weights that must pass through the processor.
    """

    flops: float
    bytes: float

    def seconds(self, machine: Machine) -> float:
        """The floor."""
        return max(self.flops / machine.flops, self.bytes / machine.bandwidth)


class Counter:
    """Multiply-adds and bytes of passes through a model."""

    def __init__(self, model: EditableModel) -> None:
        layer = sum(p.numel() for p in model.layers[0].parameters() if p.ndim == 2)
        self.layer, self.head, self.n_layer, self.d_mlp = layer, model.vocab * model.d_model, model.n_layer, model.d_mlp
        self.bytes_each = torch.finfo(model.dtype).bits // 8

    def work(self, layer_tokens: float, reads: float, passes: float, *, layers: int | None = None) -> Work:
        """Tokens through layers, reads of the vocabulary, and how often the weights of some layers must be fetched."""
        flops = 2 * (self.layer * layer_tokens + self.head * reads)
        fetched = self.layer * (self.n_layer if layers is None else layers) + self.head
        return Work(flops, self.bytes_each * passes * fetched)


def trace_work(model: EditableModel, prompt: str, subject: str, window: int, samples: int = 10) -> Work:
    """Three kinds at every token of the subject and after: layers from the first changed one, tokens from that one."""
    found = locate(model, prompt.replace(subject, "{}", 1), subject)
    begin, tokens, n = found.subject_range[0], len(found.ids), model.n_layer
    layer_tokens = float(tokens * n + samples * (tokens - begin) * n)
    reads = 1.0 + samples
    for token in range(begin, tokens):
        starts = [hidden_state(layer).start for layer in range(n)]
        starts += [contribution(kind, layer, window, n).start for kind in ("mlp", "attn") for layer in range(n)]
        felt = [start for start in starts if token == tokens - 1 or start < n]
        layer_tokens += samples * sum(n - start for start in felt) * (tokens - token)
        reads += samples * len(felt)
    return Counter(model).work(layer_tokens, reads, 1)


def edit_work(model: EditableModel, method: Rome, requests: Sequence[EditRequest], evaluations: Sequence[int]) -> Work:
    """What is before the subjects once, shared by all; then every evaluation forward, all but the last backward."""
    counter, tokens, reads = Counter(model), 0.0, 0.0
    before: set[tuple[int, ...]] = set()
    for fact, (request, count) in enumerate(zip(requests, evaluations, strict=True)):
        passes = 2 * count - 1
        for row in request_rows(model, fact, request, method.contexts):
            after = len(row.ids) - row.subject_last
            before |= {row.ids[: n + 1] for n in range(row.subject_last)}
            tokens += after * method.layer
            tokens += passes * after * (model.n_layer - method.layer)
            reads += passes * len(row.reads)
    tokens += len(before) * model.n_layer
    return counter.work(tokens, reads, 2 * max(evaluations) - 1, layers=model.n_layer - method.layer)


def case_work(model: EditableModel, record: FactRecord, layer: int) -> Work:
    """Every distinct text once up to the edited layer and twice from there on; the vocabulary twice at each answer."""
    request, tokens, reads = record.request, 0, set()
    prompts = (request.text, *record.paraphrases, *record.neighborhood)
    for prompt in prompts:
        longest = 0
        for target in (request.target_new, request.target_true or ""):
            ids, first = continuation(model, prompt, target)
            reads |= {ids[:i] for i in range(first, len(ids))}
            longest = max(longest, len(ids) - 1)
        tokens += longest
    return Counter(model).work(tokens * (2 * model.n_layer - layer), 2 * len(reads), 2)


def moment_work(model: EditableModel, layers: Sequence[int], tokens: int) -> Work:
    """All tokens up to the last layer asked, and half of k kᵀ (it is symmetric) per layer."""
    counter = Counter(model)
    found = counter.work(tokens * (max(layers) + 1), 0, 0)
    return Work(found.flops + len(layers) * tokens * model.d_mlp**2, found.bytes)
