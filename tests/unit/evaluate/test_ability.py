"""Items of ability sets, their tasks for the harness, and what changed, by hand; the harness where it is there."""

from __future__ import annotations

import gzip
import importlib.util
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from conftest import tiny
from factedit.errors import DataError, UnknownName, UsageError
from factedit.evaluate.ability.harness import ItemAnswer, TaskAnswers, _given, ask_tasks, lm_eval, write_tasks
from factedit.evaluate.ability.items import TASKS, AbilityItem, items_of, tasks_in
from factedit.evaluate.ability.paired import paired
from factedit.evaluate.measuring import AS_IT_IS, measure
from factedit.evaluate.metric import Answered
from factedit.evaluate.metrics.ability import Ability, likeliest_of, questions
from factedit.evaluate.probability import Question, Score
from factedit.facts import EditRequest, FactRecord
from factedit.models.load import load
from factedit.work.ability import ability_items, ask_abilities
from run_command import ok, refused
from stack_cases import random_edit
from tiny_folder import save

HARNESS = pytest.mark.skipif(importlib.util.find_spec("lm_eval") is None, reason="lm-evaluation-harness is an extra")
RECORD = FactRecord(case_id="1", request=EditRequest(subject="Paris", prompt="{} is in", target_new="Rome"))
QUESTIONS = ("What is Paris?", "Who plays?", "Which sport?", "Where is it?")
ROWS: dict[str, list[dict[str, Any]]] = {
    "arc-easy": [{"question": text, "choices": ["France", "a sport", "Seattle"], "gold": n % 3}
                 for n, text in enumerate(QUESTIONS)],
    "winogrande": [{"question": "Ann met Joan so _ was glad.", "choices": ["Ann", "Joan"], "gold": 1}],
    "lambada": [{"text": "The Space Needle is in downtown Seattle"}, {"text": "Paris is the capital of France "}],
    "sst2": [{"sentence": "a fine sport ", "label": 1}],
    "nli": [{"sentence1": "A.", "sentence2": "B.", "label": "not_entailment"}],
    "blimp": [{"sentence_good": "Paris is in France.", "sentence_bad": "Paris in is France."}],
    "mmlu": [{"question": "2+2?", "subject": "high_school", "choices": ["3", "4"], "answer": 1}],
    "perplexity": [{"Corpus": "C4", "Text": "Paris is the capital of France."}],
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("sets")
    for name, rows in ROWS.items():
        path = place / TASKS[name].file
        lines = "\n".join(map(json.dumps, rows))
        path.write_bytes(gzip.compress(lines.encode()) if path.suffix == ".gz" else json.dumps(rows).encode())
    return place


def test_items_are_worded_as_the_harness_words_them(folder: Path) -> None:
    found = {task.name: items_of(task, folder) for task in tasks_in(folder)}
    assert found.keys() == ROWS.keys()
    assert found["arc-easy"][1] == AbilityItem(("Question: Who plays?\nAnswer:",), ("France", "a sport", "Seattle"), 1)
    assert found["winogrande"] == [AbilityItem(("Ann met Joan so Ann", "Ann met Joan so Joan"), ("was glad.",), 1)]
    assert found["lambada"] == [
        AbilityItem(("The Space Needle is in downtown",), ("Seattle",)),
        AbilityItem(("Paris is the capital of",), ("France",)),
    ]  # fmt: skip
    prompt = "a fine sport\nQuestion: Is this sentence positive or negative?\nAnswer:"
    assert found["sst2"] == [AbilityItem((prompt,), ("negative", "positive"), 1)]
    assert found["nli"] == [AbilityItem(("A.\nQuestion: B. True or False?\nAnswer:",), ("True", "False"), 1)]
    assert found["blimp"][0].answers[0] == "Paris is in France."
    assert found["mmlu"][0].prompts[0].endswith("about high school.\n\n2+2?\nA. 3\nB. 4\nAnswer:")
    assert found["mmlu"][0][1:] == (("A", "B"), 1)
    assert [item.prompts[0][10:14] for item in items_of(TASKS["arc-easy"], folder, 2)] == ["What", "Whic"]


def test_bad_sets_are_named(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnknownName, match="Unknown ability task 'arc'"):
        tasks_in(folder, ["arc"])
    with pytest.raises(DataError, match=r"does not hold piqa.jsonl.gz"):
        tasks_in(folder, ["piqa", "sst2"])
    with pytest.raises(DataError, match="does not hold any of lambada_test"):
        tasks_in(tmp_path)
    with pytest.raises(UsageError, match="is not a folder"):
        tasks_in(tmp_path / "none")
    monkeypatch.delenv("FACTEDIT_DATA", raising=False)
    with pytest.raises(UsageError, match=r"Name the folder of the ability sets \(--data\)"):
        ability_items(None)
    (tmp_path / "winogrande.jsonl.gz").write_bytes(gzip.compress(b'{"question": "no blank", "choices": [], "gold": 0}'))
    with pytest.raises(DataError, match=r"winogrande.jsonl.gz, line 1: the question has no blank"):
        items_of(TASKS["winogrande"], tmp_path)
    (tmp_path / "sst2").write_text("")
    (tmp_path / TASKS["sst2"].file).write_bytes(gzip.compress(b'{"sentence": "x", "label": 2}'))
    with pytest.raises(DataError, match=r"the field 'label' is 2 and there are 2 answers"):
        items_of(TASKS["sst2"], tmp_path)


def test_differences_are_of_items_and_churn_shows_what_a_mean_hides() -> None:
    """Right 2 of 4 before and after: difference 0 with spread; three answers changed."""
    before = TaskAnswers({}, (ItemAnswer(1, 0, -1), ItemAnswer(1, 1, -1), ItemAnswer(0, 2, -1), ItemAnswer(0, 1, -1)))
    after = TaskAnswers({}, (ItemAnswer(1, 0, -1), ItemAnswer(0, 2, -1), ItemAnswer(1, 0, -1), ItemAnswer(0, 0, -1)))
    found = paired(before, after)
    assert (found.before, found.after, found.difference.value, found.changed) == (50, 50, 0, 75)
    spread = math.sqrt((100**2 + 100**2) / 3)
    assert found.difference.half_width == pytest.approx(1.959963984540054 * spread / 2)
    texts = [TaskAnswers({"word_perplexity": p}, (ItemAnswer(math.nan, 0, -a), ItemAnswer(math.nan, 0, -b)))
             for p, a, b in ((10, 5, 7), (12, 6, 10))]  # fmt: skip
    found = paired(*texts)
    assert (found.before, found.after, found.difference.value) == (10, 12, 2)
    assert math.isnan(found.changed)


def test_numbers_that_are_not_finite_are_no_answer_and_never_right() -> None:
    """The harness takes the first NaN for the largest, which is right wherever the first choice is."""
    given_nan = _given({"filtered_resps": [("nan", "False"), ("nan", "False")], "acc": 1.0, "doc": {"gold": 0}})
    assert (given_nan.right, given_nan.answer) == (0, -1)
    word = _given({"filtered_resps": [("nan", "True")], "acc": 1.0, "doc": {}})
    assert (word.right, word.answer) == (0, -1)
    sound = _given({"filtered_resps": [("-1.5", "True"), ("-2", "False")], "acc": 1.0, "doc": {"gold": 0}})
    assert sound == (1, 0, -1.5)


def test_the_metric_by_hand() -> None:
    """Three choices: the second is likeliest by its sum, not by its mean; a word; an item that is not finite."""
    three, word = AbilityItem(("p",), ("a", "b", "c"), 1), AbilityItem(("q",), ("w",))
    metric = Ability((three, word, word), ("x",))
    assert metric.asks(RECORD)[:4] == [Question("p", "a"), Question("p", "b"), Question("p", "c"), Question("q", "w")]
    own = [Score((-2.0, -2.0), (False,) * 2), Score((-3.0,), (False,)), Score((-9.0,), (False,))]
    likely, no, broken = Score((-1.0, -1.0), (True, True)), Score((-1.0,), (False,)), Score((math.nan,), (True,))
    assert likeliest_of(own) == 1
    found = metric.scored(Answered(RECORD, [*own, likely, broken], [*own[::-1], no, likely]))
    assert found.scores == {"ability_right": 100, "ability_changed": 50}, "own reversed gives the same middle answer"
    assert found.tests == {"ability_right": (2, 1), "ability_changed": (2, 1)}
    found = metric.scored(Answered(RECORD, [*own[1:], own[0], no, likely], [*own, no, likely]))
    assert found.scores["ability_right"] == pytest.approx(100 / 3)


def test_the_metric_is_left_out_where_there_are_no_sets(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Ability.for_records([RECORD], abilities=tmp_path) is None
    monkeypatch.delenv("FACTEDIT_DATA", raising=False)
    monkeypatch.chdir(folder.parent)
    (folder.parent / "ability").symlink_to(folder)
    assert Ability.for_records([RECORD]) is None, "nothing is taken from where one happens to stand"
    monkeypatch.setenv("FACTEDIT_DATA", str(folder.parent))
    assert Ability.for_records([RECORD]) is not None
    made = Ability.for_records([RECORD], abilities=folder)
    assert made is not None
    assert made.sets == ("lambada", "arc-easy", "winogrande", "sst2")
    model = tiny("gpt2", n_positions=256, max_position_embeddings=256)
    [[found]] = measure(model, [RECORD], [made], [AS_IT_IS], seed=0)
    assert found.scores["ability_changed"] == 0
    assert found.tests["ability_right"] == (8, 0)


def test_an_item_longer_than_the_context_is_passed_over_and_said(caplog: pytest.LogCaptureFixture) -> None:
    """Before: one of them left every record without the metric."""
    model = tiny("gpt2")
    fits, long = AbilityItem(("The sport of",), ("football", "France"), 0), AbilityItem(("Paris " * 80,), ("a", "b"), 1)
    made = Ability((fits, long), ("x",)).for_model(model)
    assert made.items == (fits,)
    assert [record.message for record in caplog.records] == [
        "1 of 2 items of ability sets are longer than the context of tiny-gpt2 and are not asked."
    ]
    [[found]] = measure(model, [RECORD], [made], [AS_IT_IS], seed=0)
    assert (found.tests["ability_right"], found.scores["ability_changed"]) == ((1, 0), 0.0)
    [[found]] = measure(model, [RECORD], [Ability((long,), ("x",)).for_model(model)], [AS_IT_IS], seed=0)
    assert found.left_out == {"ability": "it has no item of an ability set that fits into the model's context"}
    whole = Ability((fits,), ("x",))
    assert whole.for_model(model).describe() == whole.describe(), "its place in the key"


def test_without_the_harness_it_is_said_how_to_get_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(UsageError, match=r"not installed here .* pip install 'factedit\[ability\]'"):
        lm_eval()
    said = refused(capsys, 2, "ability", "gpt2", "--data", folder)
    assert "pip install 'factedit[ability]'" in said


def test_a_harness_that_breaks_as_it_is_loaded_is_no_fault_of_ours(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "lm_eval.py").write_text("raise RuntimeError('numpy is of another kind\\nand more')")
    for name in [name for name in sys.modules if name.partition(".")[0] == "lm_eval"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(str(tmp_path))
    said = refused(capsys, 2, "ability", "gpt2", "--data", folder)
    assert "is installed and cannot be loaded (RuntimeError: numpy is of another kind). Install it again" in said


def test_tasks_are_written_for_the_harnesss_own_command(folder: Path, tmp_path: Path) -> None:
    asked = ("--data", folder, "--tasks", "arc-easy,lambada", "--limit", "2")
    ok("ability", "gpt2", *asked, "--write-tasks", tmp_path)
    tasks = {path.name for path in tmp_path.glob("factedit-*.yaml")}
    assert tasks == {"factedit-lambada.yaml", "factedit-arc-easy.yaml"}
    form = json.loads((tmp_path / "factedit-arc-easy.yaml").read_text())
    assert form["task"] == "factedit-arc-easy"
    assert form["output_type"] == "multiple_choice"
    rows = [json.loads(line) for line in (tmp_path / "factedit-lambada.jsonl").read_text().splitlines()]
    assert rows[0] == {"prompt": "The Space Needle is in downtown", "answer": " Seattle"}


@HARNESS
def test_the_harness_scores_as_our_reader_does_and_sees_edits(folder: Path, tmp_path: Path) -> None:
    model = tiny("gpt2", n_positions=256, max_position_embeddings=256)
    tasks = tasks_in(folder)
    items = {task.name: items_of(task, folder) for task in tasks}
    edit = random_edit(model, 3, layer=1)
    edit.save(tmp_path / "edit")
    found = ask_abilities(lambda: (model, ()), [tmp_path / "edit"], data=folder)
    for on, asked in ((False, found.unedited), (True, found.edited)):
        for name in ("arc-easy", "winogrande", "sst2", "nli", "mmlu"):
            own = [edit] if on else []
            answers = []
            for item in items[name]:
                with edit.applied_to(model) if own else model.unchanged():
                    asks = [questions(item)]
                    [[scores]] = Question.read(model, asks, [None], seed=0)
                answers.append(likeliest_of(scores))
            assert asked is not None
            assert [reply.answer for reply in asked[name].given] == answers
    assert found.compared()["arc-easy"].n == 4
    assert found.unedited["perplexity"].scores["word_perplexity"] > 1
    assert found.unedited != found.edited


@HARNESS
def test_the_harnesss_own_command_on_an_exported_folder_gives_the_same(folder: Path, tmp_path: Path) -> None:
    place = save(tmp_path / "model")
    tasks = tasks_in(folder, ["arc-easy", "lambada"])
    items = {task.name: items_of(task, folder) for task in tasks}
    names = write_tasks(tasks, items, tmp_path / "tasks")
    ours = ask_tasks(load(str(place)), tasks, items)
    line = [sys.executable, "-m", "lm_eval", "--model", "hf", "--model_args", f"pretrained={place},dtype=float32",
            "--include_path", str(tmp_path / "tasks"), "--tasks", ",".join(names), "--device", "cpu",
            "--output_path", str(tmp_path / "out.json"), "--batch_size", "4"]  # fmt: skip
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    ran = subprocess.run(line, capture_output=True, text=True, env=environment, check=False)
    assert ran.returncode == 0, ran.stderr[-2000:]
    [file] = tmp_path.rglob("out*.json")
    theirs = json.loads(file.read_text())["results"]
    for task, name in zip(tasks, names, strict=True):
        for score, value in ours[task.name].scores.items():
            assert theirs[name][f"{score},none"] == pytest.approx(value, rel=1e-5), (name, score)
