"""A verdict from stores of results: which rows are read, paired with the unedited model, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
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
    keep(tmp_path / "b", {"unedited": ({}, [1.0] * 12), "rome": ({"settings": {}}, [1.0] * 12)},
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
