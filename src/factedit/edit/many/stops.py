"""When methods stop a fact's optimisation beside MEMIT's bound on the total loss."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from factedit.edit.objective import Losses, Objective, TokenRead

LESS = 0.1  # what PMET lets the likelihood count while the target is ranked first everywhere
PMET_KL = 0.01  # weighted, in nats


@dataclass(frozen=True)
class LikelyEnough:
    """ENCORE's stop at a probability (arXiv 2502.01636; `prob_cutoff` > 0 in its program).

    Attributes:
        probability: the mean over a fact's rows of exp(−NLL), NLL being the row's mean over the target's tokens.
    """

    probability: float

    def stopping(self, losses: Mapping[int, Losses], objective: Objective) -> set[int]:
        """Return the facts whose target is likelier than that."""
        likely: dict[int, list[float]] = defaultdict(list)
        for fact, _, tokens in _rows(objective.tokens()):
            likely[fact].append(math.exp(sum(token.log_p for token in tokens) / len(tokens)))
        return {fact for fact in losses if sum(likely[fact]) / len(likely[fact]) > self.probability}


@dataclass
class RankedFirst:
    """ENCORE's published stop (`prob_cutoff` < 0): some evaluations in which the target is ranked first in every text.

    A row counts where *all* tokens of the target are ranked first. The published program counts single tokens up to a
    fixed number of texts, so a target of several tokens never stops it, or does by accident.

    Attributes:
        times: how many such evaluations.
    """

    times: int
    _seen: Counter[int] = field(default_factory=Counter)

    def stopping(self, losses: Mapping[int, Losses], objective: Objective) -> set[int]:
        """Return the facts for which it is so for the last time that was asked for."""
        ranked: dict[int, bool] = {}
        for fact, context, tokens in _rows(objective.tokens()):
            if context > 0:
                ranked[fact] = ranked.get(fact, True) and all(token.first for token in tokens)
        self._seen.update(fact for fact in losses if ranked.get(fact, False))
        return {fact for fact in losses if self._seen[fact] >= self.times}


@dataclass(frozen=True)
class KeepEssence:
    """PMET's rule (arXiv 2308.08742, §4): once the target is ranked first in every row, the essence comes first.

    From then on the likelihood counts a tenth, as long as it is so, and the fact stops when the weighted KL is small.
    """

    def stopping(self, losses: Mapping[int, Losses], objective: Objective) -> set[int]:
        """Return the facts that are ranked first everywhere and keep their essence."""
        ranked: dict[int, bool] = {}
        for fact, _, tokens in _rows(objective.tokens()):
            ranked[fact] = ranked.get(fact, True) and all(token.first for token in tokens)
        for fact, done in ranked.items():
            objective.nll_factor[fact] = LESS if done else 1.0
        return {fact for fact, loss in losses.items() if ranked[fact] and loss.kl <= PMET_KL}


def _rows(reads: Sequence[TokenRead]) -> Iterator[tuple[int, int, list[TokenRead]]]:
    """Fact, context and target tokens of every row."""
    rows: dict[tuple[int, int], list[TokenRead]] = defaultdict(list)
    for read in reads:
        rows[read.fact, read.context].append(read)
    for (fact, context), tokens in rows.items():
        yield fact, context, tokens
