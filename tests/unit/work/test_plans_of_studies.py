"""Plans of case studies, locating, panels, ability sets and the demo, against torch's own counter of operations."""

from __future__ import annotations

import gzip
import json
import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import plain
from conftest import random_moment, tiny
from factedit.edit.method_table import make_method
from factedit.engine.cost import ModelShape
from factedit.errors import UsageError
from factedit.evaluate.ability.items import TASKS
from factedit.facts import EditRequest, FactRecord
from factedit.models.adapter import EditableModel
from factedit.stack.ledger import LEDGER
from factedit.stack.names import OWN
from factedit.stats.store import write_moment
from factedit.work.case_study import case_study
from factedit.work.demo import demonstrate
from factedit.work.dry_methods import at_layer
from factedit.work.dry_studies import dry_ability, dry_case_study, dry_demo, dry_locate, dry_panel
from factedit.work.locate import locate_facts
from factedit.work.machines import Machine
from factedit.work.panel import ask_panel, predict_panel
from stack_cases import random_edit

HERE = Machine("here", 1e9, 1e6, 5e6)
SUBJECTS = ("Paris", "Seattle", "France", "LeBron James", "Danielle Darrieux", "Space Needle")
ENDS = ("is the (", "is in (", "plays (", "of (", "and (", "has many (", "is a (")


@pytest.fixture(scope="module")
def model() -> EditableModel:
    """With attention written out, whose products torch counts, and texts that nothing ends."""
    made = tiny("gpt2", attn_implementation="eager")
    made.tokenizer.eos_token_id = None
    return made


