"""A model whose matrices are cut over several processes: transformers' tensor parallelism (`tp_plan`).

Every process runs the same commands on the same prompts; hidden states are whole on each of them, matrices are not. A
matrix is read whole where its values are asked for, a key is put together from the parts that the processes see, and a
changed matrix takes the place of the part that a process has: writing is local, and undoing puts the part's own bits
back. Reading is collective: what one process asks, all have to ask.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from factedit.errors import UnsupportedModel
from factedit.models.adapter import EditableModel
from factedit.models.check import prove_family
from factedit.models.families import MatrixName
from factedit.models.matrix import Matrix, MatrixHook


class ShardedModel(EditableModel):
    """An `EditableModel` of which this process has a part.

    Args:
        model: a causal language model of transformers, loaded with a tensor-parallel plan.
        tokenizer: its fast tokenizer.
        name: how to call it in results.

    Raises:
        UnsupportedModel: as of any model; experts.
    """

    fetched = True

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
        return gathered(super().given(part_at(keys, inner, self._among)), self.shape[1], self._among)

    @property
    def _among(self) -> Among | None:
        """The processes that its parts lie on; None where it is whole."""
        weight: Any = self.module.weight
        if not is_cut(weight):
            return None
        dimension = next((n for n, placed in enumerate(weight.placements) if placed.is_shard()), 0)
        return Among(weight.device_mesh, dimension)

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
            new = hook(gathered(key, inner, self._among), gathered(value, outer, self._among))
            return None if new is None else part_at(new, value.shape[-1], self._among)

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


class Among(NamedTuple):
    """The processes that a tensor is cut over: of a mesh with several dimensions those along one of them.

    Attributes:
        mesh: of torch's `DeviceMesh`.
        dimension: of the mesh.
    """

    mesh: Any
    dimension: int


def gathered(seen: Tensor, width: int, among: Among | None) -> Tensor:
    """Return `[…, width]` from the parts that the processes see; what is whole is returned as it is."""
    if seen.shape[-1] == width or among is None:
        return seen
    from torch.distributed.nn.functional import all_gather

    parts: Any = all_gather(seen.contiguous(), among.mesh.get_group(among.dimension))  # gradients reach the part
    return torch.cat(list(parts), dim=-1)


def part_at(whole_one: Tensor, width: int, among: Among | None) -> Tensor:
    """Return the part of `[…, d]` that this process has, where it has `[…, width]`; whole ones as they are."""
    if whole_one.shape[-1] == width or among is None:
        return whole_one
    number: int = among.mesh.get_local_rank(among.dimension)
    part: Tensor = whole_one.split(width, dim=-1)[number]
    return part
