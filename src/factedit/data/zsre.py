"""zsRE questions in MEND's format (Mitchell et al. 2022, arXiv 2110.11309), read as ROME's code reads them.

    {subject, src, rephrase, answers, loc, loc_ans, ...}

The request asks `src`, with the subject as `{}`, to be answered by the first of `answers`; `rephrase` is its
paraphrase; the one neighborhood prompt is `loc` with a question mark, whose right answer is `loc_ans`. The
words "nq question: " that `loc` begins with stay in the prompt, as in ROME's code. `alt` and `pred`, which
MEND trains with, are not read. The case id is the number of the record in the file, from 0.

Departures from ROME's code: where the subject occurs more than once in `src`, its first occurrence becomes
`{}` (there: all of them, which the editor then refuses); a `loc` that ends in a question mark gets no second;
records that cannot be used (the subject is not literally in `src`, or one of the texts is empty) are skipped
and counted.
"""

from __future__ import annotations

from pathlib import Path

from factedit.data.records import OUTSIDE, RecordSet, Row, read_set
from factedit.facts import EditRequest, FactRecord, template_of


def read_zsre(path: Path, name: str = "zsre") -> RecordSet[FactRecord]:
    """Return the records of a file in MEND's format.

    Raises:
        DataError: naming file, line and field.
    """
    return read_set(path, name, _record)


def _record(number: int, row: Row) -> FactRecord | str:
    subject, question, rephrase, loc, loc_answer = (
        row.text(field, empty=True) for field in ("subject", "src", "rephrase", "loc", "loc_ans")
    )
    answers = row.texts("answers")
    usable = all(text.strip() for text in (subject, question, rephrase, loc, loc_answer))
    if not (usable and answers):
        return "a text is empty"
    if subject not in question:
        return OUTSIDE
    return FactRecord(
        case_id=str(number),
        request=EditRequest(subject=subject, prompt=template_of(question, subject), target_new=answers[0]),
        paraphrases=(rephrase,),
        neighborhood=(loc if loc.endswith("?") else loc + "?",),
        loc_answer=loc_answer,
    )
