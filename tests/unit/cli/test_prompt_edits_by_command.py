"""`ice` and `ike` through the commands: edited, shown, evaluated, refused as weights, and too long for the context."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from conftest import tiny_lm, tiny_tokenizer
from run_command import ok, refused


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny model, a set of facts to edit, and a set of facts to show."""
    monkeypatch.setenv("FACTEDIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")
    tiny_lm("gpt2", n_positions=256, max_position_embeddings=256).save_pretrained(tmp_path / "tiny")
    tiny_tokenizer().save_pretrained(tmp_path / "tiny")
    for name, subjects in (("mine", ("Paris", "France", "Seattle " * 60)), ("shown", ("Rome", "Oslo"))):
        rows = [
            {
                "case_id": n, "requested_rewrite": {"prompt": "{} is in", "subject": s.strip(), "target_new":
                                                    {"str": "football"}, "target_true": {"str": "Seattle"}},
                "paraphrase_prompts": [f"So {s} is in"], "neighborhood_prompts": ["Basketball is in"],
            }
            for n, s in enumerate(subjects)
        ]  # fmt: skip
        (tmp_path / f"{name}.json").write_text(json.dumps(rows))
    return tmp_path


def test_edited_shown_and_refused_as_weights(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fact = ("--subject", "Paris", "--prompt", "{} is in", "--target", "football")
    told = ok("edit", folder / "tiny", *fact, "--method", "ice", "--out", folder / "ice")
    assert "football" in told
    assert "New Fact: Paris is in football" in ok("show", folder / "ice")
    says = "acts by 'prompt', which is no change of weights: it cannot be written into a model. Put its text before"
    assert says in refused(capsys, 1, "apply", folder / "tiny", folder / "ice", "--out", folder / "applied")
    assert not (folder / "applied").exists()
    for form in ("merged", "peft"):
        ship = ("ship", folder / "tiny", folder / "ice", "--as", form, "--out", folder / form)
        assert "which is no change of weights: none of merged, peft" in refused(capsys, 1, *ship)
        assert not (folder / form).exists()
    assert "a whole edit (prompt), facts: 1; every file has its hash." in ok("verify", folder / "ice")
    assert f"made for {folder / 'tiny'}" in " ".join(ok("verify", folder / "ice", "--base", folder / "tiny").split())
    tiny_lm("gpt2", seed=3).save_pretrained(folder / "other")
    tiny_tokenizer().save_pretrained(folder / "other")
    assert "is whole, but made for weights" in refused(capsys, 1, "verify", folder / "ice", "--base", folder / "other")


@pytest.mark.parametrize(("method", "kind"), [("ice", "prompt"), ("retrieval", "retrieved"), ("grace", "codebook")])
def test_asked_again_and_many_at_once(folder: Path, method: str, kind: str) -> None:
    """`check` asks with the text in front or the codebook on: the probability is that which was noted."""
    fact = ("--subject", "Paris", "--prompt", "{} is in", "--target", "football")
    ok("edit", folder / "tiny", *fact, "--method", method, "--out", folder / "edit", "--json", folder / "edit.json")
    told = json.loads((folder / "edit.json").read_text())
    ok("check", folder / "edit", "--model", folder / "tiny", "--json", folder / "check.json")
    [row] = json.loads((folder / "check.json").read_text())
    assert row["probability"] == pytest.approx(told["after"]["target_new"], rel=1e-3)
    assert told["before"]["target_new"] != pytest.approx(told["after"]["target_new"], rel=1e-3)
    assert f"a whole edit ({kind})" in ok("verify", folder / "edit")


def test_evaluated_beside_others_and_what_is_too_long_is_a_failed_record(folder: Path) -> None:
    settings = ("--set", f"ike.source={folder / 'shown.json'}", "--set", "ike.demonstrations=2")
    ok("evaluate", folder / "tiny", "--dataset", folder / "mine.json", "--method", "ice,ike", "--threads", "1",
       *settings, "--out", folder / "out")  # fmt: skip
    found = json.loads((folder / "out" / "summary.json").read_text())
    for method, advice in (("ice", "Use a model with a longer context"), ("ike", "Show fewer than 2 facts")):
        [(case, why)] = found[method]["not_edited"].items()
        assert case == "2"
        assert "reads 256" in why
        assert advice in why
        assert found[method]["n"] == 3, "it counts as unedited"
    assert found["ice"]["EM"] != found["unedited"]["EM"]
