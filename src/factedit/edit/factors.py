"""A gradient as what it is: per matrix and token an input and a slope at the output (MEND, arXiv 2110.11309, §3.1).

The gradient of a loss by a matrix is Σ_tokens x δᵀ, x being what the matrix reads at a token and δ the loss's slope by
what it gives there. Hypernetworks read and write these factors; the sum is never formed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from factedit.edit.effects.weights import plus_product
from factedit.edit.target_rows import TargetBatch
from factedit.models.adapter import EditableModel
from factedit.models.families import MATRICES, Place

Products = Mapping[Place, tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Factors:
    """The factors of the gradient of each row's loss.

    Attributes:
        inputs: x per matrix, `[rows, tokens, d_in]`, float32.
        slopes: δ per matrix, `[rows, tokens, d_out]`, float32; zero at padding.
    """

    inputs: dict[Place, Tensor]
    slopes: dict[Place, Tensor]


def last_matrices(model: EditableModel, blocks: int) -> tuple[Place, ...]:
    """Return every matrix of the MLPs of the last blocks: `out`, `in`, and `gate` where the family has one of its
    own.
    """
    layers = range(max(0, model.n_layer - blocks), model.n_layer)
    return tuple((layer, which) for layer in layers for which in model.places[layer].matrices or MATRICES[:1])


def shapes_of(model: EditableModel, places: Sequence[Place]) -> dict[Place, tuple[int, int]]:
    """Return `[d_in, d_out]` of each matrix."""
    return {place: (model.weight(*place).shape[0], model.weight(*place).shape[1]) for place in places}


def gradient_factors(batch: TargetBatch, places: Sequence[Place]) -> Factors:
    """Return the factors of the gradient of each row's loss by these matrices; the model is not changed.

    Args:
        batch: prompts and targets, run up to the first of the places' layers.
        places: which matrices.
    """
    inputs: dict[Place, Tensor] = {}
    probes: dict[Place, Tensor] = {}

    def watch(place: Place, key: Tensor, value: Tensor) -> Tensor:
        inputs[place] = key.detach().float()
        probes[place] = torch.zeros_like(value, requires_grad=True)
        return value + probes[place]

    with ExitStack() as stack, torch.enable_grad():
        stack.enter_context(batch.model.frozen())
        for place in places:
            hook = lambda key, value, p=place: watch(p, key, value)  # noqa: E731
            stack.enter_context(batch.model.on_matrix(place[0], hook, place[1]))
        total = batch.losses().sum()
        slopes = torch.autograd.grad(total, [probes[place] for place in places])
    return Factors(inputs, {place: slope.float() for place, slope in zip(places, slopes, strict=True)})


@contextmanager
def products_added(model: EditableModel, products: Products) -> Iterator[None]:
    """Let row n of a batch see ΔW = left[n] right[n] at every matrix; gradients reach the products.

    Args:
        model: the model; its weights are not touched.
        products: per matrix left `[rows, d_in, rank]` and right `[rows, rank, d_out]`.
    """

    def adding(left: Tensor, right: Tensor) -> object:
        return lambda key, value: plus_product(value, key, left, right)

    with ExitStack() as stack:
        for (layer, which), (left, right) in products.items():
            stack.enter_context(model.on_matrix(layer, adding(left, right), which))  # type: ignore[arg-type]
        yield