@pytest.fixture(autouse=True)
def _counted_products(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("factedit.engine.head.has_onednn", lambda _weight: False)  # whose product is not counted
    monkeypatch.setattr("factedit.edit.value_rows.TOKENS_PER_FETCH", -1)  # and rows of unlike length are not padded
    monkeypatch.setenv("FACTEDIT_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def answered(model: EditableModel) -> list[dict[str, str]]:
    """Facts that the model answers: the likeliest token after a bracket, where that is a word."""
    rows = []
    for subject, end in ((subject, end) for end in ENDS for subject in SUBJECTS):
        ids = plain.encode(model, f"{subject} {end}")
        with torch.no_grad():
            token = int(plain.logits(model, ids)[-1].argmax())
        answer = model.tokenizer.decode([token])
        again = plain.encode(model, f"{subject} {end}{answer}")
        if answer.isprintable() and answer.split() == [answer] and again == [*ids, token]:
            rows.append({"subject": subject, "end": end, "answer": answer, "tokens": str(len(ids))})
    return rows


@pytest.fixture(scope="module")
def facts(answered: list[dict[str, str]], tmp_path_factory: pytest.TempPathFactory) -> str:
    """One of each subject as facts to edit."""
    path = tmp_path_factory.mktemp("facts") / "facts.jsonl"
    of_subjects = {row["subject"]: row for row in answered}
    assert len(of_subjects) > 2
    rows = [{"subject": row["subject"], "prompt": f"{{}} {row['end']}", "target_new": "football",
             "target_true": row["answer"]} for row in of_subjects.values()]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture(scope="module")
def panel(answered: list[dict[str, str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Those of like length as a panel: what is shorter would be run with empty tokens, which are not planned."""
    path = tmp_path_factory.mktemp("panel") / "panel.jsonl"
    most = statistics.mode(row["tokens"] for row in answered)
    rows = [{"prompt": f"{r['subject']} {r['end']}", "subject": r["subject"], "target": r["answer"]}
            for r in answered if r["tokens"] == most]  # fmt: skip
    assert len(rows) > 2
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def moment(model: EditableModel, tmp_path: Path) -> Path:
    path = tmp_path / "c.safetensors"
    write_moment(path, random_moment(model.d_mlp))
    return path


def counted(work: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def test_a_case_study(model: EditableModel, facts: str) -> None:
    asked = {"ids": ["0", "1"], "methods": "ft", "tokens": 12}
    told = dry_case_study(model, facts, here=HERE, **asked)  # type: ignore[arg-type]
    found = counted(lambda: case_study(model, facts, **asked))  # type: ignore[arg-type]
    assert told.work.flops == pytest.approx(found, rel=0.2)  # `ft` runs a fact alone a little longer than planned
    written = "12 tokens after every prompt, unedited and by 1 methods"
    assert [part.what for part in told.parts] == ["ft: 2 edits", written]
    longer = dry_case_study(model, facts, here=HERE, **{**asked, "tokens": 24})  # type: ignore[arg-type]
    assert longer.parts[-1].work.flops > 1.5 * told.parts[-1].work.flops
    with pytest.raises(UsageError, match="0 tokens were asked for"):
        dry_case_study(model, facts, tokens=0, here=HERE)


def test_locating(model: EditableModel, facts: str, tmp_path: Path) -> None:
    asked = {"methods": "ft,grace", "windows": (2, 1), "samples": 1, "noise": "0.5", "layers": (0, 2), "records": 3}
    steps = ("ft.steps=5", "grace.steps=4", "grace.stop_loss=0.0")
    told = dry_locate(model, facts, here=HERE, settings=steps, **asked)  # type: ignore[arg-type]
    found = counted(lambda: locate_facts(model, facts, tmp_path, settings=steps, **asked))  # type: ignore[arg-type]
    assert told.work.flops == pytest.approx(found, rel=0.12)
    assert [part.what.split(",")[0].split(":")[0] for part in told.parts][1:] == [
        told.parts[1].what.split(",")[0], "ft", "grace"
    ]  # fmt: skip
    one = dry_locate(model, facts, here=HERE, settings=steps, **{**asked, "windows": (1,)})  # type: ignore[arg-type]
    assert one.work.flops < told.work.flops
    assert one.disk < told.disk
    with pytest.raises(UsageError, match="leave its layer out of the settings"):
        dry_locate(model, facts, here=HERE, settings=("rome.layer=1",))
    with pytest.raises(UsageError, match="Layer 9 was asked for"):
        dry_locate(model, facts, here=HERE, layers=(9,))


def test_locating_puts_methods_of_hidden_values_at_one_layer_each(model: EditableModel, facts: str) -> None:
    """`layer` is not a setting of theirs: the preset's layers would have been counted at every layer."""
    assert [at_layer(name, 2) for name in ("memit-rect", "alphaedit", "rome-joint", "ft", "ice")] == [
        {"layers": [2]}, {"layers": [2]}, {"layer": 2}, {"layer": 2}, {"layer": 2}
    ]  # fmt: skip
    low, high = (dry_locate(model, facts, methods="memit", layers=(n,), here=HERE).parts[-1].work for n in (0, 3))
    assert low.flops > high.flops, "a value at a high layer passes fewer layers"


def test_a_panel(model: EditableModel, facts: str, panel: Path, moment: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.jsonl"
    row = {"subject": "Subject", "prompt": "{} is in the", "target_new": "football", "target_true": "France"}
    other.write_text(json.dumps(row) + "\n")
    told = dry_panel(model, facts=str(other), panel=panel, ready=True, here=HERE, layer=1)
    found = counted(lambda: predict_panel(model, str(other), panel=panel, second_moment=moment, layer=1))
    solve = model.d_mlp**3 / 3 + 2 * model.d_mlp**2  # which torch does not count
    assert told.work.flops - solve == pytest.approx(found, rel=0.12)
    fewer = dry_panel(model, facts=facts, panel=panel, ready=True, here=HERE)
    assert "0 facts asked" in fewer.parts[0].what, "facts of edited subjects are no part of it"


def test_a_panel_with_an_edit_is_asked_three_times(
    model: EditableModel, panel: Path, moment: Path, tmp_path: Path
) -> None:
    edit = random_edit(model, 1, layer=1)
    edit.save(tmp_path / "edit")
    told = dry_panel(model, [tmp_path / "edit"], panel=panel, layer=1, ready=True, here=HERE)
    found = counted(lambda: ask_panel(lambda: (model, ()), [tmp_path / "edit"], panel=panel, second_moment=moment))
    solve = model.d_mlp**3 / 3 + 2 * model.d_mlp**2
    assert told.work.flops - solve == pytest.approx(found, rel=0.12)
    stack = tmp_path / "stack"
    (stack / OWN).mkdir(parents=True)
    (stack / OWN / LEDGER).write_text("")
    with pytest.raises(UsageError, match="No edit was given"):
        dry_panel(model, panel=panel, here=HERE)
    assert dry_panel(model, source=str(stack), panel=panel, ready=True, here=HERE).work.flops > 0


def test_ability_sets_by_hand(model: EditableModel, tmp_path: Path) -> None:
    rows = [{"question": "What is Paris?", "choices": ["France", "a sport"], "gold": 0}]
    (tmp_path / TASKS["arc-easy"].file).write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    lengths = [len(plain.encode(model, f"Question: What is Paris?\nAnswer: {a}")) for a in ("France", "a sport")]
    shape, tokens = ModelShape.of(model), sum(lengths)
    attended = 4 * shape.width * tokens * tokens / 2
    by_hand = shape.n_layer * (2 * shape.layer * tokens + attended) + 2 * tokens * shape.vocab * shape.d_model
    once, twice = (dry_ability(model, edits=edits, data=tmp_path, here=HERE) for edits in ((), [tmp_path / "one"]))
    assert once.work.flops == pytest.approx(by_hand)
    assert twice.work.flops == pytest.approx(2 * by_hand)
    assert once.parts[0].what == "arc-easy: 2 texts"
    assert twice.parts[0].what == "arc-easy: 2 texts, without and with the edits"
    with pytest.raises(UsageError, match="is not a folder"):
        dry_ability(model, data=tmp_path / "nowhere", here=HERE)


def test_the_story_of_one_fact(model: EditableModel, tmp_path: Path) -> None:
    record = FactRecord(
        case_id="1", request=EditRequest(subject="Paris", prompt="{} is in", target_new="football"),
        paraphrases=("Where is Paris? In",), neighborhood=("Seattle is in", "France is"), generation=("Paris likes",),
    )  # fmt: skip
    told = dry_demo(model, record=record, method="ft", here=HERE)
    found = counted(lambda: demonstrate(model, record=record, method="ft"))
    assert told.work.flops == pytest.approx(found, rel=0.12)
    saved = make_method("ft", model, lambda *_: random_moment(model.d_mlp), layer=1, steps=2).edit([record.request])
    saved.edits[0].save(tmp_path / "edit")
    of_saved = dry_demo(model, record=record, edit=tmp_path / "edit", here=HERE)
    assert [part.what for part in of_saved.parts] == [told.parts[0].what, told.parts[-1].what], "no edit is made"
    named = replace(record, request=replace(record.request, target_true="France"))
    assert dry_demo(model, record=named, method="ft", here=HERE).work.flops < told.work.flops, "it need not be asked"
    other = replace(record, request=replace(record.request, subject="France"))
    with pytest.raises(UsageError, match="The edit is of"):
        dry_demo(model, record=other, edit=tmp_path / "edit", here=HERE)
    rome = dry_demo(model, here=HERE)
    assert [part.what.split(" ", 1)[1] for part in rome.parts][1].startswith("tokens of text")
