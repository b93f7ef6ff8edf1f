"""GE, generation entropy: does the edited model still write varied text? (ROME, arXiv 2202.05262, section 3.3)"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from factedit.evaluate.column import Column
from factedit.evaluate.metric import Answered, Outcome
from factedit.evaluate.metrics.sampled import OfSampledTexts
from factedit.evaluate.texts import GENERATION_TOKENS
from factedit.text import words


@dataclass(frozen=True)
class GenerationEntropy(OfSampledTexts):
    """Entropy of sampled texts about the subject.

    Attributes:
        tokens: length of the texts, prompt included.
    """

    tokens: int = GENERATION_TOKENS

    name = "generation-entropy"
    what = "do sampled texts about the subject stay varied, or fall into repetitions"
    source = "arXiv 2202.05262, section 3.3"
    columns = (
        Column("GE", "entropy of the bigrams and trigrams of sampled texts, bits × 100", high=math.inf, source=source),
    )
    absent: ClassVar[Mapping[str, Any]] = {"generation_tokens": 0}

    def scored(self, answered: Answered) -> Outcome:
        """Return GE of the texts."""
        texts = list(answered.replies)
        return Outcome({"GE": generation_entropy(texts)}, {"generations": texts})

    def as_key(self) -> dict[str, Any]:
        """Return the length of the texts."""
        return {"generation_tokens": self.tokens}


def entropy(text: str, n: int) -> float:
    """Return entropy of a text's n-grams of words, in bits; in scripts without spaces, of characters."""
    parts = words(text)
    counts = Counter(zip(*(parts[i:] for i in range(n)), strict=False))
    total = sum(counts.values())
    return -sum(c / total * math.log2(c / total) for c in counts.values()) if total else 0.0


def generation_entropy(texts: Sequence[str]) -> float:
    """Return GE: mean over texts of the mean of 2/3 of the bigram and 4/3 of the trigram entropy, × 100."""
    values = [(2 / 3 * entropy(text, 2) + 4 / 3 * entropy(text, 3)) / 2 for text in texts]
    return 100 * sum(values) / len(values) if values else math.nan
