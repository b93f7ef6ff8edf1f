"""A layer's experts: stacked matrices, to some of which a router sends each token.

The block gives Σ_e w_e (k_e W_e + b_e), over the experts e that a token is sent to; shared experts get every token,
with weight 1 or their gate's. So all experts of a layer are, to rounding, one matrix [W_0; W_1; …] whose key is
[w_0 k_0, w_1 k_1, …], zero where a token is not sent, and what ROME (arXiv 2202.05262) says of the last matrix of an
MLP holds of it word for word (docs/decisions/0022-experts.md).
Experts are called in the model's own way (eager, grouped or batched products): what is watched is computed beside it,
and a value that takes another's place is added as a difference.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from factedit.errors import UnsupportedModel
from factedit.models.families import SHARED, Family, matrix_name
from factedit.models.matrix import Matrix, MatrixHook, Noted, ValueHook, Where, first_of, shape_of_calls


class Routed(NamedTuple):
    """Which experts tokens are sent to.

    Attributes:
        states: what the experts read, `[…, d_model]`.
        experts: their numbers, `[…, k]`.
        weights: the router's, `[…, k]`.
    """

    states: Tensor
    experts: Tensor
    weights: Tensor

    def at(self, where: Any) -> Routed:
        """Return the same of some tokens."""
        return Routed(self.states[where], self.experts[where], self.weights[where])

    def weight_of(self, expert: int) -> Tensor:
        """Return the weight of one expert, zero where a token is not sent to it, `[…, 1]`."""
        return (self.weights * (self.experts == expert)).sum(-1, keepdim=True)


class Mixture:
    """All experts of a layer, and the shared one, as one matrix.

    Args:
        layer: which.
        owner: the layer's module.
        family: where the experts are.
        prefix: the layer's name in the `state_dict`.

    Attributes:
        module: the experts' module of transformers.
        block: the module that gives the MLP's contribution: router, experts and what they share.
        count: how many routed experts.
        shared: the shared expert's last matrix, or None.
        slices: per name of a last matrix (`out.0` …, `out.shared`) its part of the joined key.
        width: of the joined key.

    Raises:
        UnsupportedModel: the experts are not stored as the family says.
    """

    def __init__(self, layer: int, owner: nn.Module, family: Family, prefix: str) -> None:
        self.layer, self.owner = layer, owner
        self.module: Any = owner.get_submodule(family.experts)
        self.block = owner.get_submodule(family.experts.rpartition(".")[0])
        self.shared: Matrix | None = None
        self._shared_gate: nn.Module | None = None
        if self.module.is_transposed != family.stored_in_out:
            raise UnsupportedModel(
                f"The experts of layer {layer} are not stored as {family.name} stores them. Please report it."
            )
        stacked: Any = self.module.down_proj
        self.count = int(stacked.shape[0])
        width = int(stacked.shape[1 if self.module.is_transposed else 2])
        self.slices = {matrix_name("out", e): slice(e * width, (e + 1) * width) for e in range(self.count)}
        self.width = self.count * width
        if family.shared:
            path, name = f"{family.shared}.down_proj", matrix_name("out", SHARED)
            self.shared = Matrix((layer, name), owner.get_submodule(path), f"{prefix}.{path}.weight", False, owner)
            self._shared_gate = owner.get_submodule(family.shared_gate) if family.shared_gate else None
            self.slices[name] = slice(self.width, self.width + self.shared.width)
            self.width += self.shared.width
        self._watching: list[tuple[int, str, MatrixHook]] = []

    # -- one expert --------------------------------------------------------------------------------

    def read(self, states: Tensor, expert: int) -> Tensor:
        """Return what an expert's first matrix gives for states `[…, d_model]`, gate and all."""
        module = self.module
        return self._product(states, "gate_up_proj" if module.has_gate else "up_proj", expert)

    def key(self, first: Tensor) -> Tensor:
        """Return what an expert's last matrix reads, from what its first gives: `[…, d_in]`."""
        key: Tensor = self.module._apply_gate(first) if self.module.has_gate else self.module.act_fn(first)
        return key

    def value(self, key: Tensor, expert: int) -> Tensor:
        """Return what an expert's last matrix gives for keys `[…, d_in]`."""
        return self._product(key, "down_proj", expert)

    def _product(self, x: Tensor, name: str, expert: int) -> Tensor:
        weight = getattr(self.module, name)[expert]
        bias = getattr(self.module, f"{name}_bias")[expert] if self.module.has_bias else None
        return nn.functional.linear(x, weight.T if self.module.is_transposed else weight, bias)

    @contextmanager
    def watching(self, expert: int, kind: str, hook: MatrixHook) -> Iterator[None]:
        """See what a matrix of one expert reads and gives for every token, or replace what it gives.

        A token that is not sent to the expert is shown all the same, as if it were; what the hook makes of it has no
        effect.

        Args:
            expert: its number.
            kind: `in` or `out`.
            hook: see `Matrix.watched`.
        """
        entry = (expert, kind, hook)
        with ExitStack() as stack:
            if not self._watching:
                shape = stack.enter_context(shape_of_calls(self.block))
                handle = self.module.register_forward_hook(
                    lambda _m, args, kwargs, output: self._changed(self._routed(args, kwargs, shape), output),
                    with_kwargs=True,
                )
                stack.callback(handle.remove)
            self._watching.append(entry)
            try:
                yield
            finally:
                self._watching.remove(entry)

    def _changed(self, routed: Routed, output: Tensor) -> Tensor | None:
        """What the experts give with the values that hooks put in place of theirs."""
        new = None
        for expert in dict.fromkeys(number for number, _, _ in self._watching):
            first = plain_first = self.read(routed.states, expert)
            for hook in self._of(expert, "in"):
                first = _replaced(hook(routed.states, first), first)
            key = self.key(first)
            value = plain = self.value(key, expert)
            for hook in self._of(expert, "out"):
                value = _replaced(hook(key, value), value)
            if first is not plain_first:
                plain = self.value(self.key(plain_first), expert)
            if value is not plain:
                change = routed.weight_of(expert) * (value - plain)
                new = (output if new is None else new) + change.view_as(output).to(output.dtype)
        return new

    def _of(self, expert: int, kind: str) -> list[MatrixHook]:
        return [hook for number, which, hook in self._watching if (number, which) == (expert, kind)]

    # -- all together ------------------------------------------------------------------------------

    @property
    def norm(self) -> float:
        """The Frobenius norm of all last matrices together, taken in float32."""
        squares = float(self.module.down_proj.detach().float().square().sum())
        return math.sqrt(squares + (self.shared.norm**2 if self.shared else 0.0))

    def product(self, keys: Tensor) -> Tensor:
        """Return joined keys `[n, width]` times the joined matrix: `[n, d_model]`, without biases."""
        total = keys.new_zeros(len(keys), self.module.down_proj.shape[2 if self.module.is_transposed else 1])
        for name in self.parts(keys.T):
            total = total + keys[:, self.slices[name]] @ self.values(name).to(keys.dtype)
        return total

    def values(self, name: str) -> Tensor:
        """Return W `[d_in, d_out]` of one of the last matrices: a view of the model's memory."""
        if self.shared and name == self.shared.place[1]:
            return self.shared.values
        stored: Tensor = self.module.down_proj.detach()[int(name.partition(".")[2])]
        return stored if self.module.is_transposed else stored.T

    def parts(self, joined: Tensor) -> dict[str, Tensor]:
        """Return the rows of a joined `[width, …]` by last matrix, of those alone that are not all zero."""
        return {name: joined[rows] for name, rows in self.slices.items() if bool(joined[rows].any())}

    @contextmanager
    def noted(self, where: Where) -> Iterator[Noted]:
        """Inside, joined keys and the block's values at some places of every call are noted; see `Matrix.noted`."""
        seen: Noted = []
        calls: dict[str, Any] = {}

        def give(_module: nn.Module, _args: Any, output: Any) -> None:
            value = first_of(output).view(*calls["shape"], -1)[where].clone()
            seen.append((self._joined(calls["routed"].at(where), calls.get("shared")), value))

        with ExitStack() as stack:
            stack.enter_context(self.routed(lambda routed: calls.update(routed=routed, shape=routed.states.shape[:2])))
            if self.shared:
                stack.enter_context(self.shared.watched(lambda key, _v: calls.update(shared=key[where])))
            stack.callback(self.block.register_forward_hook(give).remove)
            yield seen

    @contextmanager
    def valued(self, hook: ValueHook) -> Iterator[None]:
        """See, or replace, what the block gives, `[batch, tokens, d_model]`."""
        with ExitStack() as stack:
            shape = stack.enter_context(shape_of_calls(self.block))

            def call(_module: nn.Module, _args: Any, output: Any) -> Any:
                first = first_of(output)
                new = hook(first.view(*shape, -1))
                if new is None:
                    return None
                return (new.view_as(first), *output[1:]) if isinstance(output, tuple) else new.view_as(first)

            stack.callback(self.block.register_forward_hook(call).remove)
            yield

    @contextmanager
    def routed(self, hook: Callable[[Routed], None]) -> Iterator[None]:
        """See which experts every token of a call is sent to, `[batch, tokens, …]`."""
        with ExitStack() as stack:
            shape = stack.enter_context(shape_of_calls(self.block))
            note = lambda _m, args, kwargs: hook(self._routed(args, kwargs, shape))  # noqa: E731
            stack.callback(self.module.register_forward_pre_hook(note, with_kwargs=True).remove)
            yield

    def _routed(self, args: Any, kwargs: Any, shape: list[int]) -> Routed:
        states, experts, weights = inspect.signature(self.module.forward).bind(*args, **kwargs).args[:3]
        return Routed(*(tensor.view(*shape, -1) for tensor in (states, experts, weights)))

    @contextmanager
    def keys_seen(self, hook: Callable[[str, Tensor], None], real: Tensor | slice) -> Iterator[None]:
        """See the weighted keys of every expert, from the tokens alone that are sent to it.

        Args:
            hook: gets the name of a last matrix and `[tokens, d_in]`.
            real: which of a call's tokens (rows after one another) count.
        """

        calls: dict[str, Tensor] = {}  # of the shared expert, which some families call before the others

        def each(routed: Routed) -> None:
            for name, _, keys in self._parted(Routed(*(tensor.flatten(0, 1)[real] for tensor in routed))):
                hook(name, keys)
            both(gate=self._weight_of_shared(routed.states))

        def both(**seen: Tensor) -> None:
            calls.update(seen)
            if self.shared and len(calls) == 2:
                hook(self.shared.place[1], (calls.pop("key") * calls.pop("gate")).flatten(0, 1)[real])

        with ExitStack() as stack:
            stack.enter_context(self.routed(each))
            if self.shared:
                stack.enter_context(self.shared.watched(lambda key, _value: both(key=key)))
            yield

    def _parted(self, routed: Routed) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Per expert that gets any of the tokens `[n, …]`: its matrix, which tokens, and its keys times its weights."""
        order = routed.experts.flatten().argsort(stable=True)
        counts = torch.bincount(routed.experts.flatten(), minlength=self.count).tolist()
        token = order // routed.experts.shape[-1]
        weights = routed.weights.flatten()[order, None]
        for expert, (sent, weight) in enumerate(zip(token.split(counts), weights.split(counts), strict=True)):
            if len(sent):
                key = self.key(self.read(routed.states[sent], expert))
                wide = torch.promote_types(key.dtype, torch.float32)
                yield matrix_name("out", expert), sent, weight.to(wide) * key.to(wide)

    def _joined(self, routed: Routed, shared: Tensor | None) -> Tensor:
        """The joined keys `[n, width]` of tokens `[n, …]`."""
        wide = torch.promote_types(routed.states.dtype, torch.float32)
        keys = routed.states.new_zeros(len(routed.states), self.width, dtype=wide)
        for name, sent, key in self._parted(routed):
            keys[sent, self.slices[name]] = key
        if self.shared and shared is not None:
            keys[:, self.slices[self.shared.place[1]]] = shared.to(wide) * self._weight_of_shared(routed.states)
        return keys

    def _weight_of_shared(self, states: Tensor) -> Tensor:
        """The weight of the shared expert, `[…, 1]`."""
        return states.new_ones(1) if self._shared_gate is None else torch.sigmoid(self._shared_gate(states))

    def bias(self, routed: Routed) -> Tensor | None:
        """Return what the block gives beside joined key times joined matrix, `[…, d_model]`: Σ_e w_e b_e."""
        total: Tensor | None = None
        if self.module.has_bias:
            biases: Tensor = self.module.down_proj_bias.detach()[routed.experts]
            total = (biases * routed.weights[..., None]).sum(-2)
        if self.shared and self.shared.bias is not None:
            shared = self.shared.bias.detach() * self._weight_of_shared(routed.states)
            total = shared if total is None else total + shared
        return total


def _replaced(new: Tensor | None, old: Tensor) -> Tensor:
    return old if new is None else new
