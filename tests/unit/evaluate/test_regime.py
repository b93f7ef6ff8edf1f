"""Under which edits records are scored: alone, at once, in sequence; each against edits that were put on by hand."""

from __future__ import annotations

from collections.abc import Sequence as List
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import tiny
from factedit.edit.artefact import Edit, Notes
from factedit.edit.method import Made
from factedit.edit.method_table import make_method
from factedit.edit.state import State
from factedit.errors import EditError, UsageError
from factedit.evaluate.benchmarks.counterfact import COUNTERFACT
from factedit.evaluate.measures import Measures
from factedit.evaluate.metrics.free import Free
from factedit.evaluate.probability import score
from factedit.evaluate.regime import Each, Joint, Regime, Sequence
from factedit.evaluate.run import Evaluation, evaluate_methods
from factedit.evaluate.store import ResultStore
from factedit.facts import EditRequest, FactRecord
from factedit.models.adapter import EditableModel
from factedit.stats.second_moment import SecondMoment

SUBJECTS = ("Paris", "Seattle", "LeBron James", "The Space Needle")
RECORDS = [
    FactRecord(
        case_id=f"case {n}",
        request=EditRequest(subject=s, prompt="{} is in", target_new="France", target_true="the capital"),
        paraphrases=(f"Where is {s}? In",),
        neighborhood=("The sport of", "Café is"),
    )
    for n, s in enumerate(SUBJECTS)
]
REQUESTS = [record.request for record in RECORDS]


def rome(model: EditableModel) -> Any:
    moments = lambda m, _layer: SecondMoment(torch.eye(m.d_mlp))  # noqa: E731
    return make_method("rome", model, moments, layer=1, steps=2, context_templates=["{}"])


@dataclass
class AllInOne:
    """A joint method: the single edits' effects in one edit; it remembers how many facts it has been given."""

    model: EditableModel
    refuses: str = ""
    name: str = "joint"
    paper: str = "none"
    scope: str = "joint"
    calls: list[tuple[list[str], float | None, str]] = field(default_factory=list)

    def edit(self, requests: List[EditRequest], state: State | None = None) -> Made:
        subjects = [request.subject for request in requests]
        before = None if state is None else float(state.tensors["facts"])
        self.calls.append((subjects, before, self.model.fingerprint()))
        if self.refuses in subjects:
            raise EditError(f"No {self.refuses}.")
        single = rome(self.model).edit(requests).edits
        one = Edit(
            method=self.name, requests=tuple(requests), effects=tuple(e for edit in single for e in edit.effects),
            made_for=self.model.fingerprint(), notes=tuple(Notes(diagnostics=edit.told_of(0)) for edit in single),
        )  # fmt: skip
        facts = torch.tensor(float(before or 0) + len(requests))
        return Made((one,), State(base=self.model.fingerprint(), tensors={"facts": facts}))

    def describe(self) -> dict[str, Any]:
        return {}


def run(
    model: EditableModel, path: Path, method: Any, regime: Regime, records: List[FactRecord] = RECORDS, chunk: int = 3
) -> Evaluation:
    with ResultStore(path) as store:
        return evaluate_methods(
            model, records, [method], store, dataset="test", regime=regime, measures=Measures(metrics=(), chunk=chunk)
        )


def by_hand(model: EditableModel, edits: List[Edit], records: List[FactRecord]) -> dict[str, dict[str, float]]:
    """The records' scores on the model with the edits in its weights, one after the other."""
    with ExitStack() as stack:
        for edit in edits:
            stack.enter_context(edit.applied_to(model, force=True))
        found = score(model, [COUNTERFACT.questions(record) for record in records], [None])[0]
    return {r.case_id: COUNTERFACT.numbers(r, own) for r, own in zip(records, found, strict=True)}


def scores(found: Evaluation, row: str) -> dict[str, dict[str, float]]:
    return {case: own["scores"] for case, own in found.results[row].items()}


def near(found: dict[str, dict[str, float]], expected: dict[str, dict[str, float]]) -> bool:
    """Equal up to the rounding of other batches."""
    return found.keys() == expected.keys() and all(
        found[case] == pytest.approx(own, abs=1e-3) for case, own in expected.items()
    )


def test_at_once_is_the_model_with_all_edits_of_the_group(tmp_path: Path) -> None:
    model, before = tiny("gpt2"), tiny("gpt2").fingerprint()
    found = run(model, tmp_path / "r.sqlite", rome(model), Joint(2))
    assert list(found.results) == ["unedited", "rome, 2 at once"]
    edits = rome(model).edit(REQUESTS).edits
    for n in (0, 2):
        group = RECORDS[n : n + 2]
        expected = by_hand(model, edits[n : n + 2], group)
        own = {case: row for case, row in scores(found, "rome, 2 at once").items() if case in expected}
        assert near(own, expected)
        assert not near(own, by_hand(model, edits, group)), "the other group's edits are not on"
        alone = by_hand(model, edits[n : n + 1], group)
        assert not near(own, alone), "and both of its own are"
    assert model.fingerprint() == before


