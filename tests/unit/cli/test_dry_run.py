"""`--dry-run` of every long command: it says what it would take, and neither reads weights nor writes anything."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from run_command import ok, refused
from tiny_folder import save

FACT = ("--subject", "Paris", "--prompt", "{} is in", "--target", "football")
COMMANDS = {
    "trace": ("MODEL", "Paris is in France", "--subject", "Paris", "--samples", "2"),
    "stats": ("MODEL", "--layers", "0-1", "--tokens", "100"),
    "edit": ("MODEL", *FACT),
    "evaluate": ("MODEL", "--method", "rome,ft,memit,mend,ice", "--records", "4", "--fluency"),
    "reproduce": ("counterfact", "--model", "MODEL", "--records", "2", "--methods", "ft,rome"),
    "sweep-layers": ("MODEL", "--records", "2", "--layers", "0-1"),
    "train": ("mend", "MODEL", "--updates", "10"),
    "case-study": ("MODEL", "--records", "2", "--method", "ft,rome"),
    "locate": ("MODEL", "--facts", "counterfact", "--records", "3", "--method", "rome,memit", "--windows", "1,2"),
    "panel": ("MODEL", "--facts", "counterfact", "--limit", "5"),
    "ability": ("MODEL", "--tasks", "lambada"),
    "demo": ("MODEL", "--subject", "Paris", "--prompt", "{} is in", "--target", "football"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("dry") / "model")


@pytest.fixture(autouse=True)
def _nothing_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    def never(*_args: object, **_named: object) -> None:
        raise AssertionError("weights were read")

    monkeypatch.setattr("factedit.models.load.read_files", never)
    monkeypatch.setattr("safetensors.safe_open", never)
    monkeypatch.setattr("safetensors.torch.load_file", never)
    monkeypatch.setenv("FACTEDIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    facts = tmp_path / "data"
    facts.mkdir()
    rewrite = {"prompt": "{} is in", "target_new": {"str": "football"}, "target_true": {"str": "Seattle"}}
    rows = [
        {"case_id": n, "requested_rewrite": {**rewrite, "subject": s}, "paraphrase_prompts": [f"So {s} is in"],
         "neighborhood_prompts": ["Basketball is in"], "generation_prompts": [f"{s} likes"]}
        for n, s in enumerate(("Paris", "Seattle", "France", "LeBron", "Zürich"), 1)
    ]  # fmt: skip
    (facts / "counterfact.json").write_text(json.dumps(rows))
    (facts / "ability").mkdir()
    texts = json.dumps({"text": "The Space Needle is in downtown Seattle"}).encode()
    (facts / "ability" / "lambada_test.jsonl.gz").write_bytes(gzip.compress(texts))
    monkeypatch.setenv("FACTEDIT_DATA", str(facts))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_long_command(name: str, folder: Path, tmp_path: Path) -> None:
    asked = [str(folder) if part == "MODEL" else part for part in COMMANDS[name]]
    if name in ("evaluate",):
        asked += ["--dataset", "counterfact"]
    shown = ok(name, *asked, "--dry-run", "--json", tmp_path / "plan.json", "--threads", "1")
    assert "nothing was run" in shown
    assert "H100" in shown
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert plan["command"] == name
    assert plan["flops"] == pytest.approx(sum(part["flops"] for part in plan["parts"]))
    assert plan["flops"] > 0
    assert plan["read"] > 0
    assert plan["memory"] > plan["weights"] > 0
    assert [time["machine"][:12] for time in plan["times"]][:1] == ["this machine"]
    assert all(time["seconds"] > 0 for time in plan["times"])
    assert {path.name for path in tmp_path.iterdir()} <= {"plan.json", "data", "cache"}, "nothing was written"


def test_more_work_takes_more(folder: Path, tmp_path: Path) -> None:
    found = []
    for tokens in (1000, 3000):
        ok("stats", folder, "--tokens", tokens, "--corpus", "x", "--dry-run", "--json", tmp_path / "plan.json")
        found.append(json.loads((tmp_path / "plan.json").read_text())["flops"])
    assert found[1] == pytest.approx(3 * found[0])


def test_what_cannot_be_planned_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(capsys, 2, "edit", folder, *FACT, "--method", "auto", "--dry-run")
    assert "name one for --dry-run" in said
    assert "Layer 7 was asked for" in refused(capsys, 2, "stats", folder, "--layers", "7", "--dry-run")
    assert "No edit was given" in refused(capsys, 2, "panel", folder, "--dry-run")
    assert "must be numbers of layers" in refused(
        capsys, 2, "locate", folder, "--facts", "counterfact", "--windows", "0", "--dry-run"
    )
    assert "0 tokens" not in refused(capsys, 2, "case-study", folder, "--ids", "99", "--dry-run")
    assert "Unknown method" in refused(capsys, 2, "evaluate", folder, "--method", "rom", "--dry-run")


def test_a_table_of_many_facts_is_planned_like_the_evaluation_it_is(folder: Path, tmp_path: Path) -> None:
    plans = []
    for command in (
        ("reproduce", "counterfact", "--model", folder, "--methods", "ft,rome"),
        ("evaluate", folder, "--dataset", "counterfact", "--method", "ft,rome"),
    ):
        ok(*command, "--at-once", 4, "--dry-run", "--json", tmp_path / "plan.json")
        plans.append(json.loads((tmp_path / "plan.json").read_text()))
    assert [plan["command"] for plan in plans] == ["reproduce", "evaluate"]
    assert plans[0]["parts"] == plans[1]["parts"]
