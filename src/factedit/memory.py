"""Memory: how much was used, whether it ran out, and going on with half as much.

A batch that does not fit is halved and goes on, saying so (logger `factedit`); only a single item that does not
fit is an error.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import resource
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar, TypeVar

import torch

from factedit.errors import ResourceError

SHARE_OF_FREE = 0.2  # of an accelerator's free memory, for what is held at once
CACHES_OF_SHAPES = "ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"  # variables of oneDNN and of torch
SHAPES_KEPT = 8  # of products, of a streamed model: those of a layer on a step of an edit come again
_set_here: dict[str, str] = {}  # of these variables
SHAPES_IN_MEMORY = 128  # of a model in memory: those of the rows that are optimised together, until some stop
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
logger = logging.getLogger("factedit")
_ONEDNN = "could not create a primitive"  # what oneDNN says where it gets no memory


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether the error says that memory ran out, on the processor or on an accelerator."""
    text = str(error)
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and (("alloc" in text and "memory" in text) or _ONEDNN in text))
    )


def out_of_memory(error: BaseException) -> ResourceError:
    """Return the error in the user's words: what to lower."""
    text = str(error)
    return ResourceError(
        "Memory ran out. Lower --batch, --samples or the number of contexts, use --dtype bfloat16, or take a machine "
        f"with more memory. ({text.splitlines()[0][:120] if text else type(error).__name__})"
    )


def _not_even_one(error: BaseException, what: str) -> ResourceError:
    text = str(error)
    return ResourceError(
        f"Memory ran out with a single one of the {what}, so a smaller batch does not help. Use --dtype bfloat16, "
        "fewer or shorter contexts, a smaller model, or a machine with more memory. "
        f"({text.splitlines()[0][:120] if text else type(error).__name__})"
    )


def in_halves(items: Sequence[_Item], work: Callable[[Sequence[_Item]], list[_Result]], *, what: str) -> list[_Result]:
    """Return `work(items)`; where memory does not suffice, the work on each half, and so on.

    Args:
        items: what to work on.
        work: gives a list of results, in order.
        what: the items in words, for the message.

    Raises:
        ResourceError: a single item does not fit.
    """
    try:
        return work(items)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        if len(items) == 1:
            raise _not_even_one(error, what) from error
    # out of the except block: the failed attempt's tensors go with its traceback
    half = len(items) // 2
    logger.warning("%d %s do not fit in memory at once; going on with %d", len(items), what, half)
    return in_halves(items[:half], work, what=what) + in_halves(items[half:], work, what=what)


def ask_for_huge_pages() -> None:
    """Let torch ask the system for huge pages, as it does from its first allocation on; `THP_MEM_ALLOC_ENABLE` wins."""
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


def keep_few_shapes(count: int = SHAPES_KEPT) -> None:
    """Let oneDNN, and torch's way to it, keep the code of few shapes of products, before the first product is taken.

    Both keep 1 024, at 0.6 to 30 MB each: several layers of a streamed model, whose runs have their own shapes for
    every layer and token, and several gigabytes of a model in memory, where every fact that stops gives the others a
    new shape. There is no call for it, but variables of the environment (a user's win), which are read at
    the process's first product: one that took products before keeps its caches.

    Args:
        count: of shapes.
    """
    for name in CACHES_OF_SHAPES:
        if os.environ.get(name) == _set_here.get(name):  # neither is a user's own
            os.environ[name] = _set_here[name] = str(count)


def free_bytes(device: torch.device) -> int:
    """Return what a CUDA device has free, with what this process has freed there and keeps for the next use."""
    free = torch.cuda.mem_get_info(device)[0]
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def release() -> None:
    """Give freed memory back to the system, where the C library keeps it for itself otherwise (glibc)."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def available_memory() -> float:
    """Return bytes that the system says a new job may take; 0 where it does not say."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:  # noqa: PTH123 - no file of a user's
            return 1024.0 * next(int(line.split()[1]) for line in file if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        names = os.sysconf_names if hasattr(os, "sysconf_names") else {}
        known = "SC_PHYS_PAGES" in names and "SC_PAGE_SIZE" in names
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")) if known else 0.0


def require_memory(what: str, needed: float, advice: str) -> None:
    """Refuse what will not fit, before it is read.

    Args:
        what: is to be held, in words.
        needed: bytes it takes.
        advice: what to do, one sentence.

    Raises:
        ResourceError: the system has less.
    """
    free = available_memory()
    if free and needed > free:
        raise ResourceError(f"{what} takes {needed / 1e9:,.2f} GB, and {free / 1e9:,.2f} GB are free. {advice}")


class PeakMemory:
    """The most memory used inside a `with` block, in MB (10^6 bytes): of a CUDA device, else resident.

    Blocks may be nested. Where the system cannot reset its own record (outside Linux), it is the most since the process
    began.

    Args:
        device: where the work is done; None is the processor.

    Attributes:
        mb: set when the block ends.
    """

    _open: ClassVar[list[PeakMemory]] = []

    def __init__(self, device: torch.device | None = None) -> None:
        self.mb = 0.0
        self._device = device if device is not None and device.type == "cuda" else None

    def __enter__(self) -> PeakMemory:
        for outer in self._open:  # the record that is reset here is theirs too
            outer._note()
        if self._device is not None:
            torch.cuda.reset_peak_memory_stats(self._device)
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # proc(5): resets the record of the peak
        self._open.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        try:
            for block in self._open:
                block._note()
        finally:
            self._open.remove(self)

    def _note(self) -> None:
        """Keep the most so far."""
        peak = _resident_peak_mb() if self._device is None else torch.cuda.max_memory_allocated(self._device) / 1e6
        self.mb = max(self.mb, peak)


def _resident_peak_mb() -> float:
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line.split()[1] for line in lines if line.startswith("VmHWM:"))) * 1024 / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e6