def test_a_joint_method_makes_one_edit_of_a_group_and_tells_each_fact(tmp_path: Path) -> None:
    model = tiny("gpt2")
    method = AllInOne(model)
    found = run(model, tmp_path / "r.sqlite", method, Joint(4), chunk=3)
    assert [call[0] for call in method.calls] == [list(SUBJECTS)]
    edits = rome(model).edit(REQUESTS).edits
    assert near(scores(found, "joint, 4 at once"), by_hand(model, edits, RECORDS))
    for edit, row in zip(edits, found.results["joint, 4 at once"].values(), strict=True):
        assert row["diagnostics"]["update_norm"] == pytest.approx(edit.told_of(0)["update_norm"], rel=1e-4)
    seconds = {row["seconds_per_edit"] for row in found.results["joint, 4 at once"].values()}
    assert len(seconds) == 1


def test_alone_a_joint_method_is_given_one_fact_at_a_time(tmp_path: Path) -> None:
    model = tiny("gpt2")
    method = AllInOne(model)
    found = run(model, tmp_path / "r.sqlite", method, Each())
    assert [call[0] for call in method.calls] == [[subject] for subject in SUBJECTS]
    for n, edit in enumerate(rome(model).edit(REQUESTS).edits):
        own = {RECORDS[n].case_id: scores(found, "joint")[RECORDS[n].case_id]}
        assert near(own, by_hand(model, [edit], RECORDS[n : n + 1]))


def test_a_sequence_edits_the_model_that_it_has_edited(tmp_path: Path) -> None:
    model = tiny("gpt2")
    found = run(model, tmp_path / "r.sqlite", rome(model), Sequence(batch=2, checkpoints=(2, 4)))
    assert list(found.results) == ["unedited", "rome, 2 in batches of 2", "rome, 4 in batches of 2"]
    first = rome(model).edit(REQUESTS[:2]).edits
    with first[0].applied_to(model), first[1].applied_to(model, force=True):
        second = rome(model).edit(REQUESTS[2:]).edits
    assert near(scores(found, "rome, 2 in batches of 2"), by_hand(model, first, RECORDS[:2]))
    assert near(scores(found, "rome, 4 in batches of 2"), by_hand(model, [*first, *second], RECORDS))
    independent = rome(model).edit(REQUESTS).edits
    assert not near(scores(found, "rome, 4 in batches of 2"), by_hand(model, independent, RECORDS))
    assert found.summary["rome, 2 in batches of 2"]["ES"].n == 2
    assert found.comparison().change["rome, 2 in batches of 2"]["ES"].n == 2, "the same two, unedited"


def test_a_sequence_hands_on_what_the_method_remembers(tmp_path: Path) -> None:
    model = tiny("gpt2")
    method = AllInOne(model)
    run(model, tmp_path / "r.sqlite", method, Sequence(batch=1))
    assert [(subjects, facts) for subjects, facts, _ in method.calls] == [
        (["Paris"], None), (["Seattle"], 1.0), (["LeBron James"], 2.0), (["The Space Needle"], 3.0),
    ]  # fmt: skip
    assert len({fingerprint for *_, fingerprint in method.calls}) == 4, "the model has the earlier edits on"
    assert method.calls[0][2] == model.fingerprint(), "and not afterwards"


def test_the_regime_is_in_the_key_and_what_is_stored_is_not_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("factedit.evaluate.keys.code_of", lambda *_things: {})  # one method stands in for another here
    model, path = tiny("gpt2"), tmp_path / "r.sqlite"
    first = run(model, path, rome(model), Sequence(batch=1, checkpoints=(1, 2)), RECORDS[:2])
    for regime in (Each(), Joint(2), Joint(4), Sequence(batch=2)):
        run(model, path, rome(model), regime)
    with ResultStore(path) as store:
        keys = {run: (name, settings.get("regime")) for run, (name, settings) in store.runs().items()}
    names = [name for name, _ in keys.values()]
    assert sorted(names) == sorted(
        ["unedited", "rome", "rome, 1 in batches of 1", "rome, 2 in batches of 1", "rome, 2 at once",
         "rome, 4 at once", "rome, 4 in batches of 2"]
    ), "the unedited model knows no regime"  # fmt: skip
    assert [regime for name, regime in keys.values() if name in ("unedited", "rome")] == [None, None]
    method = AllInOne(model, name="rome")
    method.describe = rome(model).describe  # type: ignore[method-assign]
    again = run(model, path, method, Sequence(batch=1, checkpoints=(1, 2)))
    assert method.calls == [], "two more records in the set do not change the first checkpoints"
    assert scores(again, "rome, 2 in batches of 1") == scores(first, "rome, 2 in batches of 1")
    run(model, path, method, Joint(2), RECORDS[:2])
    assert method.calls, "at once with other facts is another run"


