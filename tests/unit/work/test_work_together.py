"""Many facts together: what becomes of each, going on where it was interrupted, taking back, replacing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import random_moment, tiny
from factedit.edit.artefact import Edit, weights_of
from factedit.edit.effects.weights import weights_changed
from factedit.edit.method import Method
from factedit.edit.method_table import make_method
from factedit.edit.standing import facts_on
from factedit.edit.state import change_between
from factedit.errors import DataError, EditError, UsageError
from factedit.facts import EditRequest, FactRecord
from factedit.models.adapter import EditableModel
from factedit.report.together import checked_table, checked_words
from factedit.work import sequence
from factedit.work.facts_of import check_facts
from factedit.work.together import edit_together
from stack_cases import random_edit

SETTINGS: dict[str, Any] = {
    "context_templates": ("{}", "In Paris. {}"), "layer": 1, "share": 0.9, "steps": 8, "learning_rate": 0.3,
    "decay": 0.0, "kl": 0.0, "clamp": 8.0,
}  # fmt: skip
FACTS = [
    ("LeBron James", "{} plays the sport of", "football"),
    ("Paris", "{} is the capital of", "Seattle"),
    ("Danielle Darrieux", "The mother tongue of {} is", "Москва"),
    ("The Space Needle", "{} is in", "Paris"),
]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACTEDIT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def model() -> EditableModel:
    return tiny("gpt2")


def method(model: EditableModel, **changes: Any) -> Method:
    return make_method("rome-joint", model, lambda m, _layer: random_moment(m.d_mlp), **{**SETTINGS, **changes})


def record(number: int, target: str | None = None, **fields: Any) -> FactRecord:
    subject, prompt, new = FACTS[number]
    request = EditRequest(subject=subject, prompt=prompt, target_new=target or new, target_true="French")
    return FactRecord(case_id=str(number), request=request, **fields)


ALL = [record(n) for n in range(len(FACTS))]


def test_every_fact_is_told_of_and_saved_as_one_edit(model: EditableModel, tmp_path: Path) -> None:
    records = [
        *ALL[:3],
        replace(record(0, target="football "), case_id="again"),
        record(3, neighborhood=("Zürich is in",), paraphrases=("So, it is in",)),
    ]
    before = model.fingerprint()
    found = edit_together(model, method(model), records, folder=tmp_path / "edit", also_known=True)
    assert model.fingerprint() == before
    assert [fact.status == "left out" for fact in found.facts] == [False, False, False, True, False]
    assert found.facts[3].why == "It is in the list before."
    [(edit, folder)] = found.edits
    assert folder == tmp_path / "edit"
    assert Edit.load(tmp_path / "edit").requests == tuple(records[n].request for n in (0, 1, 2, 4))
    row = json.loads(json.dumps(found.as_json()))
    assert row["wordings"][1] == 1
    assert [share[1] for share in row["neighbours"]] == [1, 1]
    assert sum(row["counts"].values()) == len(records)
    with edit.applied_to(model):  # `took` is what the model writes
        for fact in found.facts:
            if fact.after is not None:
                text = model.tokenizer.decode(greedy(model, fact.record.request.text, 12))
                assert fact.after.written == text.strip().startswith(fact.record.request.target_new)


def greedy(model: EditableModel, text: str, count: int) -> list[int]:
    """Tokens by plain forward passes."""
    ids = model.tokenizer(text)["input_ids"]
    begun = len(ids)
    for _ in range(count):
        with torch.no_grad():
            ids = [*ids, int(model.lm(input_ids=torch.tensor([ids])).logits[0, -1].argmax())]
    return ids[begun:]


def test_facts_that_contradict_are_named_before_anything_is_computed(model: EditableModel) -> None:
    with pytest.raises(
        UsageError, match=r"says 1 fact in two ways: 'Paris is the capital of' → 'Seattle' and → 'French'"
    ):
        edit_together(model, method(model), [*ALL, record(1, target="French")])


def test_an_empty_list_is_refused(model: EditableModel) -> None:
    with pytest.raises(UsageError, match="the list is empty"):
        edit_together(model, method(model), [])


def test_a_fact_that_cannot_be_edited_is_left_out_and_the_others_are_edited(model: EditableModel) -> None:
    long = EditRequest(subject="Paris", prompt="in " * 100 + "{} is", target_new="football")
    found = edit_together(model, method(model), [*ALL[:2], FactRecord(case_id="long", request=long)], also_known=True)
    assert found.facts[2].status == "left out"
    assert "tiny-gpt2 reads 64" in found.facts[2].why
    assert len(found.edits[0].edit.requests) == 2


def test_a_fact_that_the_model_writes_is_counted_and_not_edited(model: EditableModel) -> None:
    text = model.tokenizer.decode(greedy(model, "Paris is the capital of", 12)).strip()
    known = record(1, target=text.split()[0])
    found = edit_together(model, method(model), [known, ALL[0]])
    assert found.facts[0].status == "known"
    assert found.edits[0].edit.requests == (ALL[0].request,)


def test_an_interrupted_sequence_goes_on_to_the_same_bits(
    model: EditableModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = edit_together(model, method(model), ALL, batch=1, folder=tmp_path / "whole", also_known=True)
    assert len(whole.edits) == 4
    real, calls = sequence.make, list[int]()

    def stop(*args: Any, **fields: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*args, **fields)

    monkeypatch.setattr(sequence, "make", stop)
    with pytest.raises(KeyboardInterrupt) as stopped:
        edit_together(model, method(model), ALL, batch=1, folder=tmp_path / "cut", also_known=True)
    assert "2 edits are kept in" in stopped.value.__notes__[0]
    edit_together(model, method(model), ALL, batch=1, folder=tmp_path / "cut", also_known=True)
    assert len(calls) == 5  # the first two were not made again
    for n in range(4):
        one, other = (Edit.load(tmp_path / name / f"{n:04d}") for name in ("whole", "cut"))
        assert one == other


def test_a_folder_of_another_sequence_is_not_gone_on_with(model: EditableModel, tmp_path: Path) -> None:
    edit_together(model, method(model), ALL[:2], batch=1, folder=tmp_path / "edits", also_known=True)
    with pytest.raises(EditError, match="holds an edit of other facts, of other settings"):
        edit_together(model, method(model), ALL[2:], batch=1, folder=tmp_path / "edits", also_known=True)
    with pytest.raises(EditError, match="holds an edit of other facts, of other settings"):
        edit_together(model, method(model, share=0.5), ALL[:2], batch=1, folder=tmp_path / "edits", also_known=True)


def dense(edits: list[Edit], layer: int = 1) -> torch.Tensor:
    return sum((e.effects[0].delta().double() for e in edits), torch.zeros(1))  # type: ignore[attr-defined]


def test_a_new_object_replaces_the_old_one(model: EditableModel, tmp_path: Path) -> None:
    made = method(model)
    first = edit_together(model, made, ALL[:3], also_known=True)
    old = [edited.edit for edited in first.edits]
    second = edit_together(
        model, made, [record(1, target="basketball"), ALL[3]], earlier=old, folder=tmp_path / "next", also_known=True
    )
    back, new = (edited.edit for edited in second.edits)
    assert [edited.folder for edited in second.edits] == [tmp_path / "next" / "0000", tmp_path / "next" / "0001"]
    assert back.takes_back == ((old[0].identity, 1),)
    assert [fact.request.target_new for fact in facts_on([*old, back, new])] == [
        "football",
        "Москва",
        "basketball",
        "Paris",
    ]
    again = edit_together(model, made, [ALL[0]], earlier=[*old, back, new], also_known=True)
    assert again.facts[0].why == "It is on the model already."
    assert again.edits == ()


def test_a_fact_taken_back_leaves_what_the_others_alone_would_have_given(model: EditableModel) -> None:
    """Against the plain formula of one ridge regression, with keys and values as they stand in the edit's state."""
    made = method(model)
    [(edit, _)] = edit_together(model, made, ALL[:3], also_known=True).edits
    state = sequence.state_of(model.fingerprint(), [edit.state_change])
    assert state is not None
    with edit.applied_to(model):
        back = made.take_back([edit], [facts_on([edit])[1]], state)  # type: ignore[attr-defined]
    keys, values = (state.tensors[f"{name}.1"][[0, 2]].double() for name in ("keys", "values"))
    weight = model.weight(1).double()
    kept = float(state.tensors["scale.1"]) * random_moment(model.d_mlp).matrix
    solution = torch.linalg.solve(kept + keys.T @ keys, kept @ weight + keys.T @ values)
    assert torch.allclose(weight + dense([edit, back]), solution, atol=1e-5)
    gone = sequence.state_of(model.fingerprint(), [edit.state_change, back.state_change])
    assert gone is not None
    assert torch.equal(gone.tensors["keys.1"], state.tensors["keys.1"][[0, 2]])


