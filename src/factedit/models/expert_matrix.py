"""A matrix of one expert: a part of a stacked tensor, `[E, d_out, d_in]` or `[E, d_in, d_out]`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor, nn

from factedit.errors import UnsupportedModel, UsageError
from factedit.models.experts import Mixture
from factedit.models.families import SHARED, Family, matrix_name, split_name
from factedit.models.matrix import Matrix, MatrixHook


@dataclass(frozen=True)
class ExpertMatrix(Matrix):
    """One matrix of one routed expert.

    `in` holds the gate's rows too, in the family's own order.

    Attributes:
        mixture: the layer's experts.
    """

    mixture: Mixture

    @classmethod
    def of(cls, mixture: Mixture, name: str, prefix: str) -> ExpertMatrix:
        """Return a matrix by its name, e.g. `out.5`.

        Args:
            mixture: the layer's experts.
            name: `in` or `out` and the expert's number.
            prefix: the name of the experts' module in the `state_dict`.
        """
        module = mixture.module
        stack = "down_proj" if split_name(name)[0] == "out" else "gate_up_proj" if module.has_gate else "up_proj"
        return cls((mixture.layer, name), module, f"{prefix}.{stack}", module.is_transposed, mixture.owner, mixture)

    @property
    def expert(self) -> int:
        """Its number."""
        return int(split_name(self.place[1])[1])

    @cached_property
    def _stack(self) -> str:
        return self.name.rpartition(".")[2]

    @property
    def parameter(self) -> nn.Parameter:
        """The parameter that stores it and the same matrix of the other experts."""
        return getattr(self.module, self._stack)  # type: ignore[no-any-return]

    @property
    def stored(self) -> Tensor:
        """Its part of the parameter."""
        return self.parameter.detach()[self.expert]

    @property
    def shape(self) -> tuple[int, int]:
        """`[d_in, d_out]`."""
        return self.values.shape[0], self.values.shape[1]

    @property
    def bias(self) -> Tensor | None:
        """What is added to the product, `[d_out]`."""
        return getattr(self.module, f"{self._stack}_bias")[self.expert] if self.module.has_bias else None

    @contextmanager
    def _in_place(self, new: Tensor) -> Iterator[None]:
        stored = self.stored
        kept = stored.clone()
        stored.copy_(new)
        try:
            yield
        finally:
            stored.copy_(kept)

    @contextmanager
    def watched(self, hook: MatrixHook) -> Iterator[None]:
        """See `Mixture.watching`."""
        with self.mixture.watching(self.expert, split_name(self.place[1])[0], hook):
            yield


def check_expert(model: str, family: Family, layer: int, which: str, mixture: Mixture | None) -> None:
    """Refuse the name of a matrix that a layer does not have.

    Args:
        model: its name.
        family: its row.
        layer, which: the matrix.
        mixture: the layer's experts; None where it has one MLP.

    Raises:
        UsageError: an expert where there is none, none where there are several, or one that is not there.
        UnsupportedModel: the gate of an expert, which is in its first matrix.
    """
    kind, expert = split_name(which)
    if mixture is None:
        if expert:
            raise UsageError(f"The matrix {which!r} was asked for; layer {layer} of {model} has no experts.")
        return
    last = matrix_name(kind, mixture.count - 1)
    shared = f", and {matrix_name(kind, SHARED)}" if mixture.shared else ""
    known = mixture.shared is not None if expert == SHARED else expert.isdecimal() and int(expert) < mixture.count
    if not known:
        raise UsageError(
            f"The matrix {which!r} was asked for; layer {layer} of {model} is a mixture of {mixture.count} "
            f"experts: name one, {matrix_name(kind, 0)} to {last}{shared}. A method that changes one matrix per "
            "layer does not fit; those that write keys and values do (rome, rome-joint, memit and their like)."
        )
    if kind == "gate" and expert != SHARED:
        raise UnsupportedModel(f"The experts of {family.name} have no matrix 'gate' of their own: see 'in'.")
