"""An evaluation loses and repeats nothing, also when it is killed."""

from __future__ import annotations

import os
import signal
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from conftest import tiny
from factedit.edit.method import Made
from factedit.edit.method_table import make_method
from factedit.edit.value import find_values
from factedit.errors import DataError, ResourceError, UsageError
from factedit.evaluate.measures import Measures
from factedit.evaluate.metrics.consistency import Consistency, References
from factedit.evaluate.metrics.free import Free
from factedit.evaluate.metrics.generation_entropy import GenerationEntropy
from factedit.evaluate.probability import score
from factedit.evaluate.run import Evaluation, evaluate_methods
from factedit.evaluate.store import ResultStore
from factedit.facts import EditRequest, FactRecord
from factedit.models.adapter import EditableModel
from factedit.stats.second_moment import SecondMoment
from processes import end, held_at, start

SUBJECTS = ("Paris", "Seattle", "LeBron James", "The Space Needle", "France", "Danielle Darrieux")
RECORDS = [
    FactRecord(
        case_id=str(n),
        request=EditRequest(subject=s, prompt="{} is in", target_new="France", target_true="the capital"),
        paraphrases=(f"Where is {s}? In", f"{s} plays"),
        neighborhood=("The sport of", "Café is"),
        generation=(f"{s} is",),
    )
    for n, s in enumerate(SUBJECTS)
]
MEASURES = Measures(metrics=(Free(3), GenerationEntropy(12)), chunk=2)


def run(model: EditableModel, path: Path, records=RECORDS, method=None, measures: Measures = MEASURES) -> Evaluation:
    moments = lambda m, _layer: SecondMoment(torch.eye(m.d_mlp))  # noqa: E731
    method = method or make_method("rome", model, moments, layer=1, steps=3, context_templates=["{}", "In. {}"])
    with ResultStore(path) as store:
        return evaluate_methods(model, records, [method], store, dataset="test", measures=measures)


def without_times(found: Evaluation) -> dict:
    rows = {}
    for method, cases in found.results.items():
        for case, row in cases.items():
            scores = {k: v for k, v in row["scores"].items() if k != "seconds_per_edit"}
            rows[method, case] = (scores, row["continuation"], row.get("diagnostics"))
    return rows


def test_before_and_after_of_every_case(tmp_path: Path) -> None:
    model = tiny("gpt2")
    before = model.fingerprint()
    found = run(model, tmp_path / "r.sqlite")
    assert list(found.results) == ["unedited", "rome"]
    assert list(found.results["rome"]) == [r.case_id for r in RECORDS]
    assert found.summary["rome"]["ES"].n == len(RECORDS)
    assert found.results["rome"]["0"]["scores"]["EM"] > found.results["unedited"]["0"]["scores"]["EM"]
    assert found.as_json()["rome"]["ci"].keys() >= {"S", "ES", "PS", "NS", "GE", "free"}
    assert found.as_json()["rome"]["peak_memory_mb"] > 50
    assert model.fingerprint() == before


def test_stored_cases_are_not_computed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("gpt2")
    monkeypatch.setattr("factedit.evaluate.keys.code_of", lambda *_things: {})  # one method stands in for another here
    first = run(model, tmp_path / "r.sqlite")

    class Refuses:
        name, paper, scope = "rome", "", "each"

        def edit(self, requests: object, state: object = None) -> Made:
            raise AssertionError("computed again")

        def describe(self) -> dict:
            return made.describe()

    moments = lambda m, _layer: SecondMoment(torch.eye(m.d_mlp))  # noqa: E731
    made = make_method("rome", model, moments, layer=1, steps=3, context_templates=["{}", "In. {}"])
    again = run(model, tmp_path / "r.sqlite", method=Refuses())
    assert again.results == first.results


def test_other_settings_are_another_run(tmp_path: Path) -> None:
    model = tiny("gpt2")
    run(model, tmp_path / "r.sqlite", RECORDS[:2])
    moments = lambda m, _layer: SecondMoment(torch.eye(m.d_mlp))  # noqa: E731
    other = make_method("rome", model, moments, layer=2, steps=3, context_templates=["{}", "In. {}"])
    run(model, tmp_path / "r.sqlite", RECORDS[:2], method=other)
    with ResultStore(tmp_path / "r.sqlite") as store:
        methods = [method for method, _ in store.runs().values()]
    assert sorted(methods) == ["rome", "rome", "unedited"], "the unedited model is shared"


