"""A metric: does the model shout?"""

from __future__ import annotations

from factedit.evaluate.column import Column
from factedit.evaluate.metric import Metric, Outcome
from factedit.evaluate.texts import Greedy


class Capitals(Metric):
    name = "capitals"
    what = "share of capital letters in what is written"
    source = "a test"
    columns = (Column("caps", "percent", better="lower"),)

    def asks(self, record):
        return [Greedy(record.request.text, 4), Greedy(record.paraphrases[0], 4)]

    def scored(self, answered):
        text = "".join(answered.replies)
        share = 100 * sum(letter.isupper() for letter in text) / max(1, len(text))
        return Outcome({"caps": share}, {"shouted": text}, {"caps": (len(answered.replies), 0)})

    def describe(self):
        return {"tokens": 4}
