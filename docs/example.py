"""Write the page's stored first views (src/factedit/web/static/example.json) from the functions that the page calls."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from factedit.cache import write_atomic
from factedit.data.registry import load_known, select
from factedit.edit.method_table import make_method
from factedit.safe import without_nan
from factedit.trace.sweep import default_window
from factedit.work.ask import ask
from factedit.work.damage import damage
from factedit.work.demo import RECORD, TRACE_PROMPT
from factedit.work.edit import describe, edit_facts
from factedit.work.inputs import load_model, moments_from
from factedit.work.proof import prove, record_of
from factedit.work.trace import trace_prompt

PAGE = Path(__file__).parent.parent / "src" / "factedit" / "web" / "static" / "example.json"
AVERAGES = Path(__file__).parent / "results" / "known-facts-gemma3-270m-200.json"
FACTS = 24


def example(name: str, threads: int | None = None) -> dict[str, Any]:
    """What the page shows of the embedded example before its own model is there."""
    model, request = load_model(name, threads=threads), RECORD.request
    trace = trace_prompt(model, TRACE_PROMPT, request.subject)
    [made] = edit_facts(model, make_method("rome", model, moments_from()), [request])
    edits = [made.edit]
    [asked] = ask(model, [request.text], edits)
    facts = select(load_known("worldfacts-known").records, limit=FACTS, seed=0)
    told = describe(made)
    for large in ("settings",):
        told.pop(large)
    return {
        "model": name,
        "asked": asked.as_json(),
        "trace": trace.as_stored() | {"edited_layers": made.edit.layers},
        "edit": told,
        "proof": prove(model, record_of(request), edits).as_json(),
        "averages": json.loads(AVERAGES.read_text()) | {"window": default_window(model.n_layer)},
        "damage": {"rows": [row.as_json() for row in damage(model, facts, edits)]},
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="gemma3-270m")
    parser.add_argument("--threads", type=int, default=None)
    given = parser.parse_args()
    found = without_nan(example(given.model, given.threads))
    write_atomic(PAGE, json.dumps(found, ensure_ascii=True, separators=(",", ":")) + "\n")
