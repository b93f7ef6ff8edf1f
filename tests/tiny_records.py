"""Records of CounterFact's form that a tiny tokenizer can read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def counterfact_rows(subjects: Sequence[str]) -> list[dict[str, Any]]:
    """One record a subject, numbered from 1: it was in Seattle and is to be in football."""
    rewrite = {"prompt": "{} is in", "target_new": {"str": "football"}, "target_true": {"str": "Seattle"}}
    return [
        {"case_id": n, "requested_rewrite": {**rewrite, "subject": s}, "paraphrase_prompts": [f"So {s} is in"],
         "neighborhood_prompts": ["Basketball is in"], "generation_prompts": [f"{s} likes"]}
        for n, s in enumerate(subjects, 1)
    ]  # fmt: skip
