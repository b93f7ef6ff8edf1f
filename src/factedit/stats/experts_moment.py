"""C of all experts of a layer: one second moment per expert, from the tokens alone that are sent to it.

The experts of a layer are one matrix whose key is the experts' keys, each times its weight, side by side
(`models/experts.py`). C of that key is taken block by block, one expert's keys with themselves: of two experts together
few tokens tell anything, and what they tell of one expert is its own block.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from factedit.errors import DataError, EditError
from factedit.models.experts import Mixture
from factedit.stats.second_moment import RunningSecondMoment, SecondMoment

NAMED = 8  # experts that got no token, in a message


@dataclass(frozen=True, eq=False)
class ExpertsMoment:
    """C of the joined keys of a layer's experts; what `SecondMoment` is of one matrix.

    Attributes:
        blocks: by the name of an expert's last matrix, E over all tokens of weight² · k kᵀ; `tokens` counts those that
            were sent there. Experts that got none are left out.
        slices: per name its part of the joined key.
        layer, tokens, model, corpus: see `SecondMoment`; `tokens` of the whole text.
    """

    blocks: Mapping[str, SecondMoment] = field(repr=False)
    slices: Mapping[str, slice] = field(repr=False)
    layer: int | None = None
    tokens: int = 0
    model: str = ""
    corpus: str = "unknown"

    @property
    def size(self) -> int:
        """Of the joined key."""
        return max(int(columns.stop) for columns in self.slices.values())

    @property
    def reached(self) -> dict[str, int]:
        """How many tokens each expert got."""
        return {name: self.blocks[name].tokens if name in self.blocks else 0 for name in self.slices}

    @property
    def unreached(self) -> tuple[str, ...]:
        """The experts that got no token."""
        return tuple(name for name in self.slices if name not in self.blocks)

    def with_ridge(self, ridge: float) -> ExpertsMoment:
        """See `SecondMoment.with_ridge`; a share of each block's own mean eigenvalue."""
        return replace(self, blocks={name: block.with_ridge(ridge) for name, block in self.blocks.items()})

    def plus(self, other: ExpertsMoment, weight: float) -> ExpertsMoment:
        """See `SecondMoment.plus`; an expert that one of the two knows nothing of has the other's block."""
        blocks = {}
        for name in self.slices:
            block, more = self.blocks.get(name), other.blocks.get(name)
            if block is None and more is not None:
                block, more = replace(more, matrix=weight * more.matrix), None
            if block is not None:
                blocks[name] = block if more is None else block.plus(more, weight)
        return replace(self, blocks=blocks, corpus=f"{self.corpus}; and {weight:g} times {other.corpus}")

    def checked(self) -> ExpertsMoment:
        """Return the same, if every block is a second moment as far as its entries tell.

        Raises:
            DataError: one is not.
        """
        for block in self.blocks.values():
            block.checked()
        return self

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the blocks' fingerprints: sha256, 16 hexadecimal digits."""
        content = " ".join(f"{name} {block.fingerprint}" for name, block in self.blocks.items())
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    @property
    def matrix(self) -> Tensor:
        """C as a whole `[size, size]`, zero between two experts.

        Raises:
            EditError: an expert got no token.
        """
        whole: Tensor = torch.block_diag(*(self.block(name).matrix for name in self.slices))
        return whole

    @property
    def _solved(self) -> list[SecondMoment]:
        return [block for block in self.blocks.values() if "_factor" in block.__dict__]

    @property
    def ridge_used(self) -> float:
        """The largest ridge in force, of the experts that were solved for."""
        return max((block.ridge_used for block in self._solved), default=0.0)

    @property
    def condition(self) -> float:
        """The largest condition number, of the experts that were solved for."""
        return max((block.condition for block in self._solved), default=0.0)

    def block(self, name: str) -> SecondMoment:
        """Return C of one expert.

        Raises:
            EditError: it got no token.
        """
        if name not in self.blocks:
            others = [other for other in self.unreached if other != name]
            more = f" (nor to {', '.join(others[:NAMED])}{' …' if len(others) > NAMED else ''})" if others else ""
            raise EditError(
                f"No token of the text ({self.tokens} tokens, {self.corpus}) is sent to the expert {name!r} of layer "
                f"{self.layer}{more}, so nothing is known of what must stay there. Compute the second moment from more "
                "text ('factedit stats --tokens', --corpus), or edit another layer."
            )
        return self.blocks[name]

    def solve(self, keys: Tensor) -> Tensor:
        """Return C⁻¹k for joined keys `[..., size]`, in float64; only experts whose keys are not zero are looked at.

        Raises:
            EditError: a key of an expert that got no token.
        """
        return self._each(SecondMoment.solve, keys)

    def solve_without(self, keys: Tensor, left_out: Tensor) -> Tensor:
        """See `SecondMoment.solve_without`; of each expert its own part, since C holds nothing between two."""
        return self._each(SecondMoment.solve_without, keys, left_out)

    def _each(self, solve: Callable[..., Tensor], keys: Tensor, *others: Tensor) -> Tensor:
        flat = [rows.double().reshape(-1, keys.shape[-1]) for rows in (keys, *others)]
        solved = torch.zeros_like(flat[0])
        for name, columns in self.slices.items():
            there = flat[0][:, columns].any(1)
            if there.any():
                solved[there, columns] = solve(self.block(name), *(part[there, columns] for part in flat))
        return solved.reshape(keys.shape)


class RunningExperts:
    """Sums weight² · k kᵀ of every expert over the tokens that are sent to it.

    Args:
        mixture: the layer's experts.

    Attributes:
        tokens: of the text so far.
    """

    def __init__(self, mixture: Mixture) -> None:
        self.slices = dict(mixture.slices)
        self.sums = {name: RunningSecondMoment(columns.stop - columns.start) for name, columns in self.slices.items()}
        self.tokens = 0

    def add(self, name: str, keys: Tensor) -> None:
        """Add an expert's weighted keys `[tokens, d_in]`."""
        self.sums[name].add(keys)

    def add_joined(self, keys: Tensor) -> None:
        """Add joined keys `[tokens, width]`."""
        for name, columns in self.slices.items():
            part = keys[:, columns]
            self.add(name, part[part.any(1)])
        self.tokens += len(keys)

    def plus(self, other: RunningExperts) -> None:
        """Add the sums over other tokens; see `RunningSecondMoment.plus`."""
        for name, sums in other.sums.items():
            if sums.tokens:
                self.sums[name].plus(sums)
        self.tokens += other.tokens

    def moment(self, layer: int, model: str, corpus: str) -> ExpertsMoment:
        """Return C of the layer.

        Raises:
            DataError: no text was read, or keys that are not finite.
        """
        if not self.tokens:
            raise DataError("No text was read, so there is no second moment: give a corpus that is not empty.")
        blocks = {}
        for name, sums in self.sums.items():
            if sums.tokens:
                mean = sums.mean() * (sums.tokens / self.tokens)
                blocks[name] = SecondMoment(mean, layer, sums.tokens, model, f"{corpus}, {name}")
        return ExpertsMoment(blocks, self.slices, layer, self.tokens, model, corpus)