@pytest.mark.parametrize("first", [True, False], ids=["before", "after"])
def test_an_edit_of_another_method_stays_as_it_is_when_a_fact_is_taken_back(model: EditableModel, first: bool) -> None:
    """W less that edit is the ridge regression of the facts that stay, with what they owe to it where it came first."""
    made, other = method(model), make_method("ft", model, lambda m, _layer: random_moment(m.d_mlp), layer=1, steps=3)
    base, state, edits = model.fingerprint(), None, []
    asked = [ALL[3].request], [own.request for own in ALL[:3]]
    for which, requests in ((other, asked[0]), (made, asked[1])) if first else ((made, asked[1]), (other, asked[0])):
        with weights_changed(model, weights_of(edits)):
            made_now = which.edit(requests, state)
        change = change_between(state, made_now.state)
        edits += [replace(edit, state_change=change) for edit in made_now.edits]
        state = sequence.state_of(base, [edit.state_change for edit in edits])
    assert state is not None
    fact = next(fact for fact in facts_on(edits) if fact.request == ALL[1].request)
    with weights_changed(model, weights_of(edits)):
        back = made.take_back(edits, [fact], state)  # type: ignore[attr-defined]
    beside = next(edit for edit in edits if edit.method == "ft")
    keys, values = (state.tensors[f"{name}.1"][[0, 2]].double() for name in ("keys", "values"))
    if first:
        values = values - keys @ dense([beside])
    weight = model.weight(1).double()
    kept = float(state.tensors["scale.1"]) * random_moment(model.d_mlp).matrix
    solution = torch.linalg.solve(kept + keys.T @ keys, kept @ weight + keys.T @ values)
    assert torch.allclose(weight + dense([*edits, back]) - dense([beside]), solution, atol=1e-5)
    assert float(dense([beside]).norm()) > 0.01


