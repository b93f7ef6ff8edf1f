"""A matrix of an MLP as a thing: its shape, its values, watched or replaced while the model runs.

Whatever an architecture calls it and however it stores it, a matrix is `[d_in, d_out]` here. This is the one place
that knows how values are read and written; matrices of experts and quantised ones differ from others here alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from factedit.errors import EditError
from factedit.models.families import Place
from factedit.models.finite import all_finite

MatrixHook = Callable[[Tensor, Tensor], Tensor | None]
ValueHook = Callable[[Tensor], Tensor | None]
Where = tuple[Any, Any]  # an index into rows and tokens
Noted = list[tuple[Tensor, Tensor]]  # keys and values, one pair per call


@dataclass(frozen=True)
class Matrix:
    """One matrix of one layer's MLP.

    Attributes:
        place: layer and name.
        module: that multiplies by it; `module.weight` stores it.
        name: of its parameter in the model's `state_dict`.
        stored_in_out: it is stored `[d_in, d_out]`, not `[d_out, d_in]`.
        owner: the layer's module; its present call tells the rows and tokens of a batch.
    """

    place: Place
    module: nn.Module
    name: str
    stored_in_out: bool
    owner: nn.Module

    @property
    def parameter(self) -> nn.Parameter:
        """The parameter that stores it, in the model's own orientation."""
        return self.module.weight  # type: ignore[return-value]

    @property
    def stored(self) -> Tensor:
        """It, as the model stores it: a view of the model's memory."""
        return self.parameter.detach()

    @property
    def values(self) -> Tensor:
        """W `[d_in, d_out]`: a view of the model's memory."""
        return self.turned(self.stored)

    def turned(self, tensor: Tensor) -> Tensor:
        """Return a tensor as the model stores it in `[d_in, d_out]`, or the other way round."""
        return tensor if self.stored_in_out else tensor.T

    @property
    def bias(self) -> Tensor | None:
        """What is added to the product, `[d_out]`."""
        return getattr(self.module, "bias", None)

    @property
    def shape(self) -> tuple[int, int]:
        """`[d_in, d_out]` of the whole, without reading it."""
        rows, columns = map(int, self.module.weight.shape)  # type: ignore[arg-type]
        return (rows, columns) if self.stored_in_out else (columns, rows)

    @property
    def width(self) -> int:
        """d_in, of the keys."""
        return self.shape[0]

    def given(self, keys: Tensor) -> Tensor:
        """Return what its module gives for whole keys `[…, d_in]`, the bias added."""
        values: Tensor = self.module(keys)
        return values

    def product(self, keys: Tensor) -> Tensor:
        """Return keys `[n, d_in]` times W: `[n, d_out]`, without the bias."""
        return keys @ self.values.to(keys.dtype)

    def parts(self, rows: Tensor) -> dict[str, Tensor]:
        """Return the rows `[d_in, …]` by matrix: all are this one's (of a mixture of experts there are several)."""
        return {self.place[1]: rows}

    @property
    def norm(self) -> float:
        """The Frobenius norm, taken in float32."""
        return float(self.values.float().norm())

    @contextmanager
    def replaced(self, weight: Tensor) -> Iterator[None]:
        """Yield the model with another matrix `[d_in, d_out]` here; the same bits as before on leaving.

        Raises:
            EditError: the new matrix holds values that are not finite, or has another shape.
        """
        layer, parameter = self.place[0], self.parameter
        if tuple(weight.shape) != self.shape:
            raise EditError(f"The new matrix is {tuple(weight.shape)}; layer {layer} needs {self.shape}.")
        new = self.turned(weight).to(parameter.dtype)
        if not all_finite(new):
            raise EditError(
                f"The new matrix of layer {layer} holds values that are not finite; the model is unchanged."
            )
        with self._in_place(new):
            yield

    @contextmanager
    def _in_place(self, new: Tensor) -> Iterator[None]:
        """The parameter with another tensor, as it is stored; the same bits as before on leaving."""
        parameter, kept = self.parameter, self.parameter.data
        parameter.data = new.to(parameter.device).contiguous()
        try:
            yield
        finally:
            parameter.data = kept

    @contextmanager
    def noted(self, where: Where) -> Iterator[Noted]:
        """Inside, what it reads and gives at some places of every call is noted.

        Args:
            where: which rows and tokens.
        """
        seen: Noted = []
        with self.watched(lambda key, value: seen.append((key[where].clone(), value[where].clone()))):
            yield seen

    @contextmanager
    def valued(self, hook: ValueHook) -> Iterator[None]:
        """See what it gives, `[batch, tokens, d_out]`, or replace it."""
        with self.watched(lambda _key, value: hook(value)):
            yield

    @contextmanager
    def watched(self, hook: MatrixHook) -> Iterator[None]:
        """See what it reads and gives, or replace what it gives.

        Args:
            hook: gets key `[batch, tokens, d_in]` and value `[batch, tokens, d_out]` (before any norm that follows);
                a tensor it returns takes the value's place.
        """
        with ExitStack() as stack:
            shape = stack.enter_context(shape_of_calls(self.owner))

            def call(_module: nn.Module, inputs: Any, output: Tensor) -> Tensor | None:
                new = hook(inputs[0].view(*shape, -1), output.view(*shape, -1))
                return None if new is None else new.view_as(output)

            handle = self.module.register_forward_hook(call)
            stack.callback(handle.remove)
            yield


def first_of(output: Any) -> Tensor:
    """Return the hidden states of what a module gives, which may be a tuple."""
    first: Tensor = output[0] if isinstance(output, tuple) else output
    return first


@contextmanager
def forward_replaced(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Inside, a module runs `forward`; its own, or that of whoever patched it before, is back on leaving."""
    patched = module.__dict__.get("forward")
    module.forward = forward
    try:
        yield
    finally:
        module.__dict__.pop("forward", None)
        if patched is not None:
            module.__dict__["forward"] = patched


@contextmanager
def run_once(module: nn.Module, kept: list[Any]) -> Iterator[None]:
    """Inside, a module runs at its first call and gives the same again at every later one, without gradients.

    For calls that all read the same and reach nothing before it: its hooks go on seeing what it gives.

    Args:
        module: which.
        kept: what it gave before, in one entry; filled by the first call where it is empty.
    """
    plain = module.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        if not kept:
            with torch.no_grad():
                kept.append(plain(*args, **kwargs))
        return kept[0]

    with forward_replaced(module, forward):
        yield


@contextmanager
def shape_of_calls(layer: nn.Module) -> Iterator[list[int]]:
    """Yield `[batch, tokens]` of the layer's present call: some families flatten tokens inside a layer."""
    shape: list[int] = []

    def note(_module: nn.Module, args: Any, kwargs: Any) -> None:
        hidden = args[0] if args else kwargs["hidden_states"]
        shape[:] = hidden.shape[:2]

    handle = layer.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield shape
    finally:
        handle.remove()
