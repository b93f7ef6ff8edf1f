"""Training: it learns, resumes to the bit, stops where it must, and never sees what is evaluated."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from conftest import tiny
from factedit.edit.method_table import make_method
from factedit.edit.trained import NETWORK, NETWORK_KINDS, RECORD, STATE, NetworkKind, find_folder, read_record
from factedit.errors import DataError, EditError, UsageError
from factedit.evaluate.leak import refuse_trained_on
from factedit.facts import EditRequest, FactRecord
from factedit.models.adapter import EditableModel
from factedit.train.examples import Pieces, RecordExamples, pieces_of, usable
from factedit.train.loop import _Run
from factedit.train.overlap import overlapping, refuse_overlap
from factedit.train.prepare import check_data, prepare
from tiny_training import RECORDS, train_tiny

TEXT = "The Space Needle is in downtown Seattle. LeBron James plays the sport of basketball. " * 3


def nothing(*_: object) -> None:
    """No second moment is needed."""


def method(model: EditableModel, name: str, folder: Path | None):  # type: ignore[no-untyped-def]
    return make_method(name, model, nothing, trained=folder)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", NETWORK_KINDS)
def test_it_learns(kind: NetworkKind, tiny_gpt2: EditableModel, tmp_path: Path) -> None:
    before = tiny_gpt2.fingerprint()
    record = train_tiny(tiny_gpt2, kind, tmp_path / "n")
    losses = [row[1] for row in record.validation]
    assert len(losses) == 3, "before the first step, and every 20"
    assert record.best_loss == min(losses) < losses[0] - 0.02
    assert record.finished
    assert record.why == "all steps done"
    assert {p.name for p in (tmp_path / "n").iterdir()} == {RECORD, NETWORK}
    assert tiny_gpt2.fingerprint() == before
    assert all(p.grad is None for p in tiny_gpt2.lm.parameters())
    assert record.model_fingerprint == before
    assert record.records == len(RECORDS) - 6


class Killed(Exception):
    """Stands for the end of the process."""


@pytest.mark.parametrize(("kind", "killed_at"), [("ke", 27), ("mend", 27), ("mend", 3)])
def test_a_killed_training_goes_on_to_the_same_bits(
    kind: NetworkKind, killed_at: int, tiny_gpt2: EditableModel, tmp_path: Path
) -> None:
    whole = train_tiny(tiny_gpt2, kind, tmp_path / "whole")
    saved = killed_at // 20 * 20

    def kill(step: int, _losses: object) -> None:
        if step == killed_at:
            raise Killed

    with pytest.raises(Killed):
        train_tiny(tiny_gpt2, kind, tmp_path / "killed", progress=kill)
    assert (tmp_path / "killed" / STATE).is_file()
    with pytest.raises(
        EditError, match=rf"stopped at step {saved} before its end.*train {kind} tiny-gpt2 --data zsre --out .*killed"
    ):
        method(tiny_gpt2, f"{kind}-zsre", tmp_path / "killed")
    seen: list[int] = []
    resumed = train_tiny(tiny_gpt2, kind, tmp_path / "killed", progress=lambda step, _losses: seen.append(step))
    assert seen[0] == saved, "it goes on from the checkpoint"
    assert resumed.validation == whole.validation
    assert (tmp_path / "killed" / NETWORK).read_bytes() == (tmp_path / "whole" / NETWORK).read_bytes()
    again = train_tiny(tiny_gpt2, kind, tmp_path / "whole", progress=kill)
    assert again == whole, "a finished training is not done again"


def test_it_stops_when_validation_stops_improving(tiny_gpt2: EditableModel, tmp_path: Path) -> None:
    record = train_tiny(
        tiny_gpt2, "mend", tmp_path / "n", steps=400, validate_every=5, patience=2, learning_rate=0.3, diverged=1e9
    )
    assert record.step < 400
    assert record.step == record.best_step + 10
    assert record.why == "validation stopped improving"


def test_a_training_killed_when_it_was_over_does_not_go_on(
    tiny_gpt2: EditableModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stale = {"steps": 400, "validate_every": 5, "patience": 2, "learning_rate": 0.3, "diverged": 1e9}
    whole = train_tiny(tiny_gpt2, "mend", tmp_path / "whole", **stale)
    saves = iter(range(whole.step // 5 + 1))

    def save(self: _Run) -> None:
        if next(saves, None) is None:
            raise Killed  # between the last validation's checkpoint and the end
        real(self)

    real = _Run.save
    monkeypatch.setattr(_Run, "save", save)
    with pytest.raises(Killed):
        train_tiny(tiny_gpt2, "mend", tmp_path / "killed", **stale)
    monkeypatch.undo()
    resumed = train_tiny(tiny_gpt2, "mend", tmp_path / "killed", **stale)
    assert (resumed.step, resumed.why) == (whole.step, whole.why)


class Breaks(RecordExamples):
    """Facts that poison the model's weights from some batch on, so that every later loss is NaN."""

    def __init__(self, records: tuple[FactRecord, ...], batches: int) -> None:
        super().__init__(records)
        object.__setattr__(self, "left", [batches])

    def examples(self, model: EditableModel, draws, **kind):  # type: ignore[no-untyped-def]
        self.left[0] -= 1  # type: ignore[attr-defined]
        if self.left[0] < 0:  # type: ignore[attr-defined]
            with torch.no_grad():
                model.layers[-1].mlp.c_proj.bias[0] = float("nan")
        return super().examples(model, draws, **kind)


