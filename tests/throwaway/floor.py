"""A benchmark: is the new object among the likely ones, whatever stood there before?"""

from __future__ import annotations

from factedit.evaluate.benchmark import Benchmark, Legs, Published
from factedit.evaluate.column import Column
from factedit.evaluate.estimates import Headline
from factedit.evaluate.probability import Question


class Floor(Benchmark):
    name = "floor"
    title = "Floor (Table 0)"
    what = "the new object's probability, at least"
    source = "a test"
    dataset = "worldfacts"
    scores = (
        Column("AT", "at the edited prompt"),
        Column("ELSE", "at other wordings"),
        Column("AWAY", "at other subjects", better="lower"),
    )
    headline = Headline("LEAST", "the least of the first two", ("AT", "ELSE"), min)
    columns = ("LEAST", "AWAY", "AT", "ELSE")
    legs = Legs("AT", "ELSE", "AWAY")
    methods = ("rome", "ft")
    published = (Published("Some model", "ft", (1.0, 2.0, 3.0, 4.0)),)

    def lacks(self, record):
        return "" if record.paraphrases else "other wordings"

    def questions(self, record):
        prompts = (record.request.text, record.paraphrases[0], record.neighborhood[0])
        return [Question(prompt, record.request.target_new) for prompt in prompts]

    def numbers(self, record, scores):
        return dict(zip(("AT", "ELSE", "AWAY"), (100 * score.probability for score in scores), strict=True))


FLOOR = Floor()