def test_of_several_layers_it_is_said_where_a_fact_leaves_exactly(
    model: EditableModel, caplog: pytest.LogCaptureFixture
) -> None:
    for layers, told in (((1,), False), ((0, 1), True)):
        made = method(model, layers=layers, layer=None)
        [(edit, _)] = edit_together(model, made, ALL[:2], also_known=True).edits
        state = sequence.state_of(model.fingerprint(), [edit.state_change])
        assert state is not None
        with edit.applied_to(model):
            made.take_back([edit], [facts_on([edit])[0]], state)  # type: ignore[attr-defined]
        assert ("written into layers 0, 1" in caplog.text) == told
    assert "exact in layer 0" in caplog.text


def test_facts_written_exactly_are_not_taken_back_one_by_one(model: EditableModel) -> None:
    made = method(model, share=1.0)
    [(edit, _)] = edit_together(model, made, ALL[:3], also_known=True).edits
    with pytest.raises(EditError, match="write its facts exactly, or to forget earlier ones"):
        edit_together(model, made, [record(1, target="basketball")], earlier=[edit], also_known=True)


def test_methods_of_single_facts_are_refused(model: EditableModel) -> None:
    alone = make_method("ft", model, lambda m, _layer: random_moment(m.d_mlp))
    with pytest.raises(UsageError, match="ft edits every fact alone"):
        edit_together(model, alone, ALL)


