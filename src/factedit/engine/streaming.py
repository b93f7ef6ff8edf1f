"""Layers that come and go: hidden states pass one while it is there, and gradients run it again on the way back.

Of a layer that went only what it received is kept. On the way back it comes once more and its states are computed
again, to the bit. A layer that somebody watches (an offset is added to its matrix's output, say) is not run again,
since the watching is over by then: its weights stay until the gradients have passed.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from factedit.engine.products import own_products
from factedit.models.adapter import EditableModel


def passed(
    model: EditableModel, hidden: Sequence[Tensor], layers: range, ones: Sequence[Callable[[int, Tensor], Tensor]]
) -> list[Tensor]:
    """Take several hidden states through layers that are read from disk; a layer comes once for all of them.

    Gradients come back in the same order: whatever passed a layer last comes back through it first.

    Args:
        model: whose.
        hidden: what the first layer receives.
        layers: which, in order.
        ones: for each of the hidden states what takes it through one layer that is there.
    """
    states = list(hidden)
    for layer in layers:
        then = layer + 1 if layer + 1 in layers else None
        recorded = torch.is_grad_enabled() and not _watched(model, layer)
        for n, one in enumerate(ones):
            visit = _Visit(model, layer, one, (then, layer - 1 if layer - 1 in layers else None))
            states[n] = _again_later(visit, states[n]) if recorded else visit(states[n])
    return states


class _Visit:
    """A layer's work on one hidden state; done a second time for gradients, the layer below comes next."""

    def __init__(
        self, model: EditableModel, layer: int, one: Callable[[int, Tensor], Tensor], then: tuple[int | None, ...]
    ) -> None:
        self.model, self.layer, self.one, self.then = model, layer, one, list(then)

    def __call__(self, hidden: Tensor) -> Tensor:
        then = self.then.pop(0) if self.then else None
        with self.model.present(self.layer, then), own_products(self.model, range(self.layer, self.layer + 1)):
            return self.one(self.layer, hidden)


Walk = Generator[int, None, Tensor]  # names the layer that it goes through next; gives what comes out of the last


def in_step(model: EditableModel, walks: Sequence[Walk]) -> Iterator[Tensor]:
    """Yield what walks through the layers give: one after the other in memory, in step where layers come from disk.

    Args:
        model: whose layers.
        walks: each ascending, through some or all layers.
    """
    if not model.streamed:
        for walk in walks:
            yield _ended(walk)
        return
    at = [_step(walk) for walk in walks]  # the next layer, or what came out
    for layer in range(min([where for where in at if isinstance(where, int)], default=model.n_layer), model.n_layer):
        with model.present(layer, layer + 1 if layer + 1 < model.n_layer else None):
            at = [
                _step(walk) if isinstance(where, int) and where == layer else where
                for walk, where in zip(walks, at, strict=True)
            ]
    yield from (where for where in at if not isinstance(where, int))


def _step(walk: Walk) -> int | Tensor:
    try:
        return next(walk)
    except StopIteration as end:
        output: Tensor = end.value
        return output


def _ended(walk: Walk) -> Tensor:
    reached = _step(walk)
    while isinstance(reached, int):
        reached = _step(walk)
    return reached


def _again_later(visit: _Visit, hidden: Tensor) -> Tensor:
    output: Tensor = checkpoint(visit, hidden, use_reentrant=False, preserve_rng_state=False)
    return output


def _watched(model: EditableModel, layer: int) -> bool:
    """Return whether a hook acts on a part of a layer."""
    return any(part._forward_hooks for part in model.layers[layer].modules())
