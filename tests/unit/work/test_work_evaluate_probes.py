"""An evaluation with the metrics of consequences, from a user's file to the table; it goes on where it stopped."""

from __future__ import annotations

import json
from pathlib import Path

from run_command import ok
from tiny_folder import save

PHRASES = {
    "relations": {"CITIZEN": {"phrase": "The country of <subject> is"}, "CAPITAL": {"phrase": "In <subject> lies"}},
    "two_hop": {"CITIZEN-CAPITAL": "In the country of <subject> lies"},
}
ROW = {
    "subject": "Paris", "prompt": "The country of Paris is", "target_new": "Seattle", "ground_truth": "France",
    "portability": {"Reasoning": [{"prompt": "In the country of Paris lies", "ground_truth": [["Needle"]]}]},
    "locality": {"Relation_Specificity": [{"prompt": "Paris is", "ground_truth": [["the"]]}]},
}  # fmt: skip
PANEL = [{"prompt": "{} plays", "subject": "LeBron James", "target": "sport"}]


def test_from_a_file_to_the_table_and_again_from_the_store(tmp_path: Path) -> None:
    model = save(tmp_path / "model")
    (tmp_path / "k.jsonl").write_text(json.dumps(ROW))
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, PANEL)))
    (tmp_path / "ripple_phrases.json").write_text(json.dumps(PHRASES))
    asked = ("evaluate", model, "--dataset", tmp_path / "k.jsonl", "--method", "ft", "--set", "steps=2", "--metrics",
             "ripple,portability-legacy,judge,multi-hop,panel", "--panel", tmp_path / "p.jsonl",
             "--out", tmp_path / "runs", "--threads", 1)  # fmt: skip
    ok(*asked)
    found = json.loads((tmp_path / "runs" / "summary.json").read_text())
    notes = " ".join(found["about"]["notes"])
    assert "judge is left out: no judge was given (--judge URL)." in notes
    assert "multi-hop is left out: no record of k.jsonl has what it needs: multi-hop questions." in notes
    assert "panel has no score in 1 of 1 cases" in notes, "the tiny model answers none of the panel"
    assert "it has no fact of the panel that the model answers, of 1 that were asked" in notes
    assert found["ft"]["tests"]["ripple_all"] == [0, 2], "a tiny model knows no premise"
    assert found["ft"]["tests"]["portability_legacy"] == [1, 0]
    assert "ripple_all" not in found["ft"], "an average over nothing is no number"
    assert "0 of 2" in notes or "2 of 2" in notes
    again = ok(*asked)
    assert json.loads((tmp_path / "runs" / "summary.json").read_text())["ft"] == found["ft"]
    assert "portability_legacy" in again
