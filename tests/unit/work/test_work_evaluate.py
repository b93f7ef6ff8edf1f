"""Evaluating a data set from Python, as the command line does: nothing is printed, what is wrong is refused early."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from conftest import tiny
from factedit.errors import RequestError, UnknownName, UsageError
from factedit.models.adapter import EditableModel
from factedit.stats.second_moment import SecondMoment
from factedit.stats.store import write_moment
from factedit.work.evaluate import evaluate_dataset
from factedit.work.reproduce import reproduce_table
from factedit.work.sweep_layers import sweep_layers
from tiny_records import counterfact_rows

SUBJECTS = ("Paris", "Seattle", "France", "LeBron", "Zürich")


@pytest.fixture
def facts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """CounterFact and zsRE, five records each, where data sets are looked for."""
    folder = tmp_path / "data"
    folder.mkdir()
    rewrite = lambda s: {  # noqa: E731
        "prompt": "{} is in", "subject": s, "target_new": {"str": "football"}, "target_true": {"str": "Seattle"},
    }  # fmt: skip
    counterfact = [
        {"case_id": n, "requested_rewrite": rewrite(s), "paraphrase_prompts": [f"So {s} is in"],
         "neighborhood_prompts": ["Basketball is in"], "generation_prompts": [f"{s} likes"]}
        for n, s in enumerate(SUBJECTS, 1)
    ]  # fmt: skip
    zsre = [
        {"subject": s, "src": f"Where is {s}?", "rephrase": f"Say, where is {s}?", "answers": ["football"],
         "loc": "nq question: who sings", "loc_ans": "French"}
        for s in SUBJECTS
    ]  # fmt: skip
    (folder / "counterfact.json").write_text(json.dumps(counterfact))
    (folder / "zsre_mend_eval.json").write_text(json.dumps(zsre))
    monkeypatch.setenv("FACTEDIT_DATA", str(folder))
    monkeypatch.setenv("FACTEDIT_CACHE", str(tmp_path / "cache"))
    return folder


@pytest.fixture
def moment(tmp_path: Path) -> Path:
    return write_moment(tmp_path / "c.safetensors", SecondMoment(torch.eye(128)))


def never() -> EditableModel:
    raise AssertionError("the model was loaded before what was asked was checked")


def test_a_data_set_is_evaluated_without_a_word(
    facts: Path, moment: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told: list[tuple[str, float, float]] = []
    found = evaluate_dataset(
        lambda: tiny("gpt2"), "zsre", tmp_path / "out", methods="ft", records=2, batch=1, second_moment=moment,
        progress=lambda *of: told.append(of),
    )  # fmt: skip
    assert list(found.evaluation.summary) == ["unedited", "ft"]
    assert set(found.as_json()["ft"]) >= {"efficacy", "paraphrase", "specificity", "free"}
    assert found.store == tmp_path / "out" / "results.sqlite"
    assert [of[1:] for of in told] == [(0, 2), (1, 2), (2, 2)]
    assert "".join(capsys.readouterr()) == ""


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"dataset": "zsree"}, "Unknown data set 'zsree'"),
        ({"methods": "rom"}, "Unknown method 'rom'"),
        ({"records": 77}, "77 records were asked for"),
        ({"ids": ["77"]}, "No record 77"),
        ({"split": "half"}, "Unknown split 'half'"),
        ({"benchmark": "zsr"}, "Unknown benchmark 'zsr'"),
        ({"benchmark": "counterfact"}, "has no target_true, which counterfact asks for"),
        ({"metrics": ["fre"]}, "Unknown metric 'fre'"),
        ({"batch": 0}, "0 records at a time"),
    ],
)
def test_what_is_wrong_is_refused_before_the_model_is_loaded(
    facts: Path, tmp_path: Path, asked: dict, said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        evaluate_dataset(never, **{"dataset": "zsre", "folder": tmp_path / "out", **asked})
    assert not (tmp_path / "out").exists()


def test_a_table_keeps_its_order_and_says_how_it_was_made(facts: Path, moment: Path, tmp_path: Path) -> None:
    made = reproduce_table(
        "counterfact", tiny("gpt2"), tmp_path / "t", source="tiny", methods="kn,ft", fluency_records=2, batch=2,
        second_moment=moment,
    )  # fmt: skip
    assert list(made.evaluation.summary) == ["unedited", "ft", "kn"], "in the paper's order"
    assert made.evaluation.summary["ft"]["ES"].n == 4
    assert made.evaluation.summary["ft"]["GE"].n == 2
    assert made.notes["n of GE"] == "2"
    assert made.notes["command"].startswith("`factedit reproduce counterfact --model tiny --methods ft,kn --seed 0")
    assert made.notes["reference texts of RS"] == "attribute and neighborhood facts of the data set"
    assert made.as_json()["table"] == "counterfact"
    assert set(made.as_json()["settings"]) == {"unedited", "ft", "kn"}


def test_tables_and_sweeps_refuse_before_the_model_is_loaded(facts: Path, tmp_path: Path) -> None:
    common = {"model": never, "folder": tmp_path / "t"}
    with pytest.raises(UnknownName, match="Unknown benchmark 'zsr'"):
        reproduce_table("zsr", source="tiny", **common)
    with pytest.raises(UsageError, match="0 records with sampled texts"):
        reproduce_table("counterfact", source="tiny", fluency_records=0, **common)
    with pytest.raises(UsageError, match="zsre is asked without any"):
        reproduce_table("zsre", source="tiny", fluency_records=2, **common)
    with pytest.raises(UnknownName, match="Unknown token 'middle'"):
        sweep_layers(dataset="counterfact", tokens=["middle"], **common)
    with pytest.raises(UsageError, match="77 records were asked for"):
        sweep_layers(dataset="counterfact", records=77, **common)


def test_the_summary_says_what_it_is_of_and_what_is_not_in_it(facts: Path, moment: Path, tmp_path: Path) -> None:
    """Before: scores alone; the record that cannot be used was counted nowhere."""
    path = facts / "zsre_mend_eval.json"
    rows = json.loads(path.read_text())
    rows[1]["src"] = "Where is it?"  # the subject does not stand in the question
    path.write_text(json.dumps(rows))
    found = evaluate_dataset(
        lambda: tiny("gpt2"), "zsre", tmp_path / "out", methods="ft", batch=2, second_moment=moment, seed=3
    )
    about = found.as_json()["about"]
    assert about["model"] == "tiny-gpt2"
    assert about["data"].startswith("zsre, sha256 ")
    assert about["records"] == "2 of 4 (report split, seed 3)", "the first and the last are for tuning"
    assert about["command"] == (
        "factedit evaluate tiny-gpt2 --dataset zsre --method ft --seed 3 --batch 2 --second-moment c.safetensors"
    )
    assert "torch " in about["versions"]
    skipped = "1 of 5 records of zsre cannot be used and are left out (the subject does not stand in the prompt: 1)"
    assert skipped in about["notes"]
    table = reproduce_table("zsre", tiny("gpt2"), tmp_path / "t", source="tiny", methods="ft", second_moment=moment)
    assert skipped in table.notes["counted"]
    assert skipped in table.told


def test_a_users_own_file_is_never_thinned(facts: Path, moment: Path, tmp_path: Path) -> None:
    """Before: `--split report`, the default, left a quarter of it out."""
    own = (facts / "counterfact.json").rename(tmp_path / "mine.json")
    asked = {"model": tiny("gpt2"), "dataset": str(own), "methods": "ft", "second_moment": moment, "batch": 5}
    found = evaluate_dataset(folder=tmp_path / "out", **asked)
    assert len(found.evaluation.results["ft"]) == 5
    assert found.about["records"] == "5 of 5 (all of the file, seed 0)"
    with pytest.raises(UsageError, match=r"No preset was tuned on mine\.json"):
        evaluate_dataset(folder=tmp_path / "out", split="tune", **asked)


@pytest.mark.parametrize("form", ["requests", "CounterFact's"])
def test_a_users_file_without_an_old_object_is_evaluated_by_what_is_left(
    facts: Path, moment: Path, tmp_path: Path, form: str
) -> None:
    """Before: "Record 0 has no target_true, which counterfact asks for", and no way on."""
    rows = [{"subject": s, "prompt": "{} is in", "target_new": "football"} for s in SUBJECTS]
    rows[1]["target_true"] = "Seattle"
    if form != "requests":
        rows = counterfact_rows(SUBJECTS)
        for row in (rows[0], *rows[2:]):
            del row["requested_rewrite"]["target_true"]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = {"dataset": str(tmp_path / "mine.jsonl"), "folder": tmp_path / "out", "methods": "ft"}
    found = evaluate_dataset(tiny("gpt2"), second_moment=moment, **asked)
    assert (
        "4 of 5 records of mine.jsonl have no target_true, which counterfact asks for; all are asked by what is "
        in (" ".join(found.notes))
    )
    after, before = found.as_json()["ft"], found.as_json()["unedited"]
    assert after["n"] == 5
    assert after["new_P"] > 2 * before["new_P"] > 0
    assert after["edit_tokens"] > before["edit_tokens"]
    assert after["free"] >= before["free"]
    with pytest.raises(RequestError, match="has no target_true, which counterfact asks for"):
        evaluate_dataset(never, benchmark="counterfact", **asked)


def test_what_is_taken_from_the_store_is_said(
    facts: Path, moment: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="factedit")
    asked = {"dataset": "zsre", "folder": tmp_path / "out", "methods": "ft", "second_moment": moment}
    evaluate_dataset(tiny("gpt2"), records=1, **asked)
    assert "were taken from" not in caplog.text
    evaluate_dataset(tiny("gpt2"), **asked)
    assert "2 of 6 results were taken from" in caplog.text
