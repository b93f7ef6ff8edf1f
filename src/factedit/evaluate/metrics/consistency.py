"""RS, consistency: does the edited model write about the subject as one writes about o*? (ROME, arXiv 2202.05262, §3.3)

The cosine between the TF-IDF vectors of all generations of a record, taken as one text, and of reference texts about
o*, × 100. The published reference texts are encyclopedia snippets; where those are absent, sentences are made of the
facts that a data set itself holds about o*: its attribute prompts (other subjects for which o* is right) and the
neighborhood prompts of records whose true object o* is, each completed with o*. The source is named with the score.

TF-IDF as usual: raw counts × (ln((1 + n) / (1 + df)) + 1), words of two letters or more in lower case; the documents
that df counts are the reference texts of one object each. Words that no document holds do not count.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from factedit.data.lines import read_text
from factedit.errors import DataError, UsageError
from factedit.evaluate.column import Column
from factedit.evaluate.metric import Answered, Outcome
from factedit.evaluate.metrics.sampled import OfSampledTexts
from factedit.evaluate.texts import GENERATION_TOKENS
from factedit.facts import FactRecord, with_space
from factedit.safe import parse_json

WORD = re.compile(r"\b\w\w+\b")
OWN_SOURCE = "attribute and neighborhood facts of the data set"


@dataclass(frozen=True)
class References:
    """Reference texts.

    Attributes:
        source: where they are from, for the table.
        texts: per object its texts.
    """

    source: str
    texts: Mapping[str, tuple[str, ...]] = field(repr=False)

    @property
    def fingerprint(self) -> str:
        """A hash of the texts: sha256, 16 hexadecimal digits."""
        return hashlib.sha256(json.dumps({k: list(v) for k, v in self.texts.items()}).encode()).hexdigest()[:16]


class TfIdf:
    """TF-IDF vectors over the words of some documents.

    Args:
        documents: what document frequencies are counted in.

    Raises:
        UsageError: they hold no word.
    """

    def __init__(self, documents: Sequence[str]) -> None:
        frequency = Counter(word for document in documents for word in set(_words(document)))
        if not frequency:
            raise UsageError("The reference texts hold no word of two letters; give texts about the objects.")
        self._place = {word: n for n, word in enumerate(sorted(frequency))}
        count = len(documents)
        self._idf = np.array([math.log((1 + count) / (1 + frequency[w])) + 1 for w in self._place])

    def vector(self, text: str) -> np.ndarray:
        """Return the text's vector `[words]`, not scaled."""
        counts = np.zeros(len(self._idf))
        for word, n in Counter(_words(text)).items():
            if word in self._place:
                counts[self._place[word]] = n
        return np.asarray(counts * self._idf)

    def cosine(self, one: str, other: str) -> float:
        """Return the cosine of two texts' vectors; 0 where one of them holds no known word."""
        left, right = self.vector(one), self.vector(other)
        size = float(np.linalg.norm(left) * np.linalg.norm(right))
        return float(left @ right) / size if size else 0.0


@dataclass(frozen=True)
class Consistency(OfSampledTexts):
    """RS against one set of reference texts.

    Attributes:
        references: the texts and where they are from.
        tokens: length of the texts that are compared with them, prompt included.
    """

    references: References
    tokens: int = GENERATION_TOKENS
    _tfidf: TfIdf = field(init=False, repr=False, compare=False)

    name = "consistency"
    what = "are texts about the subject like texts about the new object"
    source = "arXiv 2202.05262, section 3.3"
    columns = (
        Column("RS", "cosine of TF-IDF vectors × 100, texts about the subject against texts about the new object",
               source=source),
    )  # fmt: skip
    absent: ClassVar[Mapping[str, Any]] = {"consistency": None}
    why_none: ClassVar[str] = (
        "no record has attribute or neighborhood prompts to make reference texts of (--references gives some)"
    )

    @classmethod
    def for_records(
        cls, records: Sequence[FactRecord], *, references: Path | None = None, **settings: Any
    ) -> Consistency | None:
        """Return RS against a user's texts, else against the facts that the records hold; None where there are none.

        Raises:
            DataError: the user's file is not there, or of another form.
        """
        if references is not None:
            return cls(read_references(references), **settings)
        if not any(record.attribute or record.neighborhood for record in records):
            return None
        return cls(own_references(records), **settings)

    def __post_init__(self) -> None:
        documents = [" ".join(texts) for texts in self.references.texts.values()]
        object.__setattr__(self, "_tfidf", TfIdf(documents))

    def scored(self, answered: Answered) -> Outcome:
        """Return RS of the texts."""
        texts = list(answered.replies)
        return Outcome({"RS": self.compare(answered.record, texts)}, {"generations": texts})

    def compare(self, record: FactRecord, generations: Sequence[str]) -> float:
        """Return RS of a record.

        Args:
            record: whose o* counts.
            generations: what the model writes about the subject, prompts included.

        Returns:
            The cosine × 100; NaN where there is no text about o* or nothing was written.
        """
        texts = self.references.texts.get(_key(record.request.target_new), ())
        if not texts or not generations:
            return math.nan
        return 100 * self._tfidf.cosine(" ".join(generations), " ".join(texts))

    def notes(self) -> dict[str, str]:
        """Return where the reference texts are from."""
        return {f"reference texts of {self.columns[0].name}": self.references.source}

    def as_key(self) -> dict[str, Any]:
        """Return source and hash of the reference texts, and the length of the texts compared with them."""
        references = f"{self.references.source} {self.references.fingerprint}"
        return {"consistency": references, "generation_tokens": self.tokens}


def own_references(records: Iterable[FactRecord]) -> References:
    """Return sentences about objects from the facts that the records themselves hold.

    Raises:
        UsageError: they hold none.
    """
    by_target: dict[str, dict[str, None]] = {}  # a dict keeps the order and drops what comes twice
    for record in records:
        for target, prompts in (
            (record.request.target_new, record.attribute),
            (record.request.target_true, record.neighborhood),
        ):
            if target is not None:
                sentences = (f"{prompt}{with_space(prompt, target)}." for prompt in prompts)
                by_target.setdefault(_key(target), {}).update(dict.fromkeys(sentences))
    texts = {target: tuple(of_target) for target, of_target in by_target.items() if of_target}
    if not texts:
        raise UsageError("The records hold no attribute or neighborhood facts to make reference texts of: give a file.")
    return References(OWN_SOURCE, texts)


def read_references(path: Path) -> References:
    """Return reference texts from a user's file: a JSON object of objects and their lists of texts.

    Raises:
        DataError: not there, or of another form.
    """
    try:
        content = parse_json(read_text(path))
    except ValueError as error:
        raise DataError(f"The reference texts {path} are not JSON: {error}.") from error
    good = isinstance(content, dict) and all(
        isinstance(texts, list) and all(isinstance(text, str) for text in texts) for texts in content.values()
    )
    if not good or not content:
        raise DataError(f'The reference texts {path} must be a JSON object like {{"Paris": ["text", …], …}}.')
    return References(path.name, {_key(target): tuple(texts) for target, texts in content.items()})


def _key(target: str) -> str:
    return target.strip().casefold()


def _words(text: str) -> list[str]:
    return WORD.findall(text.lower())
