"""A verdict from stores of results: which rows are read, paired with the unedited model, and what is refused."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from factedit.errors import DataError, UsageError
from factedit.evaluate.store import ResultStore
from factedit.work.verdict import judged_results
from run_command import ok, refused

COMMON = {"protocol": 3, "weights": "w" * 64, "dataset": "counterfact abc", "seed": 0}


def keep(folder: Path, rows: Mapping[str, tuple[Mapping[str, Any], list[float]]], common: Mapping[str, Any] = COMMON,
         ids: list[str] | None = None) -> None:  # fmt: skip
    """A store of one selection: per row what is its own in its key, and NS of every case."""
    with ResultStore(folder / "results.sqlite") as store:
        runs = []
        for name, (own, values) in rows.items():
            run = store.begin(name, {**common, "method": name.partition(",")[0], **own})
            result = lambda v: {"scores": {"NS": v, "ES": 100.0}, "peak_memory_mb": 5.0, "seconds_per_edit": 2.0}  # noqa: E731
            store.add((run, str(n), result(value)) for n, value in enumerate(values))
            runs.append(run)
        store.select("all", ids or [str(n) for n in range(12)], runs)


def test_rows_are_paired_with_the_unedited_model_and_told(tmp_path: Path) -> None:
    """Changes by hand: of rome 0 and −2 in turns, of ft −30 and −31, of memit with ten facts 0 and 1."""
    base = [float(n) for n in range(50, 62)]
    keep(tmp_path / "a", {
        "unedited": ({}, base), "rome": ({"settings": {"layer": 3}}, [v - 2 * (n % 2) for n, v in enumerate(base)]),
        "ft": ({"settings": {}}, [v - 30 - n % 2 for n, v in enumerate(base)]),
        "memit, 10 at once": ({"settings": {}, "regime": {"joint": 10}}, [v + n % 2 for n, v in enumerate(base)]),
    })  # fmt: skip
    keep(tmp_path / "b", {"unedited": ({}, [1.0] * 12), "rome": ({"settings": {"layer": 3}}, [1.0] * 12)},
         {**COMMON, "dataset": "zsre def"}, ids=["0", "1", "2"])  # fmt: skip
    found = judged_results([tmp_path])
    cells = found.cells
    assert list(cells) == ["rome", "ft", "memit"]
    changes = {m: {f.dataset: f for f in cells[m]["stays where it should?"].figures} for m in cells}
    assert changes["rome"]["counterfact"].judged.value == pytest.approx(-1.0)
    spread = (12 / 11) ** 0.5  # half are 0, half −2
    assert changes["rome"]["counterfact"].judged.half_width == pytest.approx(1.96 * spread / 12**0.5, rel=1e-3)
    assert changes["rome"]["counterfact"].value.value == pytest.approx(sum(base) / 12 - 1)
    assert changes["rome"]["counterfact"].mark == "holds"
    assert changes["rome"]["zsre"].mark == "not measurable", "of three records"
    assert changes["ft"]["counterfact"].mark == "fails"
    assert changes["memit"] == {}
    assert [(f.score, f.facts, f.mark) for f in cells["memit"]["many at once?"].figures] == [
        ("ES", 10, "partly"), ("NS", 10, "holds"),
    ]  # fmt: skip
    assert [f.value.value for f in cells["rome"]["cost?"].figures if f.dataset == "zsre"] == [2.0, 5.0]
    assert "rome on zsre: all." in found.about
    assert list(judged_results([tmp_path / "a", tmp_path / "b"], methods=["ft", "rome"]).cells) == ["ft", "rome"]


def test_what_the_unedited_model_cannot_do_is_not_judged(tmp_path: Path) -> None:
    with ResultStore(tmp_path / "results.sqlite") as store:
        runs = []
        for name in ("unedited", "rome"):
            run = store.begin(name, {**COMMON, "method": name})
            scores = {"ES": 100.0, "multihop": 90.0, "multihop_unedited": 5.0}
            store.add((run, str(n), {"scores": scores, "peak_memory_mb": 5.0}) for n in range(12))
            runs.append(run)
        store.select("all", [str(n) for n in range(12)], runs)
    [figure] = judged_results([tmp_path]).cells["rome"]["consequences?"].figures
    assert (figure.score, figure.mark) == ("multihop", "not measurable")


def test_the_larger_of_two_selections_counts_and_other_settings_have_another_name(tmp_path: Path) -> None:
    base = [50.0] * 12
    few = {"unedited": ({}, base), "rome": ({"settings": {"layer": 3}}, base)}
    keep(tmp_path / "a", few, ids=["0", "1"])
    keep(tmp_path / "a", few)
    [figure] = judged_results([tmp_path / "a"]).cells["rome"]["stays where it should?"].figures
    assert figure.judged.n == 12
    keep(tmp_path / "a", {"unedited": ({}, base), "rome": ({"settings": {"layer": 4}}, [9.0] * 12)})
    names = list(judged_results([tmp_path / "a"]).cells)
    assert len(names) == 2
    assert all(name.startswith("rome (") for name in names)


def test_other_settings_in_another_folder_are_kept_apart_and_it_is_said(tmp_path: Path) -> None:
    """A method is named by its settings over all folders, in whatever order they are given."""
    base = [50.0] * 12
    keep(tmp_path / "a", {"unedited": ({}, base), "rome": ({"settings": {"layer": 3}}, [49.0] * 12)})
    keep(tmp_path / "b", {"unedited": ({}, base), "rome": ({"settings": {"layer": 4}}, [10.0] * 12)})
    keep(tmp_path / "c", {"unedited": ({}, base), "ft": ({"settings": {"layer": 4}}, [30.0] * 12)})
    found = judged_results([tmp_path / "a", tmp_path / "b", tmp_path / "c"])
    means = {name: cells["stays where it should?"].figures[0].value.value for name, cells in found.cells.items()}
    assert sorted(means.values()) == [10.0, 30.0, 49.0], "no row has taken another's place"
    assert means["ft"] == 30.0
    assert "rome" not in means
    [told] = [line for line in found.about if "kept apart" in line]
    assert told == "rome stands here with 2 settings; they are kept apart, each with the sign in brackets."
    other = judged_results([tmp_path / "b", tmp_path / "a"])
    again = {name: cells["stays where it should?"].figures[0].value.value for name, cells in other.cells.items()}
    assert again == {name: value for name, value in means.items() if name != "ft"}, "signs do not hang on the order"
    with pytest.raises(UsageError, match=r"rome is not in these results; there are rome \(\w{4}\), rome \(\w{4}\), ft"):
        judged_results([tmp_path / "a", tmp_path / "b", tmp_path / "c"], methods=["rome"])
    alone = judged_results([tmp_path / "a"])
    assert list(alone.cells) == ["rome"]
    assert not any("kept apart" in line for line in alone.about)


def test_data_sets_of_one_name_and_other_contents_are_kept_apart(tmp_path: Path) -> None:
    """Two files that people call facts.jsonl; a name may have spaces."""
    for folder, content in (("a", "1111aaaa"), ("b", "2222bbbb")):
        rows = {"unedited": ({}, [50.0] * 12), "rome": ({}, [49.0] * 12)}
        keep(tmp_path / folder, rows, {**COMMON, "dataset": f"my facts.jsonl {content}"})
    found = judged_results([tmp_path])
    figures = found.cells["rome"]["stays where it should?"].figures
    assert [figure.dataset for figure in figures] == ["my facts.jsonl (1111)", "my facts.jsonl (2222)"]
    assert "my facts.jsonl stands here with 2 contents; they are kept apart, each with the sign in brackets." in (
        found.about
    )
    [one] = judged_results([tmp_path / "a"]).cells["rome"]["stays where it should?"].figures
    assert one.dataset == "my facts.jsonl"


def test_a_score_is_silent_by_the_selection_that_it_is_of(tmp_path: Path) -> None:
    """Of 2 records the unedited model answers none, of 12 it answers enough: the 12 count, and they are judged."""
    for ids, able in ((["0", "1"], 0.0), ([str(n) for n in range(12)], 60.0)):
        with ResultStore(tmp_path / str(able) / "results.sqlite") as store:
            runs = []
            for name in ("unedited", "rome"):
                run = store.begin(name, {**COMMON, "method": name})
                scores = {"ES": 100.0, "multihop": 90.0, "multihop_unedited": able}
                store.add((run, case, {"scores": scores, "peak_memory_mb": 5.0}) for case in ids)
                runs.append(run)
            store.select("all", ids, runs)
    for folders in (["0.0", "60.0"], ["60.0", "0.0"]):
        found = judged_results([tmp_path / folder for folder in folders])
        [figure] = found.cells["rome"]["consequences?"].figures
        assert (figure.value.n, figure.mark) == (12, "holds"), folders


def test_an_evaluation_without_a_finished_case_is_no_row(tmp_path: Path) -> None:
    """It was interrupted after the selection was noted, before a chunk was stored."""
    keep(tmp_path / "a", {"unedited": ({}, []), "rome": ({}, [])})
    with pytest.raises(UsageError, match=r"No method stands beside .* Evaluate at least one method"):
        judged_results([tmp_path / "a"])
    keep(tmp_path / "b", {"unedited": ({}, [50.0] * 12), "rome": ({}, [49.0] * 12)})
    assert list(judged_results([tmp_path]).cells) == ["rome"]


def test_a_run_that_was_taken_out_of_the_store_is_passed_over(tmp_path: Path) -> None:
    keep(tmp_path, {"unedited": ({}, [50.0] * 12), "rome": ({}, [49.0] * 12), "ft": ({}, [40.0] * 12)})
    with closing(sqlite3.connect(tmp_path / "results.sqlite")) as db, db:
        db.execute("DELETE FROM runs WHERE method = 'rome'")
    assert list(judged_results([tmp_path]).cells) == ["ft"]


def test_what_is_measured_of_a_model_as_a_whole_stands_in_the_row(tmp_path: Path) -> None:
    """Two rounds of ten facts; perplexity is the mean of their 20 and 24, and is told and not judged."""
    with ResultStore(tmp_path / "results.sqlite") as store:
        runs = []
        for name, own in (("unedited", {}), ("memit", {"regime": {"sequence": 5, "count": 10}})):
            run = store.begin(name, {**COMMON, "method": name, **own})
            store.add((run, str(n), {"scores": {"NS": 50.0}, "peak_memory_mb": 5.0}) for n in range(12))
            runs.append(run)
        for n, perplexity in enumerate((20.0, 24.0)):
            harm = {"perplexity": perplexity, "panel": None}
            store.add([(runs[1], f"(whole) abcd {n}", {"harm": harm, "moved": {"3 out": 0.3, "4 out": 0.4}})])
        store.select("all", [str(n) for n in range(12)], runs)
    cells = judged_results([tmp_path]).cells["memit"]
    [figure] = cells["abilities?"].figures
    assert (figure.score, figure.value.value, figure.mark, figure.facts) == ("perplexity", 22.0, "told", 10)
    assert cells["abilities?"].mark == "told"


def test_what_cannot_be_judged_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no results\.sqlite, nor has a folder in it"):
        judged_results([tmp_path])
    keep(tmp_path / "a", {"rome": ({}, [1.0] * 12)})
    with pytest.raises(UsageError, match="No method stands beside the unedited model"):
        judged_results([tmp_path / "a"])
    keep(tmp_path / "b", {"unedited": ({}, [1.0] * 12), "rome": ({}, [1.0] * 12)}, {**COMMON, "weights": "v" * 64})
    with pytest.raises(UsageError, match="The results are of 2 models"):
        judged_results([tmp_path / "a", tmp_path / "b"])
    with pytest.raises(UsageError, match="memit is not in these results; there are rome"):
        judged_results([tmp_path / "b"], methods=["memit"])


def test_by_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keep(tmp_path / "a", {"unedited": ({}, [50.0] * 12), "rome": ({}, [50.0] * 12)})
    told = ok("verdict", tmp_path / "a", "--out", tmp_path / "v", "--json", tmp_path / "v.json")
    assert "Is editing the right way?" in told
    assert json.loads((tmp_path / "v.json").read_text()) == json.loads((tmp_path / "v" / "verdict.json").read_text())
    page = (tmp_path / "v" / "verdict.html").read_text()
    assert "rome" in page
    ok("verdict", tmp_path / "a", "--out", tmp_path / "v")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "verdict.md").write_text("mine")
    assert "is not of these results" in refused(capsys, 2, "verdict", tmp_path / "a", "--out", tmp_path / "mine")


@pytest.mark.parametrize(
    ("own", "row", "said"),
    [
        ({"dataset": 3}, {"scores": {}, "peak_memory_mb": 1.0}, "holds a run of data 3 and seed 0: it is damaged"),
        ({"seed": -1}, {"scores": {}, "peak_memory_mb": 1.0}, "and seed -1: it is damaged"),
        ({}, {"peak_memory_mb": 1.0}, "holds results without scores: it is damaged, or of another kind"),
    ],
)
def test_a_store_that_is_damaged_is_refused_and_no_traceback(
    own: dict[str, Any], row: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with ResultStore(tmp_path / "results.sqlite") as store:
        run = store.begin("unedited", {**COMMON, "method": "unedited", **own})
        store.add([(run, "1", row)])
        store.select("all", ["1"], [run])
    with pytest.raises(DataError, match=said):
        judged_results([tmp_path])
