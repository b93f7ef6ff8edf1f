"""A model whose matrices are cut over several processes: transformers' tensor parallelism (`tp_plan`).

Every process runs the same commands on the same prompts; hidden states are whole on each of them, matrices are not. A
matrix is read whole where its values are asked for, a key is put together from the parts that the processes see, and a
changed matrix takes the place of the part that a process has: writing is local, and undoing puts the part's own bits
back. Reading is collective: what one process asks, all have to ask.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from factedit.errors import UnsupportedModel
from factedit.models.adapter import EditableModel
from factedit.models.check import prove_family
from factedit.models.families import MatrixName
from factedit.models.fingerprint import Fingerprint
from factedit.models.matrix import Matrix, MatrixHook
from factedit.models.sound import refuse_unsound


class ShardedModel(EditableModel):
    """An `EditableModel` of which this process has a part.

    Args:
        model: a causal language model of transformers, loaded with a tensor-parallel plan.
        tokenizer: its fast tokenizer.
        name: how to call it in results.

    Raises:
        UnsupportedModel: as of any model; experts.
    """

    def __init__(self, model: Any, tokenizer: Any, *, name: str = "model") -> None:
        super().__init__(model, tokenizer, name=name)
        self._weights = Fingerprint(model, self._all_tensors)

    def _refuse(self, model: Any, tokenizer: Any) -> None:
        self.lm = model
        refuse_unsound(model, tokenizer, self._all_tensors)

    def _check(self) -> None:
        if self._mixtures:
            raise UnsupportedModel(f"{self.name} has experts, which are not followed over processes. Load it whole.")
        prove_family(self)

    @property
    def words(self) -> Tensor:
        """The output matrix `[vocab, d_model]`, whole."""
        return whole(self.lm.get_output_embeddings().weight)

    def tensor(self, name: str) -> Tensor:
        """Return a parameter or buffer, whole; see `EditableModel.tensor`."""
        return whole(super().tensor(name))

    def matrix(self, layer: int, which: MatrixName = "out") -> Matrix:
        """Return one of the MLP's matrices; see `EditableModel.matrix`."""
        plain = super().matrix(layer, which)
        return ShardedMatrix(plain.place, plain.module, plain.name, plain.stored_in_out, plain.owner)


class ShardedMatrix(Matrix):
    """A matrix of which this process has some rows or columns."""

    @property
    def parameter(self) -> nn.Parameter:
        """The whole matrix, put together."""
        return nn.Parameter(whole(self.module.weight), requires_grad=False)

    @property
    def bias(self) -> Tensor | None:
        """What is added to the product, `[d_out]`."""
        bias: Any = getattr(self.module, "bias", None)
        return None if bias is None else whole(bias)

    def given(self, keys: Tensor) -> Tensor:
        """Return what its module gives for whole keys; see `Matrix.given`."""
        weight: Any = self.module.weight
        inner = weight.to_local().shape[0 if self.stored_in_out else 1] if is_cut(weight) else self.shape[0]
        return gathered(super().given(own_part(keys, inner)), self.shape[1])

    @contextmanager
    def _in_place(self, new: Tensor) -> Iterator[None]:
        """The part of this process with the part of another tensor; the same bits as before on leaving."""
        weight: Any = self.module.weight
        if not is_cut(weight):
            with super()._in_place(new):
                yield
            return
        part = weight.to_local()
        kept = part.detach().clone()
        with torch.no_grad():
            part.copy_(part_of(new, weight))
        try:
            yield
        finally:
            with torch.no_grad():
                part.copy_(kept)

    @contextmanager
    def watched(self, hook: MatrixHook) -> Iterator[None]:
        """See what it reads and gives, both whole, or replace what it gives; see `Matrix.watched`."""
        inner, outer = self.shape

        def put_together(key: Tensor, value: Tensor) -> Tensor | None:
            new = hook(gathered(key, inner), gathered(value, outer))
            return None if new is None else own_part(new, value.shape[-1])

        with super().watched(put_together):
            yield


def is_cut(tensor: Any) -> bool:
    """Return whether a tensor lies in parts over several processes."""
    return hasattr(tensor, "full_tensor")


def is_sharded(model: Any) -> bool:
    """Return whether transformers has cut a model's matrices over processes."""
    return isinstance(model, nn.Module) and any(is_cut(parameter) for parameter in model.parameters())


def whole(tensor: Any) -> Tensor:
    """Return a tensor, put together from the parts of all processes where it was cut."""
    part = tensor.detach()
    joined: Tensor = part.full_tensor() if is_cut(part) else part
    return joined


def part_of(new: Tensor, like: Any) -> Tensor:
    """Return the part of a whole tensor that this process has of another one like it."""
    from torch.distributed.tensor import distribute_tensor

    cut: Any = distribute_tensor(new.contiguous(), like.device_mesh, like.placements, src_data_rank=None)
    part: Tensor = cut.to_local()
    return part


def gathered(seen: Tensor, width: int) -> Tensor:
    """Return `[…, width]` from the parts that the processes see; what is whole is returned as it is."""
    if seen.shape[-1] == width:
        return seen
    from torch.distributed.nn.functional import all_gather

    parts: Any = all_gather(seen.contiguous())  # gradients reach the part
    return torch.cat(list(parts), dim=-1)


def own_part(whole_one: Tensor, width: int) -> Tensor:
    """Return the part of `[…, d]` that this process has, where it has `[…, width]`."""
    import torch.distributed as dist

    return whole_one if whole_one.shape[-1] == width else whole_one.split(width, dim=-1)[dist.get_rank()]
