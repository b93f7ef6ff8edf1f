"""The checks of many facts run from end to end on tiny models and say what they must."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from conftest import ROOT, random_moment, tiny
from factedit.models.load import load
from factedit.stats.store import write_moment
from tiny_gguf import llama_lm, write
from tiny_records import counterfact_rows

SUBJECTS = ("Paris", "Seattle", "France", "LeBron", "Zürich", "Café")
QUICK = ("--set", "steps=3", "--set", 'context_templates=["{}"]')


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FACTEDIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "checks"))
    (tmp_path / "facts.json").write_text(json.dumps(counterfact_rows(SUBJECTS)))
    return tmp_path


def check(name: str) -> ModuleType:
    return importlib.import_module(name)


def asked(script: ModuleType, place: Path, d_mlp: int, *arguments: str) -> Any:
    moment = write_moment(place / "c.safetensors", random_moment(d_mlp))
    common = ("--dataset", str(place / "facts.json"), "--second-moment", str(moment), "--out", str(place / "out"))
    return script.parsed(["tiny", *common, *QUICK, *arguments])


def rows(place: Path, name: str) -> list[dict[str, Any]]:
    told: list[dict[str, Any]] = json.loads((place / "out" / f"{name}.json").read_text())["rows"]
    return told


def test_history_and_null_space_at_one_share(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script, model = check("two_by_two"), tiny("gpt2")
    energy = [part for arm in ("alphaedit", "alphaedit-no-history") for part in ("--set", f"{arm}.energy=0.5")]
    said = script.run(
        model, asked(script, place, model.d_mlp, "--facts", "4", "--batch", "2", "--share", "0.8", "--layers", "0,1",
                     *energy)
    )  # fmt: skip
    assert said in capsys.readouterr().out
    last = {row["arm"].partition(",")[0]: row for row in rows(place, "two-by-two") if ", 4 in" in row["arm"]}
    assert set(last) == set(script.ARMS)
    for arm, row in last.items():
        assert row["n"] == 4
        assert {"PS", "NS", "perplexity"} <= set(row)
        for layer in (0, 1):
            shares = [float(part) for part in row[f"share reached, layer {layer}"].split(", ")]
            weights = [float(part) for part in row[f"weight, layer {layer}"].split(", ")]
            assert len(shares) == 2
            assert shares[0] == pytest.approx(0.8, rel=0.01)
            if "no-history" in arm:
                assert shares[1] == pytest.approx(0.8, rel=0.01)
            else:
                assert weights[0] == weights[1]


def test_an_audit_of_many_counts_what_it_names(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script, model = check("audit_many"), tiny("gpt2")
    monkeypatch.setattr(script, "DRAWS", {1: 2})
    options = ("--edits", "1,3", "--candidates", "6", "--set", "layer=1", "--set", "clamp=8")
    wanted = asked(script, place, model.d_mlp, *options)
    script.run(model, lambda: tiny("gpt2"), wanted)
    told = rows(place, "audit-many")
    assert [row["edited"] for row in told] == [1, 1, 3, "0, as it is", "0, through bfloat16", "0, through float16"]
    assert [row["recall"] for row in told[:3]] == [1.0, 1.0, 1.0], "keys of one context are read whole"
    assert [row["ranks"] for row in told[:3]] == ["1", "1", "3"]
    assert [row["of"] for row in told] == [5, 5, 3, 6, 6, 6]
    assert [row["false alarms"] for row in told[3:]] == [0, 0, 0]
    first, second = (script.drawn(script.candidates_of(wanted.dataset, 6, 0), 3, draw) for draw in (0, 1))
    assert not {fact.subject for fact in first} & {fact.subject for fact in second}
    monkeypatch.setattr(type(model), "on_matrix", None)  # keys cannot be read: no edit is made anew
    monkeypatch.setattr(script, "audit", lambda *_args, **_named: pytest.fail("the audit is run again"))
    with pytest.raises(pytest.fail.Exception, match="run again"):
        script.run(model, lambda: tiny("gpt2"), wanted)


def test_a_large_edit_goes_its_whole_way(place: Path) -> None:
    script = check("large_edit")
    lm = llama_lm(num_hidden_layers=3, intermediate_size=64)
    source = str(write(place / "tiny.gguf", lm))
    model = load(source)
    options = ("--edit", str(place / "edit"), "--facts", "4", "--ranks", "2", "--set", "layer=1", "--set", "clamp=8")
    wanted = asked(script, place, model.d_mlp, *options, "--set", "learning_rate=0.5")
    wanted.model = source
    script.run(model, wanted)
    told = {row["what"]: row for row in rows(place, "large-edit")}
    assert [name for name in told if name.startswith(("peft", "gguf", "merged"))] == [
        "merged", "gguf-f16", "peft", "peft-cut-to-2",
    ]  # fmt: skip
    assert told["check"]["facts"] == 4
    for exact in ("merged", "peft"):
        assert told[exact]["written"] == told["check"]["written"]
        assert told[exact]["probability"] == pytest.approx(told["check"]["probability"], rel=1e-4)
    assert told["merged"]["error of ΔW"] == 0 < told["gguf-f16"]["error of ΔW"] < 0.05
    assert 0 < told["peft-cut-to-2"]["error of ΔW"] < 1
    assert told["check, LeBron taken back"]["facts"] == 3
    on, gone = (told[f"LeBron, {how}"]["probability"] for how in ("on", "taken back"))
    assert abs(gone / told["unedited"]["probability"] - 1) < abs(on / told["unedited"]["probability"] - 1)


def test_a_rank_that_servers_refuse_is_said_and_shipped_all_the_same(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("factedit.export.lora.SERVED", 3)
    script = check("large_edit")
    source = str(write(place / "tiny.gguf", llama_lm(num_hidden_layers=3, intermediate_size=64)))
    model = load(source)
    wanted = asked(
        script, place, model.d_mlp, "--edit", str(place / "edit"), "--facts", "4", "--ranks", "", "--set", "layer=1"
    )
    edits = script.made(model, wanted)
    assert script.made(model, wanted) == edits, "found again"
    told = {row["what"]: row for row in script.shipped_rows(model, edits, wanted)}
    assert "take adapters of rank 3 at most" in told["peft"]["said"]
    assert told["peft-4"]["error of ΔW"] == 0


def test_without_an_edit_and_a_number_nothing_is_done(place: Path) -> None:
    script, model = check("large_edit"), tiny("gpt2")
    with pytest.raises(Exception, match="holds no edit, and --facts does not say"):
        script.run(model, asked(script, place, model.d_mlp, "--edit", str(place / "none")))