def test_divergence_keeps_the_last_good_network_and_says_where(tmp_path: Path) -> None:
    model = tiny("gpt2")
    with pytest.raises(
        EditError,
        match=r"mend-zsre diverged at step 26: the loss is nan.*of step 20 .* is kept in .*/n and can be used",
    ):
        # 4 batches to warm up, 2 for each of 2 validations, 25 good steps
        train_tiny(model, "mend", tmp_path / "n", source=Breaks(RECORDS, batches=4 + 2 * 2 + 25))
    record = read_record(tmp_path / "n")
    assert record.best_step == 20
    assert record.why.startswith("diverged at step 26")
    assert all(torch.isfinite(t).all() for t in load_file(tmp_path / "n" / NETWORK).values() if t.is_floating_point())
    healthy = tiny("gpt2")
    assert method(healthy, "mend-zsre", tmp_path / "n").edit([RECORDS[0].request]).edits


def test_divergence_before_anything_was_learned(tiny_gpt2: EditableModel, tmp_path: Path) -> None:
    with pytest.raises(EditError, match=r"diverged at step .*No validation was better than the untrained network"):
        train_tiny(tiny_gpt2, "mend", tmp_path / "n", learning_rate=1e9, validate_every=50, steps=50)
    with pytest.raises(EditError, match="before its end"):
        method(tiny_gpt2, "mend-zsre", tmp_path / "n")


