"""Throwaway packages through the commands: listed, edited with, kept, shown, evaluated beside the table's methods."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import tiny_lm, tiny_tokenizer
from factedit.edit.artefact import Edit
from factedit.edit.method_table import make_method
from factedit.evaluate.benchmarks.table import find_benchmark
from factedit.evaluate.measures import Measures
from factedit.evaluate.regime import Joint
from factedit.evaluate.run import evaluate_methods
from factedit.evaluate.store import ResultStore
from factedit.facts import EditRequest, FactRecord
from factedit.models.adapter import EditableModel
from factedit.models.load import load
from factedit.stats.second_moment import SecondMoment
from factedit.stats.store import write_moment
from plain import encode
from run_command import ok, refused
from throwaway import install

FACTS = [("Paris", "football"), ("France", "Seattle"), ("Seattle", "Москва")]


@pytest.fixture(autouse=True)
def _installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path / "site", monkeypatch, "two-layers", "said", "prefix", "floor", "capitals")
    monkeypatch.setenv("FACTEDIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "tiny"
    tiny_lm("gpt2").save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    rows = [
        {
            "case_id": n, "requested_rewrite": {"prompt": "{} is in", "subject": subject, "target_new": {"str": new},
                                                "target_true": {"str": "basketball"}},
            "paraphrase_prompts": [f"So {subject} is in"], "neighborhood_prompts": ["Basketball is in"],
        }
        for n, (subject, new) in enumerate(FACTS)
    ]  # fmt: skip
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(rows))
    return path


def requests(tmp_path: Path) -> Path:
    path = tmp_path / "facts.jsonl"
    rows = [{"subject": subject, "prompt": "{} is in", "target_new": new} for subject, new in FACTS]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def rows_of(folder: Path) -> dict[str, dict[str, dict[str, Any]]]:
    with ResultStore(folder / "results.sqlite") as store:
        return {name: store.results(run) for run, (name, _) in store.runs().items()}


def test_a_joint_method_edits_and_is_shown_by_command(model: Path, tmp_path: Path) -> None:
    [listed] = [line for line in ok("methods").splitlines() if "two-layers" in line]
    assert "a-two-layers 1.0" in listed
    ok("edit", model, "--requests", requests(tmp_path), "--method", "two-layers", "--out", tmp_path / "joint")
    told = ok("show", tmp_path / "joint")
    for subject, new in FACTS:
        assert subject in told
        assert new in told
    edit = Edit.load(tmp_path / "joint")
    assert (len(edit.requests), edit.layers) == (3, [1, 2])
    assert edit.made_for == load(str(model)).fingerprint()
    ok("apply", model, tmp_path / "joint", "--out", tmp_path / "edited")
    with edit.applied_to(load(str(model))) as edited:
        assert load(str(tmp_path / "edited")).fingerprint() == edited.fingerprint()


def test_a_prompt_edit_is_shown_and_not_applied_to_weights(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = ["--subject", "Paris", "--prompt", "{} is in", "--target", "football", "--method", "said"]
    ok("edit", model, *said, "--out", tmp_path / "said")
    assert "Paris is in football. " in ok("show", tmp_path / "said")
    text = refused(capsys, 1, "apply", model, tmp_path / "said", "--out", tmp_path / "no")
    assert "'prefix', which is no change of weights" in text
    assert not (tmp_path / "no").exists()


def test_evaluate_scores_them_as_the_edited_model_answers(model: Path, dataset: Path, tmp_path: Path) -> None:
    moment = write_moment(tmp_path / "c.safetensors", SecondMoment(torch.eye(128)))
    ok("evaluate", model, "--dataset", dataset, "--split", "all", "--method", "two-layers,said", "--threads", 1,
       "--benchmark", "floor", "--metrics", "capitals", "--no-free", "--second-moment", moment,
       "--out", tmp_path / "out")  # fmt: skip
    found, plain = rows_of(tmp_path / "out"), load(str(model))
    assert set(found) == {"unedited", "two-layers", "said"}
    for n, (subject, new) in enumerate(FACTS):
        [alone] = (
            make_method("two-layers", plain, no_moments)
            .edit([EditRequest(subject=subject, prompt="{} is in", target_new=new)])
            .edits
        )
        said = f"{subject} is in {new}. "
        asked = {"AT": f"{subject} is in", "ELSE": f"So {subject} is in", "AWAY": "Basketball is in"}
        for column, prompt in asked.items():
            score = {row: cases[str(n)]["scores"][column] for row, cases in found.items()}
            assert score["unedited"] == pytest.approx(percent(plain, prompt, new), rel=1e-3)
            assert score["said"] == pytest.approx(percent(plain, said + prompt, new), rel=1e-3)
            with alone.applied_to(plain) as edited:
                assert score["two-layers"] == pytest.approx(percent(edited, prompt, new), rel=1e-3)
    header = (tmp_path / "out" / "table.md").read_text().splitlines()[0]
    assert header == "| method | n | LEAST | AT | ELSE | AWAY | caps | seconds_per_edit | peak_memory_mb |"


def test_the_joint_method_is_one_edit_of_all_where_facts_are_on_together(model: Path, tmp_path: Path) -> None:
    plain = load(str(model))
    records = [
        FactRecord(
            case_id=str(n), request=EditRequest(subject=s, prompt="{} is in", target_new=new, target_true="basketball"),
            paraphrases=(f"So {s} is in",), neighborhood=("Basketball is in",),
        )
        for n, (s, new) in enumerate(FACTS)
    ]  # fmt: skip
    method = make_method("two-layers", plain, no_moments)
    with ResultStore(tmp_path / "r.sqlite") as store:
        found = evaluate_methods(plain, records, [method], store, dataset="test", benchmark=find_benchmark("floor"),
                                 regime=Joint(3), measures=Measures(metrics=()))  # fmt: skip
    [edit] = method.edit([record.request for record in records]).edits
    with edit.applied_to(plain) as edited:
        for record in records:
            score = found.results["two-layers, 3 at once"][record.case_id]["scores"]
            expected = percent(edited, record.request.text, record.request.target_new)
            assert score["AT"] == pytest.approx(expected, rel=1e-3)


def no_moments(_model: object, layer: int) -> SecondMoment:
    raise AssertionError(f"asked for the moment of layer {layer}, which the method does not use")


@torch.no_grad()
def percent(model: EditableModel, prompt: str, target: str) -> float:
    """100 P(target | prompt) by one plain forward pass: exp of its tokens' mean log P."""
    ids = encode(model, prompt)
    whole = encode(model, f"{prompt} {target}")
    log_p = model.lm(input_ids=torch.tensor([whole])).logits[0].log_softmax(-1)
    first = len(ids)
    return 100 * float(torch.stack([log_p[n - 1, whole[n]] for n in range(first, len(whole))]).mean().exp())
