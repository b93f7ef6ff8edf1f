"""How likely the new object is, on its own: for facts that name no old object to compare it with.

The new object is fed in after the edited prompt and after each of its other wordings; P is the geometric mean over its
tokens, as in EM and PM (arXiv 2202.05262, section 3.3), without the old object's part. A prompt whose numbers are not
finite is not executed.
"""

from __future__ import annotations

from factedit.evaluate.column import Column
from factedit.evaluate.metric import Answered, Metric, Outcome, mean_of
from factedit.evaluate.probability import Question
from factedit.facts import FactRecord

NEW, REWORDED = "new_P", "reworded_P"


class NewObject(Metric):
    """P of the new object × 100; needs nothing of a record but the fact itself."""

    name = "new-object"
    what = "how likely the new object is, whether or not an old one is known"
    source = "EM and PM of arXiv 2202.05262 without the old object"
    columns = (
        Column(NEW, "P of the new object at the edited prompt, × 100", source=source),
        Column(REWORDED, "P of the new object at the prompt's other wordings, × 100", source=source),
    )

    def asks(self, record: FactRecord) -> list[Question]:
        """Return the edited prompt and its other wordings, each with the new object."""
        return [Question(prompt, record.request.target_new) for prompt in (record.request.text, *record.paraphrases)]

    def scored(self, answered: Answered) -> Outcome:
        """Return the mean P of the prompt and of its wordings."""
        values = [100 * reply.probability if reply.executed else None for reply in answered.replies]
        parts = {NEW: mean_of(values[:1]), REWORDED: mean_of(values[1:])}
        return Outcome(
            {name: mean for name, (mean, _) in parts.items()}, tests={name: count for name, (_, count) in parts.items()}
        )
