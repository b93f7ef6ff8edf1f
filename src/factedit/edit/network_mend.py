"""MEND's network: a gradient's factors, transformed token by token (arXiv 2110.11309, §3.1, eq. 2 and 3).

Per shape of matrix one small MLP takes the concatenated, normalised (x, δ) of a token and gives (x̃, δ̃); matrices of
one shape share it with a scale and a shift of their own. It is the identity to begin with. Then
ΔW = −rate · Σ_tokens x̃ δ̃ᵀ with a learned rate per matrix.

Departures: to an entry's standard deviation a hundredth of the mean one is added, so that an entry that is nearly
always zero does not blow up where it is not; the low-rank factors V are drawn with variance 1 / d, not 1, so that one
learning rate suits all widths; the default rank is smaller (see `MendSettings`); each learned rate stays with its own
matrix; the second layer has a bias b, too, where eq. 3b has none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from factedit.edit.factors import Factors, Products
from factedit.models.families import Place

TINY = 1e-12
LEAST_SHARE = 0.01


class MendSettings(BaseModel):
    """The size of the network; published: rank 1920.

    Args:
        rank: of each layer's low-rank map.
        rate: what every matrix's learned rate begins with.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    rank: int = Field(256, ge=1)
    rate: float = Field(1e-4, gt=0)


class MendNetwork(nn.Module):
    """The network for a set of matrices.

    Args:
        shapes: `[d_in, d_out]` of every edited matrix.
        settings: the size.
        seed: of the initial weights.
    """

    reads_sentence = False

    def __init__(self, shapes: Mapping[Place, tuple[int, int]], settings: MendSettings, *, seed: int) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(seed)
        self._place = {place: n for n, place in enumerate(shapes)}
        alike: dict[tuple[int, int], list[Place]] = {}
        for place, shape in shapes.items():
            alike.setdefault(shape, []).append(place)
        self._own = {place: (_name(shape), n) for shape, group in alike.items() for n, place in enumerate(group)}
        self.transforms = nn.ModuleDict(
            {_name(shape): _Transform(shape, len(group), settings.rank, random) for shape, group in alike.items()}
        )
        self.rates = nn.Parameter(torch.full((len(shapes),), settings.rate))

    def forward(self, factors: Factors, _sentences: Tensor | None = None, _mask: Tensor | None = None) -> Products:
        """Return ΔW of every row and matrix as products of rank tokens.

        Args:
            factors: of the gradient.
        """
        products = {}
        for place, x in factors.inputs.items():
            name, mode = self._own[place]
            x_new, slope_new = cast(_Transform, self.transforms[name])(x, factors.slopes[place], mode)
            # MEND eq. 2, times the learned rate of its §3.1: ΔW = −α Σ x̃ δ̃ᵀ
            products[place] = (-self.rates[self._place[place]] * x_new.mT, slope_new)
        return products

    def groups(self, learning_rate: float, rate_learning_rate: float) -> list[dict[str, object]]:
        """Return what is learned and how fast: the rates have a learning rate of their own."""
        rest = [p for name, p in self.named_parameters() if name != "rates"]
        return [{"params": rest, "lr": learning_rate}, {"params": [self.rates], "lr": rate_learning_rate}]


def _name(shape: tuple[int, int]) -> str:
    return f"{shape[0]}x{shape[1]}"


class _Transform(nn.Module):
    """The network of one shape, and mean and spread (Σ of squared distances to the mean) of the tokens it has seen."""

    count: Tensor
    mean: Tensor
    spread: Tensor

    def __init__(self, shape: tuple[int, int], modes: int, rank: int, random: torch.Generator) -> None:
        super().__init__()
        width = sum(shape)
        self.d_in = shape[0]
        self.layers = nn.ModuleList([_Layer(width, rank, modes, random) for _ in range(2)])
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("spread", torch.zeros(width))

    def forward(self, x: Tensor, slope: Tensor, mode: int) -> tuple[Tensor, Tensor]:
        both = torch.cat([x, slope], -1)
        live = (slope != 0).any(-1, keepdim=True)  # tokens that the loss does not hang on, padding among them
        if self.training:
            self._observe(both[live[..., 0]])
        hidden = (both - self.mean) / self._deviation()
        for layer in self.layers:
            hidden = layer(hidden, mode)
        hidden = hidden * live
        return hidden[..., : self.d_in], hidden[..., self.d_in :]

    def _deviation(self) -> Tensor:
        """Return the standard deviation of every entry; one that hardly ever moves counts as a share of the others'
        mean.
        """
        if self.count < 2:
            return torch.ones_like(self.spread)
        each = (self.spread / (self.count - 1)).sqrt()
        parts = each[: self.d_in], each[self.d_in :]
        return torch.cat([part + LEAST_SHARE * part.mean() + TINY for part in parts])

    @torch.no_grad()
    def _observe(self, rows: Tensor) -> None:
        """Go on with mean and spread over all tokens seen in training."""
        if not len(rows):
            return
        count, mean = len(rows), rows.mean(0)
        total, gap = self.count + count, mean - self.mean
        self.spread += ((rows - mean) ** 2).sum(0) + gap**2 * self.count * count / total
        self.mean += gap * count / total
        self.count += count


class _Layer(nn.Module):
    """h + σ(s ⊙ (U V h + b) + o) (MEND eq. 3), with s and o of the matrix's own; the identity while U is zero."""

    def __init__(self, width: int, rank: int, modes: int, random: torch.Generator) -> None:
        super().__init__()
        rank = min(rank, width)
        self.u = nn.Parameter(torch.zeros(width, rank))
        self.v = nn.Parameter(torch.randn(rank, width, generator=random) / width**0.5)
        self.bias = nn.Parameter(torch.zeros(width))
        self.scale = nn.Parameter(torch.ones(modes, width))
        self.shift = nn.Parameter(torch.zeros(modes, width))

    def forward(self, hidden: Tensor, mode: int) -> Tensor:
        inside = (hidden @ self.v.T) @ self.u.T + self.bias
        # a clamp, whose slope at 0 is 1: a rectifier's would be 0 and nothing would begin to learn
        return hidden + (self.scale[mode] * inside + self.shift[mode]).clamp(min=0)
