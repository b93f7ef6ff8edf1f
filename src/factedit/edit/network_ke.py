"""KnowledgeEditor's network: a sentence read, a gradient gated (arXiv 2104.08164, "Architecture").

A bidirectional LSTM reads "old >> new || prompt" in the model's own word embeddings; its end states give a condition,
from which every matrix gets vectors α, β (over d_in), γ, δ (over d_out) and a number η:

    ΔW = s · sigmoid(η) · (∇W ⊙ a + b),   a = softmax(α) γᵀ,   b = softmax(β) δᵀ.

∇W is Σ_tokens x δᵀ, so ΔW is a product as well: the gate scales the factors, and b adds one rank.

Departures: the old answer is the first token that the model itself gives, for every data set; and the network is
trained for MEND's loss (`train/objective.py`), a weighted sum, where the paper bounds the divergence by a Lagrangian.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from factedit.edit.factors import Factors, Products
from factedit.models.families import Place


class KeSettings(BaseModel):
    """The size of the network.

    Args:
        lstm: width of each direction.
        condition: width of the condition.
        hidden: width of each matrix's own layer.
        max_scale: s, the largest step.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    lstm: int = Field(512, ge=1)
    condition: int = Field(768, ge=1)
    hidden: int = Field(128, ge=1)
    max_scale: float = Field(1.0, gt=0)


class KeNetwork(nn.Module):
    """The network for a set of matrices.

    Args:
        shapes: `[d_in, d_out]` of every edited matrix.
        settings: the size.
        d_embed: width of the word embeddings it reads.
        seed: of the initial weights.
    """

    reads_sentence = True

    def __init__(
        self, shapes: Mapping[Place, tuple[int, int]], settings: KeSettings, *, d_embed: int, seed: int
    ) -> None:
        super().__init__()
        self._shapes, self._scale = dict(shapes), settings.max_scale
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.lstm = nn.LSTM(d_embed, settings.lstm, batch_first=True, bidirectional=True)
            self.condition = nn.Linear(2 * settings.lstm, settings.condition)
            self.own = nn.ModuleList([_own(shape, settings) for shape in shapes.values()])

    def forward(self, factors: Factors, sentences: Tensor | None = None, mask: Tensor | None = None) -> Products:
        """Return ΔW of every row and matrix as products of rank tokens + 1.

        Args:
            factors: of the gradient.
            sentences: word embeddings `[rows, tokens, d_embed]`.
            mask: `[rows, tokens]`, True where there is a token; padding stands at the end.
        """
        assert sentences is not None  # the callers are this package's own
        assert mask is not None
        packed = nn.utils.rnn.pack_padded_sequence(
            sentences.float(), mask.sum(1).cpu(), batch_first=True, enforce_sorted=False
        )
        ends = self.lstm(packed)[1][0]  # the last state of each direction, [2, rows, lstm]
        condition = torch.tanh(self.condition(torch.cat([ends[0], ends[1]], -1)))
        products = {}
        for (place, (d_in, d_out)), projection in zip(self._shapes.items(), self.own, strict=True):
            parts = projection(condition).split([d_in, d_in, d_out, d_out, 1], -1)
            products[place] = self._product(factors.inputs[place], factors.slopes[place], parts)
        return products

    def _product(self, x: Tensor, slope: Tensor, parts: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        alpha, beta, gamma, delta, eta = parts
        step = self._scale * eta.sigmoid()
        # ∇W ⊙ softmax(α) γᵀ = Σ (x ⊙ softmax(α)) (δ ⊙ γ)ᵀ, since the gate has rank one
        left = torch.cat([x * alpha.softmax(-1)[:, None], beta.softmax(-1)[:, None]], 1)
        right = torch.cat([slope * gamma[:, None], delta[:, None]], 1)
        return (step[:, None] * left).mT, right

    def groups(self, learning_rate: float, _rate_learning_rate: float) -> list[dict[str, object]]:
        """Return what is learned and how fast."""
        return [{"params": list(self.parameters()), "lr": learning_rate}]


def _own(shape: tuple[int, int], settings: KeSettings) -> nn.Sequential:
    size = 2 * sum(shape) + 1
    return nn.Sequential(nn.Linear(settings.condition, settings.hidden), nn.Tanh(), nn.Linear(settings.hidden, size))