def test_a_step_folds_its_own_change_into_the_state_and_no_other(
    model: EditableModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before, every step read the changes of all edits before it."""
    folded = list[int]()
    real = sequence.state_after_change
    monkeypatch.setattr(
        sequence, "state_after_change", lambda base, state, change: (folded.append(1), real(base, state, change))[1]
    )
    monkeypatch.setattr(sequence, "state_of", lambda base, changes: None if not list(changes) else pytest.fail("anew"))
    edits = [edited.edit for edited in edit_together(model, method(model), ALL, batch=1, also_known=True).edits]
    assert len(folded) == len(edits) == 4
    monkeypatch.undo()
    whole = sequence.state_of(model.fingerprint(), [edit.state_change for edit in edits])
    running = sequence.RunningSequence.begin(model, method(model), edits[:2])
    for edit in edits[2:]:
        running.put_on(edit, None)
    assert whole is not None
    assert running.state is not None
    assert running.state.base == whole.base
    for name, tensor in whole.tensors.items():
        assert torch.equal(running.state.tensors[name], tensor), name


@pytest.mark.parametrize(
    ("order", "gap"),
    [
        ((0, 1, 2), False),
        ((0,), False),
        ((), False),
        ((0, 2), True),
        ((0, 2, 1), True),
        ((1, 0, 2), None),
        ((2,), None),
    ],
)
def test_a_sequence_with_a_gap_is_told_of(
    order: tuple[int, ...], gap: bool | None, model: EditableModel, caplog: pytest.LogCaptureFixture
) -> None:
    """The middle one is missing, or two changed places: before, nothing was said. Without its beginning: refused."""
    made = method(model)
    edits = [edited.edit for edited in edit_together(model, made, ALL[:3], batch=1, also_known=True).edits]
    caplog.clear()
    if gap is None:
        with pytest.raises(DataError, match="an edit of the sequence is missing, or they are out of order"):
            sequence.RunningSequence.begin(model, made, [edits[n] for n in order])
        return
    begun = sequence.RunningSequence.begin(model, made, [edits[n] for n in order])
    assert ("one of the sequence is missing" in caplog.text) == gap
    assert len(begun.edits) == len(order)


def test_an_earlier_edit_that_is_named_twice_is_refused(model: EditableModel) -> None:
    [(edit, _)] = edit_together(model, method(model), ALL[:2], also_known=True).edits
    with pytest.raises(EditError, match="is named twice"):
        edit_together(model, method(model), ALL[2:], earlier=[edit, edit], also_known=True)


def test_a_history_of_another_base_is_refused_though_the_moments_name_no_model(model: EditableModel) -> None:
    """Before: the keys of another model's facts were kept beside, in silence."""
    made = method(model)
    [edit], state = made.edit([ALL[0].request])
    assert state is not None
    with edit.applied_to(model):
        assert made.edit([ALL[1].request], state).state is not None, "of the model itself, with its edits on"
        with pytest.raises(EditError, match=rf"history belongs to the base {'f' * 12}…, and the model without its"):
            made.edit([ALL[1].request], replace(state, base="f" * 64))


def test_a_fact_that_cannot_be_asked_is_counted_and_the_others_are_asked(model: EditableModel) -> None:
    """Before: `check` stopped at it."""
    long = EditRequest(subject="Paris", prompt="in " * 100 + "{} is", target_new="football")
    edit = replace(random_edit(model, 1), requests=(ALL[0].request, long, ALL[1].request), notes=())
    rows = [checked.as_json() for checked in check_facts(model, [edit])]
    assert [row["written"] is None for row in rows] == [False, True, False]
    assert "tiny-gpt2 reads 64" in rows[1]["why"]
    assert rows[0]["why"] == rows[2]["why"] == ""
    written = sum(bool(row["written"]) for row in rows)
    assert checked_words(rows).startswith(f"Written: {written} of 2 (")
    assert checked_words(rows).endswith("Not asked: 1.")
    cells = [str(cell) for column in checked_table(rows).columns for cell in column.cells]
    assert any(cell.startswith("not asked: ") for cell in cells)