def test_missing_training_says_what_to_type(
    tiny_gpt2: EditableModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FACTEDIT_CACHE", str(tmp_path))
    commands = {
        "mend": "factedit train mend tiny-gpt2 --data general",
        "ke-zsre": "factedit train ke tiny-gpt2 --data zsre",
        "mend-cf": "factedit train mend tiny-gpt2 --data counterfact",
    }
    for name, command in commands.items():
        with pytest.raises(UsageError, match=f"{name} needs a network.*there is none in .*Train it: {command}"):
            method(tiny_gpt2, name, None)
    with pytest.raises(UsageError, match=r"--data zsre --out .*/here/mend-zsre"):
        method(tiny_gpt2, "mend-zsre", tmp_path / "here")


def test_the_folder_is_found_in_the_cache_and_by_name(
    tiny_gpt2: EditableModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FACTEDIT_CACHE", str(tmp_path))
    folder = tmp_path / "trained" / tiny_gpt2.fingerprint()[:16] / "ke-zsre"
    train_tiny(tiny_gpt2, "ke", folder, steps=20)
    assert method(tiny_gpt2, "ke-zsre", None).record.step == 20
    for named in (folder, folder.parent):
        assert find_folder(tiny_gpt2, "ke-zsre", named) == folder


def test_another_models_network_is_refused(tiny_gpt2: EditableModel, tmp_path: Path) -> None:
    train_tiny(tiny_gpt2, "mend", tmp_path / "n", steps=20)
    other = tiny("gpt2", seed=3)
    with pytest.raises(EditError, match=r"was trained for weights .* \(tiny-gpt2\); tiny-gpt2 has .*Train one for it"):
        method(other, "mend-zsre", tmp_path / "n")
    with pytest.raises(EditError, match="holds a network for mend-zsre, and ke was asked for"):
        method(tiny_gpt2, "ke", tmp_path / "n")


def test_another_training_in_the_folder_is_refused(tiny_gpt2: EditableModel, tmp_path: Path) -> None:
    train_tiny(tiny_gpt2, "mend", tmp_path / "n", steps=20)
    with pytest.raises(UsageError, match=r"holds another training .it differs in training"):
        train_tiny(tiny_gpt2, "mend", tmp_path / "n", steps=30)
    (tmp_path / "file").write_text("a letter")
    with pytest.raises(UsageError, match="is a file; name a folder"):
        train_tiny(tiny_gpt2, "mend", tmp_path / "file")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(UsageError, match="exists and holds no training"):
        train_tiny(tiny_gpt2, "mend", tmp_path / "mine")


def test_a_damaged_folder_is_refused(tiny_gpt2: EditableModel, tmp_path: Path) -> None:
    train_tiny(tiny_gpt2, "mend", tmp_path / "n", steps=20)
    whole = (tmp_path / "n" / NETWORK).read_bytes()
    (tmp_path / "n" / NETWORK).write_bytes(whole[:-8])
    with pytest.raises(DataError, match="changed or cut off"):
        method(tiny_gpt2, "mend-zsre", tmp_path / "n")
    (tmp_path / "n" / NETWORK).write_bytes(whole)
    told = json.loads((tmp_path / "n" / RECORD).read_text())
    told["network"]["colour"] = "red"
    (tmp_path / "n" / RECORD).write_text(json.dumps(told))
    with pytest.raises(DataError, match="it was changed after it was written"):
        method(tiny_gpt2, "mend-zsre", tmp_path / "n")
    older = {name: value for name, value in told.items() if name != "sha256"} | {"format": 1}
    (tmp_path / "n" / RECORD).write_text(json.dumps(older))
    with pytest.raises(DataError, match="does not hold the network that"):
        method(tiny_gpt2, "mend-zsre", tmp_path / "n")
    (tmp_path / "n" / RECORD).write_text(json.dumps({"format": 1}))
    with pytest.raises(DataError, match="is not the record of a trained network"):
        method(tiny_gpt2, "mend-zsre", tmp_path / "n")


def test_too_few_records(tiny_gpt2: EditableModel, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="6 records to train on, of which 6 are held out"):
        train_tiny(tiny_gpt2, "mend", tmp_path / "n", source=RecordExamples(RECORDS[:6]))


def test_settings_are_refused_by_name(tiny_gpt2: EditableModel, tmp_path: Path) -> None:
    train_tiny(tiny_gpt2, "mend", tmp_path / "n", steps=20)
    with pytest.raises(UsageError, match=r"The settings of mend-zsre do not hold: steps 9.*It has none"):
        make_method("mend-zsre", tiny_gpt2, nothing, trained=tmp_path / "n", steps=9)  # type: ignore[arg-type]


# -- what is trained on ------------------------------------------------------------------------------------------------


def record(case_id: str, subject: str, *paraphrases: str) -> FactRecord:
    request = EditRequest(subject=subject, prompt="{} is in", target_new="Paris", target_true="France")
    return FactRecord(case_id=case_id, request=request, paraphrases=paraphrases)


def test_overlap_by_id_by_prompt_and_by_paraphrase() -> None:
    evaluated = [record("1", "Seattle", "Where is Seattle? In")]
    trained = [
        record("1", "Rome"),
        record("2", "Seattle"),
        record("3", "Lima", " Where is Seattle? In "),
        record("4", "Oslo"),
    ]
    assert [r.case_id for r in overlapping(trained, evaluated, same_ids=True)] == ["1", "2", "3"]
    assert [r.case_id for r in overlapping(trained, evaluated, same_ids=False)] == ["2", "3"]
    with pytest.raises(DataError, match=r"2 of the 4 records .* can be evaluated \(here\): 2, 3\. Take them out"):
        refuse_overlap(trained, evaluated, name="here", same_ids=False)
    refuse_overlap(trained[3:], evaluated, name="here", same_ids=True)


@pytest.mark.data
def test_published_sets_leave_out_what_is_evaluated(
    tiny_gpt2: EditableModel, data_dir: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from factedit.data.registry import load_facts
    from factedit.stats.provide import Text

    monkeypatch.setenv("FACTEDIT_DATA", str(data_dir))
    monkeypatch.setattr("factedit.train.prepare.usable", lambda _model, records: tuple(records))
    text = Text("t", lambda: [TEXT] * 40)
    evaluated = load_facts("counterfact").records
    source, about = prepare(tiny_gpt2, "counterfact", text, pieces=30)
    assert about["left_out"] >= len(evaluated)
    assert len(source.names) == 10_000
    assert not {r.case_id for r in evaluated} & set(source.names)
    assert not {r.request.text for r in evaluated} & set(source.texts)
    own = tmp_path / "own.json"
    rows = json.loads((data_dir / "counterfact" / "counterfact_original.json").read_text())[:3]
    own.write_text(json.dumps(rows))
    with pytest.raises(DataError, match=r"3 of the 3 records to train on can be evaluated \(counterfact\)"):
        prepare(tiny_gpt2, str(own), text, pieces=30)


def test_a_users_own_file_reaches_for_no_network_and_says_what_was_not_checked(
    tiny_gpt2: EditableModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from factedit.data import download
    from factedit.stats.provide import Text

    monkeypatch.delenv("FACTEDIT_DATA", raising=False)
    monkeypatch.setenv("FACTEDIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(download.urllib.request, "urlopen", lambda *_a, **_k: pytest.fail("it asked the network"))
    monkeypatch.setattr("factedit.train.prepare.usable", lambda _model, records: tuple(records))
    rows = [
        {"case_id": 7, "paraphrase_prompts": [], "neighborhood_prompts": [], "generation_prompts": [],
         "requested_rewrite": {"prompt": "{} is in", "subject": "Paris", "target_new": {"str": "Rome"},
                               "target_true": {"str": "France"}}}
    ]  # fmt: skip
    (tmp_path / "mine.json").write_text(json.dumps(rows))
    text = Text("t", lambda: [TEXT] * 40)
    prepare(tiny_gpt2, str(tmp_path / "mine.json"), text, pieces=30)
    for name in ("counterfact", "zsre"):
        assert f"was not checked against {name}, which is not here" in caplog.text
    here = tmp_path / "cache" / "datasets" / "counterfact.json"
    here.parent.mkdir(parents=True)
    here.write_text(json.dumps(rows))
    with pytest.raises(DataError, match=r"1 of the 1 records to train on can be evaluated \(counterfact\)"):
        prepare(tiny_gpt2, str(tmp_path / "mine.json"), text, pieces=30)
    here.with_name("counterfact.json.sha256").write_text("0" * 64)  # damaged since it came: not asked, not downloaded
    caplog.clear()
    prepare(tiny_gpt2, str(tmp_path / "mine.json"), text, pieces=30)
    assert "was not checked against counterfact" in caplog.text


def test_a_method_knows_what_it_was_trained_on(tiny_gpt2: EditableModel, tmp_path: Path) -> None:
    train_tiny(tiny_gpt2, "ke", tmp_path / "n", steps=20)
    made = method(tiny_gpt2, "ke-zsre", tmp_path / "n")
    new = record("new", "Lima")
    assert made.trained_on([new, RECORDS[3]]) == [RECORDS[3].case_id]
    paraphrase = FactRecord(case_id="p", request=new.request, paraphrases=(RECORDS[3].paraphrases[0],))
    assert made.trained_on([paraphrase]) == ["p"], "any wording counts"
    refuse_trained_on([made], [new])
    with pytest.raises(DataError, match="ke-zsre was trained on 1 of the 2 records: 03"):
        refuse_trained_on([made], [new, RECORDS[3]])


def test_general_text_is_continued_by_the_model(tiny_gpt2: EditableModel) -> None:
    pieces = pieces_of(tiny_gpt2, [TEXT, "short", TEXT.upper(), TEXT[30:]], 9)
    assert {len(piece) for piece in pieces} == {24}
    assert len(pieces) == 3
    draws = [(n, random.Random(n)) for n in (0, 2)]
    for (number, _), example in zip(draws, Pieces(pieces).examples(tiny_gpt2, draws), strict=True):
        prompt = example.edit.ids[: example.edit.reads[0] + 1]
        assert prompt == pieces[number][: len(prompt)]
        assert len(example.edit.targets) == 5
        assert example.asked.targets == example.edit.targets
        assert prompt[-(example.asked.reads[0] + 1) :] == example.asked.ids[: example.asked.reads[0] + 1]
        assert (*example.stays.ids, example.stays.targets[-1]) in pieces
    facts = RecordExamples((replace(RECORDS[0], loc_answer=None),), pieces)
    draws = [(0, random.Random(n)) for n in range(40)]
    kept = {out: {e.stays.ids for e in facts.examples(tiny_gpt2, draws, held_out=out)} for out in (True, False)}
    assert len(kept[True]) == 1
    assert len(kept[False]) == 2
    assert not kept[True] & kept[False], "what must stay in validation is no training text"
    with pytest.raises(DataError, match="holds 1 pieces"):
        pieces_of(tiny_gpt2, [TEXT, "short"], 9)


def test_unusable_records_are_left_out(tiny_gpt2: EditableModel) -> None:
    long = record("long", "word " * 200)
    assert usable(tiny_gpt2, [RECORDS[0], long]) == (RECORDS[0],)


# -- a user's own facts ------------------------------------------------------------------------------------------------


def test_a_network_of_ones_own_facts_is_a_method(tiny_gpt2: EditableModel, tmp_path: Path) -> None:
    train_tiny(tiny_gpt2, "mend", tmp_path / "mend-mine", steps=20, name="mine")
    made = method(tiny_gpt2, "mend-mine", tmp_path)
    assert (made.name, made.paper) == ("mend-mine", "arXiv 2110.11309")
    assert made.edit([RECORDS[0].request]).edits[0].method == "mend-mine"
    with pytest.raises(UsageError, match=r"mend-yours needs a network.*factedit train mend tiny-gpt2 --data yours"):
        method(tiny_gpt2, "mend-yours", tmp_path)


@pytest.mark.parametrize("name", ["counterfact.json", "cf.jsonl", "general.jsonl", "a,b.json", "two words.json"])
def test_a_file_that_would_pass_for_a_published_set(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("[]")
    with pytest.raises(UsageError, match="name the file otherwise"):
        check_data(str(tmp_path / name))
    check_data("counterfact")
