"""Effects written into the weights, to the bit the same everywhere.

`W_new = round(float32(W) + ΔW)` is computed here and nowhere else, and to the bit the same on every machine and with
any number of threads: a product is summed one rank at a time, entry by entry, and never by a matrix multiplication,
whose order of summation is the library's own. So a change that is put on, written to a file, verified and
taken off again always means the same bits.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TypeVar

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from factedit.edit.effects.effect import Effect, WeightEffect
from factedit.errors import EditError
from factedit.models.adapter import EditableModel
from factedit.models.families import MatrixName, Place

_Weights = TypeVar("_Weights", bound=WeightEffect)


class PlaceFields(BaseModel):
    """What `edit.json` tells of a change of a matrix.

    Attributes:
        layer, matrix: where.
        shape: `[d_in, d_out]` of the matrix it fits.
        rank: of a low-rank change; None for a whole ΔW.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    layer: int = Field(ge=0)
    matrix: MatrixName
    shape: tuple[int, int]
    rank: int | None = Field(ge=0)


def weight_effects(effects: Iterable[Effect]) -> list[WeightEffect]:
    """Return the effects, all of which must be changes of weights.

    Raises:
        EditError: naming the first that is not.
    """
    changes = []
    for effect in effects:
        if not isinstance(effect, WeightEffect):
            raise EditError(
                f"The edit acts by {effect.kind!r}, which is no change of weights: it cannot be written into a model. "
                f"{getattr(effect, 'instead', 'Use it in memory')}, or make the edit with a method that changes "
                "weights (rome, for one)."
            )
        changes.append(effect)
    return changes


def changed(weight: Tensor, effect: WeightEffect) -> Tensor:
    """Return the matrix with a change, rounded once to its own type.

    Args:
        weight: W `[d_in, d_out]`, any float type; not changed.
        effect: of a matrix of this shape.

    Raises:
        EditError: other shapes, or a result that is not finite.
    """
    layer, matrix = effect.place
    _check_shape(weight, effect)
    new = (weight.float() + effect.delta().to(weight.device)).to(weight.dtype)
    if not torch.isfinite(new).all():
        raise EditError(
            f"The matrix {matrix!r} of layer {layer} with the edit holds values that are not finite; "
            "the model is unchanged."
        )
    return new


def check_fit(model: EditableModel, effects: Iterable[Effect]) -> None:
    """Refuse changes of weights that have other shapes than a model's matrices, or hold what is not finite.

    Raises:
        EditError: see `changed`.
        UsageError: a layer or a matrix that the model does not have.
    """
    for effect in effects:
        if isinstance(effect, WeightEffect):
            _check_shape(model.weight(*effect.place), effect)
            if not all(bool(torch.isfinite(tensor).all()) for tensor in effect.tensors().values()):
                layer, matrix = effect.place
                raise EditError(f"The change of the matrix {matrix!r} of layer {layer} is not finite.")


def _check_shape(weight: Tensor, effect: WeightEffect) -> None:
    if tuple(weight.shape) != effect.shape:
        layer, matrix = effect.place
        raise EditError(
            f"The edit changes a matrix {list(effect.shape)}; "
            f"the matrix {matrix!r} of layer {layer} is {list(weight.shape)}. It was made for another model."
        )


def places_of(effects: Iterable[WeightEffect]) -> list[Place]:
    """Return the matrices that changes touch, in order, each once."""
    return sorted({effect.place for effect in effects})


def changed_at(place: Place, weight: Tensor, effects: Iterable[WeightEffect]) -> Tensor:
    """Return the matrix at a place with those of the changes that touch it, one after the other.

    Raises:
        EditError: see `changed`.
    """
    for effect in effects:
        if effect.place == place:
            weight = changed(weight, effect)
    return weight


@contextmanager
def weights_changed(model: EditableModel, effects: Sequence[WeightEffect]) -> Iterator[None]:
    """Yield the model with these changes in its weights, one after the other; the same bits as before on leaving.

    Raises:
        EditError: other shapes, or a change that is not finite.
    """
    with ExitStack() as stack:
        for effect in effects:
            layer, matrix = effect.place
            new = changed(model.weight(layer, matrix), effect)
            stack.enter_context(model.with_weight(layer, new, matrix))
        yield


def at_place(rows: Sequence[Sequence[_Weights]]) -> Iterator[tuple[Place, list[list[_Weights]]]]:
    """Yield per matrix that any row changes, each row's own changes of it."""
    for place in places_of(effect for row in rows for effect in row):
        yield place, [[effect for effect in row if effect.place == place] for row in rows]


def plus_product(value: Tensor, key: Tensor, *factors: Tensor) -> Tensor:
    """Return value + key · factors, summed in the factors' type and rounded once to the value's.

    In half precision a matrix that is changed for good is rounded to its own type (`changed`), and loses what of a
    small change is below half a step of the weights; a value that is added here does not.
    """
    product = key.to(factors[0].dtype)
    for factor in factors:
        product = product @ factor
    return (value.to(product.dtype) + product).to(value.dtype)
