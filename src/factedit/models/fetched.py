"""A matrix whose module may be empty: its numbers lie elsewhere, and the model knows where."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from factedit.models.adapter import EditableModel
from factedit.models.matrix import Matrix


@dataclass(frozen=True)
class FetchedMatrix(Matrix):
    """A matrix that is fetched where its values are asked for and its module does not hold them.

    Attributes:
        model: whose; its `tensor` gives what stands there now.
    """

    model: EditableModel

    @property
    def parameter(self) -> nn.Parameter:
        """The parameter; while its module is empty, one that was just fetched."""
        weight: nn.Parameter = self.module.weight  # type: ignore[assignment]
        return nn.Parameter(self.model.tensor(self.name), requires_grad=False) if weight.is_meta else weight

    @property
    def bias(self) -> Tensor | None:
        """What is added to the product, `[d_out]`."""
        bias: Tensor | None = getattr(self.module, "bias", None)
        return (
            self.model.tensor(self.name.removesuffix("weight") + "bias") if bias is not None and bias.is_meta else bias
        )