def test_chunks_do_not_depend_on_where_it_stopped(tmp_path: Path) -> None:
    model = tiny("gpt2")
    whole = run(model, tmp_path / "a.sqlite")
    run(model, tmp_path / "b.sqlite", RECORDS[:4])
    assert without_times(run(model, tmp_path / "b.sqlite")) == without_times(whole)


def test_batch_size_changes_only_rounding(tmp_path: Path) -> None:
    model = tiny("gpt2")
    one = run(model, tmp_path / "a.sqlite", measures=Measures(metrics=(), chunk=1))
    six = run(model, tmp_path / "b.sqlite", measures=Measures(metrics=(), chunk=6))
    for name, estimate in one.summary["rome"].items():
        if name not in ("seconds_per_edit", "peak_memory_mb"):
            assert estimate.value == pytest.approx(six.summary["rome"][name].value, abs=1e-2)


def test_survives_kill_9(tmp_path: Path) -> None:
    """Killed as soon as some cases are stored; the same command then gives what an uninterrupted one gives."""
    path = tmp_path / "k.sqlite"

    def stopped() -> None:
        held_at(ResultStore, "add")
        run(tiny("gpt2"), path)

    assert end(start(stopped)) == -signal.SIGKILL
    assert 0 < _cases(path) < 2 * len(RECORDS)
    resumed = run(tiny("gpt2"), path)
    assert _cases(path) == 2 * len(RECORDS)
    assert without_times(resumed) == without_times(run(tiny("gpt2"), tmp_path / "fresh.sqlite"))


def _cases(path: Path) -> int:
    if not path.exists():
        return 0
    try:
        with ResultStore(path) as store:
            return sum(len(store.done(run)) for run in store.runs())
    except ResourceError:
        return 0


def test_bad_input(tmp_path: Path) -> None:
    model = tiny("gpt2")
    with pytest.raises(UsageError, match="no records"):
        run(model, tmp_path / "r.sqlite", [])
    (tmp_path / "other.sqlite").write_text("this is a diary, not a database " * 50)
    with pytest.raises(DataError, match="is not a results store"):
        ResultStore(tmp_path / "other.sqlite")
    for table in ("runs", "bookmarks"):
        foreign = sqlite3.connect(tmp_path / "foreign.sqlite")
        foreign.execute(f"CREATE TABLE {table} (distance REAL)")
        foreign.close()
        before = (tmp_path / "foreign.sqlite").read_bytes()
        with pytest.raises(DataError, match=f"is not a results store: it is a database of {table}"):
            ResultStore(tmp_path / "foreign.sqlite")
        assert (tmp_path / "foreign.sqlite").read_bytes() == before, "it was given tables before it was refused"
        (tmp_path / "foreign.sqlite").unlink()
    os.mkfifo(tmp_path / "pipe.sqlite")
    with pytest.raises(DataError, match="is not a file"):
        ResultStore(tmp_path / "pipe.sqlite")
    assert (tmp_path / "other.sqlite").read_text().startswith("this is a diary")


NO_MEMORY = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 99999999 bytes"


def test_a_chunk_that_does_not_fit_is_halved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = tiny("gpt2")
    whole = run(model, tmp_path / "whole.sqlite", measures=Measures(metrics=(), chunk=6))

    def small(model: EditableModel, cases: list, variants: list) -> list:
        if len(cases) > 2:
            raise RuntimeError(NO_MEMORY)
        return score(model, cases, variants)

    monkeypatch.setattr("factedit.evaluate.probability.score", small)
    halved = run(model, tmp_path / "halved.sqlite", measures=Measures(metrics=(), chunk=6))
    assert "6 records do not fit in memory at once; going on with 3" in caplog.text
    for case, row in whole.results["rome"].items():
        assert halved.results["rome"][case]["scores"] == pytest.approx(row["scores"], abs=1e-3)


