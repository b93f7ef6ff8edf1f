"""How fast a machine is: this one, measured in half a second, and some that are named."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from factedit.engine.cost import ModelShape, Work
from factedit.memory import available_memory, free_bytes

SHARE = 0.4  # of a named accelerator's peak that is reached where many rows run together (docs/decisions/0027)
ENTRIES = 1 << 22  # of the matrix that the rate is measured on, at most
ROWS = 256


@dataclass(frozen=True)
class Machine:
    """What a machine does and holds.

    Attributes:
        name: in words.
        flops: multiply-adds a second, times two, that products reach.
        bandwidth: bytes a second that weights are read from memory with.
        memory: bytes that a job may take; 0 where it is not known.
    """

    name: str
    flops: float
    bandwidth: float
    memory: float = 0.0

    def seconds(self, work: Work) -> float:
        """Return how long work takes at least: the larger of its products and its reading."""
        return max(work.flops / self.flops, work.read / self.bandwidth)


def _accelerator(name: str, tera: float, bandwidth: float, gigabytes: float) -> Machine:
    return Machine(name, SHARE * tera * 1e12, bandwidth * 1e12, gigabytes * 1e9)


# dense bfloat16 peak in TFLOP/s, TB/s and GB, of the makers' data sheets
NAMED = (
    _accelerator("RTX 4090 (bfloat16)", 165, 1.0, 24),
    _accelerator("A100 80 GB (bfloat16)", 312, 2.0, 80),
    _accelerator("H100 SXM (bfloat16)", 989, 3.35, 80),
    _accelerator("H200 (bfloat16)", 989, 4.8, 141),
)


def this_machine(shape: ModelShape, device: torch.device, dtype: torch.dtype) -> Machine:
    """Return this machine with the threads in force, measured on products and copies of the model's own shape.

    Args:
        shape: of the model; its edited matrix, cut to `ENTRIES`, is the one that is multiplied by.
        device, dtype: where and in what the job would compute.
    """
    width = max(64, min(shape.d_mlp or shape.d_model, ENTRIES // shape.d_model))
    like = {"device": device, "dtype": dtype}
    rows = ROWS if device.type == "cpu" else 64 * ROWS
    x, w = torch.randn(rows, shape.d_model, **like), torch.randn(width, shape.d_model, **like)  # type: ignore[call-overload]
    product = _shortest(lambda: w @ x.T, device)
    big = torch.ones(1 << (24 if device.type == "cpu" else 28), device=device)
    copied = torch.empty_like(big)
    copy = _shortest(lambda: copied.copy_(big), device)
    name = f"this machine ({torch.get_num_threads()} threads)" if device.type == "cpu" else f"this machine ({device})"
    memory = float(free_bytes(device)) if device.type == "cuda" else available_memory()
    return Machine(name, 2 * rows * w.numel() / product, 8 * big.numel() / copy, memory)


def _shortest(work: Callable[[], object], device: torch.device) -> float:
    """The shortest of five times, in seconds."""
    wait: Callable[[], None] = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    times = []
    for _ in range(5):
        wait()
        began = time.perf_counter()
        work()
        wait()
        times.append(time.perf_counter() - began)
    return max(min(times), 1e-9)
