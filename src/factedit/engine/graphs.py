"""The layers' part of an edit's step captured as a CUDA graph: launched as one thing instead of thousands of kernels.

One edit is bound by launching kernels: the same few rows pass the same layers there and back at every step, in fixed
shapes, and only δ differs. Captured, the way there and the way back are replayed. It is asked for (`steps_captured`),
since capturing takes as long as a few steps and has to be won back. On a processor nothing changes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

from factedit.errors import first_line

Step = Callable[[Tensor], Tensor]
Capture = Callable[[Step, Tensor], Step]
WARM_UP = 2  # runs before the capture, in which libraries choose and load their kernels
logger = logging.getLogger("factedit")


def cuda_graph(step: Step, sample: Tensor) -> Step:
    """Return a step that replays what it does on a CUDA device, forward and back; elsewhere the step itself.

    Its output is the same memory at every replay: whoever keeps it copies it.

    Args:
        step: of one tensor, whose gradient may be asked for; waits for nothing on the device, and what else it reads
            stays where it is.
        sample: what it is captured with; later ones have its shape and type.
    """
    if sample.device.type != "cuda":
        return step
    static = sample.detach().clone().requires_grad_()
    # warms up on a stream of its own, then captures both ways into one pool of memory
    graphed: Step = torch.cuda.make_graphed_callables(step, (static,), num_warmup_iters=WARM_UP)  # type: ignore[assignment]
    return graphed


_wanted: ContextVar[Capture | None] = ContextVar("how steps are captured", default=None)


@contextmanager
def steps_captured(capture: Capture = cuda_graph) -> Iterator[None]:
    """Inside, steps of edits are captured where they can be.

    Args:
        capture: makes of a step and what it is given first one that is replayed.
    """
    token = _wanted.set(capture)
    try:
        yield
    finally:
        _wanted.reset(token)


def captured(step: Step, sample: Tensor) -> Step:
    """Return a step captured, where that is asked for and succeeds; else itself, and a failure is said.

    Args:
        step, sample: see `cuda_graph`.
    """
    capture = _wanted.get()
    if capture is None:
        return step
    try:
        return capture(step, sample)
    except Exception as error:  # of the model's own code, or of the device
        logger.warning("a step could not be captured (%s); it is run call by call", first_line(error))
        return step
