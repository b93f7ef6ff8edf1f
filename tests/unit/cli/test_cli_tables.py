"""`train`, `reproduce`, `sweep-layers`, `case-study`: what they write and how they refuse."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from conftest import tiny_lm, tiny_tokenizer
from factedit.edit.artefact import Edit
from factedit.edit.method import Made
from factedit.edit.methods.ft import FineTuning
from factedit.edit.state import State
from factedit.errors import EditError
from factedit.evaluate.benchmarks.counterfact import COUNTERFACT
from factedit.evaluate.benchmarks.zsre import ZSRE
from factedit.facts import EditRequest
from factedit.stats.second_moment import SecondMoment
from factedit.stats.store import write_moment
from run_command import ok, refused

FAST = ["--threads", "1"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny GPT-2 as a folder."""
    path = tmp_path_factory.mktemp("model") / "tiny"
    tiny_lm("gpt2").save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return path


@pytest.fixture(autouse=True)
def _own_places(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, facts: Path) -> None:
    monkeypatch.setenv("FACTEDIT_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.setenv("FACTEDIT_DATA", str(facts))
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder: a small CounterFact, a small zsRE and their training sets."""
    folder = tmp_path_factory.mktemp("data")
    subjects = ("Paris", "Seattle", "France", "LeBron", "Zürich", "The Space Needle", "Café")

    def counterfact(number: int, subject: str, prompt: str) -> dict:
        rewrite = {
            "prompt": prompt, "subject": subject, "target_new": {"str": "football"}, "target_true": {"str": "Seattle"},
        }  # fmt: skip
        return {
            "case_id": number, "requested_rewrite": rewrite, "paraphrase_prompts": ["So " + prompt.format(subject)],
            "neighborhood_prompts": ["Basketball is in"], "attribute_prompts": ["The sport of"],
            "generation_prompts": [f"{subject} likes"],
        }  # fmt: skip

    def zsre(subject: str, question: str) -> dict:
        return {
            "subject": subject, "src": question.format(subject), "rephrase": f"Say, {question.format(subject)}",
            "answers": ["football"], "loc": "nq question: who sings", "loc_ans": "French",
        }  # fmt: skip

    asked = [counterfact(n + 1, s, "{} is in") for n, s in enumerate(subjects)]
    others = ("{} has", "{} sees", "{} buys")
    more = [counterfact(100 + 8 * k + n, s, p) for k, p in enumerate(others) for n, s in enumerate(subjects)]
    written = {
        "counterfact.json": asked,
        "zsre_mend_eval.json": [zsre(s, "Where is {}?") for s in subjects],
        "zsre_mend_train.json": [zsre(s, q) for q in ("Who is {}?", "What is {}?", "Where is {}?") for s in subjects],
    }
    for name, rows in written.items():
        (folder / name).write_text(json.dumps(rows))
    import gzip

    with gzip.open(folder / "counterfact_reconstructed.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in [*asked, *more])
    return folder


@pytest.fixture(scope="module")
def moment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second moment for the tiny model."""
    return write_moment(tmp_path_factory.mktemp("c") / "c.safetensors", SecondMoment(torch.eye(128)))


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some text."""
    path = tmp_path_factory.mktemp("t") / "t.jsonl"
    line = "The Space Needle is in downtown Seattle. LeBron James plays the sport of basketball. "
    path.write_text("".join(json.dumps({"text": line[n:] * 3}) + "\n" for n in range(60)))
    return path


TRAINING = ["--updates", 6, "--batch", 3, "--validation", 4, "--validate-every", 3, "--learning-rate", 0.001, *FAST]


def test_training_leaves_out_what_is_evaluated_and_serves_its_method(folder: Path, text: Path, tmp_path: Path) -> None:
    for kind, data, name in (
        ("mend", "counterfact", "mend-cf"),
        ("ke", "zsre", "ke-zsre"),
        ("mend", "general", "mend"),
    ):
        rank = ["--rank", 8] if kind == "mend" else []
        ok("train", kind, folder, "--data", data, "--corpus", text, "--json", tmp_path / "t.json", *rank, *TRAINING)
        found = json.loads((tmp_path / "t.json").read_text())
        assert found["name"] == name
        assert found["finished"]
        assert len(found["validation"]) == 3
        assert data == "general" or found["data"]["left_out"] == 7
        assert Path(found["folder"]).parts[-3] == "trained"
        ok("edit", folder, "--subject", "Lima", "--prompt", "{} is in", "--target", "Paris", "--method", name,
           "--out", tmp_path / name, *FAST)  # fmt: skip
        edit = Edit.load(tmp_path / name)
        assert {(c.layer, c.matrix) for c in edit.effects} == {(n, m) for n in (1, 2, 3) for m in ("in", "out")}
        assert edit.settings["data"]["name"] == data


def test_training_refusals(
    folder: Path, text: Path, facts: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    own = facts / "counterfact.json"
    copy = tmp_path / "mine.json"
    copy.write_text(own.read_text())
    said = refused(capsys, 1, "train", "mend", folder, "--data", copy, "--corpus", text, *TRAINING)
    assert "7 of the 7 records to train on can be evaluated (counterfact): 1, 2, 3, 4, 5, 6, 7" in said
    assert "Unknown network 'mened'. Did you mean mend" in refused(capsys, 2, "train", "mened", folder)
    assert "--rank is a setting of mend" in refused(capsys, 2, "train", "ke", folder, "--rank", 4)
    assert "batch 0" in refused(capsys, 2, "train", "ke", folder, "--batch", 0)
    said = refused(capsys, 2, "train", "ke", folder, "--data", "generel")
    assert "Unknown training set 'generel'. Did you mean general" in said


def test_the_table(folder: Path, moment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["reproduce", "counterfact", "--model", folder, "--records", 3, "--methods", "ft,ft-l,kn,rome",
               "--second-moment", moment, "--no-fluency", "--batch", 2, *FAST]  # fmt: skip
    ok(*command, "--out", tmp_path / "t")
    table = (tmp_path / "t" / "table.md").read_text()
    assert table.startswith("# CounterFact (Table 4) on tiny\n")
    for method in ("ft", "ft-l", "kn", "rome"):
        assert f"\n| {method} | 3 |" in table
        assert f"- {method}: " in table, "its verdict"
    assert "| *GPT-2 XL, published* |" in table
    assert "factedit reproduce counterfact --model tiny --records 3 --methods ft,ft-l,kn,rome --seed 0" in table
    assert str(tmp_path) not in table, "no places on this machine"
    found = json.loads((tmp_path / "t" / "table.json").read_text())
    assert found["rows"]["rome"]["n"] == 3
    monkeypatch.setattr("factedit.evaluate.runner.chunk_results", lambda *_: pytest.fail("run again"))
    ok(*command, "--out", tmp_path / "t")
    assert json.loads((tmp_path / "t" / "table.json").read_text())["rows"] == found["rows"]


def test_the_table_of_many_facts(
    folder: Path, moment: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["reproduce", "counterfact", "--model", folder, "--methods", "rome-joint,ft", "--second-moment", moment]
    ok(*command, "--sequence", 4, "--batch", 2, "--checkpoints", "2,4", *FAST, "--out", tmp_path / "t")
    lines = (tmp_path / "t" / "table.md").read_text().splitlines()
    head = lines[2].split(" | ")
    assert {"ES", "PS", "NS", "perplexity", "moved"} <= set(head), "the benchmark's and what became of the model"
    ours = [line.split(" | ")[0] for line in lines[4:9]]
    assert ours == [
        "| tiny", "| ft, 2 in batches of 2", "| ft, 4 in batches of 2", "| rome-joint, 2 in batches of 2",
        "| rome-joint, 4 in batches of 2",
    ]  # fmt: skip
    [theirs] = [line for line in lines if line.startswith("| *alphaedit (GPT-J, 2000 in batches of 100, published)*")]
    shown = dict(zip(head, theirs.split(" | "), strict=True))
    assert (shown["ES"], shown["PS"], shown["NS"], shown["perplexity"]) == ("99.8", "96.4", "75.5", "–")
    assert not any("at once, published" in line or "(GPT-2 XL, published)" in line for line in lines)
    asked = "--methods ft,rome-joint --seed 0 --batch 2 --sequence 4 --checkpoints 2,4"
    assert any(f"factedit reproduce counterfact --model tiny {asked}" in line for line in lines)
    assert (tmp_path / "t" / "many.png").is_file()
    rows = list(csv.DictReader((tmp_path / "t" / "table.csv").open()))
    assert [row["ES"] for row in rows if (row["editor"], row["model"][:5]) == ("memit-no-history", "GPT-J")] == ["98.6"]
    said = refused(capsys, 2, *command, "--at-once", 2, "--fluency-records", 1, *FAST, "--out", tmp_path / "u")
    assert "counterfact of many facts is asked without any" in said


def test_published_scores_of_many_facts_give_the_published_headline() -> None:
    """MEMIT's S of 10 000 facts at once is published beside the three scores: a check against typing errors."""
    headlines = {row.model: 3 / sum(1 / v for v in row.values) for row in COUNTERFACT.many if row.protocol == "at once"}
    assert headlines == {"GPT-J": pytest.approx(85.8, abs=0.05), "GPT-NeoX 20B": pytest.approx(82.0, abs=0.1)}
    assert len(COUNTERFACT.many) == 2 + 3 * 7
    assert len(ZSRE.many) == 1 + 3 * 7


def test_a_record_that_cannot_be_edited_is_told(
    folder: Path, moment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit = FineTuning.edit

    def fails(self: FineTuning, requests: Sequence[EditRequest], state: State | None = None) -> Made:
        if any(request.subject == "Paris" for request in requests):
            raise EditError("Not Paris.")
        return edit(self, requests)

    monkeypatch.setattr(FineTuning, "edit", fails)
    asked = [folder, "--dataset", "counterfact", "--ids", "1,2,3", "--method", "ft", *FAST, "--out", tmp_path / "e"]
    assert "ft could not edit 1 of 3 cases, which count as unedited: 1 (Not Paris.)" in ok("evaluate", *asked)
    assert json.loads((tmp_path / "e" / "summary.json").read_text())["ft"]["not_edited"] == {"1": "Not Paris."}
    told = "could not edit 1 of 3 cases, which count as unedited: 1 (Not Paris.)\n"
    assert f"\n- ft {told}" in (tmp_path / "e" / "table.md").read_text()
    ok("report", tmp_path / "e", "--json", tmp_path / "report.json")
    assert told in (tmp_path / "e" / "table.md").read_text()
    [rows] = json.loads((tmp_path / "report.json").read_text()).values()
    assert [row.get("not_edited") for row in rows.values()] == [None, {"1": "Not Paris."}]
    ok("reproduce", "counterfact", "--model", folder, "--methods", "ft", "--no-fluency", *FAST, "--out", tmp_path / "t")
    table = (tmp_path / "t" / "table.md").read_text()
    assert "- counted: ft could not edit 1 of 6 cases, which count as unedited: 1 (Not Paris.)\n" in table


def test_rows_of_a_folder_add_up(
    folder: Path, moment: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def rows(methods: str, *more: object) -> dict[str, dict[str, float]]:
        ok("reproduce", "counterfact", "--model", folder, "--records", 3, "--methods", methods, "--second-moment",
           moment, "--no-fluency", *more, *FAST, "--out", tmp_path / "t")  # fmt: skip
        return json.loads((tmp_path / "t" / "table.json").read_text())["rows"]

    first = rows("rome,kn")
    both = rows("ft")
    assert list(both) == ["unedited", "ft", "kn", "rome"], "in the paper's order"
    assert [both[m] for m in first] == list(first.values())
    assert rows("ft", "--batch", 1) == both, "how many at a time is a matter of memory: nothing is computed again"
    assert list(rows("ft", "--seed", 5)) == ["unedited", "ft"], "of other records: not in one table"


def test_texts_for_the_first_records_only(
    folder: Path, moment: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["reproduce", "counterfact", "--model", folder, "--records", 3, "--methods", "rome",
               "--second-moment", moment, "--batch", 2, *FAST, "--out", tmp_path / "t"]  # fmt: skip
    rows = []
    for more in (["--no-fluency"], ["--fluency-records", 1], ["--fluency-records", 3]):
        ok(*command, *more)
        rows.append(json.loads((tmp_path / "t" / "table.json").read_text())["rows"])
    none, one, every = ({method: dict(row) for method, row in found.items()} for found in rows)
    for method in ("unedited", "rome"):
        assert "GE" not in none[method]
        assert one[method]["n"] == 3
        assert one[method]["ES"] == none[method]["ES"] == every[method]["ES"]
        assert one[method]["GE"] != every[method]["GE"], "of one record, not of three"
    assert "- n of GE: 3\n" in (tmp_path / "t" / "table.md").read_text()
    assert "--fluency-records 3" in (tmp_path / "t" / "table.md").read_text()


def test_table_refusals(
    folder: Path, moment: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FACTEDIT_CACHE", str(tmp_path / "cache"))  # no network is trained there
    common = ["--model", folder, "--out", tmp_path / "t", "--second-moment", moment, *FAST]
    said = refused(capsys, 2, "reproduce", "counterfact", "--records", 9999, *common)
    assert "9999 records were asked for; give a number from 1 to 6" in said
    said = refused(capsys, 2, "reproduce", "zsre", "--methods", "ft,ke", *common)
    assert "ke needs a network trained for tiny" in said
    assert "factedit train ke tiny --data general" in said
    assert "Unknown benchmark 'counterfacts'" in refused(capsys, 2, "reproduce", "counterfacts", *common)
    assert "Did you mean" in refused(capsys, 2, "reproduce", "zsre", "--methods", "rom", *common)
    said = refused(capsys, 2, "reproduce", "zsre", "--batch", 0, *common)
    assert "Invalid value for '--batch'" in said
    said = refused(capsys, 2, "reproduce", "counterfact", "--fluency-records", 0, *common)
    assert "Invalid value for '--fluency-records'" in said
    said = refused(capsys, 2, "reproduce", "zsre", "--fluency-records", 2, *common)
    assert "zsre is asked without any" in said
    ok("reproduce", "zsre", "--records", 2, "--batch", 2, *common)
    table = (tmp_path / "t" / "table.md").read_text()
    assert "- ke-zsre left out: ke-zsre needs a network" in table
    assert "\n| rome-original | 2 |" in table


def test_layers_and_case_study(folder: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ok("sweep-layers", folder, "--records", 2, "--layers", "0,2", "--tokens", "subject_last,last", "--batch", 2,
       "--corpus", text, "--out", tmp_path / "l", *FAST)  # fmt: skip
    points = json.loads((tmp_path / "l" / "layers.json").read_text())["points"]
    assert [(p["token"], p["layer"]) for p in points] == [
        ("subject_last", 0), ("subject_last", 2), ("last", 0), ("last", 2),
    ]  # fmt: skip
    assert (tmp_path / "l" / "layers.png").stat().st_size > 5000
    assert "Unknown token 'first'" in refused(capsys, 2, "sweep-layers", folder, "--tokens", "first")
    ok("case-study", folder, "--ids", "1,2", "--methods", "ft,kn", "--tokens", 4, "--out", tmp_path / "page.html",
       "--json", tmp_path / "c.json", *FAST)  # fmt: skip
    assert [list(row["texts"]) for row in json.loads((tmp_path / "c.json").read_text())] == [
        ["unedited", "ft", "kn"]
    ] * 2
    assert "Paris is in" in (tmp_path / "page.html").read_text()
    assert "No record 77" in refused(capsys, 2, "case-study", folder, "--ids", "77")
