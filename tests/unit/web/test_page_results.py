"""Results on the page: every number has its records, and what is on one model together is drawn against the facts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from factedit.data.registry import load_dataset
from factedit.evaluate.benchmark import UNEDITED
from factedit.evaluate.benchmarks.table import find_benchmark
from factedit.evaluate.column import COSTS, MEMORY
from factedit.evaluate.store import ResultStore
from factedit.work.results import STORE, read_results
from page_browser import Window, served
from page_server import page_client, post, tiny_session
from stored_results import CASES, STEPS, write_results


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_results(tmp_path_factory.mktemp("results") / "run")


@pytest.fixture
def client(folder: Path) -> Iterator[Any]:
    with page_client(tiny_session((folder,))) as (found, _, _):
        yield found


def row_of(rows: Any, method: str) -> str:
    """The first row of a method."""
    return next(name for name in rows if name.startswith(f"{method} ["))


def test_the_table_is_that_of_the_command_with_its_points(client: Any, folder: Path) -> None:
    told = client.get("/api/results/0").json()
    own = read_results([folder])[folder]
    assert told["rows"] == own.as_json()
    assert told["rows"][row_of(told["rows"], "rome")]["ES"] == sum(CASES.values()) / 4
    assert [(point["method"], point["regime"], point["facts"]) for point in told["points"]] == [
        ("rome", "by 10", count) for count in STEPS
    ]
    assert [told["rows"][point["row"]]["ES"] for point in told["points"]] == list(STEPS.values())
    assert list(told["pictures"]) == ["free", "ES"], "in the order of the command's figure"
    [age] = told["ages"]
    assert (age["method"], age["regime"], age["facts"]) == ("rome", "by 10", max(STEPS)), "the longest alone"
    assert age["written"] == [STEPS[40]] * len(CASES), "each case is a part of its own, where there are few"
    assert age["at"] == pytest.approx([0, 100 / 3, 200 / 3, 100])
    assert told["pictures"]["free"] == {
        "score": "free", "title": "written by itself, %", "percent": True, "unedited": True,
    }  # fmt: skip
    said = {column.name: column.what for column in (*find_benchmark("counterfact").scores, *COSTS)}
    assert told["words"].items() >= {name: said[name] for name in ("ES", MEMORY)}.items()
    assert told["words"].keys() <= {name for row in told["rows"].values() for name in row}
    assert told["methods"][row_of(told["rows"], UNEDITED)] == UNEDITED


def test_a_number_has_its_records(client: Any) -> None:
    name = row_of(client.get("/api/results/0").json()["rows"], "rome")
    got = post(client, "records", {"results": 0, "row": name}).json()
    assert got["dataset"] == "worldfacts"
    assert {own["case"]: own["scores"]["ES"] for own in got["cases"]} == CASES
    assert got["cases"][0]["continuation"] == " says 10"


def test_records_of_the_embedded_set_say_their_facts(tmp_path: Path) -> None:
    records = load_dataset("worldfacts").records[:4]
    place = write_results(tmp_path / "run", ids=tuple(own.case_id for own in records))
    with page_client(tiny_session((place,))) as (client, _, _):
        name = row_of(client.get("/api/results/0").json()["rows"], "rome")
        cases = post(client, "records", {"results": 0, "row": name}).json()["cases"]
    assert [own["fact"] for own in cases] == [f"{own.request.text} → {own.request.target_new}" for own in records]


def test_of_other_sets_only_the_number_is_told(tmp_path: Path) -> None:
    with page_client(tiny_session((write_results(tmp_path / "run", "mine.jsonl"),))) as (client, _, _):
        name = row_of(client.get("/api/results/0").json()["rows"], "rome")
        got = post(client, "records", {"results": 0, "row": name}).json()
    assert (got["dataset"], {own["fact"] for own in got["cases"]}) == ("mine.jsonl", {""})


def test_a_run_that_goes_on_is_read_again(tmp_path: Path) -> None:
    place = write_results(tmp_path / "run")
    with page_client(tiny_session((place,))) as (client, _, _):
        before = client.get("/api/results/0").json()["rows"]
        with ResultStore(place / STORE) as store:
            [key] = [key for key, (name, own) in store.runs().items() if name == "rome" and "regime" not in own]
            store.add([(key, "1", {"scores": {"ES": 100.0, "free": 100.0}, "peak_memory_mb": 1.0})])
        after = client.get("/api/results/0").json()["rows"]
    name = row_of(before, "rome")
    assert after[name]["ES"] - before[name]["ES"] == pytest.approx((100.0 - CASES["1"]) / 4)


@pytest.mark.parametrize(
    ("value", "status", "said"),
    [
        ({"results": 0, "row": "soul"}, 400, "no such row"),
        ({"results": 7, "row": "soul"}, 400, "no folder 7"),
        ({"results": "/etc", "row": "soul"}, 422, "not understood"),
        ({"results": 0, "row": ""}, 422, "not understood"),
        ({"results": 0, "row": "soul", "folder": "/etc"}, 422, "not understood"),
    ],
)
def test_other_records_are_refused(client: Any, value: Any, status: int, said: str) -> None:
    answer = post(client, "records", value)
    assert (answer.status_code, said in answer.json()["error"]) == (status, True), answer.text


def test_compare_draws_them(place: Any, folder: Path) -> None:
    """In a browser: a number that is pressed opens its records, lowest first; a curve is drawn with its band."""
    with served(tiny_session((folder,))) as address:
        window = Window(place[0], address)
        window.go("compare")
        page = window.page
        page.wait_for_selector("button.number")
        row = page.locator("tr", has=page.locator("th", has_text="rome [worldfacts, 4 records")).first
        row.locator("button.number").first.click()
        page.wait_for_selector(".records table tbody tr")
        assert window.numbers(".records td") == sorted(CASES.values())
        assert "--ids '1,3,4,2'" in page.locator(".records pre").text_content()
        line, _, by_age = [
            own for own in page.locator("polyline.curve-line").all() if "rome" in (own.text_content() or "")
        ]
        heights = [float(pair.split(",")[1]) for pair in (line.get_attribute("points") or "").split()]
        assert heights == sorted(heights), "it falls: lower scores stand lower"
        assert len(heights) == len(STEPS)
        assert page.locator("polygon.band").count() == 2 * 2 + 1  # two scores, the unedited model beside each; by age
        assert len((by_age.get_attribute("points") or "").split()) == len(CASES)
        assert page.locator("figcaption", has_text="rome, by 10, 40 facts").count() == 1
        window.context.close()
    assert window.logs == []
