"""What metrics of sampled texts about a subject have in common: what they ask."""

from __future__ import annotations

from factedit.evaluate.metric import Metric
from factedit.evaluate.texts import Sampled, about_the_subject
from factedit.facts import FactRecord


class OfSampledTexts(Metric):
    """Something measured of sampled texts about the subject.

    Attributes:
        tokens: length of the texts, prompt included.
    """

    tokens: int

    def lacks(self, record: FactRecord) -> str:
        """Return prompts to write from."""
        return "" if record.generation else "generation prompts"

    def asks(self, record: FactRecord) -> list[Sampled]:
        """Return the generation prompts, continued."""
        return about_the_subject(record, self.tokens)
