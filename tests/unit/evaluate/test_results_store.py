"""The store: a run is what decides its numbers; how many records are computed at a time is not among it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import tiny
from factedit.edit.method_table import make_method
from factedit.evaluate.measures import Measures
from factedit.evaluate.run import Evaluation, evaluate_methods
from factedit.evaluate.store import ResultStore, run_key
from factedit.facts import EditRequest, FactRecord
from factedit.models.adapter import EditableModel
from factedit.stats.second_moment import SecondMoment

RECORDS = [
    FactRecord(case_id=str(n), request=EditRequest(subject=s, prompt="{} is in", target_new="a", target_true="the"))
    for n, s in enumerate(("Paris", "Seattle", "France"))
]


def run(model: EditableModel, path: Path, *, chunk: int = 2, earlier: bool = False, steps: int = 2) -> Evaluation:
    moments = lambda m, _layer: SecondMoment(torch.eye(m.d_mlp))  # noqa: E731
    method = make_method("rome", model, moments, layer=1, steps=steps, context_templates=["{}"])
    with ResultStore(path) as store:
        measures = Measures(metrics=(), chunk=chunk)
        return evaluate_methods(model, RECORDS, [method], store, dataset="test", measures=measures, earlier=earlier)


def settings_of(path: Path, row: str) -> dict[str, Any]:
    with ResultStore(path) as store:
        [found] = [settings for name, settings in store.runs().values() if name == row]
        return found


def as_it_was(path: Path, old: Path, chunk: int) -> None:
    """A store as earlier versions wrote it: with the size of a chunk in the key."""
    with ResultStore(path) as store, ResultStore(old) as was:
        for key, (name, settings) in store.runs().items():
            own = was.begin(name, settings | {"chunk": chunk})
            was.add((own, case, row) for case, row in store.results(key).items())


def test_the_key_holds_what_it_always_held_but_the_chunk(tmp_path: Path) -> None:
    run(tiny("gpt2"), tmp_path / "r.sqlite")
    assert set(settings_of(tmp_path / "r.sqlite", "unedited")) == {
        "protocol", "version", "torch", "transformers", "weights", "setup", "dtype", "device", "attention", "dataset",
        "free_tokens", "generation_tokens", "seed", "consistency", "method",
    }  # fmt: skip
    settings = settings_of(tmp_path / "r.sqlite", "unedited")
    assert [settings[name] for name in ("protocol", "free_tokens", "generation_tokens", "seed", "consistency")] == [
        3, 0, 0, 0, None,
    ]  # fmt: skip


def test_rows_of_another_program_or_other_rules_are_kept_and_not_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    asked = {"dataset": "set", "seed": 0, "version": "1", "setup": "abc", "torch": "2"}
    with ResultStore(tmp_path / "r.sqlite") as store:
        old = store.begin("rome", asked)
        store.add([(old, "1", {"scores": {}}), (old, "2", {"scores": {}})])
        assert caplog.text == ""
        new = store.begin("rome", asked | {"setup": "other", "torch": "3"})
        said = "holds 2 cases of rome that were computed with another torch, setup; they are kept and not used"
        assert said in caplog.text
        assert (store.done(old), store.done(new)) == ({"1", "2"}, set())
        caplog.clear()
        store.begin("rome", asked | {"setup": "other", "torch": "3"})
        for otherwise in ({"seed": 1}, {"dataset": "another"}, {"chunk": 8}):
            store.begin("rome", asked | otherwise)
        store.begin("ft", asked | {"setup": "other"})
        assert caplog.text == "", "another question is no other answer, and what is known is said once"


def test_rows_of_earlier_versions_are_found_whatever_the_chunk(tmp_path: Path) -> None:
    model = tiny("gpt2")
    first = run(model, tmp_path / "r.sqlite")
    as_it_was(tmp_path / "r.sqlite", tmp_path / "old.sqlite", chunk=16)
    again = run(model, tmp_path / "old.sqlite", chunk=1)
    assert again.results == first.results, "to the digit, times too: nothing was computed"
    with ResultStore(tmp_path / "old.sqlite") as store:
        new = [run for run, (_, settings) in store.runs().items() if "chunk" not in settings]
        assert len(new) == 2
        own = store._db.execute("SELECT count(*) FROM cases WHERE run IN (?, ?)", new).fetchone()
    assert own == (0,)


def test_earlier_rows_stand_beside_those_asked_for(tmp_path: Path) -> None:
    model = tiny("gpt2")
    first = run(model, tmp_path / "r.sqlite")
    with ResultStore(tmp_path / "r.sqlite") as store:
        [(key, settings)] = [(key, s) for key, (name, s) in store.runs().items() if name == "rome"]
        for name, more in (("older", {"chunk": 8}), ("joint", {"regime": {"joint": 3}}), ("more", {"metric x": {}})):
            own = store.begin(name, settings | {"method": name} | more)
            store.add((own, case, row) for case, row in store.results(key).items())
    found = run(model, tmp_path / "r.sqlite", earlier=True)
    assert sorted(found.results) == ["older", "rome", "unedited"], "not those of another regime or other measures"
    assert found.results["older"] == first.results["rome"]


def test_only_the_chunk_is_passed_over(tmp_path: Path) -> None:
    with ResultStore(tmp_path / "r.sqlite") as store:
        keys = {"small": {"chunk": 8}, "large": {"chunk": 16}, "new": {}, "other": {"seed": 1, "chunk": 8}}
        runs = {name: store.begin("m", {"a": 1, **more}) for name, more in keys.items()}
        store.add([(runs["small"], "1", {"x": 8}), (runs["large"], "1", {"x": 16}), (runs["large"], "2", {"x": 16})])
        store.add([(runs["other"], "3", {"x": 0})])
        assert store.done(runs["new"]) == store.done(runs["small"]) == {"1", "2"}
        assert store.results(runs["small"]) == {"1": {"x": 8}, "2": {"x": 16}}, "its own rows come first"
        assert store.results(runs["large"])["1"] == {"x": 16}
        assert store.done(runs["other"]) == {"3"}
        assert store.done(run_key({"never": "begun"})) == set()


def test_weights_setup_and_attention_are_in_the_key(tmp_path: Path) -> None:
    """Each of them changes numbers: a run under another one is another run, and says so in its settings."""
    eager, other = tiny("gpt2"), tiny("gpt2")
    eager.lm.set_attn_implementation("eager")
    with torch.no_grad():
        other.matrix(0).parameter.data[0, 0] += 1
    path = tmp_path / "r.sqlite"
    for model in (tiny("gpt2"), eager, tiny("gpt2", layer_norm_epsilon=1e-3), other):
        run(model, path)
    with ResultStore(path) as store:
        first, *others = [settings for name, settings in store.runs().values() if name == "unedited"]
    changed = [{name for name in first if first[name] != settings[name]} for settings in others]
    assert changed == [{"attention"}, {"setup"}, {"weights"}]
