"""CounterFact in the record format of its authors (Meng et al. 2022, arXiv 2202.05262, appendix D).

    {case_id, requested_rewrite: {prompt, subject, relation_id, target_new: {str}, target_true: {str}},
     paraphrase_prompts, neighborhood_prompts, attribute_prompts, generation_prompts}

The prompt is a template with one `{}`. Ids of the objects, `pararel_idx` and other fields are not read. A
record of a user's may lack `target_true` and is evaluated by what is left.
"""

from __future__ import annotations

from pathlib import Path

from factedit.data.records import RecordSet, Row, read_set
from factedit.facts import EditRequest, FactRecord


def read_counterfact(path: Path, name: str = "counterfact") -> RecordSet[FactRecord]:
    """Return the records of a file in CounterFact's format.

    Raises:
        DataError: naming file, line and field.
    """
    return read_set(path, name, _record)


def _record(_number: int, row: Row) -> FactRecord:
    rewrite = row.row("requested_rewrite")
    return FactRecord(
        case_id=row.name("case_id"),
        request=EditRequest(
            subject=rewrite.text("subject"),
            prompt=rewrite.text("prompt"),
            target_new=rewrite.row("target_new").text("str"),
            target_true=rewrite.row("target_true").text("str") if rewrite.fields.get("target_true") else None,
        ),
        paraphrases=row.texts("paraphrase_prompts"),
        neighborhood=row.texts("neighborhood_prompts"),
        attribute=row.texts("attribute_prompts", optional=True),
        generation=row.texts("generation_prompts", optional=True),
        relation_id=rewrite.optional_text("relation_id"),
    )
