"""Further actions that can be killed or run out of disk halfway: what is traced, located and judged."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

from factedit.cli.common import without_nan
from factedit.engine.resume import next_token
from factedit.evaluate.store import ResultStore
from factedit.report.verdict_page import write_verdict
from factedit.work import locate, trace
from factedit.work.verdict import judged_results
from fuzz.trials import Trial, evaluated, model

PROMPTS = tuple(
    (subject, f"{subject} {relation} (")
    for subject in ("Paris", "Seattle", "France")
    for relation in ("is the capital", "has many")
)


def known(place: Path) -> None:
    """Write files of facts whose object is what the model writes: to be traced, and to be edited."""
    traced, edited = [], []
    for number, (subject, prompt) in enumerate(PROMPTS):
        answer = model().tokenizer.decode([next_token(model(), model().tokenizer(prompt)["input_ids"])])
        if answer.strip() == answer and answer.isprintable():
            traced.append({"known_id": number, "subject": subject, "attribute": answer, "prompt": prompt})
            asked = {"subject": subject, "prompt": prompt.replace(subject, "{}")}
            edited.append(asked | {"target_new": "football", "target_true": answer})
    (place / "known.json").write_text(json.dumps(traced))
    (place / "facts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in edited))


def rows_of(path: Path) -> int:
    """Rows of a store that is whole; 0 where there is none."""
    if not path.exists() or not path.stat().st_size:
        return 0
    with ResultStore(path) as store:
        rows = sum(len(store.results(run)) for run in store.runs())
    with closing(sqlite3.connect(path)) as raw:
        assert raw.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    return rows


def traced(place: Path) -> None:
    trace.trace_known(model(), str(place / "known.json"), place / "traces", samples=2, noise="0.5", kinds="mlp")


def traces_in(place: Path) -> str:
    return str(rows_of(place / "traces" / trace.STORE))


def located(place: Path) -> None:
    locate.locate_facts(
        model(), str(place / "facts.jsonl"), place / "located", methods="ft", layers=(0, 1), windows=(1,), samples=2,
        noise="0.5", settings=("ft.steps=2",),
    )  # fmt: skip


def located_in(place: Path) -> str:
    return format(sum(rows_of(path) for path in sorted((place / "located").glob("*.sqlite"))), "02d")


def judged(place: Path) -> None:
    found = judged_results([place / "runs"])
    write_verdict(
        found.cells, place / "verdict", title="of three", about=found.about, rows=without_nan(found.as_json())
    )


def verdict_in(place: Path) -> str:
    """Which files of a verdict are there, each of them whole."""
    folder = place / "verdict"
    ends = {"verdict.json": "}", "verdict.html": "</html>", "verdict.md": "."}
    there = [name for name in ends if (folder / name).exists()]
    assert all((folder / name).read_text().strip().endswith(ends[name]) for name in there), "half a file"
    return str(len(there))


STUDIES = (
    Trial("traces of facts", known, traced, traces_in, steps=True),
    Trial("locating", known, located, located_in, steps=True),
    Trial("a verdict", evaluated, judged, verdict_in, steps=True),
)