def test_out_of_memory_says_what_to_lower(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def too_much(*_args: object, **_kwargs: object) -> None:
        raise RuntimeError(NO_MEMORY)

    monkeypatch.setattr("factedit.evaluate.probability.score", too_much)
    with pytest.raises(ResourceError, match="a single one of the records, so a smaller batch does not help"):
        run(tiny("gpt2"), tmp_path / "r.sqlite")


def test_both_variants_of_rome_share_one_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("gpt2")
    settings = {"layer": 1, "steps": 3, "context_templates": ["{}", "In. {}"]}
    moments = lambda m, _layer: SecondMoment(torch.eye(m.d_mlp))  # noqa: E731
    methods = [make_method(name, model, moments, **settings) for name in ("rome", "rome-original")]
    asked: list[int] = []

    def counted(model: EditableModel, layer: int, requests: list, *rest: object, **named: object) -> list:
        asked.append(len(requests))
        return find_values(model, layer, requests, *rest, **named)

    monkeypatch.setattr("factedit.edit.methods.rome.find_values", counted)
    with ResultStore(tmp_path / "r.sqlite") as store:
        both = evaluate_methods(model, RECORDS[:2], methods, store, dataset="test", measures=MEASURES)
    assert asked == [2], "v* is optimised once for the two"
    alone = [method.edit([r.request for r in RECORDS[:2]]).edits for method in methods]
    for method, edits in zip(methods, alone, strict=True):
        told = both.results[method.name]["0"]["diagnostics"]
        assert told["update_norm"] == pytest.approx(edits[0].told_of(0)["update_norm"], rel=1e-5)
        assert both.summary[method.name]["seconds_per_edit"].value > 0


def test_consistency_is_of_the_stored_texts(tmp_path: Path) -> None:
    compared = Consistency(References("by hand", {"france": ("France is in Paris in the capital.",)}), 24)
    measures = Measures(metrics=(GenerationEntropy(24), compared), chunk=3)
    found = run(tiny("gpt2"), tmp_path / "r.sqlite", measures=measures)
    for method in ("unedited", "rome"):
        for record in RECORDS:
            row = found.results[method][record.case_id]
            assert row["scores"]["RS"] == pytest.approx(compared.compare(record, row["generations"]))
    assert found.summary["rome"]["RS"].value > 0
    else_ = Consistency(References("by hand", {"france": ("Something else.",)}), 24)
    other = replace(measures, metrics=(GenerationEntropy(24), else_))
    again = run(tiny("gpt2"), tmp_path / "r.sqlite", measures=other)
    assert again.summary["rome"]["RS"].value != found.summary["rome"]["RS"].value, "other texts are another run"


def test_sampled_texts_do_not_depend_on_the_company(tmp_path: Path) -> None:
    model = tiny("gpt2")
    one = run(model, tmp_path / "a.sqlite", measures=Measures(metrics=(GenerationEntropy(16),), chunk=1))
    six = run(model, tmp_path / "b.sqlite", measures=Measures(metrics=(GenerationEntropy(16),), chunk=6))
    texts = [found.results["unedited"][r.case_id]["generations"] for found in (one, six) for r in RECORDS]
    assert texts[: len(RECORDS)] == texts[len(RECORDS) :]
    assert all(text.startswith(r.generation[0]) for [text], r in zip(texts, [*RECORDS, *RECORDS], strict=True))


def test_a_full_disk_keeps_what_was_stored(tmp_path: Path) -> None:
    with ResultStore(tmp_path / "r.sqlite") as store:
        key = store.begin("m", {"a": 1})
        store.add([(key, "1", {"x": 1})])
        store._db.execute("PRAGMA max_page_count = 1")
        with pytest.raises(ResourceError, match="What was written before is safe"):
            store.add([(key, str(n), {"x": "y" * 9000}) for n in range(2, 99)])
        assert store.results(key) == {"1": {"x": 1}}


def test_two_records_of_one_id_are_refused(tmp_path: Path) -> None:
    """Before: the second's row stood for both, and counted twice."""
    with pytest.raises(UsageError, match=r"1 ids are those of several records \(0\)"):
        run(tiny("gpt2"), tmp_path / "r.sqlite", [RECORDS[0], replace(RECORDS[1], case_id="0")])


def test_stored_results_without_scores_are_refused(tmp_path: Path) -> None:
    """Before: a traceback, where somebody else's hands had been in the file."""
    model = tiny("gpt2")
    run(model, tmp_path / "r.sqlite", RECORDS[:2])
    with ResultStore(tmp_path / "r.sqlite") as store:
        store.add([(next(iter(store.runs())), "0", {"continuation": "a"})])
    with pytest.raises(DataError, match="holds results without scores: it is damaged"):
        run(model, tmp_path / "r.sqlite", RECORDS[:2])


def test_a_store_of_another_version_is_called_so(tmp_path: Path) -> None:
    """Before: "it is a database of cases, runs", which is what a store is."""
    ResultStore(tmp_path / "r.sqlite").close()
    with closing(sqlite3.connect(tmp_path / "r.sqlite")) as other:
        other.execute("ALTER TABLE cases ADD COLUMN later TEXT")
    with pytest.raises(DataError, match="other columns, as another version of factedit may have made them"):
        ResultStore(tmp_path / "r.sqlite")