def test_a_fact_that_cannot_be_edited_is_left_out_of_the_joint_edit(tmp_path: Path) -> None:
    model = tiny("gpt2")
    method = AllInOne(model, refuses="Seattle")
    found = run(model, tmp_path / "r.sqlite", method, Joint(4))
    assert found.not_edited() == {"joint, 4 at once": {"case 1": "No Seattle."}}
    edits = rome(model).edit([r for r in REQUESTS if r.subject != "Seattle"]).edits
    assert near(scores(found, "joint, 4 at once"), by_hand(model, edits, RECORDS)), "scored as the model then answers"
    assert method.calls[-1][0] == ["Paris", "LeBron James", "The Space Needle"]


def test_shared_edits_are_put_on_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four records with two asks each open the weights three times: for the model as a whole and once per metric."""
    model = tiny("gpt2")
    opened: list[int] = []
    real = EditableModel.with_weight

    def counted(self: EditableModel, layer: int, *rest: Any) -> Any:
        opened.append(layer)
        return real(self, layer, *rest)

    monkeypatch.setattr(EditableModel, "with_weight", counted)
    with ResultStore(tmp_path / "r.sqlite") as store:
        evaluate_methods(
            model, RECORDS, [AllInOne(model)], store, dataset="test", regime=Joint(4),
            measures=Measures(metrics=(Free(3),), chunk=4),
        )  # fmt: skip
    assert opened == [1, 1, 1]


@pytest.mark.parametrize(
    ("regime", "said"),
    [
        (Joint(3), "4 records do not fall into groups of 3"),
        (Joint(0), "do not fall into groups of 0"),
        (Sequence(batch=3, checkpoints=(2,)), "in batches of 3 has no checkpoint after 2"),
        (Sequence(batch=2, checkpoints=(8,)), "A sequence of 4 facts in batches of 2 has no checkpoint after 8"),
        (Sequence(batch=0), "in batches of 0"),
    ],
)
def test_records_that_do_not_fit_are_refused(tmp_path: Path, regime: Regime, said: str) -> None:
    model = tiny("gpt2")
    with pytest.raises(UsageError, match=said):
        run(model, tmp_path / "r.sqlite", rome(model), regime)


def test_a_sequence_of_memit_is_what_a_user_would_get_step_by_step(tmp_path: Path) -> None:
    """History and all: each batch edited on the model with the earlier ones, with the state that these left."""
    model = tiny("gpt2")
    moments = lambda m, layer: SecondMoment(torch.eye(m.d_mlp), layer)  # noqa: E731
    settings = {"layers": (1, 2), "steps": 3, "context_templates": ["{}", "In. {}"], "learning_rate": 0.5}
    method = make_method("memit", model, moments, **settings)
    found = run(model, tmp_path / "r.sqlite", method, Sequence(batch=2))
    made, state = [], None
    with ExitStack() as stack:
        for n in (0, 2):
            own = method.edit(REQUESTS[n : n + 2], state)
            made, state = [*made, *own.edits], own.state
            stack.enter_context(own.edits[0].applied_to(model))
    assert len(made) == 2
    row = "memit, 4 in batches of 2"
    assert near(scores(found, row), by_hand(model, made, RECORDS))
    with made[0].applied_to(model):
        forgetful = method.edit(REQUESTS[2:]).edits
    assert not near(scores(found, row), by_hand(model, [made[0], *forgetful], RECORDS)), (
        "without its history it differs"
    )


def test_what_edits_make_of_the_model_is_measured_beside_the_scores(tmp_path: Path) -> None:
    """How far the matrix moved and the perplexity of text, against the edits put on by hand."""
    model = tiny("gpt2")
    found = run(model, tmp_path / "r.sqlite", rome(model), Joint(4))
    [edits] = [rome(model).edit(REQUESTS).edits]
    before = model.weight(1).clone()
    with ExitStack() as stack:
        for edit in edits:
            stack.enter_context(edit.applied_to(model, force=True))
        moved = float((model.weight(1) - before).norm() / before.norm())
    own = found.summary["rome, 4 at once"]
    assert own["moved"].value == pytest.approx(moved, rel=1e-5)
    assert found.summary["unedited"]["moved"].value == 0
    assert own["perplexity"].value != found.summary["unedited"]["perplexity"].value
    assert run(model, tmp_path / "r.sqlite", rome(model), Joint(4)).summary == found.summary, "and kept"


def test_many_facts_are_scored_by_a_sample_of_every_age(tmp_path: Path) -> None:
    model = tiny("gpt2")
    found = run(model, tmp_path / "r.sqlite", rome(model), Sequence(batch=1, sample=2))
    assert list(found.results["rome, 4 in batches of 1"]) == ["case 0", "case 2"]
    edits = []
    with ExitStack() as stack:
        for request in REQUESTS:
            [edit] = rome(model).edit([request]).edits
            stack.enter_context(edit.applied_to(model))
            edits.append(edit)
    expected = by_hand(model, edits, RECORDS)
    assert near(scores(found, "rome, 4 in batches of 1"), {case: expected[case] for case in ("case 0", "case 2")})
