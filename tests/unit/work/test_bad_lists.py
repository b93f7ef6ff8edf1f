"""Lists of many facts that something is wrong with: what is said, and that nothing is computed before."""

from __future__ import annotations

import gzip
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from conftest import random_moment, tiny
from factedit.data.registry import load_facts
from factedit.edit.many import history
from factedit.edit.many.history import History
from factedit.edit.many.solver import LayerPast, Solver
from factedit.edit.method_table import make_method
from factedit.edit.standing import facts_on
from factedit.errors import DataError, EditError, NoSolution, RequestError, UsageError
from factedit.evaluate.making import make
from factedit.facts import EditRequest, FactRecord
from factedit.models.adapter import EditableModel
from factedit.stats.penalty import MomentPenalty, NullSpacePenalty, null_space
from factedit.work.fact_list import sort_out

WIDTH = 24


@pytest.fixture(scope="module")
def model() -> EditableModel:
    return tiny("gpt2")


def record(case: str, subject: str, prompt: str, target: str) -> FactRecord:
    return FactRecord(case_id=case, request=EditRequest(subject=subject, prompt=prompt, target_new=target))


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.jsonl", b""), ("b.jsonl", b"\n \n\t\n"), ("c.json", b"[]"), ("d.jsonl", b"\xef\xbb\xbf\n"),
     ("e.jsonl.gz", gzip.compress(b"", mtime=0)), ("f.json", b"null"), ("g.json", b"{}")],
)  # fmt: skip
def test_a_file_without_facts_is_refused_by_name(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises((DataError, UsageError), match=name.replace(".", r"\.")):
        load_facts(tmp_path / name)


@pytest.mark.parametrize(
    ("subject", "prompt"),
    [("PARIS", "{}  is in"), ("Paris is", "{} in"), ("Paris is in", "{}")],
    ids=["letters and spaces", "the subject ends later", "the subject is all"],
)
def test_one_fact_in_two_spellings(subject: str, prompt: str, model: EditableModel) -> None:
    """The same object: once; another: refused. Before, only the first was seen to be the same fact."""
    first, same = record("1", "Paris", "{} is in", "Seattle"), record("2", subject, prompt, "Seattle")
    other = record("3", subject, prompt, "France")
    told = sort_out(model, [first, same], ())
    assert [fact.case_id for fact in told.wanted] == ["1"]
    assert told.left_out == {"2": "It is in the list before."}
    with pytest.raises(UsageError, match="says 1 fact in two ways"):
        sort_out(model, [first, other], ())
    edit = make_method("ft-m", model, lambda m, _n: random_moment(m.d_mlp), epochs=1).edit([first.request]).edits[0]
    assert sort_out(model, [same], facts_on([edit])).left_out == {"2": "It is on the model already."}
    [replaced] = sort_out(model, [other], facts_on([edit])).replaced
    assert replaced.request == first.request


def test_accents_in_one_character_or_two_are_one_fact(model: EditableModel) -> None:
    composed, apart = (
        record("1", "Z\u00fcrich", "{} is in", "Seattle"),
        record("2", "Zu\u0308rich", "{} is in", "Paris"),
    )
    with pytest.raises(UsageError, match="says 1 fact in two ways"):
        sort_out(model, [composed, apart], ())


@pytest.mark.parametrize("subject", ["", "  ", "\u200b", "\n"])
def test_a_subject_of_nothing_is_no_request(subject: str) -> None:
    with pytest.raises(RequestError, match="The subject is empty"):
        EditRequest(subject=subject, prompt="{} is in", target_new="Paris")


@pytest.mark.parametrize("target", ["", " \t", "\u200b"])
def test_a_target_of_nothing_is_no_request(target: str) -> None:
    with pytest.raises(RequestError, match="The target is empty"):
        EditRequest(subject="Paris", prompt="{} is in", target_new=target)


def keys(count: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(seed))


def solve(count: int, *, scale: float = 1.0, **changes: Any) -> None:
    preserved = SimpleNamespace(layer=3, parts_of_names=lambda _subjects, _known: [])
    penalty = changes.pop("penalty", MomentPenalty(random_moment(WIDTH)))
    k = changes.pop("keys", keys(count))
    nothing = torch.zeros(0, WIDTH)
    past = LayerPast(changes.pop("earlier", nothing), torch.zeros(0, 5), nothing)
    solver = Solver(preserved, penalty, scale, **changes)  # type: ignore[arg-type]
    solver.solve(k, torch.ones(len(k), 5), ["s"] * len(k), past)


@pytest.mark.parametrize(
    ("asked", "crowded"),
    [
        ({"count": 5}, False),
        ({"count": WIDTH + 1}, True),
        ({"count": 5, "earlier": keys(WIDTH, 2)}, True),
        ({"count": 13, "penalty": NullSpacePenalty(null_space(random_moment(WIDTH).matrix, energy=0.2))}, True),
        ({"count": 5, "scale": 1e-12, "keys": torch.cat([keys(4), keys(4)[:1] + 1e-5])}, True),
    ],
    ids=["few", "more than the width", "with those before", "more than the null space", "nearly one key"],
)
def test_more_facts_than_keys_can_tell_apart_are_told_of(
    asked: dict[str, Any], crowded: bool, caplog: pytest.LogCaptureFixture
) -> None:
    solve(**asked)
    assert ("Layer 3 is to hold" in caplog.text) == crowded
    assert ("values give way to each other" in caplog.text) == crowded


def test_keys_that_depend_are_refused_where_a_share_of_the_batch_is_asked_for(model: EditableModel) -> None:
    """As `NoSolution`: no fact is tried alone, which would find every value again."""
    same = [EditRequest(subject="Paris", prompt=p, target_new=t) for p, t in (("{} is in", "France"), ("{} has", "a"))]
    method = make_method(
        "memit", model, lambda m, _n: random_moment(m.d_mlp), layers=(0,), share=0.9999, share_of="batch", steps=2,
        context_templates=("{}",),
    )  # fmt: skip
    with pytest.raises(NoSolution, match="No weight of what must stay lets the batch reach"):
        method.edit(same)
    told = make(model, method, same, chunk=1)
    assert not told.edits
    assert all("depend on each other" in str(place) for place in told.places)


def test_without_room_for_a_whole_matrix_the_keys_systems_are_solved(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    penalty = MomentPenalty(random_moment(WIDTH), 2.0)
    whole, after_whole = History.of(penalty, keys(8)).write(keys(8, 2))
    assert after_whole.solved is None
    assert not caplog.text
    monkeypatch.setattr(history, "available_memory", lambda: 8.0 * WIDTH**2)
    columns, after = History.of(penalty, keys(8)).write(keys(8, 2))
    assert after.solved is not None
    assert f"A matrix of {WIDTH} × {WIDTH} for the joint solve" in caplog.text
    torch.testing.assert_close(columns.directions, whole.directions)
    torch.testing.assert_close(after.solve(keys(3, 5)), after_whole.solve(keys(3, 5)))
    monkeypatch.setattr(history, "available_memory", lambda: 0.0)  # not known
    assert history.has_room(10**9)


def test_a_state_of_another_base_layer_or_width_is_refused(model: EditableModel) -> None:
    state = (
        make_method(
            "memit", model, lambda m, _n: random_moment(m.d_mlp), layers=(1,), steps=2, context_templates=("{}",)
        )
        .edit([EditRequest(subject="Paris", prompt="{} is in", target_new="France")])
        .state
    )
    assert state is not None
    for layer, tensors in (
        (2, state.tensors),
        (1, {name: tensor[..., :-1] for name, tensor in state.tensors.items()}),
        (1, {name: tensor for name, tensor in state.tensors.items() if not name.startswith("values")}),
    ):
        with pytest.raises(EditError, match="left by another method or another model"):
            LayerPast.of(model, layer, type(state)(state.base, tensors))
